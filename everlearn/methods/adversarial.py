"""What alignment by a reversed gradient has in common: a net against the features, and a strength that rises."""

from dataclasses import dataclass, field

from everlearn.methods.aligned import Aligned
from everlearn.models.perceptron import Perceptron
from everlearn.schedule import ramp


@dataclass
class Adversarial(Aligned):
    """A net of the method descends the gap, and the features ascend it, `strength` times.

    strength = hi (2 / (1 + exp(-gamma t)) - 1) at progress t of the experience: the net learns first.
    """

    hi: float = field(default=1.0, kw_only=True)
    gamma: float = field(default=10.0, kw_only=True)
    """How quickly the strength rises to `hi`; 0: it is there from the first step."""
    seed: int = field(default=0, kw_only=True)

    critic: Perceptron = field(init=False)

    @property
    def strength(self) -> float:
        """What the reversed gradient is multiplied with, now."""
        return self.hi * ramp(self.progress, self.gamma) if self.gamma else self.hi
