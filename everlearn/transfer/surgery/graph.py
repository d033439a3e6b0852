"""Who reads the outputs of a layer: found in the graph that torch.fx traces of a model."""

from collections import defaultdict
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from everlearn.models.views import evaluating
from everlearn.objective import Objective
from everlearn.transfer.surgery.checked import Given, SurgeryError, call_of, settled_buffers

WAY_OUT = 'name the layers that read it yourself: into=("...",), and between=("...",) for norms on the way'


class Span(NamedTuple):
    """Where units lie in a tensor: along `dim`, each as `block` numbers side by side."""

    dim: int
    block: int


@dataclass
class Ties:
    """The layers that change together when one gets more units, each with the numbers that one unit has there."""

    makers: dict[str, int] = field(default_factory=dict)
    """Their outputs are the units."""
    between: dict[str, int] = field(default_factory=dict)
    """They treat each unit by itself, with weights of its own: norms, depthwise convolutions."""
    readers: dict[str, int] = field(default_factory=dict)
    """Their inputs are the units."""


def ties(model: nn.Module, name: str, batch: Given, objective: Objective) -> Ties:
    """The layers that have to change with the units of the layer `name`; a SurgeryError where that cannot be told."""
    try:
        graph = _Tracer().silently(model)
    except Exception as error:  # whatever the model's own code says to being traced
        raise SurgeryError(
            f"torch.fx cannot trace {type(model).__name__} ({type(error).__name__}: {error}); {WAY_OUT}"
        ) from error
    args, kwargs = call_of(model, batch, objective)
    if kwargs:
        raise SurgeryError(f"the model is called with names ({', '.join(kwargs)}), which is not traced; {WAY_OUT}")
    shapes = _Shapes(fx.GraphModule(model, graph))
    with torch.no_grad(), evaluating(model), settled_buffers(model):
        shapes.run(*args)
    return _Walk(model, graph, shapes.found, name).followed()


class _Tracer(fx.Tracer):
    """Traces around the layers of torch, and around those that are made from them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (nn.Linear, _ConvNd, _BatchNorm)) or super().is_leaf_module(m, module_qualified_name)

    def silently(self, model: nn.Module) -> fx.Graph:
        """The graph, without the hooks of the model being called by the trace."""
        hooks = [
            hooks
            for module in model.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001
        ]
        held = [dict(each) for each in hooks]
        try:
            for each in hooks:
                each.clear()
            return self.trace(model)
        finally:
            for each, content in zip(hooks, held, strict=True):
                each.update(content)


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shapes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n] = result.shape
        return result


_SINGLE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid),
    *(nn.Hardtanh, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold, nn.Identity),
    *(nn.Dropout, nn.AlphaDropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout),
)
"""Layers that treat each number by itself."""
_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Upsample),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.ZeroPad2d, nn.ReflectionPad2d),
)
"""Layers that treat each channel by itself, alike."""
_SINGLE_CALLS = {
    *("relu", "relu_", "relu6", "leaky_relu", "gelu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid"),
    *("elu", "selu", "celu", "softplus", "hardtanh", "dropout", "dropout1d", "dropout2d", "dropout3d", "contiguous"),
    *("clone", "float", "half", "to", "detach", "abs", "square", "sqrt", "exp", "neg"),
}
_POOL_CALLS = {f"{kind}_pool{dim}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for dim in (1, 2, 3)} | {
    "interpolate"
}
_JOINS = {"add", "add_", "iadd", "sub", "mul", "mul_", "imul", "truediv", "div"}
_FLATTENINGS = {"flatten", "view", "reshape"}


class _Walk:
    """Follows the units of a layer through the graph, to all that must have as many."""

    def __init__(self, model: nn.Module, graph: fx.Graph, shapes: dict[fx.Node, torch.Size], name: str) -> None:
        self.modules = dict(model.named_modules())
        self.shapes = shapes
        self.calls: dict[str, list[fx.Node]] = defaultdict(list)
        names = {id(module): path for path, module in self.modules.items()}
        every = dict(model.named_modules(remove_duplicate=False))
        self.paths: dict[fx.Node, str] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                self.paths[node] = names[id(every[node.target])]  # one module may have two names
                self.calls[self.paths[node]].append(node)
        if name not in self.calls:
            raise SurgeryError(f"{name!r} is not a layer of its own in the traced graph; {WAY_OUT}")
        self.name, self.ties = name, Ties()
        self.spans: dict[fx.Node, Span] = {}
        self.open: list[fx.Node] = []
        self.read: set[fx.Node] = set()

    def followed(self) -> Ties:
        """All layers that change with the units."""
        first = self.calls[self.name][0]
        self._mark(first, Span(self._unit_dim(first), 1))
        while self.open:
            node = self.open.pop()
            self._visit(node, self.spans[node])
        for node in self.spans:
            if _between(self._layer(node)):
                self.ties.between[self.paths[node]] = self.spans[node.all_input_nodes[0]].block
        for reader in self.ties.readers:
            if any(node not in self.read for node in self.calls[reader]):
                raise self._refusal(f"{reader!r} reads it in one place and something else in another")
        return self.ties

    def _visit(self, node: fx.Node, span: Span) -> None:
        """Goes from a tensor of units to what it is made of, and to what is made of it."""
        if _between(self._layer(node)):  # wherever else it is called, it has the same units
            for other in self.calls[self.paths[node]]:
                self._mark(other, span)
        self._made_by(node, span)
        for user in node.users:
            if user in self.shapes or user.op == "output":  # sizes are read again when the model runs
                self._goes_to(user, node, span)

    def _refusal(self, reason: str) -> SurgeryError:
        return SurgeryError(f"the units of {self.name!r} cannot be followed: {reason}; {WAY_OUT}")

    def _mark(self, node: fx.Node, span: Span) -> None:
        if node not in self.spans:
            self.spans[node] = span
            self.open.append(node)
        elif self.spans[node] != span:
            raise self._refusal(f"at {node.name!r} they meet in two arrangements")

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.modules[self.paths[node]] if node in self.paths else None

    def _unit_dim(self, node: fx.Node) -> int:
        return len(self.shapes[node]) - 1 if isinstance(self._layer(node), nn.Linear) else 1

    def _note(self, where: dict[str, int], node: fx.Node, span: Span) -> None:
        """Notes a layer with weights; wherever else it is called, it has the same units."""
        path = self.paths[node]
        if where.setdefault(path, span.block) != span.block:
            raise self._refusal(f"{path!r} has them in two arrangements")
        for other in self.calls[path]:
            self._mark(other, self.spans.get(other, Span(self._unit_dim(other), span.block)))

    def _made_by(self, node: fx.Node, span: Span) -> None:
        """Where the units of a tensor come from: a layer that makes them, or tensors that have them too."""
        layer = self._layer(node)
        if isinstance(layer, (nn.Linear, _ConvNd)) and not _depthwise(layer):
            if isinstance(layer, _ConvNd) and (layer.groups > 1 or isinstance(layer, _ConvTransposeNd)):
                raise self._refusal(f"{self.paths[node]!r}, {_describe(layer)}, would have to make them")
            if span.dim != self._unit_dim(node):
                raise self._refusal(f"{self.paths[node]!r} makes them along another dimension")
            self._note(self.ties.makers, node, span)
            return
        for source in self._sources(node, span):
            self._mark(source, Span(span.dim, self._before(node, span, source)))

    def _goes_to(self, user: fx.Node, node: fx.Node, span: Span) -> None:
        """What reads a tensor of units: a layer that ends them there, or one that hands them on."""
        layer = self._layer(user)
        if isinstance(layer, (nn.Linear, _ConvNd)) and not _depthwise(layer):
            own = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            rank, size = len(self.shapes[node]), self.shapes[node][span.dim]
            dim = rank - 1 if isinstance(layer, nn.Linear) else rank - 1 - len(layer.kernel_size)
            grouped = isinstance(layer, _ConvNd) and (layer.groups > 1 or isinstance(layer, _ConvTransposeNd))
            if grouped or span.dim != dim or own != size:
                raise self._refusal(f"{self.paths[user]!r}, {_describe(layer)}, reads them")
            if self.ties.readers.setdefault(self.paths[user], span.block) != span.block:
                raise self._refusal(f"{self.paths[user]!r} reads them in two arrangements")
            self.read.add(user)
            return
        self._mark(user, Span(span.dim, self._after(user, node, span)))

    def _sources(self, node: fx.Node, span: Span) -> list[fx.Node]:
        """The tensors that have the units of `node`, which hands them on."""
        if node.op in {"placeholder", "output", "get_attr"}:
            what = {"placeholder": "what the model is given", "output": "its answer"}.get(
                node.op, "a tensor of its own"
            )
            raise self._refusal(f"they are added to {what}, {node.name!r}, which would have to have as many")
        own = self.shapes[node][span.dim]
        sources = [source for source in node.all_input_nodes if source in self.shapes]
        if _call(node) not in _JOINS:
            return sources[:1]
        rank = len(self.shapes[node])
        return [
            source
            for source in sources
            if len(self.shapes[source]) == rank and (self.shapes[source][span.dim] == own != 1)
        ]

    def _before(self, node: fx.Node, span: Span, source: fx.Node) -> int:
        """The block of a unit in `source`, of which `node` is made."""
        factor = self._factor(node, source, span.dim)
        if span.block % factor:
            raise self._refusal(f"{node.name!r} arranges them in another way")
        return span.block // factor

    def _after(self, node: fx.Node, source: fx.Node, span: Span) -> int:
        return span.block * self._factor(node, source, span.dim)

    def _factor(self, node: fx.Node, source: fx.Node, dim: int) -> int:
        """How many numbers `node` makes of each along `dim`; a SurgeryError if it does more than hand units on."""
        if node.op == "output":
            raise self._refusal("they are what the model answers")
        shape, layer = self.shapes[source], self._layer(node)
        if _depthwise(layer) and dim == len(shape) - 1 - len(layer.kernel_size) == 1:
            return layer.out_channels // layer.in_channels
        if isinstance(layer, nn.Flatten) or _call(node) in _FLATTENINGS:
            after = self.shapes[node]
            if after[:dim] == shape[:dim] and len(after) == dim + 1 and after[dim] == prod(shape[dim:]):
                return prod(shape[dim + 1 :])
        elif self._alike(node, layer, shape, dim):
            return 1
        raise self._refusal(f"{self.paths.get(node, node.name)!r}, {_describe(layer or _call(node))}, mixes them")

    def _alike(self, node: fx.Node, layer: nn.Module | None, shape: torch.Size, dim: int) -> bool:
        """Whether each unit is treated by itself, and one as another."""
        call = _call(node)
        return (
            (isinstance(layer, _BatchNorm) and dim == 1)
            or isinstance(layer, _SINGLE)
            or (isinstance(layer, nn.PReLU) and layer.num_parameters == 1)
            or call in _SINGLE_CALLS
            or ((isinstance(layer, _POOLS) or call in _POOL_CALLS) and dim == 1 and len(shape) > 2)
            or (call == "mean" and self.shapes[node][: dim + 1] == shape[: dim + 1])
            or (call in _JOINS and self._joins(node))
        )

    def _joins(self, node: fx.Node) -> bool:
        """Whether all that is joined has as many dimensions, so that the units are in the same place."""
        rank = len(self.shapes[node])
        shapes = [self.shapes[source] for source in node.all_input_nodes if source in self.shapes]
        return all(shape.numel() == 1 or len(shape) == rank for shape in shapes)


def _between(layer: nn.Module | None) -> bool:
    return isinstance(layer, _BatchNorm) or _depthwise(layer)


def _depthwise(layer: nn.Module | None) -> TypeGuard[_ConvNd]:
    return (
        isinstance(layer, _ConvNd)
        and not isinstance(layer, _ConvTransposeNd)
        and layer.groups == layer.in_channels
        and layer.groups > 1
    )


def _call(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    if node.op == "call_method":
        return str(node.target)
    return str(node.target.__name__).removeprefix("_") if node.op == "call_function" else ""  # type: ignore[union-attr]


def _describe(what: nn.Module | str) -> str:
    if isinstance(what, _ConvNd):
        groups = f" of {what.groups} groups" if what.groups > 1 else ""
        return f"a {type(what).__name__}{groups}"
    return f"a {type(what).__name__}" if isinstance(what, nn.Module) else f"a call of {what!r}"
