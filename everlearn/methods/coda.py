"""CODA-Prompt: prompts that are sums of components, each by what it attends to in a row; each experience adds some.

Smith et al., CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning,
CVPR 2023. arXiv:2211.13218
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.border import positive
from everlearn.method import Card
from everlearn.methods.prompting import Prompting
from everlearn.models.prompts import Span, attention, overlap
from everlearn.models.views import Weights
from everlearn.objective import Objective
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class CODA(Prompting):
    """p = sum_m alpha_m P_m with alpha_m = cos(q(x) * A_m, K_m), for each block, where q(x) is what the head sees of x
    without prompts; L = L_new + lambda * sum over blocks and B in (P, A, K) of || B B^T - I ||^2, a mean over entries.

    Each experience adds M components to each block, orthonormal at first; those of experiences before stand still. As
    in the paper, rows of an experience are told apart from no class of the past; replayed rows are. Departures:
    p comes behind the tokens at the entrance of a block, and goes at its exit, where the paper gives halves of p to the
    keys and values of its attention; all blocks have prompts unless `at` names some (the paper has the first five); M
    is the number for an experience, as that of experiences is not known.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card(
        "architecture", "1 forward without prompts", "M components for each block and experience", ("a transformer",)
    )

    M: int = 10
    """Components of an experience."""
    L: int = 8
    """Tokens of a prompt."""
    lambda_: float = 0.1

    past: Weights = field(default_factory=dict, init=False)
    """The components of the experiences that have ended; `tokens` has those of this one."""
    inside: bool = field(default=False, init=False)
    """Whether there is one, and `moved`, whether it has made a step."""
    moved: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        positive(M=self.M, L=self.L)

    def draw(self, experience: Experience, query: int, widths: Sequence[int]) -> None:
        """New components for each block."""
        for place, width in enumerate(widths):
            for part, shape in enumerate(((self.L, width), (query,), (query,))):
                generator = torch.Generator().manual_seed(mix(self.seed, experience.index, place, part))
                first = nn.init.orthogonal_(torch.empty(self.M, *shape, dtype=torch.float32), generator=generator)
                self.tokens.put(f"{place} {'PAK'[part]}", first)
        self.inside, self.moved = True, False

    def spans(self) -> Sequence[Span]:
        """Each block by itself."""
        return [(name, name) for name in self.axes] if self.past or self.inside else []

    def prompts(self, q: Tensor) -> Sequence[Tensor]:
        """Components by their weights."""
        parts = [[self._all(f"{place} {part}") for part in "PAK"] for place in range(len(self.axes))]
        return [torch.einsum("rm,mlw->rlw", attention(q, a, k), p) for p, a, k in parts]

    def penalty(self, q: Tensor) -> Tensor | None:
        """How far components are from orthonormal."""
        if not self.lambda_ or not self.inside:
            return None
        return self.lambda_ * torch.stack([overlap(self._all(name)) for name in self.tokens]).sum()

    def before_step(self, model: nn.Module) -> None:
        """Notes that components learn."""
        super().before_step(model)
        self.moved = self.inside

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """They stand still from here on."""
        super().end(model, experience, objective)
        if self.moved:
            self.past = {name: self._all(name).detach().clone() for name in self.tokens}
        self.inside = self.moved = False

    def _all(self, name: str) -> Tensor:
        parts = [self.past[name]] if self.past else []
        return torch.cat([*parts, self.tokens[name]] if self.inside else parts)
