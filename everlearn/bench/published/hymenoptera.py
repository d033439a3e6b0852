"""Ants and bees, the photographs of PyTorch's tutorial on transfer learning, with MobileNetV2 for its ResNet-18.

The tutorial reaches about 94 % by fine-tuning and 95 % with a frozen body; nothing is published about this net.
"""

from everlearn.bench.row import Row
from everlearn.bench.tuned import Tuned
from everlearn.bench.verdict import Ordering

SOURCE = "tutorial of PyTorch, another net"
SHOTS = (5, 10, 20, 0)
"""Photographs of each class; 0 for all, about 122."""
STRATEGIES = {
    "scratch": ("naive", {"weights": False, "lr": 0.01, "head": 1.0}),
    "probe": ("probe", {}),
    "finetune": ("naive", {}),
    "lpft": ("lpft", {"head": 1.0}),
    "lpft-settled": ("lpft:settled=true", {"head": 1.0}),
    "l2sp": ("l2sp", {}),
}


def _row(strategy: str, shots: int) -> Row:
    method, settings = STRATEGIES[strategy]
    name = f"hymenoptera-{strategy}" + (f"-{shots}" if shots else "")
    protocol = Tuned(SOURCE, shots=shots, **settings)  # type: ignore[arg-type]  # by name, as above
    return Row(name, protocol, method, {}, 3 if shots else 5, 20 if strategy == "probe" else 70, page="transfer")


ROWS = tuple(_row(strategy, shots) for strategy in STRATEGIES for shots in SHOTS)
ORDERINGS = tuple(
    Ordering(f"hymenoptera-{better}", "hymenoptera-scratch", 15.0, "accuracy", SOURCE)
    for better in ("probe", "finetune")
)
