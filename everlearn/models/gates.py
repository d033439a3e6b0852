"""Gates on the units of a chain of layers: what they let through, and what they leave of gradients."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.models.nets import MultiHead
from everlearn.models.views import Weights
from everlearn.randomness import mix


class Gates(nn.ParameterDict):
    """An embedding for each layer, by its place in the chain; loading a state makes those that are missing."""

    def draw(self, layers: Iterable[nn.Module], seed: int) -> None:
        """Standard normal embeddings for the units of `layers`, from generators of their own."""
        for place, layer in enumerate(layers):
            weight = next(layer.parameters())
            generator = torch.Generator().manual_seed(mix(seed, place))
            drawn = torch.randn(len(weight), generator=generator, dtype=torch.float32, device="cpu").to(weight)
            self._place(str(place), drawn)

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Makes the embeddings those of `values`."""
        for place, value in values.items():
            self._place(place, value)

    @torch.no_grad()
    def _place(self, place: str, value: Tensor) -> None:
        if place in self:
            self[place].copy_(value)
        else:
            self[place] = nn.Parameter(value.clone())

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: object) -> None:
        self.put({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
        super()._load_from_state_dict(state, prefix, *rest)


def chain_of(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of the backbone of a `MultiHead`, by name: linear and convolutional ones in a chain.

    A ValueError where the parameters are not those of such a chain: gates on it would not be the ones of a unit.
    """
    if not isinstance(model, MultiHead):
        raise ValueError(  # noqa: TRY004 (a model that does not fit)
            f"gates for each task need a MultiHead, with a head for each, not a {type(model).__name__}"
        )
    named = ((name, module) for name, module in model.named_modules() if not name.startswith("heads."))
    layers = {name: module for name, module in named if list(module.parameters(recurse=False))}
    units = 1
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.weight.shape[1] % units:
            raise ValueError(
                f"gates need linear and convolutional layers, each reading the one before it, but {name!r} is a "
                f"{type(layer).__name__} behind {units} units; use MLP or Net as the backbone, or another method"
            )
        units = len(layer.weight)
    return layers


@contextmanager
def gated(layers: Iterable[nn.Module], gates: Iterable[Tensor]) -> Iterator[None]:
    """The answers of each of the layers multiplied by its gate, one number for each unit."""
    with ExitStack() as stack:
        for layer, gate in zip(layers, gates, strict=True):
            shaped = gate.view(-1, *[1] * (next(layer.parameters()).dim() - 2))
            hook = layer.register_forward_hook(lambda _, __, output, shaped=shaped: output * shaped)
            stack.callback(hook.remove)
        yield


def gated_weights(layers: Mapping[str, nn.Module], gates: Sequence[Tensor]) -> Weights:
    """The weights of layers that answer, without gates, what `layers` answer with them."""
    return {
        f"{name}.{part}": weight.detach() * gate.view(-1, *[1] * (weight.dim() - 1))
        for (name, layer), gate in zip(layers.items(), gates, strict=True)
        for part, weight in layer.named_parameters()
    }


def share_free(layers: Mapping[str, nn.Module], used: Sequence[Tensor]) -> Weights:
    """1 - min(used_i, used_j) for the weight from unit j to unit i, 1 - used_i for a bias and in the first layer."""
    free: Weights = {}
    before: Tensor | None = None
    for (name, layer), after in zip(layers.items(), used, strict=True):
        for part, weight in layer.named_parameters():
            held = after.view(-1, *[1] * (weight.dim() - 1))
            if before is not None and weight.dim() > 1:  # flattening gives each unit as many inputs
                reading = before.repeat_interleave(weight.shape[1] // len(before))
                held = held.minimum(reading.view(-1, *[1] * (weight.dim() - 2)))
            free[f"{name}.{part}"] = (1 - held).expand_as(weight).contiguous()
        before = after
    return free


def compensated(embedding: Tensor, s: float, s_max: float) -> Tensor:
    """sigmoid(s e), with the gradient of e multiplied by s_max (cosh(s e) + 1) / (s (cosh(e) + 1))."""
    e = embedding.detach()
    factor = s_max / s * ((s * e).clamp(-50, 50).cosh() + 1) / (e.cosh() + 1)
    return (s * (e + factor * (embedding - e))).sigmoid()


def opened(embeddings: Mapping[str, Tensor], s: float) -> list[Tensor]:
    """sigmoid(s e) for each layer, without gradients."""
    return [(s * e.detach()).sigmoid() for e in embeddings.values()]


def taken(gates: Sequence[Tensor], used: Sequence[Tensor]) -> Tensor:
    """The mean of the gates over units that are not used yet: sum a (1 - u) / sum (1 - u), over all layers."""
    a, free = torch.cat(list(gates)), 1 - torch.cat(list(used))
    return (a * free).sum() / free.sum().clamp(min=torch.finfo(free.dtype).tiny)
