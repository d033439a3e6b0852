"""The diagonal of the Fisher information: how much the answers depend on each weight, row by row.

F_i = E_x E_y (d log p(y | x) / d w_i)^2. The square is of the gradient of each row: the square of the mean
gradient of a batch is no Fisher information, it is smaller by about the size of the batch.

For linear, convolution and normalisation layers the squares follow from the inputs and output gradients of a
layer at the cost of about one more backward pass. Whether that holds for a model is not assumed but checked,
on its first rows; where it does not hold (weights used twice, other layers, losses that are no mean over
rows) `torch.func` computes the gradient of each row, and where that has no rule for what the model does
(decisions that depend on values, columns that are lists) each row gets a backward pass of its own.

All of that asks of the square only that it goes through products, (ab)^2 = a^2 b^2. So does the absolute value:
the sensitivity of the answers, which memory aware synapses are about, is found in the same ways.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from everlearn.batch import ANSWERS, UNLABELED, Batch, length, move, take, tensor, unlabeled
from everlearn.models.views import Weights, average, bare, evaluating, trainable
from everlearn.objective import Output

Labels = Literal["exact", "empirical", "weighted"]
Objective = Callable[[Any, Batch], Any]
Size = Callable[[Tensor], Tensor]
"""The square or the absolute value, element by element: of a product, it is the product of the sizes."""


class Asked(NamedTuple):
    """Which gradients of a row are asked for, and what is made of them before they are summed."""

    objective: Objective
    labels: Labels
    size: Size


Way = Callable[[nn.Module, Batch, Asked, Weights], None]
"""Adds to each of the weights (the last argument) the sum over rows of the sizes of its gradients."""

_MOST = 1 << 25
"""Numbers in the gradients of single rows that are held at once: more rows than that allows come in pieces."""


def fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    labels: Labels = "exact",
    *,
    pooled: bool = True,
) -> Weights:
    """The mean over all rows of the squared gradients of each row, for each trainable parameter, in eval mode.

    `labels="exact"` takes the expectation over the labels that the model itself gives (classifiers only: logits
    of shape (rows, classes)); `labels="empirical"` takes the labels in the batch, and passes over rows that have
    none; `labels="weighted"` is the term of the exact expectation that belongs to the label in the batch: its squared
    gradient times the p(y | x) that the model gives it. Raises a ValueError without rows. Model, buffers and
    gradients are left as they were; the result does not depend on how the rows are batched. Of several processes
    each gets the mean over all of them; unless `pooled`, that over its own rows.
    """
    asked = batches if labels == "empirical" else map(_of_classes, batches)
    total = _mean_over_rows(model, asked, Asked(objective, labels, torch.square))
    if pooled:
        average(total.values())
    return total


def sensitivity(model: nn.Module, batches: Iterable[Batch], objective: Objective) -> Weights:
    """The mean over all rows of |d ||f(x)||^2 / d w|, for each trainable parameter, with the logits f, in eval mode.

    No label is looked at. The absolute value is of the gradient of each row: within a mean over rows, opposite
    signs would cancel. Otherwise as `fisher`.
    """

    def norm(model: nn.Module, batch: Batch) -> Output:
        logits = objective(model, batch).logits
        return Output(logits.float().square().sum() / length(batch), logits)

    total = _mean_over_rows(model, map(unlabeled, batches), Asked(norm, "empirical", torch.abs))
    average(total.values())
    return total


def _mean_over_rows(model: nn.Module, batches: Iterable[Batch], asked: Asked) -> Weights:
    model = bare(model)
    device = next(model.parameters()).device
    total = _zeros(model)
    rows = checked = 0
    way: Way = _one_at_a_time
    with evaluating(model), torch.enable_grad():
        for batch in batches:
            batch = move(batch if asked.labels == "exact" else _labelled(batch), device)  # noqa: PLW2901
            few = take(batch, slice(0, 3))
            if length(few) > checked:  # one row alone could not tell a mean over rows from a sum
                way, checked = _way(model, few, asked), length(few)
            if length(batch):
                way(model, batch, asked, total)
                rows += length(batch)
    if not rows:
        raise ValueError("the importance of weights is estimated from rows, and there are none")
    for value in total.values():
        value.div_(rows)
    return total


def _zeros(model: nn.Module) -> Weights:
    return {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in trainable(model).items()}


def _labelled(batch: Batch) -> Batch:
    """The rows that have a label, and where a row has several (tokens) at least one of them."""
    for known in _known_labels(batch):
        batch = take(batch, known.any(1))
    return batch


def _known_labels(batch: Batch) -> list[Tensor]:
    """Which labels are known, (rows, labels of a row) bool, for each column of them."""
    columns = [batch[name] for name in ANSWERS if name in batch]
    return [
        (column != UNLABELED).reshape(len(column), -1)
        for column in columns
        if isinstance(column, Tensor) and not column.is_floating_point()
    ]


def _way(model: nn.Module, batch: Batch, asked: Asked) -> Way:
    """The fastest way that gives what one backward pass for each row gives, on the rows of `batch`."""
    if _layered(model):
        quick, slow = _zeros(model), _zeros(model)
        _closed(model, batch, asked, quick)
        _one_at_a_time(model, batch, asked, slow)
        if all(_near(quick[name], slow[name]) for name in slow):
            return _closed
    if all(isinstance(column, Tensor) for column in batch.values()):
        try:
            _row_by_row(model, batch, asked, _zeros(model))
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

    def parameters(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """The layer's trainable parameters, with the names that they have in the layer and in the model."""
        for name, parameter in self.layer.named_parameters(self.name, recurse=False):
            if parameter.requires_grad:
                yield name.rpartition(".")[2], name, parameter


_KNOWN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001


def _own(module: nn.Module) -> list[str]:
    """The trainable parameters that are the module's own, not those of a module in it."""
    return [name for name, weight in module.named_parameters(recurse=False) if weight.requires_grad]


def _layered(model: nn.Module) -> bool:
    """Whether each trainable weight is the weight or bias of one layer of a known kind."""
    layers = [module for module in model.modules() if _own(module)]
    everywhere = sum(weight.requires_grad for _, weight in model.named_parameters(remove_duplicate=False))
    known = all(isinstance(layer, _KNOWN) and {*_own(layer)} <= {"weight", "bias"} for layer in layers)
    # Without running statistics, batch normalisation mixes the rows of a batch even in eval mode.
    mixed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None for m in layers)  # noqa: SLF001
    return known and not mixed and everywhere == len(trainable(model))


def _closed(model: nn.Module, batch: Batch, asked: Asked, total: Weights) -> None:
    """The sums from the inputs a and output gradients d of the layers.

    For a linear layer F_W = (d^2)^T (a^2) and F_b = sum d^2, because the gradient of a row is the outer product of
    its d and a; so the d^2 of all labels can be summed before that product. Where a row has several places (pixels,
    tokens) its gradient is a sum over places, so it is formed for each row before its size is taken.
    """
    with _calls(model) as calls:
        losses = _losses(model, batch, asked)
    # Where rows were regrouped on their way (a head for each task, say), a layer cannot tell whose they are; where
    # rows have different numbers of labels, the mean over labels is no mean over rows.
    whole = bool(calls) and all(call.input.ndim > 1 and len(call.input) == length(batch) for call in calls)
    if not whole or (asked.labels == "empirical" and not all(bool(known.all()) for known in _known_labels(batch))):
        _one_at_a_time(model, batch, asked, total)
        return
    outputs = [call.output for call in calls]
    linear: dict[int, Tensor] = {}
    for place, (loss, weight) in enumerate(losses):
        more = place + 1 < len(losses)
        grads = torch.autograd.grad(loss, outputs, retain_graph=more, allow_unused=True)
        for number, (call, delta) in enumerate(zip(calls, grads, strict=True)):
            flat = isinstance(call.layer, nn.Linear) and call.input.ndim == 2
            if delta is not None and flat:
                sized = asked.size(delta.float()) * (1 if weight is None else weight[:, None])
                linear[number] = linear[number] + sized if number in linear else sized
            elif delta is not None:
                _add_sizes(call, delta.float(), weight, asked.size, total)
    for number, sized in linear.items():
        for name, full, _ in calls[number].parameters():
            answering = total[full][: sized.shape[1]]  # a head may have rows in reserve
            if name == "bias":
                answering += sized.sum(0)
            else:
                answering.addmm_(sized.T, asked.size(calls[number].input.float()))


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[_Call]]:
    """The calls of all layers with trainable weights while the block runs."""
    calls: list[_Call] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            calls.append(_Call(layer, names[layer], inputs[0].detach(), get_gradient_edge(output)))

    names = {module: name for name, module in model.named_modules() if _own(module)}
    handles = [module.register_forward_hook(note) for module in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _losses(model: nn.Module, batch: Batch, asked: Asked) -> list[tuple[Tensor, Tensor | None]]:
    """Sums over rows of the losses whose gradients are asked for, each with the weights (rows,) of their sizes."""
    if asked.labels == "empirical":
        loss = asked.objective(model, batch).loss
        if loss is None:
            raise ValueError(_UNANSWERED)
        return [(loss * length(batch), None)]
    log_p = _class_logits(asked.objective(model, unlabeled(batch)).logits).float().log_softmax(1)
    if asked.labels == "weighted":
        if "y" not in batch:
            raise ValueError(_UNANSWERED)
        chosen = [log_p.gather(1, tensor(batch, "y")[:, None])[:, 0]]
    else:
        chosen = [log_p[:, label] for label in range(log_p.shape[1])]
    return [(-own.sum(), own.detach().exp()) for own in chosen]


_UNANSWERED = "these rows have no labels, which empirical and weighted Fisher information are of; take the exact one"


def _of_classes(batch: Batch) -> Batch:
    """The batch; a ValueError where its labels are numbers: of one output the softmax is 1, and its gradient 0."""
    y = batch.get("y")
    if isinstance(y, Tensor) and y.is_floating_point() and y.numel() == len(y):
        raise ValueError(
            "the exact Fisher information is of classes, but the labels here are numbers, of which it would be 0; "
            'use fisher="empirical"'
        )
    return batch


def _class_logits(logits: Tensor) -> Tensor:
    if logits.ndim != 2:
        raise ValueError(
            f"the exact Fisher information needs logits of shape (rows, classes), but they are "
            f'{tuple(logits.shape)}; use fisher="empirical"'
        )
    return logits


def _add_sizes(call: _Call, d: Tensor, weight: Tensor | None, size: Size, total: Weights) -> None:
    """Adds the sizes of the gradients that single rows give the parameters of a layer, a few rows at a time."""
    a = call.input.float()
    for name, full, parameter in call.parameters():
        for piece in _pieces(len(d), _numbers(call.layer, parameter, d)):
            rows = size(_gradient(call.layer, name, a[piece], d[piece]).flatten(1))
            sizes = (rows.sum(0) if weight is None else weight[piece] @ rows).view(-1, *parameter.shape[1:])
            total[full][: len(sizes)] += sizes


def _pieces(rows: int, numbers: int) -> Iterator[slice]:
    """Slices of as many rows, of so many numbers each, as are held at once."""
    most = max(1, _MOST // max(1, numbers))
    return (slice(start, start + most) for start in range(0, rows, most))


def _numbers(layer: nn.Module, parameter: Tensor, d: Tensor) -> int:
    """The numbers held for each row while its gradient of `parameter` is formed."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and parameter.ndim > 1:
        return max(parameter.numel(), layer.groups * parameter[0].numel() * d[0, 0].numel())
    return parameter.numel()


def _gradient(layer: nn.Module, name: str, a: Tensor, d: Tensor) -> Tensor:
    """The gradient of the weight or bias of a layer for each row, shape (rows, *parameter)."""
    if isinstance(layer, nn.Linear):
        flat = d.flatten(1, -2)
        return flat.sum(1) if name == "bias" else flat.transpose(1, 2) @ a.flatten(1, -2)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return d.flatten(2).sum(2) if name == "bias" else _convolution(layer, a, d)
    if name == "weight":
        d = d * _normal(layer, a)
    after = a.ndim - len(layer.normalized_shape) if isinstance(layer, nn.LayerNorm) else a.ndim
    places = tuple(range(1 if isinstance(layer, nn.LayerNorm) else 2, after))
    return d.sum(places) if places else d


def _normal(layer: nn.Module, a: Tensor) -> Tensor:
    """What a normalisation layer makes of its inputs before it scales and shifts them."""
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(a, layer.normalized_shape, eps=layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(a, layer.num_groups, eps=layer.eps)
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)  # noqa: S101, SLF001 (all that is left in _KNOWN)
    mean, var = (kept if kept is None else kept.to(a) for kept in (layer.running_mean, layer.running_var))
    return F.batch_norm(a, mean, var, eps=layer.eps)


def _convolution(layer: nn.Conv1d | nn.Conv2d, a: Tensor, d: Tensor) -> Tensor:
    """The gradients of a convolution's kernel for each row: one product of the output gradients with the patches."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    a = F.pad(a, layer._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001 (its padding, whatever its kind)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if isinstance(layer, nn.Conv1d):
        a, d = a.unsqueeze(2), d.unsqueeze(2)
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    groups, rows = layer.groups, len(a)
    patches = F.unfold(a, kernel, dilation, 0, stride)  # (rows, inputs * kernel, places)
    patches = patches.view(rows, groups, -1, patches.shape[2])
    deltas = d.reshape(rows, groups, -1, patches.shape[3])
    return (deltas @ patches.transpose(2, 3)).reshape(rows, *layer.weight.shape)


# -- row by row -----------------------------------------------------------------------------------------------


def _row_by_row(model: nn.Module, batch: Batch, asked: Asked, total: Weights) -> None:
    """The same sums through `torch.func`: the gradient of each row, several rows at once."""
    weights = {name: weight.detach() for name, weight in trainable(model).items()}
    rest = {n: v.detach() for n, v in (*model.named_parameters(), *model.named_buffers()) if n not in weights}

    def loss(weights: Weights, row: Batch, label: Tensor | None) -> Tensor:
        one = {name: column.unsqueeze(0) for name, column in row.items()}  # type: ignore[union-attr]

        def ask(model: Callable[..., Any]) -> Tensor:
            if label is None:
                value: Tensor = asked.objective(model, one).loss
                return value
            log_p = _class_logits(asked.objective(model, unlabeled(one)).logits).float().log_softmax(1)
            return -log_p.gather(1, label.view(1, 1)).squeeze()

        return ask(lambda *args, **kwargs: functional_call(model, (weights, rest), args, kwargs))

    chosen: list[tuple[Tensor | None, Tensor | None]] = [(None, None)]
    if asked.labels != "empirical":
        with torch.no_grad():
            p = _class_logits(asked.objective(model, unlabeled(batch)).logits).float().softmax(1)
        labels = [torch.full((len(p),), label, device=p.device) for label in range(p.shape[1])]
        labels = [tensor(batch, "y")] if asked.labels == "weighted" else labels
        chosen = [(label, p.gather(1, label[:, None])[:, 0]) for label in labels]
    for label, weight in chosen:
        for piece in _pieces(length(batch), sum(value.numel() for value in weights.values())):
            places = (None, 0, None if label is None else 0)
            with sdpa_kernel(SDPBackend.MATH):  # the only attention that vmap has a rule for
                gradients = vmap(grad(loss), in_dims=places)(
                    weights, take(batch, piece), None if label is None else label[piece]
                )
            for name, value in gradients.items():
                rows = asked.size(value.flatten(1).float())
                total[name] += (rows.sum(0) if weight is None else weight[piece] @ rows).view_as(total[name])


def _one_at_a_time(model: nn.Module, batch: Batch, asked: Asked, total: Weights) -> None:
    """The definition itself: one backward pass for each row (and label)."""
    weights = trainable(model)
    for place in range(length(batch)):
        losses = _losses(model, take(batch, slice(place, place + 1)), asked)
        for loss, p in losses:
            grads = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, materialize_grads=True)
            for name, value in zip(weights, grads, strict=True):
                total[name] += asked.size(value.float()) * (1 if p is None else p)
