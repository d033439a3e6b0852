"""What can be seen of a learner from outside: each pass through the model, each step of the optimizer."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from everlearn.conformance.nets import Net, Rows, numbers
from everlearn.conformance.subject import Subject
from everlearn.models.views import Weights

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass
class Pass:
    """One pass through the model, or through a copy of it."""

    own: bool
    """Whether it was the model itself."""
    trains: bool
    """Whether any part of it was in train mode."""
    graded: bool
    """Whether gradients were on."""
    x: Tensor
    rows: list[int]
    """The numbers of the rows in `x`."""
    logits: Tensor
    at: int
    """Steps taken before it."""
    experience: int
    descended: bool = False
    """Whether a gradient came back through it."""
    soiled: float = 0.0
    """The largest gradient that lay in the weights when it came."""


@dataclass
class Step:
    """One step of the optimizer: weights before, gradients then, weights after; buffers and moments before it."""

    before: Weights
    gradient: dict[str, Tensor | None]
    buffers: Weights
    moments: dict[str, Weights]
    after: Weights = field(default_factory=dict)


class Watch:
    """Writes down what happens to a model and to the optimizers made by `making`.

    Copies of the model are seen too: hooks are copied along.
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self.passes: list[Pass] = []
        self.steps: list[Step] = []
        self.optimizers: list[Optimizer] = []
        self.ends: list[int] = []
        """Steps taken until the end of each experience."""
        self.after_step: Callable[[int], None] = lambda _taken: None
        """Called after each step, with the number of steps taken."""
        self._features = torch.empty(0)  # that the head saw last
        net.head.register_forward_pre_hook(self._reached)
        net.register_forward_hook(self._passed)

    def __deepcopy__(self, _memo: object) -> "Watch":
        return self  # a copied model tells the same watch

    def making(self, make: MakeOptimizer) -> MakeOptimizer:
        """`make`, with what it makes under watch."""

        def watched(parameters: Iterable[nn.Parameter]) -> Optimizer:
            optimizer = make(parameters)
            optimizer.register_step_pre_hook(self._before)
            optimizer.register_step_post_hook(self._after)
            self.optimizers.append(optimizer)
            return optimizer

        return watched

    def learn(self, subject: Subject, *experiences: Rows) -> None:
        """Has experiences learned, and notes where each ended."""
        for x, y in experiences:
            subject.learn(x, y)
            self.ends.append(len(self.steps))

    def estimates(self) -> Iterator[Pass]:
        """The passes during experiences that no step can follow from: without gradients, or after the last step."""
        starts = [0, *self.ends]
        for each in self.passes:
            if each.experience < len(self.ends):
                end, stepped = self.ends[each.experience], self.ends[each.experience] > starts[each.experience]
                if not each.graded or (stepped and each.at == end):
                    yield each

    def _reached(self, _head: nn.Module, given: tuple[Any, ...]) -> None:
        self._features = given[0]

    def _passed(self, module: nn.Module, given: tuple[Any, ...], logits: Tensor) -> None:
        if torch._C._functorch.is_functorch_wrapped_tensor(given[0]):  # noqa: SLF001 (no public name in torch 2.6)
            return  # many rows as one, of which none can be told
        seen = Pass(
            own=module is self.net,
            trains=any(part.training for part in module.modules()),
            graded=logits.requires_grad,
            x=given[0].detach().clone(),
            rows=numbers(given[0]),
            logits=logits.detach().clone(),
            at=len(self.steps),
            experience=len(self.ends),
        )
        self.passes.append(seen)
        for out in (logits, self._features):  # a loss may be about features alone
            if out.requires_grad:
                out.register_hook(lambda _gradient: self._descended(seen))  # type: ignore[no-untyped-call]

    def _descended(self, seen: Pass) -> None:
        if not seen.descended:
            grads = [weight.grad for weight in self.net.parameters() if weight.grad is not None]
            seen.soiled = max((float(grad.abs().max()) for grad in grads if grad.numel()), default=0.0)
            seen.descended = True

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        weights = dict(self.net.named_parameters())
        moments = {
            name: {key: value.clone() for key, value in optimizer.state[weight].items() if isinstance(value, Tensor)}
            for name, weight in weights.items()
            if weight in optimizer.state
        }
        grads = {name: None if weight.grad is None else weight.grad.clone() for name, weight in weights.items()}
        self.steps.append(Step(_copied(weights.items()), grads, _copied(self.net.named_buffers()), moments))

    def _after(self, *_: Any) -> None:
        self.steps[-1].after = _copied(self.net.named_parameters())
        self.after_step(len(self.steps))


def _copied(named: Iterable[tuple[str, Tensor]]) -> Weights:
    return {name: value.detach().clone() for name, value in named}
