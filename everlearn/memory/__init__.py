"""Which rows of the past are kept: a uniform or a balanced sample of bounded size, or the last; in RAM or on disk."""

from everlearn.memory.balanced import Balanced
from everlearn.memory.herding import herd
from everlearn.memory.memory import Memory
from everlearn.memory.ring import Ring

__all__ = ["Balanced", "Memory", "Ring", "herd"]
