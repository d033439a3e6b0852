"""Choosing between adapted models without target labels, by a validator, and saying what was looked at."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from everlearn.spec import one_of
from everlearn.transfer.validators import VALIDATORS

if TYPE_CHECKING:
    from rich.table import Table

ORACLE = "ORACLE"
"""The stamp of a number that was computed with target labels."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one candidate answers on held-out labelled source rows and on target rows; what is not there is None.

    Logits are (rows, classes), features (rows, width), labels int64 (rows,). `train_features` are of the source rows
    that the candidate was trained on. `target_labels` are read by the oracle alone.
    """

    target_logits: Tensor | None = None
    source_logits: Tensor | None = None
    source_labels: Tensor | None = None
    source_features: Tensor | None = None
    target_features: Tensor | None = None
    train_features: Tensor | None = None
    target_labels: Tensor | None = None


@dataclass(frozen=True)
class Score:
    """What a validator says of a candidate. As a text it says so if target labels were looked at.

    >>> print(Score(0.897, "oracle"), Score(0.849, "source"))
    0.897 ORACLE 0.849
    """

    value: float
    by: str

    @property
    def oracle(self) -> bool:
        """Whether target labels were looked at."""
        return self.by == "oracle"

    def __str__(self) -> str:
        return f"{self.value:.4g} {ORACLE}" if self.oracle else f"{self.value:.4g}"


@dataclass(frozen=True)
class Selection:
    """The chosen candidate, the scores of all, and what speaks against the choice."""

    chosen: str
    scores: Mapping[str, Score]
    by: str
    control: str | None = None
    """The candidate that was not adapted: source only."""

    @property
    def oracle(self) -> bool:
        """Whether target labels were looked at."""
        return self.scores[self.chosen].oracle

    @property
    def harmed(self) -> tuple[str, ...]:
        """The candidates whose score is below that of the control: signs of negative transfer."""
        if self.control is None:
            return ()
        bar = self.scores[self.control].value
        return tuple(name for name, score in self.scores.items() if score.value < bar)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should read before using the choice."""
        said = []
        if self.oracle:
            said.append(
                f"{ORACLE}: chosen by target labels, which a real target does not have; compare with none that were not"
            )
        if self.control is not None and self.harmed:
            below = ", ".join(f"{name} ({self.scores[name]})" for name in self.harmed)
            said.append(
                f"negative transfer: below the control {self.control} ({self.scores[self.control]}) are {below}"
            )
        if self.chosen == self.control and len(self.scores) > 1:
            said.append(
                f"no candidate is above the control {self.control}: adaptation did not help, so keep that model"
            )
        return tuple(said)

    def __str__(self) -> str:
        """The scores, the best first, and the warnings.

        >>> import torch
        >>> print(select({"a": Outputs(torch.eye(2)), "b": Outputs(9 * torch.eye(2))}, by="im"))
        chosen by im: b
          b  0.6919
          a  0.1109
        """
        width = max(map(len, self.scores))
        stamp = f" ({ORACLE})" if self.oracle else ""
        lines = [f"  {name:{width}}  {self.scores[name]}" for name in self._ranked()]
        return "\n".join(
            [f"chosen by {self.by}{stamp}: {self.chosen}", *lines, *(f"warning: {w}" for w in self.warnings)]
        )

    def table(self) -> "Table":
        """The scores as a table for a terminal."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - rich is needed here only
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        heading = f"{self.by} {ORACLE}" if self.oracle else self.by
        grid = Table("candidate", heading, "", box=SIMPLE_HEAD, pad_edge=False)
        grid.columns[1].justify = "right"
        for name in self._ranked():
            notes = ["chosen"] * (name == self.chosen) + ["control"] * (name == self.control)
            notes += ["below the control"] * (name in self.harmed)
            grid.add_row(Text(name), str(self.scores[name]), ", ".join(notes))
        return grid

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; each score of an oracle says so."""
        return {
            "chosen": self.chosen,
            "by": self.by,
            "oracle": self.oracle,
            "control": self.control,
            "harmed": list(self.harmed),
            "warnings": list(self.warnings),
            "scores": {
                name: {"value": score.value} | ({"stamp": ORACLE} if score.oracle else {})
                for name, score in self.scores.items()
            },
        }

    def _ranked(self) -> list[str]:
        return sorted(self.scores, key=lambda name: (-self.scores[name].value, name != self.chosen))


def select(candidates: Mapping[str, Outputs], by: str = "im", *, control: str | None = None) -> Selection:
    """The candidate with the best score by one of `VALIDATORS`.

    `control` names the candidate that was not adapted: others below it are signs of negative transfer, which the
    result warns of, and of equals it is chosen. A ValueError names what a candidate lacks.
    """
    one_of("validator", by, VALIDATORS)
    if not candidates:
        raise ValueError("there is nothing to choose from: give at least one candidate")
    if control is not None:
        one_of("candidate", control, candidates)
    validator, needed, optional = VALIDATORS[by]
    scores = {}
    for name, outputs in candidates.items():
        given = vars(outputs)
        if lacking := [part for part in needed if given[part] is None]:
            raise ValueError(f"the validator {by!r} needs {', '.join(lacking)}, which the candidate {name!r} has not")
        try:
            value = validator(*(given[part] for part in needed + optional))
        except ValueError as error:
            raise ValueError(f"candidate {name!r}: {error}") from error
        if not math.isfinite(value):
            raise ValueError(
                f"candidate {name!r}: the validator {by!r} gives {value}; its outputs or weights are extreme"
            )
        scores[name] = Score(value, by)
    order = sorted(scores, key=lambda name: name != control)
    return Selection(max(order, key=lambda name: scores[name].value), scores, by, control)
