"""What can go wrong in continual learning, as checks that any library can be put through."""

from everlearn.conformance import (  # noqa: F401 (imported, the checks are among CHECKS)
    distillation,
    endurance,
    figures,
    growth,
    importance,
    memories,
    modes,
    purity,
    resume,
)
from everlearn.conformance.check import CHECKS, Check, Finding, FoundError, Trial, Verdict, check, examine
from everlearn.conformance.nets import Net
from everlearn.conformance.subject import TRAITS, Adapter, History, NotOfferedError, Setup, Subject

__all__ = [
    "CHECKS",
    "TRAITS",
    "Adapter",
    "Check",
    "Finding",
    "FoundError",
    "History",
    "Net",
    "NotOfferedError",
    "Setup",
    "Subject",
    "Trial",
    "Verdict",
    "check",
    "examine",
]
