"""Methods that ask how far the experience is, and nothing about the number of a step."""

from dataclasses import dataclass, field

from torch import nn

from everlearn.method import Method
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class Paced(Method):
    """Counts the steps of an experience: a schedule is then a function of `progress`, exact after any resume.

    Batches that teach nothing, as there is no label in them and nothing else to learn, are no steps.
    """

    taken: int = field(default=0, init=False)
    """Steps taken in this experience."""
    planned: int = field(default=0, init=False)
    """Steps that it has in all."""

    @property
    def progress(self) -> float:
        """From 0, before the first step of the experience, to 1, after the last."""
        if not self.planned:
            raise ValueError(
                f"{type(self).__name__} follows a schedule, but nothing says how many steps the experience has; in "
                "your own loop, begin with Experience(..., steps=...)"
            )
        return min(self.taken / self.planned, 1.0)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Starts anew."""
        self.taken, self.planned = 0, experience.steps

    def after_step(self, model: nn.Module) -> None:
        """Counts."""
        self.taken += 1
