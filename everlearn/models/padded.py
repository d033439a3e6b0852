"""Heads with room to grow: the weight has rows for classes to come, and a compiled model is not compiled again."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.models.heads import head_of, own_parameters


class PaddedLinear(nn.Linear):
    """A linear layer with room for `capacity` outputs, of which the first `out_features` are there.

    The others do not answer: they are rows of zeros, which get no gradient, so no loss, no optimizer and no weight
    decay ever moves them. The state is that of an `nn.Linear` of `out_features` outputs, and either loads the other's.

    >>> layer = PaddedLinear(4, 2, capacity=10)
    >>> layer(torch.zeros(3, 4)).shape, layer.state_dict()["weight"].shape, layer.weight.shape
    (torch.Size([3, 2]), torch.Size([2, 4]), torch.Size([10, 4]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        capacity: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.reserve(capacity)

    def reserve(self, capacity: int) -> None:
        """Makes room for `capacity` outputs, with new Parameters; a ValueError if those there are do not fit."""
        if capacity < self.out_features:
            raise ValueError(f"a capacity of {capacity} has no room for the {self.out_features} outputs that there are")
        for part, value in self._parameters.items():
            if value is not None:
                rows = _padded(value.detach()[: self.out_features], capacity)
                setattr(self, part, nn.Parameter(rows, requires_grad=value.requires_grad))
        self.capacity = capacity
        self._show(self.out_features)

    @torch.no_grad()
    def refit(self, keep: int, weight: Tensor, bias: Tensor) -> None:
        """Makes the outputs its first `keep`, then those of `weight` and `bias`, in place."""
        outputs = keep + len(weight)
        if outputs > self.capacity:
            raise ValueError(
                f"the head has room for {self.capacity} outputs, but {outputs} are needed; make more with "
                "pad(model, capacity), and tell the optimizer with follow"
            )
        for part, rows in ((self.weight, weight), (self.bias, bias)):
            if part is not None:  # there may be no bias
                part[keep:outputs] = rows.to(part)
                part[outputs:] = 0
        self._show(outputs)

    def reset_parameters(self) -> None:
        """Draws the rows that there are, as an `nn.Linear` with no others does."""
        bias, like = self.bias is not None, self.weight
        fresh = nn.Linear(self.in_features, self.out_features, bias, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            for part, rows in fresh.named_parameters():
                self.get_parameter(part)[: self.out_features] = rows

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Linear gives it)
        """The outputs that there are."""
        outputs = self._width.shape[0]
        return F.linear(input, self.weight[:outputs], None if self.bias is None else self.bias[:outputs])

    def extra_repr(self) -> str:
        """As that of `nn.Linear`, with the capacity."""
        return f"{super().extra_repr()}, capacity={self.capacity}"

    def _show(self, outputs: int) -> None:
        """Lets the first `outputs` answer, and no others."""
        self.out_features = outputs
        # The compiler takes a number in a module for a constant, and compiles again when it is another one; the shape
        # of a tensor may be told to vary. An empty one, neither Parameter nor buffer, whose shapes are constants too.
        self._width = torch.empty(outputs, 0)
        torch._dynamo.maybe_mark_dynamic(self._width, 0)  # noqa: SLF001 (torch has no public name for it)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for part in self._parameters:
            if f"{prefix}{part}" in destination:
                destination[f"{prefix}{part}"] = destination[f"{prefix}{part}"][: self.out_features]

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        rows = {name: state[name] for name in (f"{prefix}{part}" for part in self._parameters) if name in state}
        wrong = {name: tuple(value.shape) for name, value in rows.items() if value.shape[:1] != (self.out_features,)}
        rest[-1].extend(  # errors
            f"size mismatch for {name}: {shape} is saved, but there are {self.out_features} outputs (of at most "
            f"{self.capacity}); resize_like(model, state) makes them as many"
            for name, shape in wrong.items()
        )
        if not wrong:
            whole = {**state, **{name: _padded(value, self.capacity) for name, value in rows.items()}}
            super()._load_from_state_dict(whole, prefix, *rest)


def _padded(rows: Tensor, capacity: int) -> Tensor:
    return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, capacity - len(rows)))


def pad(model: nn.Module, capacity: int, head: str | None = None) -> PaddedLinear:
    """The head of `model`, after it has been given room for `capacity` outputs in place; it answers as before.

    Up to there, `grow` fills rows that it has: Parameters stay the same objects, an optimizer keeps its state without
    being told, and a model that is compiled is not compiled again. To make room is another matter: the layer is the
    same object with new Parameters, so tell the optimizer with `follow`. A head that has room already gets more, or
    less. One that is not simply an `nn.Linear`, or shares its weights with another layer, is a ValueError.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> pad(model, 100)
    PaddedLinear(in_features=3, out_features=2, bias=True, capacity=100)
    """
    name, layer = head_of(model, head)
    own_parameters(model, name)
    if type(layer) is nn.Linear:
        layer.__class__ = PaddedLinear  # whoever holds the layer, or hooks on it, need not know
    if not isinstance(layer, PaddedLinear):
        raise ValueError(  # noqa: TRY004 (a model that does not fit)
            f"the head {name!r} is a {type(layer).__name__}, of which nothing is known but that it is linear; use an "
            "nn.Linear"
        )
    layer.reserve(capacity)
    return layer
