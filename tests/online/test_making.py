"""An engine from what a user types: the same for the same seed, and with reasons where it cannot be."""

import pytest
import torch

from everlearn.methods import METHODS
from everlearn.online.making import border_needed, make_online
from everlearn.streams.feed import Record

ROWS = [Record(str(place), {"a": float(place % 5), "b": float(place % 3)}) for place in range(20)]
LABELS = ["odd" if place % 2 else "even" for place in range(20)]


def weights(**options):
    online = make_online(**options)
    for record, label in zip(ROWS, LABELS, strict=True):
        online.learn([record], [label])
    return torch.nn.utils.parameters_to_vector(online.learner.model.parameters())


def test_the_same_seed_makes_the_same_engine_whatever_ran_before():
    one = weights(seed=1)
    torch.rand(7)
    assert torch.equal(weights(seed=1), one)
    assert not torch.equal(weights(seed=2), one)


def test_making_one_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    make_online()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "method", ["ewc", "lwf", "si", "gdumb", "probe", "icarl", "dann", "tent", "packnet", "er+ewc", "l2sp"]
)
def test_what_needs_borders_is_refused_with_the_way_out(method):
    with pytest.raises(ValueError, match="a stream has no borders; take er, der"):
        make_online(method=method)


@pytest.mark.parametrize("method", sorted(name for name, cls in METHODS.items() if not border_needed(cls)))
def test_what_is_not_refused_works(method):
    if method in {"hedge", "grow"}:
        pytest.skip("it has a model of its own")
    settings = {"fecam": "fecam:lambda=1", "ranpac": "ranpac:M=50"}
    online = make_online(method=settings.get(method, method), model="mlp:hidden=8")
    for record, label in zip(ROWS, LABELS, strict=True):
        online.predict([record])
        online.learn([record], [label])
    assert online.steps == 20
    assert len(online.predict(ROWS[:1])[0].scores) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "replay"}, "there is no method 'replay'"),
        ({"model": "mpl"}, "did you mean 'mlp'"),
        ({"model": "mlp:width=3"}, "has no setting 'width'"),
        ({"model": "mlp:hidden=wide"}, "hidden=64x64"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"optimizer": "sgd:rate=1"}, "sgd has no setting 'rate'"),
        ({"task": "ranking"}, "task must be one of"),
        ({"encoder": "words:bucket=3"}, "did you mean 'buckets'"),
        ({"encoder": "pictures"}, "there is no encoder 'pictures'"),
        ({"model": "identity"}, "identity has no weights"),
        ({"task": "regression", "method": "slda"}, "numbers are predicted"),
        ({"task": "regression", "method": "er:memory=20+lwf"}, "lwf prepares itself"),
        ({"task": "regression", "classes": ("a",)}, "regression has no classes"),
    ],
)
def test_what_cannot_be_made_says_why(options, says):
    with pytest.raises(ValueError, match=says):
        make_online(**options)


def test_a_model_of_ones_own_takes_the_sizes_of_fields_and_classes(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, inputs, outputs):\n"
        "        super().__init__()\n"
        "        self.one, self.two = nn.Linear(inputs, 4), nn.Linear(4, outputs)\n"
        "    def forward(self, x):\n"
        "        return self.two(self.one(x).relu())\n"
    )
    online = make_online(model=f"{tmp_path}/net.py:Net(inputs=2,outputs=2)", fields=("a", "b"), classes=("odd", "even"))
    online.learn(ROWS, LABELS)
    online.learn([Record("c", {"a": 1.0, "b": 1.0, "c": 2.0})], ["neither"])
    assert online.learner.model[1].one.in_features == 3
    assert online.learner.model[1].two.out_features == 3
    with pytest.raises(ValueError, match="takes no rows of 1 "):
        make_online(model=f"{tmp_path}/net.py:Net(inputs=2,outputs=2)", fields=("a",), classes=("odd", "even"))
    with pytest.raises(ValueError, match="name its fields"):
        make_online(model=f"{tmp_path}/net.py:Net(inputs=2,outputs=2)")


def test_hedge_grows_from_nothing_in_inputs_and_classes(tmp_path):
    options = {"model": "hedge:layers=3,width=8", "seed": 1}
    online = make_online(**options)
    for place, (record, label) in enumerate(zip(ROWS, LABELS, strict=True)):
        fields = record.fields if place < 10 else {**record.fields, "c": float(place)}
        online.learn([Record(record.id, fields)], [label if place < 15 else "late"])
    fresh = make_online(**options)
    fresh.load_state_dict(online.state_dict())
    assert fresh.predict(ROWS) == online.predict(ROWS)
    assert online.learner.model[1].alpha.unique().numel() > 1
    assert len(online.predict(ROWS)[0].scores) == 3
    assert make_online(model="hedge:layers=2,width=8", task="regression").learn(ROWS[:2], [1.0, 2.0]) > 0
