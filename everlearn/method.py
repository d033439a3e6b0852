"""A method is how a learner keeps what it knows while it learns more."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from everlearn.batch import Batch
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience

Model = nn.Module | Callable[..., Any]


@runtime_checkable
class Stateful(Protocol):
    """Anything that can say what it has become, in tensors and plain values, and become it again."""

    def state_dict(self) -> dict[str, Any]:
        """What it has become."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Becomes that again."""
        ...


FAMILIES = (
    *("bound", "regularisation", "distillation", "replay", "gradient", "architecture", "frozen features"),
    *("tuning", "adaptation", "test time"),
)


@dataclass(frozen=True)
class Card:
    """A method at a glance."""

    family: str
    """One of `FAMILIES`."""
    passes: str
    """What it computes, in forward and backward passes, beyond the plain step."""
    stores: str
    """What it keeps between experiences."""
    needs: tuple[str, ...] = ()
    """What has to be there: "task labels", "classes", "plain SGD", "a frozen body" ..."""
    alone: bool = False
    """Whether it leaves other methods no step to take part in."""
    measures: bool = False
    """Whether it knows nothing of a past that it did not learn itself, unless it is shown some rows of it."""


@dataclass
class Method:
    """Six verbs. Override those you need; as they stand, they add up to plain fine-tuning.

    Fields that `__init__` takes are hyperparameters. Fields with `init=False` are what the method
    has learned so far: a checkpoint carries them. There is no third kind.
    """

    card: ClassVar[Card] = Card("bound", "none", "nothing")

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Called before the first batch of `experience`."""

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Called once for each training batch, and for nothing else.

        `objective` is what the model is trained for, alone: run it on whatever you like.
        `rest` is the objective with the methods that follow in the chain: run it once.
        """
        return rest(model, batch)

    def before_step(self, model: nn.Module) -> None:
        """Called between backward and the optimizer's step: gradients may be changed."""

    def after_step(self, model: nn.Module) -> None:
        """Called after the optimizer's step, under `no_grad`: weights may be changed, gradients are still there."""

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Called after the last batch of `experience`, while its data is still there."""

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """The logits for `batch`; called in eval mode, without gradients."""
        return objective(model, batch).logits

    @property
    def own_answers(self) -> bool:
        """Whether it answers by itself for any class: then the model's head need not have room for all of them."""
        return self.card.family == "frozen features"

    @property
    def own_lessons(self) -> bool:
        """Whether it learns from rows that nobody has labelled, by themselves."""
        return self.card.family == "test time"

    @property
    def own_steps(self) -> bool:
        """Whether it looks at the rows of an experience when it begins or ends, and does not ask the model in steps."""
        return self.card.alone and self.card.family in {"frozen features", "tuning"}

    @property
    def plain_answers(self) -> bool:
        """Whether it leaves the answers to the model."""
        return type(self).predict is Method.predict

    @property
    def plain_loss(self) -> bool:
        """Whether it leaves the loss to the objective, and the rows as they are."""
        return type(self).loss is Method.loss

    @property
    def plain_step(self) -> bool:
        """Whether it takes no part in a step, and leaves the answers to the model."""
        kind = type(self)
        return (
            kind.loss is Method.loss
            and kind.before_step is Method.before_step
            and kind.after_step is Method.after_step
            and kind.predict is Method.predict
        )

    def __call__(self, model: nn.Module, batch: Batch, objective: Objective) -> Output:
        """What a loop calls: subclasses define `loss`, as modules define `forward`."""
        return self.loss(model, batch, objective, objective)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the method itself, for the optimizer."""
        for _, module in self.modules():
            yield from module.parameters()

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The fields that are modules, by name."""
        for name, value in self._fields():
            if isinstance(value, nn.Module):
                yield name, value

    def to(self, device: torch.device) -> None:
        """Moves what the method has learned to the device of the model; memories stay where they are."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, nn.Module):
                value.to(device)
            elif not field.init and not isinstance(value, Stateful):
                setattr(self, field.name, _moved(value, device))

    def state_dict(self) -> dict[str, Any]:
        """The state fields, and the states of the fields that have one: memories, modules."""
        state: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Stateful):
                state[field.name] = value.state_dict()
            elif not field.init:
                state[field.name] = value
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a state that `state_dict` gave."""
        expected = {field.name for field in fields(self) if not field.init or self._stateful(field.name)}
        if expected != set(state):
            raise ValueError(
                f"this is not a state of {type(self).__name__}: it has {sorted(state)}, expected {sorted(expected)}"
            )
        for name, saved in state.items():
            current = getattr(self, name)
            if isinstance(current, Stateful):
                current.load_state_dict(saved)
            else:
                setattr(self, name, deepcopy(saved))  # what is updated in place must not be shared with the giver

    def _stateful(self, name: str) -> bool:
        return isinstance(getattr(self, name), Stateful)

    def _fields(self) -> Iterator[tuple[str, Any]]:
        for field in fields(self):
            yield field.name, getattr(self, field.name)


class Chain(Method):
    """Several methods as one. The first sees a batch first and wraps all that follow.

    The order is the order of nesting, and it means something: `Chain(Replay(...), LwF())` distills on old rows
    too, `Chain(LwF(), Replay(...))` on new rows only.
    """

    def __init__(self, *methods: Method) -> None:
        self.methods = methods

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.methods))})"

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Each begins, in order."""
        for method in self.methods:
            method.begin(model, experience, objective)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Each wraps those that follow it."""
        for method in reversed(self.methods):
            rest = partial(_inner, method=method, objective=objective, rest=rest)
        return rest(model, batch)

    def before_step(self, model: nn.Module) -> None:
        """Each, in order."""
        for method in self.methods:
            method.before_step(model)

    def after_step(self, model: nn.Module) -> None:
        """Each, in order."""
        for method in self.methods:
            method.after_step(model)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Each ends, in order."""
        for method in self.methods:
            method.end(model, experience, objective)

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """The answer of the first, for which the answers of those that follow are the model's."""
        for method in reversed(self.methods):
            objective = partial(_answer, method=method, inner=objective)
        return objective(model, batch).logits

    @property
    def own_answers(self) -> bool:
        """Whether one of them does: the others build on its answers."""
        return any(method.own_answers for method in self.methods)

    @property
    def own_lessons(self) -> bool:
        """Whether one of them does."""
        return any(method.own_lessons for method in self.methods)

    @property
    def own_steps(self) -> bool:
        """Whether one of them does: it leaves the others nothing to take part in."""
        return any(method.own_steps for method in self.methods)

    @property
    def plain_answers(self) -> bool:
        """Whether all of them leave the answers to the model."""
        return all(method.plain_answers for method in self.methods)

    @property
    def plain_loss(self) -> bool:
        """Whether all of them leave the loss to the objective."""
        return all(method.plain_loss for method in self.methods)

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules of all, each under the place of its method."""
        for place, method in enumerate(self.methods):
            for name, module in method.modules():
                yield f"{place}.{name}", module

    def to(self, device: torch.device) -> None:
        """Each."""
        for method in self.methods:
            method.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The states of all, by place."""
        return {str(place): method.state_dict() for place, method in enumerate(self.methods)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a state that `state_dict` gave."""
        if len(state) != len(self.methods):
            raise ValueError(f"the state is of a chain of {len(state)} methods, but this one has {len(self.methods)}")
        for place, method in enumerate(self.methods):
            method.load_state_dict(state[str(place)])


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    return value


def _inner(model: nn.Module, batch: Batch, /, method: Method, objective: Objective, rest: Objective) -> Output:
    return method.loss(model, batch, objective, rest)


def _answer(model: nn.Module, batch: Batch, /, method: Method, inner: Objective) -> Output:
    return Output(None, method.predict(model, batch, inner))


@contextmanager
def attached(method: Method, model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Lets `optimizer.step()` call the method, so that your own loop only has to call the method.

    with attached(method, model, optimizer):
        for batch in batches:
            method(model, batch, classify).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    """
    after_step = torch.no_grad()(method.after_step)
    before = optimizer.register_step_pre_hook(lambda *_: method.before_step(model))
    after = optimizer.register_step_post_hook(lambda *_: after_step(model))
    try:
        yield
    finally:
        before.remove()
        after.remove()


def links(method: Method) -> Iterator[Method]:
    """The methods in a chain, in order; one that is no chain is its only link."""
    if isinstance(method, Chain):
        for one in method.methods:
            yield from links(one)
    else:
        yield method
