"""A small net beside the model, which learns how many inputs it has from the first features, or from a saved state."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from everlearn.randomness import seeded


class Perceptron(nn.Sequential):
    """Linear layers with a rectifier after each but the last: discriminators, critics, second heads.

    It has no layers before `widen` or a saved state says how many inputs it has.
    """

    def __init__(self, hidden: tuple[int, ...] = (1024, 1024), outputs: int = 1) -> None:
        super().__init__()
        self.hidden, self.outputs = hidden, outputs

    def widen(self, inputs: int, seed: int, outputs: int | None = None) -> None:
        """Gives it layers for `inputs` numbers, drawn with `seed`; as it is, if it has them already."""
        self.outputs = self.outputs if outputs is None else outputs
        if len(self) and self.widths == (inputs, *self.hidden, self.outputs):
            return
        with seeded(seed):
            self._build((inputs, *self.hidden, self.outputs))

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden units, outputs; () before there are layers."""
        layers = [layer for layer in self if isinstance(layer, nn.Linear)]
        return (layers[0].in_features, *(layer.out_features for layer in layers)) if layers else ()

    def _build(self, widths: tuple[int, ...]) -> None:
        for name in list(self._modules):
            del self[int(name)]
        for before, after in pairwise(widths):
            if len(self):
                self.append(nn.ReLU())
            self.append(nn.Linear(before, after))

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        shapes = [value.shape for name, value in state.items() if name.startswith(prefix) and name.endswith("weight")]
        widths = (shapes[0][1], *(shape[0] for shape in shapes)) if shapes else ()
        if widths != self.widths:
            self.outputs = widths[-1] if widths else self.outputs
            self._build(widths)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, (rows, outputs), for the features (rows, inputs)."""
        if not len(self):
            raise ValueError("it has no layers yet: what it reads is known when an experience begins")
        for layer in self:
            x = layer(x)
        return x
