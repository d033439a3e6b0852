"""What came of loading weights: what a model took of a file, what not, and that nothing was taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class LoadError(ValueError):
    """Weights that were refused; the model is as it was. `report` tells how they fitted, if that is known."""

    def __init__(self, message: str, report: "Report | None" = None) -> None:
        super().__init__(message)
        self.report = report


class Mismatch(NamedTuple):
    """A tensor with one shape in the file and another in the model."""

    name: str
    saved: tuple[int, ...]
    own: tuple[int, ...]


class Conversion(NamedTuple):
    """A tensor that was saved in one dtype, and that the model has in another."""

    name: str
    saved: torch.dtype
    own: torch.dtype


class Adaptation(NamedTuple):
    """A tensor that was made to fit another input, and how."""

    name: str
    saved: tuple[int, ...]
    own: tuple[int, ...]
    how: str


@dataclass(frozen=True)
class Report:
    """What of a file a model took, and what not.

    `coverage` is the share of the model's parameters, in numbers and not in tensors, that the file filled;
    rows of the head that were to stay fresh do not count, and what was `adapted` counts as filled. Names are
    the model's own, but those of `unexpected` tensors and of `ignored` entries, which are no tensors, are the
    file's.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    converted: tuple[Conversion, ...]
    ignored: tuple[str, ...]
    prefix: str
    head: str
    coverage: float
    adapted: tuple[Adaptation, ...] = ()

    def table(self) -> list[tuple[str, str, str]]:
        """A row for each tensor and each other entry: its name, what became of it, and a detail."""
        converted = {name: f"{dtype_name(saved)} to {dtype_name(own)}" for name, saved, own in self.converted}
        changed = {name: how for name, _, _, how in self.adapted}
        return [
            *(
                (name, "adapted" if name in changed else "loaded", _both(name, changed, converted))
                for name in self.loaded
            ),
            *((name, "missing", "") for name in self.missing),
            *((name, "mismatched", _shapes(saved, own)) for name, saved, own in self.mismatched),
            *((name, "unexpected", "") for name in self.unexpected),
            *((name, "ignored", "no tensor") for name in self.ignored),
        ]

    def __str__(self) -> str:
        lines = [
            f"{self.coverage:.1%} of the parameters loaded, in {len(self.loaded)} tensors",
            f"head: {self.head}",
        ]
        if self.prefix:
            lines.append(f"prefix stripped: {self.prefix!r}")
        kinds = {f"converted: {dtype_name(saved)} to {dtype_name(own)}" for _, saved, own in self.converted}
        lists = {
            "adapted": [f"{name} ({how})" for name, _, _, how in self.adapted],
            "missing": self.missing,
            "mismatched": [f"{name} ({_shapes(saved, own)})" for name, saved, own in self.mismatched],
            "unexpected": self.unexpected,
            "ignored": self.ignored,
        }
        lists = {what: names for what, names in lists.items() if names}
        return "\n".join(
            [
                *lines,
                *sorted(kinds),
                *(f"{what} ({len(names)}): {listed(names)}" for what, names in lists.items()),
            ]
        )


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many more."""
    shown = ", ".join(repr(name[:100]) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _both(name: str, *details: Mapping[str, str]) -> str:
    return ", ".join(each[name] for each in details if name in each)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype in short."""
    return str(dtype).removeprefix("torch.")


def _shapes(saved: tuple[int, ...], own: tuple[int, ...]) -> str:
    return f"saved {'x'.join(map(str, saved))}, model {'x'.join(map(str, own))}"
