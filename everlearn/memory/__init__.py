"""Which rows of the past are kept: a uniform or a balanced sample of bounded size, in RAM or on disk."""

from everlearn.memory.balanced import Balanced
from everlearn.memory.memory import Memory

__all__ = ["Balanced", "Memory"]
