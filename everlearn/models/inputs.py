"""What goes into the layers of a model: the second moments of their inputs."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch, move, unlabeled
from everlearn.models.views import Weights, average, bare, evaluating, trainable
from everlearn.objective import Objective

Layer = nn.Linear | nn.Conv1d | nn.Conv2d


def second_moments(model: nn.Module, batches: Iterable[Batch], objective: Objective) -> Weights:
    """The sum of a a^T over all inputs a of each linear and convolution layer, by the name of its trainable weight.

    An input is what one output is a product of: a row, a place of it, or a patch; at its end stands a 1 if the bias
    of the layer is trained too, and else a 0. So each is (inputs + 1, inputs + 1), in float64. Layers that were not
    called are left out. The model is in eval mode, and left as it was.
    """
    model = bare(model)
    names = {id(weight): name for name, weight in trainable(model).items()}
    moments: Weights = {}

    def note(layer: Layer, given: tuple[Tensor, ...]) -> None:
        a = layer_inputs(layer, given[0].detach()).double()
        last = float(layer.bias is not None and layer.bias.requires_grad)
        a = F.pad(a, (0, 1), value=last)
        name = names[id(layer.weight)]
        moments[name] = moments.get(name, 0) + a.T @ a

    layers = [layer for layer in model.modules() if isinstance(layer, Layer) and id(layer.weight) in names]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        # With gradients, though none are asked for: without them a transformer passes over its layers.
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                objective(model, move(unlabeled(batch), next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    average(moments.values())
    return moments


def used_weights(model: nn.Module, batch: Batch, objective: Objective) -> list[str]:
    """The names of the trainable weights that the logits of `batch` depend on."""
    model = bare(model)
    weights = trainable(model)
    with evaluating(model), torch.enable_grad():
        logits = objective(model, move(unlabeled(batch), next(model.parameters()).device)).logits
    grads = torch.autograd.grad(logits.sum(), list(weights.values()), allow_unused=True)
    return [name for name, grad in zip(weights, grads, strict=True) if grad is not None]


def layer_inputs(layer: Layer, x: Tensor) -> Tensor:
    """The inputs of a linear or convolution layer that was given `x`, (rows times places, inputs of an output)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001 (its padding, whatever its kind)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if isinstance(layer, nn.Conv1d):
        x, kernel, stride, dilation = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    patches = F.unfold(x, kernel, dilation, 0, stride).transpose(1, 2)  # (rows, places, channels * kernel)
    return patches.reshape(-1, patches.shape[2] // layer.groups)
