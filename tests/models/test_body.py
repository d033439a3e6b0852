"""Features computed once are those that a learner would see, row by row."""

import torch
from methods.small import everything, experience, net, norm_net
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.methods.slda import SLDA
from everlearn.models import snapshot
from everlearn.models.body import features_of, frozen
from everlearn.streams import Experience


def test_they_are_what_goes_into_the_head_and_the_other_columns_stay():
    model, data = norm_net(), everything(experience(0, 30).train)
    data |= {"text": [str(place) for place in range(30)], "id": torch.arange(30) + 7}
    before, random = snapshot(model), torch.get_rng_state()
    rows = features_of(Columns(data), model, batch_size=8)
    assert checkpoint.same(before, snapshot(model))
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    found = rows.take(torch.arange(30))
    torch.testing.assert_close(found["x"], model.eval()[:-1](data["x"]).detach())
    assert found.keys() == data.keys()
    assert all(torch.equal(found[name], data[name]) for name in ("y", "id"))
    assert found["text"] == data["text"]


def test_rows_without_ids_get_none():
    assert features_of(experience(0).train, net()).take(torch.arange(2)).keys() == {"x", "y"}


def test_a_view_is_not_augmented():
    def view(batch, key):
        return batch | {"x": batch["x"] * 2 + (0 if key is None else 100)}

    data = experience(0).train
    doubled = Columns(everything(data) | {"x": everything(data)["x"] * 2})
    seen, expected = features_of(data, net(), view=view), features_of(doubled, net())
    assert torch.equal(seen.column("x"), expected.column("x"))


def test_a_stream_of_features_teaches_what_the_stream_would():
    experiences = [experience(index) for index in range(3)]
    whole = Learner(net(), SLDA(), optimizer=torch.optim.SGD)
    head = Learner(nn.Identity(), SLDA(), optimizer=torch.optim.SGD)
    for plain, seen in zip(experiences, frozen(experiences, net()), strict=True):
        assert (seen.index, seen.classes, len(seen.test)) == (plain.index, plain.classes, len(plain.test))
        whole.learn(plain)
        head.learn(seen)
        assert torch.equal(whole.predict(everything(plain.test)), head.predict(everything(seen.test)))


def test_an_experience_is_computed_when_it_is_asked_for_and_may_have_no_test():
    def stream():
        yield Experience(0, experience(0).train, Columns(x=torch.zeros(0, 5), y=torch.zeros(0, dtype=torch.int64)))
        raise AssertionError("too early")

    assert len(next(frozen(stream(), net())).test) == 0
