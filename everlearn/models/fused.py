"""A step as one graph: forward and backward of an objective, recorded once, then run without autograd or Python.

A small model takes longer to be called than to be computed. The graph holds the operations that autograd would run,
in its order.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import profiler
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import SGD, Optimizer
from torch.optim import optimizer as watching

from everlearn.batch import ANSWERS, Batch, Column
from everlearn.checkpoint import same
from everlearn.models.recorded import SORRY, Recorded, written
from everlearn.models.views import device_of, evaluating, ungraded
from everlearn.objective import Objective, Output
from everlearn.randomness import global_state, unmoved

Loss = Callable[[nn.Module, Batch, Objective], Sequence[Tensor | None]]
"""From a model, a batch and what the model is trained for to a loss, the logits, and whatever else is asked for."""

Places = list[tuple[dict[str, Any], str]]

MOST = 64
"""Graphs that are kept, one for each shape of a batch; then the oldest goes."""


class Fused:
    """An `Objective` that computes the gradients of one model along with its loss, and hands them out by `backward`.

    What a model does in Python is done once for each shape of its inputs, weights and buffers, while its operations
    are recorded. Weights and buffers are read anew at each call, whoever has changed or replaced them. What depends
    on more than those is refused when it is recorded, with a ValueError that says why: draws from a random
    generator (dropout), running statistics that a forward pass moves, values that decide what is computed, tensors
    that are neither weight nor buffer. There the recorded step is also held against the plain one.

    The norm of each column must stay below `largest`, which `step` asserts.
    """

    def __init__(self, model: nn.Module, objective: Objective, largest: float = float("inf")) -> None:
        self.model, self.objective, self.largest = model, objective, largest
        self._names, self._places = _places(model)
        self._first = [places[0] for places in self._places]
        self._graphs: dict[Any, Recorded] = {}
        self._loss: Tensor | None = None
        self._gradients: Sequence[Tensor] = ()
        self._recorded: Recorded | None = None

    @torch.no_grad()
    def __call__(self, model: Callable[..., Any], batch: Batch, /) -> Output:
        """The output, whose loss has no graph; for another model, and without answers, it is the plain objective."""
        if model is not self.model or not any(name in batch for name in ANSWERS):
            return self.objective(model, batch)
        loss, logits = self.through(_plain, batch)
        return Output(loss, logits)

    @torch.no_grad()
    def through(self, make: Loss, batch: Batch) -> list[Tensor]:
        """What `make` gives for the model and a batch with answers; `backward` takes its first, the loss."""
        names, inputs, key = self._inputs(batch, make)
        recorded = self._graphs.get(key) or self._keep(key, self._record(names, inputs, make))
        try:
            found = recorded.graph(*inputs)
        except RuntimeError:
            self.objective(self.model, batch)  # which says it better
            raise
        last = len(found) - len(recorded.learn)
        self._loss, self._gradients, self._recorded = found[0], found[last:], recorded
        return list(found[:last])

    def backward(self, loss: Tensor) -> None:
        """Gives each weight its gradient of `loss`, which must be the one that came out of the last call, as it was."""
        if self._recorded is None or loss is not self._loss:
            raise ValueError(
                "the method makes another loss of that of the objective, or asks more than once, so its gradients are "
                "not those that were computed along with it; leave fused=True out, or take a method that only chooses "
                "rows (naive, er)"
            )
        self._give(self._recorded, self._gradients)
        self._loss, self._gradients = None, ()

    def step(self, batch: Batch, optimizer: Optimizer, *, alike: bool = False) -> Output | None:
        """A whole step at once: the batch and its loss are checked, the gradients taken, the weights moved.

        None: nothing has happened. The step is to be made of its parts, then, which say what is wrong with the batch;
        with the first batch of a shape it is so, too. Before it, no weight has a gradient; afterwards, some may.
        `alike` asks for logits that are those of `answer`: None where train and eval mode are not the same.
        """
        try:
            _, inputs, key = self._inputs(batch, _plain)
        except TypeError:
            return None
        recorded = self._graphs.get(key)
        if recorded is None or (alike and not self._alike(recorded, batch)):
            return None
        rate = _rate(optimizer, recorded, inputs)
        gradients: Sequence[Tensor]
        try:
            with ungraded():
                if rate is None:
                    fine, loss, logits, *gradients = recorded.checked(*inputs)
                else:
                    fine, loss, logits = recorded.descent(*inputs, -rate)
        except RuntimeError:
            return None
        if not fine:
            return None
        if rate is None:
            self._give(recorded, gradients)
            step(optimizer)
        return Output(loss, logits)

    def answer(self, batch: Batch) -> Tensor:
        """The logits, in eval mode; to be asked under `no_grad`. Nothing is drawn, and nothing changes."""
        names, inputs, key = self._inputs(batch, None)
        recorded = self._graphs.get(key) or self._keep(key, self._record(names, inputs, None))
        logits: Tensor = recorded.graph(*inputs)[0]
        return logits

    def _inputs(self, batch: Batch, make: Loss | None) -> tuple[list[str], list[Tensor], Any]:
        """The names of the columns, what a graph is given, and which graph it is; `make` None: that of the answer."""
        inputs, names = [place[name] for place, name in self._first], []
        for name, column in batch.items():
            if name != "id" and (make is not None or name not in ANSWERS):
                names.append(name)
                inputs.append(_contiguous(name, column))
        key = [make, *names]
        for each in inputs:  # a tuple for each would take longer
            key += (each.shape, each.dtype, each.device, each.requires_grad)
        return names, inputs, tuple(key)

    def _keep(self, key: Any, recorded: Recorded) -> Recorded:
        while len(self._graphs) >= MOST:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[key] = recorded
        return recorded

    def _give(self, recorded: Recorded, gradients: Sequence[Tensor]) -> None:
        for place, gradient in zip(recorded.learn, gradients, strict=True):
            weights, name = self._first[place]
            weights[name].grad = gradient
        for at in recorded.shared:  # who clips it must not clip another one along with it
            weights, name = self._first[recorded.learn[at]]
            weights[name].grad = gradients[at].clone()

    def _alike(self, recorded: Recorded, batch: Batch) -> bool:
        """Whether the model computes in train mode what it does in eval mode, operation by operation."""
        if recorded.alike is None:
            names, inputs, _ = self._inputs(batch, None)
            device = device_of(self.model)
            with unmoved(device), torch.no_grad():
                training = self._traced(names, inputs, None)
                with evaluating(self.model):
                    recorded.alike = written(training) == written(self._traced(names, inputs, None))
        return recorded.alike

    def _record(self, names: Sequence[str], inputs: Sequence[Tensor], make: Loss | None) -> Recorded:
        """The operations from these weights, buffers and columns to what `make` gives, and to gradients."""
        count, device = len(self._first), device_of(self.model)
        tensors, columns = list(inputs[:count]), list(inputs[count:])
        step = self._step(names, make)
        copies = [each.detach().clone() for each in tensors]
        with unmoved(device), _mode(self.model, learning=make is not None):
            before = global_state(device)
            plain = step(copies, columns)
            _refuse_if(not same(before, global_state(device)), "it draws random numbers, as dropout does")
            changed = [self._names[at] for at, c in enumerate(copies) if not _equal(c, tensors[at])]
            _refuse_if(bool(changed), f"a forward pass changes {', '.join(changed)}, as running statistics do")
            traced = self._traced(names, inputs, make)
        constants = [str(node.target) for node in traced.graph.nodes if node.op == "get_attr"]
        _refuse_if(bool(constants), "it computes with a tensor that is neither weight nor buffer; register it as one")
        takes, lines, gives = written(traced)
        asked = [at for at, each in enumerate(tensors) if each.requires_grad and make is not None]
        learn = [at for at, gradient in zip(reversed(asked), reversed(plain), strict=False) if gradient is not None]
        floats = [name for name, column in zip(takes[count:], columns, strict=True) if column.is_floating_point()]
        gives = [name for name, value in zip(gives, plain, strict=True) if value is not None]
        recorded = Recorded(takes, lines, gives, learn[::-1], floats, self.largest)
        given, found = [value for value in plain if value is not None], recorded.graph(*inputs)
        near = all(_near(value, other) for value, other in zip(found, given, strict=True))
        _refuse_if(not near, "the recorded step gives other numbers than the plain one")
        recorded.shared = _shared(found, len(learn), inputs)
        return recorded

    def _traced(self, names: Sequence[str], inputs: Sequence[Tensor], make: Loss | None) -> fx.GraphModule:
        """The operations of a step, in the mode in which the model is."""
        count = len(self._first)
        tensors = [each.detach().clone() for each in inputs[:count]]
        try:
            return make_fx(self._step(names, make))(tensors, list(inputs[count:]))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(SORRY.format(f"values decide what is computed ({reason})")) from error

    def _step(self, names: Sequence[str], make: Loss | None) -> Callable[..., list[Tensor | None]]:
        """From weights and buffers, and columns, to what `make` gives, and gradients; without it, to logits."""
        wanted = [place[name].requires_grad and make is not None for place, name in self._first]

        def step(tensors: list[Tensor], columns: list[Tensor]) -> list[Tensor | None]:
            leaves = [t.detach().requires_grad_() if w else t.detach() for t, w in zip(tensors, wanted, strict=True)]
            batch: Batch = dict(zip(names, columns, strict=True))
            with self._lent(leaves), torch.set_grad_enabled(make is not None):
                if make is None:
                    return [self.objective(self.model, batch).logits]
                loss, *others = make(self.model, batch, self.objective)
            if loss is None:
                raise ValueError("the objective gives no loss for this batch, so there is nothing to be fused")
            gradients = torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad], allow_unused=True)
            return [loss.detach(), *[None if each is None else each.detach() for each in others], *gradients]

        return step

    @contextmanager
    def _lent(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """The model with these in the places of its own weights and buffers."""
        own = [place[name] for place, name in self._first]
        try:
            self._put(tensors)
            yield
        finally:
            self._put(own)

    def _put(self, tensors: Sequence[Tensor]) -> None:
        for places, lent in zip(self._places, tensors, strict=True):
            for place, name in places:
                place[name] = lent


def _plain(model: nn.Module, batch: Batch, objective: Objective) -> Output:
    return objective(model, batch)


def _refuse_if(problem: bool, reason: str) -> None:
    if problem:
        raise ValueError(SORRY.format(reason))


def _places(model: nn.Module) -> tuple[list[str], list[Places]]:
    """The names of all weights and buffers, and where each of them lies; in several places if it is shared."""
    found: dict[int, tuple[str, Places]] = {}
    for path, module in model.named_modules():
        for place in (module._parameters, module._buffers):  # noqa: SLF001
            for name, value in place.items():
                if value is not None:
                    found.setdefault(id(value), (f"{path}.{name}".lstrip("."), []))[1].append((place, name))
    return [name for name, _ in found.values()], [places for _, places in found.values()]


def _contiguous(name: str, column: Column) -> Tensor:
    if not isinstance(column, Tensor):
        raise TypeError(SORRY.format(f"the column {name!r} is a list, and a graph takes tensors"))
    return column.contiguous()


@contextmanager
def _mode(model: nn.Module, *, learning: bool) -> Iterator[None]:
    """As it is to learn; in eval mode to answer."""
    if learning:
        yield
    else:
        with evaluating(model):
            yield


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _near(value: Tensor, plain: Tensor | None) -> bool:
    """Whether the two differ by no more than the order of a sum makes of rounding; NaN where there is NaN."""
    assert plain is not None  # noqa: S101 (those that are None are not given)
    apart, size = ((each.double().nan_to_num()).norm() for each in (value - plain, plain))
    return bool(torch.equal(value.isnan(), plain.isnan()) and apart <= 1e-4 * size + 1e-12)


def _shared(found: Sequence[Tensor], count: int, inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """Which of the gradients, the last `count` of those `found`, lie in the memory of an input or of another."""
    lies = [each.untyped_storage().data_ptr() for each in (*inputs, *found)]
    return tuple(at for at, place in enumerate(lies[len(lies) - count :]) if place and lies.count(place) > 1)


def step(optimizer: Optimizer) -> None:
    """`optimizer.step()`; where nobody watches it, without what torch puts around it for those who do."""
    if _watched(optimizer) or not _descended(optimizer):
        optimizer.step()


def _rate(optimizer: Optimizer, recorded: Recorded, inputs: Sequence[Tensor]) -> float | None:
    """That of a plain descent of the inputs that have gradients; None where a step is more than that."""
    if type(optimizer) is not SGD or len(optimizer.param_groups) > 1 or recorded.shared or _watched(optimizer):
        return None
    group = optimizer.param_groups[0]
    if _more(group):
        return None
    members = set(map(id, group["params"]))
    for at in recorded.learn:
        if id(inputs[at]) not in members:
            return None
    rate: float = group["lr"]
    return rate


def _watched(optimizer: Optimizer) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks  # noqa: SLF001
        or optimizer._optimizer_step_post_hooks  # noqa: SLF001
        or watching._global_optimizer_pre_hooks  # noqa: SLF001
        or watching._global_optimizer_post_hooks  # noqa: SLF001
        or "step" in vars(optimizer)  # a scheduler counts there
        or profiler._is_profiler_enabled  # noqa: SLF001
    )


def _descended(optimizer: Optimizer) -> bool:
    """Takes the step if it is one of plain gradient descent, and says whether it was."""
    groups = optimizer.param_groups
    if type(optimizer) is not SGD or any(map(_more, groups)):
        return False
    for group in groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if weights:
            with ungraded():
                torch._foreach_add_(weights, [weight.grad for weight in weights], alpha=-group["lr"])
    return True


def _more(group: dict[str, Any]) -> bool:
    """Whether a step of SGD is more than the gradient times the rate, a number."""
    for name in _MORE:  # a loop takes half of the time of any()
        if group[name]:
            return True
    return type(group["lr"]) is not float


_MORE = ("momentum", "weight_decay", "maximize", "foreach", "fused", "differentiable")
