"""What all policies of a backtest share: the model, and how it is trained."""

from dataclasses import dataclass, fields
from typing import Any

from everlearn.backtest.archive import Archive


@dataclass(frozen=True, kw_only=True)
class Training:
    """One model and one way of training, so that policies differ in nothing but when and on what."""

    model: str = "mlp:hidden=64x64"
    encoder: str = "table"
    classes: tuple[str, ...] = ()
    optimizer: str = "adam:lr=0.001"
    epochs: int = 20
    """Passes of the warm-up, and of each periodic update that says nothing else."""
    batch_size: int = 32
    """Rows of a batch in these passes."""
    scale: bool = True
    clip: float = 0.0
    """The largest norm of a gradient; 0: no limit."""
    seed: int = 0

    @property
    def training(self) -> dict[str, Any]:
        """These settings alone, by name."""
        return {each.name: getattr(self, each.name) for each in fields(Training)}


@dataclass(frozen=True)
class Setup(Training):
    """That, and the log that it is used on."""

    archive: Archive
    warm: int
    """The rows of the warm-up."""
    gap: float
    """The median time between two rows, in seconds; without times, 1."""
    fields: tuple[str, ...] = ()
    """The columns, in their order, where a model has a size of its own."""
