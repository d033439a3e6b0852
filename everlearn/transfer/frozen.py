"""What of a model is frozen, block by block: read off the model as it is, whoever froze it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from everlearn.models.blocks import Block, blocks
from everlearn.models.scope import Norm, at_rest, has_statistics
from everlearn.models.views import bare

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Part:
    """A block of a model, and what of it is frozen."""

    name: str
    parameters: int
    frozen: int
    norm: str
    """Of its batch normalisation: "learns", or the policy it is frozen by; "" where it has none."""
    mode: str
    """"rests" if all in it stays in eval mode whoever calls `train()`, "partly", or "" if nothing does."""
    head: bool = False


@dataclass(frozen=True)
class Frozen:
    """What of a model is frozen, block by block."""

    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def frozen(self) -> int:
        """How many of them are."""
        return sum(part.frozen for part in self.parts)

    @property
    def share(self) -> float:
        """How much of the model they are, from 0 to 1."""
        return self.frozen / max(self.parameters, 1)

    def table(self) -> "Table":
        """For a terminal: `rich.print(report.table())`."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
        table.add_column("part", "all", overflow="fold")
        table.add_column("parameters", f"{self.parameters:,}", justify="right")
        table.add_column("frozen, %", f"{100 * self.share:.1f}", justify="right")
        table.add_column("batch norm")
        table.add_column("mode")
        for part in self.parts:
            percent = f"{100 * part.frozen / part.parameters:.1f}" if part.frozen else ""
            note = " (head)" if part.head and part.name != "head" else ""
            name = Text(part.name or "(the model)").append(note, style="dim")
            table.add_row(name, f"{part.parameters:,}", percent, part.norm, part.mode)
        return table

    def __str__(self) -> str:
        most = [part.name for part in self.parts if part.frozen == part.parameters]
        return (
            f"{self.frozen:,} of {self.parameters:,} parameters ({100 * self.share:.1f} %) are frozen"
            + (f", among them all of {', '.join(most[:8])}" if most else "")
            + (f" and {len(most) - 8} more blocks" if len(most) > 8 else "")
        )


def frozen_report(model: nn.Module, head: str | None = None) -> Frozen:
    """What of `model` is frozen: read off the model as it is, whoever froze it."""
    model = bare(model)
    return Frozen(tuple(_parts(model, blocks(model, head))))


def _homes(model: nn.Module, listed: list[Block]) -> list[list[str]]:
    """For each block, the modules in it whose mode matters: those with weights, with statistics, and dropout."""
    home = {name: place for place, block in enumerate(listed) for name in block.weights}
    found: list[list[str]] = [[] for _ in listed]
    last = 0
    waiting: list[str] = []
    for name, module in model.named_modules():
        own = [f"{name}.{part}".lstrip(".") for part, _ in module.named_parameters(recurse=False)]
        inside = [place for place, block in enumerate(listed) if block.name and f"{name}.".startswith(f"{block.name}.")]
        places = [home[weight] for weight in own if weight in home]
        if places or inside:
            last = (places or inside)[0]
            found[last] += [*waiting, name] if own or _matters(module) else waiting
            waiting = []
        elif has_statistics(module):
            found[last].append(name)
        elif _matters(module):
            waiting.append(name)
    found[-1] += waiting
    return found


def _matters(module: nn.Module) -> bool:
    return isinstance(module, _NormBase | _DropoutNd)


def _parts(model: nn.Module, listed: list[Block]) -> Iterator[Part]:
    resting = at_rest(model)
    for block, names in zip(listed, _homes(model, listed), strict=True):
        weights = [model.get_parameter(name) for name in block.weights]
        norms = {
            _policy(module, resting.get(name)) for name in names if has_statistics(module := model.get_submodule(name))
        }
        quiet = sum(name in resting for name in names)
        yield Part(
            block.name,
            sum(weight.numel() for weight in weights),
            sum(weight.numel() for weight in weights if not weight.requires_grad),
            ", ".join(sorted(norms)),
            "rests" if names and quiet == len(names) else "partly" if quiet else "",
            block.head,
        )


def _policy(module: _NormBase, rest: Norm | None) -> str:
    if rest is not None:
        return rest
    return "learns" if any(weight.requires_grad for weight in module.parameters()) else "adapt"
