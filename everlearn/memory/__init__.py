"""Which rows of the past are kept: a bounded sample, uniform, balanced or diverse; the last; the hardest."""

from everlearn.memory.balanced import Balanced
from everlearn.memory.diverse import Diverse
from everlearn.memory.herding import herd
from everlearn.memory.lossaware import LossAware
from everlearn.memory.memory import Memory
from everlearn.memory.ring import Ring

__all__ = ["Balanced", "Diverse", "LossAware", "Memory", "Ring", "herd"]
