"""A small net beside the model, which learns how many inputs it has from the first features, or from a saved state."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.randomness import seeded


class Perceptron(nn.Sequential):
    """Linear layers with a rectifier after each but the last: discriminators, critics, second heads.

    It has no layers before `widen` or a saved state says how many inputs it has. Its weights are drawn from a normal
    distribution with standard deviation `spread`, biases being 0; None: as those of `nn.Linear`.
    """

    def __init__(self, hidden: tuple[int, ...] = (1024, 1024), outputs: int = 1, spread: float | None = None) -> None:
        super().__init__()
        self.hidden, self.outputs, self.spread = hidden, outputs, spread

    def widen(self, inputs: int, seed: int, outputs: int | None = None) -> None:
        """Gives it layers for `inputs` numbers, drawn with `seed`; as it is, if it has them already."""
        self.outputs = self.outputs if outputs is None else outputs
        if self.widths != (inputs, *self.hidden, self.outputs):
            self._build((inputs, *self.hidden, self.outputs), seed)

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden units, outputs; () before there are layers."""
        layers = [layer for layer in self if isinstance(layer, nn.Linear)]
        return (layers[0].in_features, *(layer.out_features for layer in layers)) if layers else ()

    def _build(self, widths: tuple[int, ...], seed: int = 0) -> None:
        for name in list(self._modules):
            del self._modules[name]
        with seeded(seed):
            for before, after in pairwise(widths):
                if len(self):
                    self.append(nn.ReLU())
                layer = nn.Linear(before, after, dtype=torch.float32)  # as features are, whatever the default is
                if self.spread is not None:
                    nn.init.normal_(layer.weight, std=self.spread)
                    nn.init.zeros_(layer.bias)
                self.append(layer)

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        shapes = [value.shape for name, value in state.items() if name.startswith(prefix) and name.endswith("weight")]
        widths = (shapes[0][1], *(shape[0] for shape in shapes)) if shapes else ()
        if widths != self.widths:
            self.outputs = widths[-1] if widths else self.outputs
            self._build(widths)
        super()._load_from_state_dict(state, prefix, *rest)

    def accept(self, x: Tensor) -> None:
        """Raises a ValueError unless it has layers for `x`."""
        if not len(self):
            raise ValueError("it has no layers yet: what it reads is known when an experience begins")
        same_width(x, self.widths[0])

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, (rows, outputs), for the features (rows, inputs)."""
        self.accept(x)
        for layer in self:
            x = layer(x)
        return x


def same_width(x: Tensor, width: int) -> None:
    """Raises a ValueError unless `x` is (rows, width)."""
    if x.shape[-1] != width:
        raise ValueError(
            f"these are {x.shape[-1]} numbers for each row, but were {width} when the experience began; tap a layer "
            "that gives one size for all inputs, as what the head reads is, or bring the inputs to one size"
        )
