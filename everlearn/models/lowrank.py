"""Changes of low rank: for each matrix of a model, two thin ones, the product of which is added to it."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.models.heads import head_weights
from everlearn.models.nets import MultiHead
from everlearn.models.views import bare, trainable


class LowRank(nn.ParameterDict):
    """For each weight, by its name, A (r, inputs) and B (outputs, r); loading a state makes those that are missing."""

    def pair(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A and B of the weight `name`."""
        a, b = (self[key] for key in _keys(name))
        return a, b

    @torch.no_grad()
    def put(self, name: str, a: Tensor, b: Tensor) -> None:
        """Makes A and B of the weight `name` these values: in place where there are some, as an optimizer has them."""
        for key, value in zip(_keys(name), (a, b), strict=True):
            if key in self:
                self[key].copy_(value)
            else:
                self[key] = nn.Parameter(value.clone())

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: object) -> None:
        for name, value in state.items():
            key = name.removeprefix(prefix)
            if name.startswith(prefix) and key not in self:
                self[key] = nn.Parameter(value.clone())
        super()._load_from_state_dict(state, prefix, *rest)


def _keys(name: str) -> tuple[str, str]:
    path = name.replace(".", "/")  # a dot in the name of a parameter means a module
    return f"{path} A", f"{path} B"


def answering(model: nn.Module, head: str | None = None) -> dict[str, nn.Parameter]:
    """The weights of the layer named `head`, or the last linear one; of a `MultiHead`, those of all its heads."""
    model = bare(model)
    if isinstance(model, MultiHead):
        return {f"heads.{name}": weight for name, weight in model.heads.named_parameters()}
    return head_weights(model, head)


def matrices(model: nn.Module, targets: str, head: str | None = None) -> dict[str, nn.Parameter]:
    """The trainable weights of two dimensions or more whose names match `targets` as a whole, without the head.

    A kernel counts as the matrix (outputs, inputs of an output). None at all is a ValueError.
    """
    rest = {name: weight for name, weight in trainable(model).items() if name not in answering(model, head)}
    wide = {name: weight for name, weight in rest.items() if weight.dim() > 1}
    chosen = {name: weight for name, weight in wide.items() if re.fullmatch(targets, name)}
    if not chosen:
        raise ValueError(
            f"no trainable matrix of {type(bare(model)).__name__} outside its head has a name that matches "
            f"targets={targets!r}; there are {', '.join(wide) or 'none, so thaw some: only adapters will move them'}"
        )
    return chosen
