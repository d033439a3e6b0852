"""A row: one method under one published protocol, and the numbers that it is held to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar
from typing import Protocol as Interface

from everlearn.bench.statistics import Published
from everlearn.methods import METHODS
from everlearn.spec import parse_chain


class Protocol(Interface):
    """How a paper trains and scores: all that its rows share. A frozen dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def source(self) -> str:
        """The paper, or the code, that the protocol and its numbers are from."""
        ...

    @property
    def chance(self) -> Mapping[str, float]:
        """What guessing at random scores, for each score where that means something."""
        ...

    def data(self, folder: Path) -> str:
        """A digest of the data that is used; a ValueError that says what is missing."""
        ...

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        """The scores of one run, by name, all taken after its last step."""
        ...


@dataclass(frozen=True)
class Row:
    """A method under a protocol, and what was published about it, by score.

    A score without a published number is a reference: it is printed, and nothing is claimed about it.
    """

    name: str
    protocol: Protocol
    method: str
    """As it is typed on the command line; empty where the protocol has a model of its own."""
    published: Mapping[str, Published] = field(default_factory=dict)
    seeds: int = 3
    cost: float = 10.0
    """Seconds of one core for each seed, roughly: the longest runs start first."""
    note: str = ""
    page: str = "published"
    """The page of the documentation that it is on."""
    random: bool = True
    """False where all seeds give the same values: then one is run, however many are asked for."""

    @property
    def there(self) -> bool:
        """Whether this version has the method."""
        return not self.method or all(spec.name in METHODS for spec in parse_chain(self.method))

    def on(self, device: str) -> "Row":
        """The same row, run on `device`: other values, so another fingerprint. A ValueError if its protocol cannot."""
        if "device" not in {each.name for each in fields(self.protocol)}:
            raise ValueError(f"{self.name} runs on the CPU only; leave --device out")
        return replace(self, protocol=replace(self.protocol, device=device))

    def config(self) -> dict[str, Any]:
        """What decides about the values: all but the name, the claims, the cost and where it is shown."""
        return {"method": self.method, "protocol": type(self.protocol).__name__, **asdict(self.protocol)}
