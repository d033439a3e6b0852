"""Answers at several depths of one model, and their weighted mean."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED, Batch, tensor
from everlearn.models.views import bare, device_of, evaluating
from everlearn.objective import Objective, classify
from everlearn.randomness import unmoved
from everlearn.spec import one_of

INPUT = "input"
"""The name of the exit that reads what the model is given."""


def vectors(activation: Tensor) -> Tensor:
    """One vector for each row: of tokens (rows, tokens, width) the mean, of maps (rows, channels, ...) that of places.

    >>> vectors(torch.zeros(2, 3, 8, 8)).shape, vectors(torch.zeros(2, 5, 16)).shape
    (torch.Size([2, 3]), torch.Size([2, 16]))
    """
    if activation.dim() == 3:
        return activation.mean(1)
    return activation if activation.dim() <= 2 else activation.flatten(2).mean(2)


class Readouts(nn.Linear):
    """The linear classifiers of several exits as one layer, a row for each class: it grows, and loads, as any head.

    `widths` are the numbers that each exit reads. The columns are the biases of all exits, then the weights of the
    first, of the second and so on. Layers `beside` it get as many outputs as it gets.
    """

    def __init__(self, widths: Sequence[int], outputs: int, beside: Sequence[nn.Linear] = ()) -> None:
        self.widths, self.beside = tuple(widths), tuple(beside)
        super().__init__(len(self.widths) + sum(self.widths), outputs, bias=False)

    def reset_parameters(self) -> None:
        """Draws each classifier as an `nn.Linear` would be."""
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_(self._bounds())

    def refit(self, keep: int, weight: Tensor, bias: Tensor) -> None:  # noqa: ARG002 (biases are columns)
        """Makes the rows its first `keep`, then `weight`, drawn for one layer of all columns: each exit has its own.

        The new rows of layers beside it are zero: a linear model may begin there.
        """
        fresh = weight.to(self.weight) * (self._bounds() * self.in_features**0.5)
        rows = torch.cat([self.weight.detach()[:keep], fresh])
        self.weight = nn.Parameter(rows, requires_grad=self.weight.requires_grad)
        self.out_features = len(rows)
        for layer in self.beside:
            if layer.out_features != len(rows):  # else it was given them by its name
                for part, own in list(layer.named_parameters()):
                    longer = torch.cat([own.detach()[:keep], own.new_zeros(len(weight), *own.shape[1:])])
                    setattr(layer, part, nn.Parameter(longer, requires_grad=own.requires_grad))
                layer.out_features = len(rows)

    def logits(self, *read: Tensor) -> Tensor:
        """The logits (exits, rows, classes) for what each exit reads, (rows, width).

        No `forward`: what looks at the calls of linear layers (Fisher information, say) must not take it for one.
        """
        columns, weights = torch.split(self.weight, [len(read), self.in_features - len(read)], 1)
        biases = columns.t().unsqueeze(1)
        if len(set(self.widths)) == 1:  # one product for all
            parts = torch.unflatten(weights, 1, (len(read), -1)).permute(1, 2, 0)
            return torch.baddbmm(biases, torch.stack(read), parts)
        each = zip(biases, read, torch.split(weights, list(self.widths), 1), strict=True)
        return torch.stack([torch.addmm(bias, activation, part.t()) for bias, activation, part in each])

    def _bounds(self) -> Tensor:
        """What the weights of each column are drawn within: 1 / sqrt(width) of their exit."""
        counts = torch.tensor([1] * len(self.widths) + [*self.widths])
        bounds = torch.tensor(self.widths * 2, dtype=torch.float64).clamp(min=1).rsqrt()
        return bounds.repeat_interleave(counts).to(self.weight)


class Exits(nn.Module):
    """A model that answers at several depths: F(x) = sum_l alpha_l f_l(x), where f_l reads what the l-th tap gives.

    `body` is any model, `taps` are names of its layers from the input on; `at_input` puts an exit before the first. A
    `Sequential` whose layers are tapped runs up to the last tap; another body runs whole, so put an `nn.Identity` where
    it has a head. `example` is what the model will be given, some rows of it, and says how wide the taps are; `read`
    makes one vector of what a tap gives. As classification, f_l is a softmax and the answer is log F(x): log-
    probabilities, which are logits as good as any. As regression, f_l and F are numbers.

    alpha is a buffer, equal at first: weights in files bring it along. Only a method changes it (`Hedge`).

    >>> body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    >>> model = Exits(body, ["1", "3"], 3, example=torch.zeros(1, 4), at_input=True)
    >>> model.names, [round(total, 3) for total in model(torch.zeros(2, 4)).exp().sum(1).tolist()]
    (('input', '1', '3'), [1.0, 1.0])
    """

    alpha: Tensor
    body: nn.Module
    first: nn.Linear | None
    """The classifier that reads the input."""

    def __init__(
        self,
        body: nn.Module,
        taps: Sequence[str],
        outputs: int,
        *,
        example: Tensor,
        at_input: bool = False,
        task: Literal["classification", "regression"] = "classification",
        read: Callable[[Tensor], Tensor] = vectors,
    ) -> None:
        super().__init__()
        layers = [name for name, _ in body.named_modules(remove_duplicate=False)]
        self.taps = tuple(one_of("layer", tap, layers) for tap in taps)
        if len(set(self.taps)) < len(self.taps) or not self.taps:
            raise ValueError(f"taps must be one layer or more, each named once, but are {', '.join(taps) or 'none'}")
        self.body, self.task, self.read = body, one_of("task", task, TASKS), read
        self._notes: list[Tensor] | None = None
        with torch.no_grad(), unmoved(device_of(body)), evaluating(body):
            seen = self.activations(example)
        for name, activation in zip(self.taps, seen, strict=True):
            if activation.dim() != 2 or not activation.is_floating_point():
                raise ValueError(
                    f"an exit reads one vector for each row, but what {name!r} gives is {activation.dtype} of shape "
                    f"{tuple(activation.shape)}; say with read= how it becomes one, or tap another layer"
                )
        like, widths = seen[-1], [activation.shape[1] for activation in seen]
        self.first = linear(example[:1].flatten(1).shape[1], outputs).to(like) if at_input else None
        self.head = Readouts(widths, outputs, () if self.first is None else (self.first,)).to(
            like
        )  # the last: it grows
        self.register_buffer("alpha", torch.full((len(self.names),), 1 / len(self.names), device=like.device))

    @property
    def names(self) -> tuple[str, ...]:
        """The exits, from the input on."""
        return self.taps if self.first is None else (INPUT, *self.taps)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The mixture, (rows, outputs): log-probabilities, or numbers."""
        answers = self.answers(*inputs, **named)
        if self._notes is not None:
            self._notes.append(answers)
        return self.mixture(answers)

    def answers(self, *inputs: Any, **named: Any) -> Tensor:
        """What each exit says, (exits, rows, outputs): log-probabilities, or numbers."""
        logits = self.head.logits(*self.activations(*inputs, **named))
        if self.first is not None:
            logits = torch.cat([self.first(inputs[0].flatten(1)).unsqueeze(0), logits])
        return F.log_softmax(logits, -1) if self.task == "classification" else logits

    def mixture(self, answers: Tensor) -> Tensor:
        """The mean of the `answers`, weighted by alpha: that of probabilities, where they are logarithms."""
        if self.task == "classification":
            least = torch.finfo(answers.dtype).tiny  # where all say never, the logarithm stays finite
            return self._weighted(answers.exp()).clamp(min=least).log()
        return self._weighted(answers)

    def _weighted(self, answers: Tensor) -> Tensor:
        return torch.matmul(self.alpha.to(answers), answers.flatten(1)).view(answers.shape[1:])

    @contextmanager
    def noted(self) -> Iterator[list[Tensor]]:
        """What the exits say while the block runs, once for each time the model is asked."""
        notes: list[Tensor] = []
        self._notes = notes
        try:
            yield notes
        finally:
            self._notes = None

    def activations(self, *inputs: Any, **named: Any) -> list[Tensor]:
        """What the taps give, (rows, width) each."""
        if isinstance(self.body, nn.Sequential) and self.body._modules.keys() >= {*self.taps}:  # noqa: SLF001 (by name)
            return self._in_a_row(self.body, *inputs, **named)
        with self._tapped() as seen:
            self.body(*inputs, **named)
        if missing := [tap for tap in self.taps if tap not in seen]:
            raise ValueError(f"the layer {missing[0]!r} was not called, so there is nothing to read at that exit")
        return [self._unchanged(tap, *seen[tap]) for tap in self.taps]

    def _in_a_row(self, body: nn.Sequential, x: Tensor) -> list[Tensor]:
        """Runs the layers of a `Sequential` one by one, as far as there are taps: no hooks, and nothing in vain."""
        seen: dict[str, tuple[Tensor, int]] = {}
        wanted = {*self.taps}
        for name, layer in zip(body._modules, body, strict=True):  # noqa: SLF001 (all of them: one may come twice)
            x = layer(x)
            if name in wanted:
                seen[name] = (x, _version(x))
                if len(seen) == len(wanted):
                    break
        return [self._unchanged(tap, *seen[tap]) for tap in self.taps]

    @contextmanager
    def _tapped(self) -> Iterator[dict[str, tuple[Tensor, int]]]:
        """What the taps give while the block runs, by name, and which version of it."""
        seen: dict[str, tuple[Tensor, int]] = {}

        def note(_layer: nn.Module, _given: object, output: Tensor, name: str) -> None:
            if name in seen:
                raise ValueError(f"the layer {name!r} is called more than once, so an exit cannot tell what to read")
            seen[name] = (output, _version(output))

        with ExitStack() as stack:
            for tap in self.taps:
                hook = self.body.get_submodule(tap).register_forward_hook(partial(note, name=tap))
                stack.callback(hook.remove)
            yield seen

    def _unchanged(self, tap: str, output: Tensor, version: int) -> Tensor:
        if _version(output) != version:
            raise ValueError(
                f"what {tap!r} gives is changed in place by a layer behind it (inplace=True); tap that one, or make it "
                "leave its input alone"
            )
        return self.read(output)


def exits_of(model: nn.Module) -> Exits:
    """The exits that give the answer of `model`: itself, or a part of it; a ValueError where there are none."""
    model = bare(model)
    for module in model.modules():
        if isinstance(module, Exits):
            return module
    raise ValueError(
        f"exits are weighed, but a {type(model).__name__} has one; put some on it: everlearn.models.exits.Exits(model, "
        "taps=[names of layers], ...), or take OnlineMLP"
    )


def losses_of(answers: Tensor, batch: Batch, objective: Objective) -> Tensor:
    """The loss of each exit, (exits,), that `objective` sees in what it says: `answers`, (exits, rows, outputs)."""
    if objective is classify:  # all at once
        y, spoiled = tensor(batch, "y"), None
        if y.is_cuda:  # where a label out of range would end the process; a learner refuses a loss of NaN instead
            strange = (y >= answers.shape[2]) | ((y < 0) & (y != UNLABELED))
            y, spoiled = y.where(~strange, UNLABELED), strange.any()
        each = F.nll_loss(answers.flatten(0, 1), y.repeat(len(answers)), ignore_index=UNLABELED, reduction="none")
        losses = each.view(len(answers), -1).sum(1) / (y != UNLABELED).sum()
        return losses if spoiled is None else losses.masked_fill(spoiled, torch.nan)
    found = [objective(lambda *_, one=one, **__: one, batch).loss for one in answers]
    return torch.stack([loss for loss in found if loss is not None])


def weighed(model: nn.Module, batch: Batch, objective: Objective) -> tuple[Tensor | None, Tensor, Tensor]:
    """sum_l alpha_l L_l, where L_l is the loss that `objective` sees in exit l; the logits; and all L_l, detached.

    Of a batch without answers there are no losses.
    """
    net = exits_of(model)
    with net.noted() as answers:
        output = objective(model, batch)
    if output.loss is None:
        return None, output.logits, output.logits.new_zeros(0)
    if len(answers) != 1:
        raise ValueError(f"the objective asked the model {len(answers)} times, but exits are weighed by one answer")
    losses = losses_of(answers[0], batch, objective)
    return (net.alpha * losses).sum(), output.logits, losses.detach()


TASKS = ("classification", "regression")


def _version(output: Tensor) -> int:
    """How often it was changed in place, where that is counted."""
    return 0 if output.is_inference() else output._version  # noqa: SLF001 (autograd's own counter)


class OnlineMLP(Exits):
    """`layers` layers of `width` ReLU units with an exit at each, and one at the input: the net of Sahoo et al. (2018).

    It may begin with no inputs and no outputs, and grow. The first weights are drawn from torch's global generator.

    >>> OnlineMLP(inputs=5, outputs=2, layers=3).names
    ('input', 'relu1', 'relu2', 'relu3')
    """

    def __init__(
        self,
        inputs: int = 0,
        outputs: int = 0,
        layers: int = 20,
        width: int = 100,
        *,
        at_input: bool = True,
        task: Literal["classification", "regression"] = "classification",
    ) -> None:
        body: OrderedDict[str, nn.Module] = OrderedDict()
        for depth in range(1, layers + 1):
            body[f"linear{depth}"] = linear(inputs if depth == 1 else width, width)
            body[f"relu{depth}"] = nn.ReLU()
        taps = [f"relu{depth}" for depth in range(1, layers + 1)]
        super().__init__(
            nn.Sequential(body), taps, outputs, example=torch.zeros(1, inputs), at_input=at_input, task=task
        )


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer, which may have no inputs or no outputs: there is nothing to draw then, and torch would warn."""
    layer = nn.Linear(max(inputs, 1), max(outputs, 1))
    if not (inputs and outputs):
        layer.weight = nn.Parameter(layer.weight.detach()[:outputs, :inputs].clone())
        layer.bias = nn.Parameter(layer.bias.detach()[:outputs].clone())
        layer.in_features, layer.out_features = inputs, outputs
    return layer
