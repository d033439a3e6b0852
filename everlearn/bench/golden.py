"""A published matrix of accuracies, read by our metrics: no training, so no tolerance either."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from everlearn.metrics.catalogue import read
from everlearn.metrics.scores import Scores


@dataclass(frozen=True)
class Read:
    """The readings, in %, of the matrix in a file of comma-separated values, nan where nothing was measured."""

    source: str
    file: str
    readings: tuple[str, ...]
    """Those of `everlearn.metrics.READINGS`, by id."""
    tests: int
    """Test rows of each experience."""

    @property
    def chance(self) -> dict[str, float]:
        """Nothing is guessed."""
        return {}

    def data(self, folder: Path) -> str:
        """The digest of the file."""
        path = folder / self.file
        if not path.is_file():
            raise ValueError(f"there is no {self.file} in {folder}")
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:  # noqa: ARG002 (nothing is learned)
        """The readings."""
        matrix = np.genfromtxt(folder / self.file, delimiter=",")
        values, _ = read(Scores.of(matrix.tolist(), self.tests))
        return {name: 100 * values[name] for name in self.readings}
