"""The diagonal of the Fisher information: how much the answers depend on each weight, row by row.

F_i = E_x E_y (d log p(y | x) / d w_i)^2. The square is of the gradient of each row: the square of the mean
gradient of a batch is no Fisher information, it is smaller by about the size of the batch.

For linear, convolution and normalisation layers the squares follow from the inputs and output gradients of a
layer at the cost of about one more backward pass. Whether that holds for a model is not assumed but checked,
on its first rows; where it does not hold (weights used twice, other layers, losses that are no mean over
rows) `torch.func` computes the gradient of each row, and where that has no rule for what the model does
(decisions that depend on values, columns that are lists) each row gets a backward pass of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn import functional as F

from everlearn.batch import ANSWERS, UNLABELED, Batch, length, move, take, unlabeled
from everlearn.models.views import Weights, average, bare, evaluating, trainable

Labels = Literal["exact", "empirical"]
Objective = Callable[[Any, Batch], Any]
Way = Callable[[nn.Module, Batch, Objective, Labels], Weights]
"""From rows to sums over them of squared gradients."""

_MOST = 1 << 25
"""Numbers in the gradients of single rows that are held at once: more rows than that allows come in pieces."""


def fisher(model: nn.Module, batches: Iterable[Batch], objective: Objective, labels: Labels = "exact") -> Weights:
    """The mean over all rows of the squared gradients of each row, for each trainable parameter, in eval mode.

    `labels="exact"` takes the expectation over the labels that the model itself gives (classifiers only: logits
    of shape (rows, classes)); `labels="empirical"` takes the labels in the batch, and passes over rows that have
    none. Raises a ValueError without rows. Model, buffers and gradients are left as they were; the result does
    not depend on how the rows are batched.
    """
    model = bare(model)
    device = next(model.parameters()).device
    total = _zeros(model)
    rows, way = 0, None
    with evaluating(model), torch.enable_grad():
        for batch in batches:
            batch = move(batch if labels == "exact" else _labelled(batch), device)  # noqa: PLW2901
            if not length(batch):
                continue
            if way is None or rows == 1:  # one row alone cannot tell a mean over rows from a sum
                way = _way(model, take(batch, slice(0, 3)), objective, labels)
            for name, value in way(model, batch, objective, labels).items():
                total[name] += value
            rows += length(batch)
    if not rows:
        raise ValueError("the Fisher information is estimated from rows, and there are none")
    for value in total.values():
        value /= rows
    average(total)
    return total


def _zeros(model: nn.Module) -> Weights:
    return {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in trainable(model).items()}


def _labelled(batch: Batch) -> Batch:
    """The rows that have a label, and where a row has several (tokens) at least one of them."""
    for name in ANSWERS:
        column = batch.get(name)
        if isinstance(column, Tensor) and not column.is_floating_point():
            batch = take(batch, (column != UNLABELED).view(len(column), -1).any(1))
    return batch


def _way(model: nn.Module, batch: Batch, objective: Objective, labels: Labels) -> Way:
    """The fastest way that gives what one backward pass for each row gives, on the rows of `batch`."""
    slow = _one_at_a_time(model, batch, objective, labels)
    if all(isinstance(module, _KNOWN) for module in model.modules() if any(True for _ in _own(module))):
        quick = _closed(model, batch, objective, labels)
        if all(_near(quick[name], slow[name]) for name in slow):
            return _closed
    if all(isinstance(column, Tensor) for column in batch.values()):
        try:
            _row_by_row(model, batch, objective, labels)
        except RuntimeError:  # torch.func has no rule for something in this model
            return _one_at_a_time
        return _row_by_row
    return _one_at_a_time


def _near(first: Tensor, second: Tensor) -> bool:
    top = float(second.abs().max()) if second.numel() else 0.0
    return torch.allclose(first, second, rtol=1e-2, atol=1e-3 * top)


# -- closed form ----------------------------------------------------------------------------------------------


class _Call(NamedTuple):
    """One call of a layer: what went in, and where the gradient of what came out is found."""

    layer: nn.Module
    name: str
    input: Tensor
    output: GradientEdge
    """The place in the graph, which stays what it is when an activation in place overwrites the tensor."""


_KNOWN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001


def _own(module: nn.Module) -> Iterator[nn.Parameter]:
    return (weight for weight in module.parameters(recurse=False) if weight.requires_grad)


def _closed(model: nn.Module, batch: Batch, objective: Objective, labels: Labels) -> Weights:
    with _calls(model) as calls:
        losses = _losses(model, batch, objective, labels)
    total = _zeros(model)
    if not all(call.input.ndim > 1 and len(call.input) == length(batch) for call in calls):
        return total  # rows were regrouped on their way, so a layer does not say which row is whose
    outputs = [call.output for call in calls]
    for place, (loss, weight) in enumerate(losses):
        more = place + 1 < len(losses)
        grads = torch.autograd.grad(loss, outputs, retain_graph=more, allow_unused=True)
        for call, delta in zip(calls, grads, strict=True):
            if delta is not None:
                for name, value in _squares(call, delta, weight):
                    total[name] += value
    return total


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[_Call]]:
    """The calls of all layers with trainable weights while the block runs."""
    calls: list[_Call] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(layer, names[layer], inputs[0].detach(), get_gradient_edge(output)))

    names = {module: name for name, module in model.named_modules() if any(True for _ in _own(module))}
    handles = [module.register_forward_hook(note) for module in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _losses(model: nn.Module, batch: Batch, objective: Objective, labels: Labels) -> list[tuple[Tensor, Tensor | None]]:
    """Sums over rows of the losses whose gradients are squared, each with the weights (rows,) of the squares."""
    if labels == "empirical":
        return [(objective(model, batch).loss * length(batch), None)]
    logits = _class_logits(objective(model, unlabeled(batch)).logits)
    log_p = logits.float().log_softmax(1)
    return [(-log_p[:, label].sum(), log_p[:, label].detach().exp()) for label in range(log_p.shape[1])]


def _class_logits(logits: Tensor) -> Tensor:
    if logits.ndim != 2:
        raise ValueError(
            f"the exact Fisher information needs logits of shape (rows, classes), but they are "
            f'{tuple(logits.shape)}; use fisher="empirical"'
        )
    return logits


def _squares(call: _Call, delta: Tensor, weight: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """The sums over rows of the squared gradients of one layer's parameters.

    For a linear layer with inputs a and output gradients d: F_W = (d^2)^T (a^2), F_b = sum d^2, because the
    gradient of a row is the outer product of its d and a. Where a row has several places (pixels, tokens) its
    gradient is a sum over places, so it is formed for each row before it is squared.
    """
    layer, a, d = call.layer, call.input.to(delta.dtype), delta
    if isinstance(layer, nn.Linear) and a.ndim == 2:
        squared = d.square() if weight is None else d.square() * weight[:, None]
        into = {"weight": lambda: squared.T @ a.square(), "bias": lambda: squared.sum(0)}
    else:
        gradient = _gradients(layer, a, d)

        def total(rows: Tensor) -> Tensor:
            flat = rows.flatten(1).square()
            return (flat.sum(0) if weight is None else weight @ flat).view(rows.shape[1:])

        into = {name: (lambda make=make: total(make())) for name, make in gradient.items()}
    for name, parameter in layer.named_parameters(recurse=False):
        if parameter.requires_grad:
            yield (f"{call.name}.{name}" if call.name else name), into[name]()


def _gradients(layer: nn.Module, a: Tensor, d: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The gradients of a layer's parameters for each row, shape (rows, *parameter)."""
    if isinstance(layer, nn.Linear):
        flat_a, flat_d = a.flatten(1, -2), d.flatten(1, -2)
        return {"weight": lambda: flat_d.transpose(1, 2) @ flat_a, "bias": lambda: flat_d.sum(1)}
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return {"weight": lambda: _convolution(layer, a, d), "bias": lambda: d.flatten(2).sum(2)}
    if isinstance(layer, nn.LayerNorm):
        normal = F.layer_norm(a, layer.normalized_shape, eps=layer.eps)
        places = tuple(range(1, a.ndim - len(layer.normalized_shape)))
        return {"weight": lambda: _sum(d * normal, places), "bias": lambda: _sum(d, places)}
    if isinstance(layer, nn.GroupNorm):
        normal = F.group_norm(a, layer.num_groups, eps=layer.eps)
    else:
        assert isinstance(layer, nn.modules.batchnorm._BatchNorm)  # noqa: S101, SLF001 (all that is left in _KNOWN)
        normal = F.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps)
    places = tuple(range(2, a.ndim))
    return {"weight": lambda: _sum(d * normal, places), "bias": lambda: _sum(d, places)}


def _sum(value: Tensor, places: tuple[int, ...]) -> Tensor:
    return value.sum(places) if places else value


def _convolution(layer: nn.Conv1d | nn.Conv2d, a: Tensor, d: Tensor) -> Tensor:
    """The gradients of a convolution's kernel for each row: one product of the output gradients with the patches."""
    if isinstance(layer, nn.Conv1d):
        a, d = a.unsqueeze(2), d.unsqueeze(2)
        kernel, stride, dilation = (1, *layer.kernel_size), (1, *layer.stride), (1, *layer.dilation)
    else:
        kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        a = F.pad(a, layer._reversed_padding_repeated_twice, mode=_MODES[layer.padding_mode])  # noqa: SLF001
        padding: tuple[int, ...] = (0, 0)
    else:
        padding = layer.padding if len(layer.padding) == 2 else (0, *layer.padding)
    groups, rows = layer.groups, len(a)
    patches = F.unfold(a, kernel, dilation, padding, stride)  # (rows, inputs * kernel, places)
    patches = patches.view(rows, groups, -1, patches.shape[2])
    deltas = d.reshape(rows, groups, -1, patches.shape[3])
    return (deltas @ patches.transpose(2, 3)).reshape(rows, *layer.weight.shape)


_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


# -- row by row -----------------------------------------------------------------------------------------------


def _row_by_row(model: nn.Module, batch: Batch, objective: Objective, labels: Labels) -> Weights:
    """The same sums through `torch.func`: the gradient of each row, several rows at once."""
    weights = {name: weight.detach() for name, weight in trainable(model).items()}
    rest = {n: v.detach() for n, v in (*model.named_parameters(), *model.named_buffers()) if n not in weights}

    def loss(weights: Weights, row: Batch, label: Tensor | None) -> Tensor:
        one = {name: column.unsqueeze(0) for name, column in row.items()}  # type: ignore[union-attr]

        def ask(model: Callable[..., Any]) -> Tensor:
            if label is None:
                value: Tensor = objective(model, one).loss
                return value
            log_p = _class_logits(objective(model, unlabeled(one)).logits).float().log_softmax(1)
            return -log_p.gather(1, label.view(1, 1)).squeeze()

        return ask(lambda *args, **kwargs: functional_call(model, (weights, rest), args, kwargs))

    columns: Batch = {name: tensor(batch, name) for name in batch}
    chosen: list[tuple[Tensor | None, Tensor | None]] = [(None, None)]
    if labels == "exact":
        with torch.no_grad():
            p = _class_logits(objective(model, unlabeled(batch)).logits).float().softmax(1)
        chosen = [(torch.full((len(p),), label, device=p.device), p[:, label]) for label in range(p.shape[1])]
    total: Weights = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in weights.items()}
    for label, weight in chosen:
        places = (None, 0, None if label is None else 0)
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that vmap has a rule for
            gradients = vmap(grad(loss), in_dims=places)(weights, columns, label)
        for name, value in gradients.items():
            squared = value.float().square()
            total[name] += squared.sum(0) if weight is None else torch.einsum("n,n...->...", weight, squared)
    return total


def _one_at_a_time(model: nn.Module, batch: Batch, objective: Objective, labels: Labels) -> Weights:
    """The definition itself: one backward pass for each row (and label)."""
    weights = trainable(model)
    total: Weights = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    for place in range(length(batch)):
        losses = _losses(model, take(batch, slice(place, place + 1)), objective, labels)
        for loss, p in losses:
            grads = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, materialize_grads=True)
            for name, value in zip(weights, grads, strict=True):
                total[name] += value.float().square() * (1 if p is None else p)
    return total
