"""Our numbers beside theirs: a line for each score, an ordering for each pair, and whether they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from everlearn.bench.row import Row
from everlearn.bench.statistics import Published, Sample, agrees, tolerance

PASS, FAIL = "pass", "FAIL"


@dataclass(frozen=True)
class Line:
    """One score of one row: our value for each seed, and theirs if it was published."""

    row: Row
    score: str
    values: Mapping[int, float]

    @property
    def ours(self) -> Sample:
        """Our values, over seeds."""
        return Sample.of(list(self.values.values()))

    @property
    def theirs(self) -> Published | None:
        """What was published; None where nothing is claimed."""
        return self.row.published.get(self.score)

    @property
    def verdict(self) -> str:
        """Pass or FAIL; nothing where nothing is claimed."""
        return "" if self.theirs is None else PASS if agrees(self.ours, self.theirs) else FAIL

    def cells(self) -> tuple[str, ...]:
        """Row, score, ours, n, theirs, tolerance and verdict, as they are shown under `HEADER`."""
        ours, theirs = str(self.ours), self.theirs
        if theirs is None:
            return self.row.name, self.score, ours, str(self.ours.n), "", "", ""
        if tolerance(self.ours, theirs) == 0:  # a count
            ours = f"{self.ours.mean:g}"
        published = f"{theirs.mean:.2f} ± {theirs.sd:.2f}" if theirs.sd else f"{theirs.mean:g}"
        allowed = f"{tolerance(self.ours, theirs):.3g}"
        return self.row.name, self.score, ours, str(self.ours.n), published, allowed, self.verdict

    def to_json(self) -> dict[str, Any]:
        """As plain values, those of every seed among them."""
        said: dict[str, Any] = {"values": {str(seed): value for seed, value in self.values.items()}}
        said |= self.ours.to_json()
        if self.theirs is not None:
            said |= {"published": asdict(self.theirs), "tolerance": tolerance(self.ours, self.theirs)}
        return said | {"verdict": self.verdict}


HEADER = ("row", "score", "ours", "n", "theirs", "within", "")


@dataclass(frozen=True)
class Ordering:
    """That one row scores at least `by` more than another: the mean difference over the seeds that both have."""

    higher: str
    lower: str
    by: float
    score: str
    source: str

    def differences(self, lines: Sequence[Line]) -> dict[int, float]:
        """For each seed that both rows were run with."""
        found = {line.row.name: line.values for line in lines if line.score == self.score}
        one, other = found.get(self.higher, {}), found.get(self.lower, {})
        return {seed: one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())}

    def verdict(self, lines: Sequence[Line]) -> str:
        """Pass or FAIL; nothing where there is nothing to compare."""
        found = list(self.differences(lines).values())
        return "" if not found else PASS if Sample.of(found).mean >= self.by else FAIL

    def cells(self, lines: Sequence[Line]) -> tuple[str, ...]:
        """The claim, the difference, n, its least value, and the verdict, as they are shown under `ORDERINGS`."""
        sample = Sample.of(list(self.differences(lines).values()))
        claim = f"{self.higher} - {self.lower}"
        return claim, str(sample), str(sample.n), f"{self.by:g}", self.verdict(lines)

    def to_json(self, lines: Sequence[Line]) -> dict[str, Any]:
        """As plain values, the difference of every seed among them."""
        found = {str(seed): value for seed, value in self.differences(lines).items()}
        return asdict(self) | {"differences": found, "verdict": self.verdict(lines)}


ORDERINGS = ("ordering", "difference", "n", "at least", "")
