"""A stream that is answered and learned row by row, while fields and classes come that nobody knew of."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from everlearn import checkpoint
from everlearn.border import NonFiniteError
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.methods.replay import Replay
from everlearn.methods.slda import SLDA
from everlearn.models.standardise import Standardise
from everlearn.objective import regress
from everlearn.online.encoding import Encoder, RowError, row_ids
from everlearn.online.engine import Online
from everlearn.online.making import make_online
from everlearn.randomness import seeded
from everlearn.streams.feed import Record


def stream(count, seed=0, *, fields_at=60, class_at=120, text_at=90):
    """Rows whose fields, texts and classes grow in number, each with its label."""
    chance = random.Random(seed)
    for place in range(count):
        values = [chance.gauss(0, 1) for _ in range(5)]
        fields = {f"f{k}": value for k, value in enumerate(values[: 3 if place < fields_at else 5])}
        if place >= text_at:
            fields["day"] = chance.choice(["mon", "tue"])
        if place % 7 == 3:
            fields.pop("f1")
        label = "zebra" if values[0] > 0 else "mouse"
        if place >= class_at and values[2] > 0.7:
            label = "ant"
        yield Record(f"row {place}", fields), label


def taught(online, rows):
    for record, label in rows:
        online.learn([record], [label])
    return online


def logits(online, *records):
    return online.learner.predict(online.encoder.encode(records))


ROWS = list(stream(200))
KNOWN = {"f0": 0.5, "f1": -1.0, "f2": 0.25}


# -- the five defects of deep-river ---------------------------------------------------------------------------


def test_deep_river_1_a_new_class_that_sorts_first_moves_no_other():
    online = make_online(model="linear", optimizer="sgd:lr=0.5", scale=False)
    for _ in range(50):
        online.learn([Record("m", {"a": 1.0}), Record("z", {"a": -1.0})], ["m", "z"])
    online.learn([Record("n", {"a": 0.0})], ["a"])
    assert online.encoder.classes.names == ("m", "z", "a")
    assert [p.answer for p in online.predict([Record("1", {"a": 1.0}), Record("2", {"a": -1.0})])] == ["m", "z"]


def test_deep_river_2_asking_with_a_field_that_sorts_first_shifts_no_column():
    online = make_online(model="linear", optimizer="sgd:lr=0.5", scale=False)
    for _ in range(50):
        online.learn([Record("m", {"b": 1.0}), Record("z", {"b": -1.0})], ["m", "z"])
    asked = [Record("1", {"a": -9.0, "b": 1.0}), Record("2", {"a": 9.0, "b": -1.0})]
    assert [p.answer for p in online.predict(asked)] == ["m", "z"]
    assert online.encoder.columns == ("b",)


@pytest.mark.parametrize("grows", ["a class", "a field"])
def test_deep_river_3_growth_keeps_the_state_of_the_optimizer(grows):
    online = taught(make_online(optimizer="adam:lr=0.01"), ROWS[:50])
    optimizer = online.learner.optimizer
    before = {n: deepcopy(optimizer.state[w]) for n, w in online.learner.model.named_parameters()}
    encoder = deepcopy(online.encoder)
    if grows == "a class":
        encoder.admit([], [])
        encoder.classes.add(["ant"])
    else:
        encoder.admit([Record("1", {"new": 1.0})])
    online.grow(encoder)
    assert online.learner.optimizer is optimizer
    for name, weight in online.learner.model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            old, new = before[name][moment], optimizer.state[weight][moment]
            assert new.shape == weight.shape
            assert torch.equal(new[tuple(map(slice, old.shape))], old)
            assert new.count_nonzero() == old.count_nonzero()
        assert torch.equal(optimizer.state[weight]["step"], before[name]["step"])


def test_deep_river_4_a_state_after_growth_loads_into_a_fresh_engine(tmp_path):
    online = taught(make_online(optimizer="adam:lr=0.01"), ROWS[:150])
    checkpoint.save(online.state_dict(), tmp_path / "state")
    fresh = make_online(optimizer="adam:lr=0.01")
    fresh.load_state_dict(checkpoint.load(tmp_path / "state"))
    assert checkpoint.same(fresh.state_dict(), online.state_dict())


def test_deep_river_5_it_learns_in_train_mode_and_answers_in_eval_mode():
    modes = []

    class Noted(nn.Linear):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    net = nn.Sequential(Standardise(3), Noted(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1))
    encoder = Encoder(["f0", "f1", "f2"], None)
    online = Online(Learner(net, objective=regress, optimizer=SGD), encoder)
    rows = [record for record, _ in ROWS[:8]]
    for _ in range(3):
        online.predict(rows)
        assert not modes[-1]
        online.learn(rows, [1.0] * 8)
        assert modes[-1]
    assert net[2].num_batches_tracked == 3
    assert online.predict(rows) == online.predict(rows)


def SGD(weights):  # noqa: N802 (it stands for the class)
    return torch.optim.SGD(weights, lr=0.01)


# -- answering ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["naive", "er:memory=20", "derpp:memory=20", "slda"])
def test_asking_changes_nothing_not_even_for_what_was_never_seen(method):
    online = taught(make_online(model="mlp:hidden=8,dropout=0.5", method=method), ROWS[:150])
    before = deepcopy(online.state_dict())
    numpy_, python = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    record = Record("new", {"unseen": 3.0, "day": "never", "f0": 1.0})
    assert online.predict([record]) == online.predict([record])
    assert checkpoint.same(online.state_dict(), before)
    assert (np.random.get_state()[1] == numpy_).all()  # noqa: NPY002
    assert random.getstate() == python


@pytest.mark.parametrize(
    "options", [{}, {"classes": ()}, {"model": "identity", "method": "ncm", "classes": ("a", "b")}]
)
def test_before_anything_is_known_there_is_no_answer(options):
    (prediction,) = make_online(**options).predict([Record("1", {"a": 1.0})])
    assert (prediction.id, prediction.answer, prediction.scores, prediction.steps) == ("1", "", (), 0)
    assert make_online(**options).predict([]) == []


def test_scores_are_probabilities_of_the_classes_known_then():
    online = taught(make_online(), ROWS[:200])
    for prediction in online.predict([record for record, _ in ROWS[:20]]):
        assert len(prediction.scores) == 3
        assert sum(prediction.scores) == pytest.approx(1)
        assert prediction.answer == online.encoder.classes.names[prediction.scores.index(max(prediction.scores))]
        assert prediction.steps == online.steps == 200


def test_an_answer_does_not_depend_on_the_rows_beside_it_nor_on_the_order_of_fields():
    online = taught(make_online(), ROWS[:100])
    together = online.predict([record for record, _ in ROWS[:20]])
    for (record, _), prediction in zip(ROWS, together, strict=False):
        turned = Record(record.id, dict(reversed(record.fields.items())))
        (alone,) = online.predict([turned])
        assert alone.answer == prediction.answer
        assert alone.scores == pytest.approx(prediction.scores, abs=1e-6)


# -- growing --------------------------------------------------------------------------------------------------


def test_a_class_that_appears_leaves_the_other_logits_bit_for_bit_as_they_were():
    online = taught(make_online(), ROWS[:100])
    before = logits(online, *[record for record, _ in ROWS[:10]])
    encoder = deepcopy(online.encoder)
    encoder.classes.add(["ant"])
    online.grow(encoder)
    after = logits(online, *[record for record, _ in ROWS[:10]])
    assert after.shape == (10, 3)
    assert torch.equal(after[:, :2], before)


@pytest.mark.parametrize("method", ["naive", "er:memory=20", "slda"])
def test_a_field_that_appears_leaves_the_function_as_it_was(method):
    online = taught(make_online(method=method), ROWS[:50])
    rows = [record for record, _ in ROWS[:10]]
    before = logits(online, *rows)
    encoder = deepcopy(online.encoder)
    encoder.admit([Record("1", {"new": 1.0, "day": "mon"})])
    online.grow(encoder)
    online.encoder = encoder
    wider = [Record(r.id, {**r.fields, "new": 1e3, "day": "mon"}) for r in rows]
    for asked in (rows, wider):
        torch.testing.assert_close(logits(online, *asked), before, rtol=1e-5, atol=1e-6)


def test_rows_in_a_memory_are_raw_and_lack_what_came_later():
    online = taught(make_online(method="er:memory=30,count=8"), ROWS[:50])
    memory = online.learner.method.memory
    kept = dict(zip(memory.ids.tolist(), memory.column("x"), strict=True))
    assert max(abs(float(row[0])) for row in kept.values()) > 1
    taught(online, ROWS[50:61])
    for number, row in zip(memory.ids.tolist(), memory.column("x"), strict=True):
        if number in kept:
            assert torch.equal(row[:3], kept[number])
            assert row[3:].isnan().all()
    assert {row_ids([record]).item() for record, _ in ROWS[:61]} >= {*memory.ids.tolist()}


def test_replay_after_growth_is_replay_of_rows_that_had_the_mean_there():
    """By hand: the loss of the step is the mean over the new row and the old ones, 0 in the columns they lack."""
    online = taught(make_online(method="er:memory=3,count=3", optimizer="sgd:lr=0"), ROWS[:10])
    twin = deepcopy(online)
    record, label = ROWS[60]
    loss = online.learn([record], [label])
    memory = twin.learner.method.memory
    old, y = memory.column("x"), memory.column("y")
    x = torch.cat([online.encoder.encode([record])["x"], torch.cat([old, torch.full((3, 2), torch.nan)], 1)])
    z = (x - online.scale.mean) * online.scale.factor
    z = z.nan_to_num(0).float()
    expected = nn.functional.cross_entropy(
        online.learner.model[1](z), torch.cat([online.encoder.classes.index([label]), y])
    )
    assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("method", "at"),
    [("er:memory=20", at) for at in (0, 40, 61, 130)]
    + [(f"{method}:memory=20", 100) for method in ("der", "derpp", "agem", "mir", "erace", "gss")]
    + [("naive", 61), ("naive", 121)],
)
def test_a_state_goes_on_bit_for_bit_before_and_after_growth(method, at, tmp_path):
    options = {"model": "mlp:hidden=8,dropout=0.2", "method": method}
    with seeded(0):
        online = taught(make_online(**options), ROWS[:at])
        checkpoint.save(online.state_dict(), tmp_path / "state")
        whole = taught(online, ROWS[at:140])
        answers = whole.predict([record for record, _ in ROWS[140:150]])
    fresh = make_online(**options)
    fresh.load_state_dict(checkpoint.load(tmp_path / "state"))
    taught(fresh, ROWS[at:140])
    assert fresh.predict([record for record, _ in ROWS[140:150]]) == answers
    assert checkpoint.same(fresh.state_dict(), whole.state_dict())


def test_a_state_may_also_be_of_a_smaller_engine():
    small, large = taught(make_online(), ROWS[:20]), taught(make_online(), ROWS[:150])
    large.load_state_dict(deepcopy(small.state_dict()))
    assert checkpoint.same(taught(large, ROWS[20:70]).state_dict(), taught(small, ROWS[20:70]).state_dict())


# -- learning -------------------------------------------------------------------------------------------------


def test_a_batch_is_one_step_on_the_mean_loss_with_the_scale_of_all_its_rows():
    online = taught(make_online(), ROWS[:40])
    net = deepcopy(online.learner.model)
    rows, labels = zip(*ROWS[40:45], strict=True)
    loss = online.learn(rows, labels)
    assert online.steps == 41
    net[0].load_state_dict(online.scale.state_dict())
    x, y = online.encoder.encode(rows)["x"], online.encoder.targets(rows, labels)
    expected = nn.functional.cross_entropy(net(x), y)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for new, old in zip(online.learner.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old.detach() - 0.01 * old.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fields", [KNOWN, {**KNOWN, "new": 1.0, "day": "mon"}])
@pytest.mark.parametrize("label", ["zebra", "unheard of"])
def test_a_refused_batch_leaves_everything_as_it_was(fields, label):
    online = taught(make_online(scale=False, method="er:memory=20"), ROWS[:40])
    before = deepcopy(online.state_dict())
    with torch.no_grad():
        weight = online.learner.model[1].features[1].weight
        kept = weight[0].clone()
        weight[0] = 1e38  # one step from infinity
    huge = Record("huge", {**fields, "f0": 9e14, "f1": 9e14})
    with pytest.raises(NonFiniteError):
        online.learn([Record("fine", fields), huge], [label, "mouse"])
    with torch.no_grad():
        online.learner.model[1].features[1].weight[0] = kept
    after = online.state_dict()
    for state in (before, after):
        state["learner"].pop("random")
        state["learner"]["method"].pop("memory")  # which may have drawn
    assert checkpoint.same(after, before)
    online.learn([Record("fine", {**KNOWN, "new": 1.0})], ["zebra"])


def test_a_row_that_cannot_be_read_leaves_everything_as_it_was():
    online = taught(make_online(method="er:memory=20"), ROWS[:40])
    before = deepcopy(online.state_dict())
    good = Record("good", {**KNOWN, "new": 1.0})
    for bad, label in ((Record("bad", {"f0": "text"}), "zebra"), (Record("bad", {"f0": 1.0}), 3.0)):
        with pytest.raises(RowError, match="row 'bad'"):
            online.learn([good, bad], ["another", label])
        assert checkpoint.same(online.state_dict(), before)
    with pytest.raises(ValueError, match="2 records, but 1 labels"):
        online.learn([good, good], ["zebra"])
    assert online.learn([], []) is None


def test_numbers_are_predicted_and_learned():
    online = make_online(model="linear", task="regression", optimizer="sgd:lr=0.05")
    assert isinstance(online.predict([Record("1", {})])[0].answer, float)
    chance = random.Random(0)
    for place in range(400):
        a, b = chance.gauss(0, 2), chance.gauss(5, 1)
        record = Record(str(place), {"a": a, "b": b})
        (prediction,) = online.predict([record])
        online.learn([record], [3 * a - b])
    assert prediction.answer == pytest.approx(3 * a - b, abs=0.3)
    assert prediction.scores == ()


@pytest.mark.parametrize("size", [1, 10])
def test_streaming_lda_is_that_of_all_rows_at_once_with_zero_where_fields_came_later(size):
    online = make_online(model="identity", method="slda", scale=False, dtype="float64")
    rows = [({"f1": 0.0} | {n: v for n, v in r.fields.items() if n != "day"}, y) for r, y in ROWS[:150]]
    records, labels = [Record(str(i), fields) for i, (fields, _) in enumerate(rows)], [y for _, y in rows]
    for start in range(0, 150, size):
        online.learn(records[start : start + size], labels[start : start + size])
    assert online.encoder.width == 5
    batch = {"x": online.encoder.encode(records)["x"].nan_to_num(0), "y": online.encoder.targets(records, labels)}
    oracle = Learner(nn.Identity(), SLDA(), optimizer=SGD)
    oracle.observe(batch)
    torch.testing.assert_close(online.learner.predict(batch), oracle.predict(batch), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["slda", "ncm", "ridge", "ranpac:M=50", "fecam:lambda=1"])
def test_closed_forms_on_what_the_rows_hold_grow_and_resume(method, tmp_path):
    options = {"model": "identity", "method": method}
    online = taught(make_online(**options), ROWS[:100])
    checkpoint.save(online.state_dict(), tmp_path / "state")
    fresh = make_online(**options)
    fresh.load_state_dict(checkpoint.load(tmp_path / "state"))
    taught(online, ROWS[100:])
    taught(fresh, ROWS[100:])
    assert checkpoint.same(fresh.state_dict(), online.state_dict())
    right = [p.answer == label for (r, label) in ROWS for p in online.predict([r])]
    assert sum(right) > 100


def test_texts_are_learned_as_bags_of_words():
    online = make_online(encoder="words:buckets=256", model="linear", optimizer="sgd:lr=1")
    for place in range(30):
        online.learn([Record(f"{place}", {"text": f"a good thing {place}"})], ["good"])
        online.learn([Record(f"-{place}", {"text": f"a bad thing {place}"})], ["bad"])
    answers = online.predict([Record("1", {"text": "very good indeed"}), Record("2", {"text": "bad bad"})])
    assert [prediction.answer for prediction in answers] == ["good", "bad"]


def test_a_memory_on_disk_is_refused(tmp_path):
    learner = Learner(nn.Linear(1, 1), Replay(Memory(5, folder=tmp_path)), optimizer=SGD)
    with pytest.raises(ValueError, match="keep the memory in RAM"):
        Online(learner, Encoder(["a"]))


def test_a_corrected_row_is_remembered_with_its_new_label_also_by_who_resumed():
    online = taught(make_online(method="er:memory=30,count=4"), ROWS[:20])
    right = {"mouse": "zebra", "zebra": "mouse"}
    for record, label in ROWS[:20:3]:
        online.learn([record], [right[label]])
    twin = make_online(method="er:memory=30,count=4")
    twin.load_state_dict(online.state_dict())
    for each in (online, twin):
        memory = each.learner.method.memory
        kept = dict(zip(memory.ids.tolist(), memory.column("y").tolist(), strict=True))
        for place, (record, label) in enumerate(ROWS[:20]):
            now = label if place % 3 else right[label]
            assert each.encoder.classes.names[kept[row_ids([record]).item()]] == now
