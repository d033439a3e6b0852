"""A batch that brings new fields and classes, and is refused, leaves nothing behind."""

from copy import deepcopy

import pytest
import torch

from everlearn import checkpoint
from everlearn.border import NonFiniteError
from everlearn.memory import Memory
from everlearn.models.padded import pad
from everlearn.objective import Output
from everlearn.online.making import make_online
from everlearn.streams.feed import Record


def rows(count, start=0, fields=("a", "b")):
    return [
        Record(f"r{start + i}", {n: float((7 * i + 3 * k + start) % 11) for k, n in enumerate(fields)})
        for i in range(count)
    ]


def spoil(online):
    """Makes the next loss NaN, and then all as before."""
    whole = online.learner.objective

    def once(model, batch):
        online.learner.objective = whole
        loss, logits = whole(model, batch)
        return Output(None if loss is None else loss * torch.nan, logits)

    online.learner.objective = once


def told(online):
    """The state, without what a refused step may move: what a memory has drawn, and the global generators."""
    state = deepcopy(online.state_dict())
    state["learner"].pop("random")
    for part in state["learner"]["method"].values():
        if isinstance(part, dict):
            part.pop("draws", None)
    return state


OPTIONS = {
    "plain": {},
    "adam": {"optimizer": "adam:lr=0.01"},
    "momentum": {"optimizer": "sgd:lr=0.01,momentum=0.9", "scale": False},
    "linear": {"model": "linear"},
    "hedge": {"model": "hedge:layers=3,width=8,at_input=true"},
    "replay": {"method": "er:memory=20,count=4", "optimizer": "adam:lr=0.01"},
    "derpp": {"method": "derpp:memory=20,count=4"},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("learned", [0, 12])
@pytest.mark.parametrize("fields", [("a", "b"), ("a", "b", "new")])
def test_a_refused_batch_that_grew_the_model_leaves_the_state_as_it_was(name, learned, fields):
    online = make_online(**OPTIONS[name], seed=3)
    for start in range(0, learned, 4):
        online.learn(rows(4, start), ["x", "y", "x", "z"])
    before, answers = told(online), online.predict(rows(5))
    parts = {name: id(weight) for name, weight in online.learner.model.named_parameters()}
    spoil(online)
    with pytest.raises(NonFiniteError):
        online.learn(rows(3, 50, fields), ["x", "fresh", "fresher"])
    assert checkpoint.same(told(online), before)
    assert online.predict(rows(5)) == answers
    assert {name: id(weight) for name, weight in online.learner.model.named_parameters()} == parts


@pytest.mark.parametrize("name", ["plain", "adam", "hedge"])
def test_after_a_refused_batch_it_goes_on_as_if_that_had_never_come(name):
    refused, never = make_online(**OPTIONS[name], seed=3), make_online(**OPTIONS[name], seed=3)
    for step in range(6):
        batch = rows(4, 4 * step, ("a", "b", f"f{step // 2}")), ["x", "y", f"k{step}", "x"]
        if step % 2:
            spoil(refused)
            with pytest.raises(NonFiniteError):
                refused.learn(rows(3, 50, ("a", "zz")), ["x", "fresh", "fresher"])
        losses = refused.learn(*batch), never.learn(*batch)
        assert losses[0] == losses[1]
    assert checkpoint.same(told(refused), told(never))


def test_a_head_with_rows_in_reserve_has_them_again():
    online = make_online(seed=3)
    online.learn(rows(4), ["x", "y", "x", "z"])
    with online.learner.changing() as model:
        head = pad(model, 10)
    online.learn(rows(4), ["x", "y", "x", "z"])
    before, whole = told(online), head.weight.detach().clone()
    spoil(online)
    with pytest.raises(NonFiniteError):
        online.learn(rows(3, 50, ("a", "b", "new")), ["x", "fresh", "fresher"])
    assert torch.equal(head.weight, whole)
    assert head.out_features == 3
    assert checkpoint.same(told(online), before)


@pytest.mark.parametrize("method", ["slda", "ncm"])
def test_statistics_that_were_widened_are_narrow_again(method, monkeypatch):
    online = make_online(model="identity", method=method, seed=3)
    online.learn(rows(8), ["x", "y"] * 4)
    before = told(online)
    monkeypatch.setattr(online.learner, "observe", lambda _: (_ for _ in ()).throw(NonFiniteError("refused")))
    with pytest.raises(NonFiniteError):
        online.learn(rows(3, 50, ("a", "b", "new")), ["x", "fresh", "fresher"])
    assert checkpoint.same(told(online), before)


def test_growing_copies_no_memory(monkeypatch):
    """The cost of a new class does not depend on how much is remembered."""
    online = make_online(method="er:memory=100", seed=3)
    online.learn(rows(8), ["x", "y"] * 4)
    for verb in ("state_dict", "rows", "__deepcopy__"):
        monkeypatch.setattr(Memory, verb, lambda *_: pytest.fail("the memory was copied"), raising=False)
    monkeypatch.setattr(online.learner, "state_dict", lambda: pytest.fail("the state was copied"))
    online.learn(rows(2, 20, ("a", "new")), ["fresh", "x"])
    assert online.encoder.classes.names == ("x", "y", "fresh")
