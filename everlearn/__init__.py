"""Models that never stop learning."""

# The names below are imported when they are first asked for, so that `everlearn --help` need not import torch.
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlearn.batch import UNLABELED, Batch, Rows
    from everlearn.learner import Learner, Step
    from everlearn.memory import Balanced, Memory, Ring
    from everlearn.method import Chain, Method, attached
    from everlearn.objective import Objective, Output, ask, classify, classify_by_task, regress
    from everlearn.streams.experience import Experience, Stream

__version__ = "0.1.0"

_HOMES = {
    "everlearn.batch": ("UNLABELED", "Batch", "Rows"),
    "everlearn.learner": ("Learner", "Step"),
    "everlearn.memory": ("Balanced", "Memory", "Ring"),
    "everlearn.method": ("Chain", "Method", "attached"),
    "everlearn.objective": ("Objective", "Output", "ask", "classify", "classify_by_task", "regress"),
    "everlearn.streams.experience": ("Experience", "Stream"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "UNLABELED",
    "Balanced",
    "Batch",
    "Chain",
    "Experience",
    "Learner",
    "Memory",
    "Method",
    "Objective",
    "Output",
    "Ring",
    "Rows",
    "Step",
    "Stream",
    "ask",
    "attached",
    "classify",
    "classify_by_task",
    "regress",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'everlearn' has no attribute {name!r}")
    return vars(import_module(_HOME[name]))[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
