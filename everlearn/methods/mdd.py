"""MDD: a second head that agrees with the model on the source and not on the target, and features that prevent it.

Zhang et al., Bridging Theory and Algorithm for Domain Adaptation, ICML 2019. arXiv:1904.05801
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.adversarial import Adversarial
from everlearn.methods.aligned import Side
from everlearn.models.perceptron import Perceptron
from everlearn.models.reversal import reverse
from everlearn.randomness import mix


@dataclass
class MDD(Adversarial):
    """gap = margin * mean_S -log p'_y + mean_T -log(1 - p'_y), with y the class that the model answers.

    p' is what the second head says about features whose gradient is reversed: it descends the gap, the margin disparity
    with its sign changed, and the features ascend it. -log(1 - p'_y) is computed from logits, so that it is finite and
    has a gradient where p'_y is 1 in float32. Departure: the second head is drawn anew when the number of classes
    changes.
    """

    card: ClassVar[Card] = Card("adaptation", "a second head", "the second head")

    margin: float = 4.0
    """gamma of the paper."""
    hidden: int = 1024
    hi: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        positive(hidden=self.hidden)
        self.critic = Perceptron((self.hidden,), spread=0.01)

    def prepare(self, width: int, classes: int, device: torch.device) -> None:
        """A second head for features of that width."""
        self.critic.widen(width, mix(self.seed, width, classes), classes)
        self.critic.to(device)

    def gap(self, model: nn.Module, source: Side, target: Side) -> Tensor:
        """How badly the second head does what it should."""
        said = self.critic(reverse(torch.cat([source.features, target.features]), self.strength))
        mine, theirs = said[: len(source.y)], said[len(source.y) :]
        agreeing = F.cross_entropy(mine, source.logits.argmax(1))
        return self.margin * agreeing + otherwise(theirs, target.logits.argmax(1)).mean()


def otherwise(logits: Tensor, y: Tensor) -> Tensor:
    """-log(1 - softmax(logits)[y]) of each row.

    >>> otherwise(torch.tensor([[0.0, 0.0], [99.0, 0.0]]), torch.tensor([0, 0]))
    tensor([ 0.6931, 99.0000])
    """
    if logits.shape[1] < 2:
        raise ValueError("a model that knows one class can answer no other; MDD needs two classes at least")
    others: Tensor = logits.scatter(1, y.unsqueeze(1), -torch.inf).logsumexp(1)
    return logits.logsumexp(1) - others
