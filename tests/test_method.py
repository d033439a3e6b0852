"""A method as a value: its state, its place, its parts."""

import pytest
import torch
import zoo

from everlearn.batch import length
from everlearn.memory import Memory
from everlearn.method import Chain, attached
from everlearn.methods import EWC, SI, LwF, Naive, Replay


def learned(method):
    subject = zoo.learner("naive", epochs=1)
    subject.method = method
    subject.learn(zoo.stream(True)[0])
    return method


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def test_what_it_has_learned_moves_with_the_model_and_its_memory_stays():
    method = learned(Chain(Replay(Memory(20)), EWC(rows=20), SI(), LwF()))
    method.to(torch.device("meta"))
    for part in method.methods[1:]:
        moved = list(tensors(part.state_dict()))
        assert moved
        assert all(value.device.type == "meta" for value in moved)
    assert all(value.device.type == "cpu" for value in tensors(method.methods[0].state_dict()))


def test_a_state_of_another_method_is_refused():
    with pytest.raises(ValueError, match="not a state of LwF"):
        LwF().load_state_dict(EWC().state_dict())
    with pytest.raises(ValueError, match="chain of 1"):
        Chain(EWC(), SI()).load_state_dict(Chain(EWC()).state_dict())


def test_attached_lets_go_of_the_optimizer_when_the_block_ends():
    model, calls = zoo.mlp(10), []

    class Count(Naive):
        def before_step(self, model):
            calls.append("before")

        def after_step(self, model):
            assert not torch.is_grad_enabled()
            calls.append("after")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = zoo.digits()[0].take(torch.arange(4))
    assert length(batch) == 4
    objective = zoo.learner("naive").objective
    with attached(Count(), model, optimizer):
        Count()(model, batch, objective).loss.backward()
        optimizer.step()
    optimizer.step()
    assert calls == ["before", "after"]
