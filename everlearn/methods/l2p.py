"""L2P: each row picks prompts from a pool by their keys; a frozen body reads them beside its own tokens.

Wang et al., Learning to Prompt for Continual Learning, CVPR 2022. arXiv:2112.08654
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.prompting import Prompting
from everlearn.models.heads import drawn
from everlearn.models.prompts import Span
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class L2P(Prompting):
    """L = L_new(f(x; P_s1 ... P_sN)) + lambda * mean over rows of sum_i (1 - cos(q(x), k_si)), where s are the N of M
    keys that are most like q(x), what the head sees of x without prompts. f stays; P, k and the head learn.

    Each row picks for itself, also where the authors' code takes what most rows of a batch pick. As in that code, a row
    is told apart among the classes of its experience, and one that is replayed among all. Departures: prompts come
    behind the tokens, without a place, in front of the first of the blocks, and go behind the last one, so the head
    sees what it always sees, where the paper takes the mean of the prompts; the first P and k are uniform around 0;
    the penalty for prompts that are picked often, which the paper leaves open, is left out.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card(
        "architecture", "1 forward without prompts", "M prompts of L tokens and their keys", ("a transformer",)
    )

    M: int = 10
    """Prompts in the pool."""
    N: int = 5
    """Prompts of a row."""
    L: int = 5
    """Tokens of a prompt."""
    lambda_: float = 0.5

    def __post_init__(self) -> None:
        positive(M=self.M, N=self.N, L=self.L)
        if self.N > self.M:
            raise ValueError(f"a row cannot pick N = {self.N} prompts of M = {self.M}; lower N, or raise M")

    def draw(self, experience: Experience, query: int, widths: Sequence[int]) -> None:
        """Makes the pool, once."""
        if not self.tokens:
            self.tokens.put("k", drawn(self.M, query, mix(self.seed, 0))[0])
            p, _ = drawn(self.M * self.L, widths[0], mix(self.seed, 1))
            self.tokens.put("P", p.view(self.M, self.L, widths[0]))

    def spans(self) -> Sequence[Span]:
        """From the first block to the last."""
        return [(next(iter(self.axes)), next(reversed(self.axes)))] if self.tokens else []

    def prompts(self, q: Tensor) -> Sequence[Tensor]:
        """Those picked, one after the other."""
        return [self.tokens["P"][self._picked(q).indices].flatten(1, 2)]

    def penalty(self, q: Tensor) -> Tensor | None:
        """Draws the keys picked to the rows that picked them."""
        return self.lambda_ * (1 - self._picked(q).values).sum(1).mean() if self.lambda_ else None

    def _picked(self, q: Tensor) -> torch.return_types.topk:
        return (F.normalize(q) @ F.normalize(self.tokens["k"]).T).topk(self.N)
