"""Operations that were recorded, as programs of TorchScript, which calls them without Python.

torch would rather compile them, but what that makes takes longer to be called than all of these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import getitem
from typing import Any

import torch
from torch import fx

Graph = Callable[..., tuple[Any, ...]]

_PROGRAMS = ("graph", "checked", "descent")

SORRY = "this step cannot be fused: {}; leave fused=True out"


@dataclass
class Recorded:
    """What was recorded for batches of one shape."""

    takes: list[str]
    """The names of the tensors that it is given."""
    lines: list[str]
    """What is computed, one operation a line."""
    gives: list[str]
    """The names of what comes out: the loss, the logits, whatever else, and gradients; or of the logits alone."""
    learn: list[int]
    """Which of the tensors that it is given the gradients belong to."""
    columns: list[str]
    """Those that hold numbers, which must be finite."""
    largest: float
    """What the norm of each column must stay below."""
    shared: tuple[int, ...] = ()
    """Which gradients lie in the memory of something else that it takes or gives."""
    alike: bool | None = None
    """Whether the logits are those of the answer; None: nobody has asked."""

    def __getstate__(self) -> dict[str, Any]:
        """Without the programs, of which there are no copies: who copies it makes its own."""
        return {name: value for name, value in vars(self).items() if name not in _PROGRAMS}

    @cached_property
    def graph(self) -> Graph:
        """Gives all that it gives."""
        return self._compiled([*self.lines, f"return ({', '.join(self.gives)},)"])

    @cached_property
    def checked(self) -> Graph:
        """Says before that whether the columns and the loss are fine."""
        return self._compiled([*self._checked(), f"return ({', '.join(['fine', *self.gives])},)"])

    @cached_property
    def descent(self) -> Graph:
        """Says whether they are fine, and gives the loss and the logits; if so, it has moved the weights.

        What it takes at the end is the negative rate.
        """
        # One by one: TorchScript does not see that `_foreach_add_` does something, and leaves it out.
        moves = [
            f"    {self.takes[at]}.add_({gradient}, alpha=rate)"
            for at, gradient in zip(self.learn, self.gives[-len(self.learn) :], strict=False)
        ]
        ending = ["if fine:", "    pass", *moves, f"return (fine, {self.gives[0]}, {self.gives[1]})"]
        return self._compiled([*self._checked(), *ending], ["rate: float"])

    def _checked(self) -> list[str]:
        norms = [f"float(torch.ops.aten.linalg_vector_norm({name}))" for name in self.columns]
        before = [f"fine = fine and {norm} < float('{self.largest!r}')" for norm in norms]
        return ["fine = True", *before, *self.lines, f"fine = fine and abs(float({self.gives[0]})) < float('inf')"]

    def _compiled(self, lines: Sequence[str], beside: Sequence[str] = ()) -> Graph:
        takes = ", ".join([*[f"{name}: Tensor" for name in self.takes], *beside])
        program = f"def step({takes}):\n" + "".join(f"    {line}\n" for line in lines)
        try:
            graph: Graph = torch.jit.CompilationUnit(program).step
        except RuntimeError as error:
            raise ValueError(SORRY.format("it has an operation that TorchScript does not know")) from error
        return graph


def written(traced: fx.GraphModule) -> tuple[list[str], list[str], list[str]]:
    """The names of what it takes, its operations, and the names of what it gives: "None" where that is nothing."""
    _simplify(traced)
    takes, lines, gives = [], [], []
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            takes.append(node.name)
        elif node.op == "output":
            gives = [str(each) for each in node.args[0]]
        elif node.target is getitem:
            lines.append(f"{node.name} = {node.args[0].name}[{node.args[1]}]")
        else:
            kinds = {argument.name: str(argument.type) for argument in node.target._schema.arguments}  # noqa: SLF001
            terms = [_term(value, kind) for value, kind in zip(node.args, kinds.values(), strict=False)]
            terms += [f"{name}={_term(value, kinds[name])}" for name, value in node.kwargs.items()]
            space, name = node.target._schema.name.split("::")  # noqa: SLF001
            lines.append(f"{node.name} = torch.ops.{space}.{name}({', '.join(terms)})")
    return takes, lines, gives


def _simplify(traced: fx.GraphModule) -> None:
    """Leaves out what computes nothing: detached twins, what is transposed twice, sums of one row."""
    aten = torch.ops.aten
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.args else None
        if node.target is aten.detach.default:
            node.replace_all_uses_with(source)
        elif node.target is aten.t.default and isinstance(source, fx.Node) and source.target is aten.t.default:
            node.replace_all_uses_with(source.args[0])
        elif node.target is aten.sum.dim_IntList and _of_one(node):
            node.replace_all_uses_with(source)
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _of_one(node: fx.Node) -> bool:
    """Whether it keeps the shape of what it sums: there is but one along these dimensions, and they stay."""
    before, after = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    return bool(before.shape == after.shape and before.dtype == after.dtype)


def _term(value: Any, kind: str) -> str:
    """A value as TorchScript writes it, where a `kind` of value is expected."""
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, list | tuple):
        listed = f"[{', '.join(_term(each, '') for each in value)}]"
        return listed if value else f"torch.jit.annotate({kind.removeprefix('Optional[').replace(']]', ']')}, [])"
    if isinstance(value, float):
        return f"float('{value!r}')"
    if isinstance(value, torch.device):
        return f"torch.device('{value}')"
    return str(value)  # a number, a truth value, None, torch.float32, torch.strided, ...
