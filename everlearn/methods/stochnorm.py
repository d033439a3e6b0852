"""StochNorm: in training, each channel is normalised by the batch, or by the running statistics, by the toss of a coin.

Kou et al., Stochastic Normalization, NeurIPS 2020.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from everlearn.batch import Batch
from everlearn.method import Card, Method
from everlearn.models.norms import forwarding
from everlearn.models.views import bare
from everlearn.objective import Objective, Output
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class StochNorm(Method):
    """z = s * BN_batch(x) + (1 - s) * BN_running(x), with s ~ Bernoulli(p) for each channel, drawn anew for each batch.

    The running statistics are those before the batch, and learn from it as ever. No module is replaced: batch
    normalisation has another forward while a loss is computed. What is in eval mode, or without running statistics,
    is as it is.
    """

    card: ClassVar[Card] = Card(
        "tuning", "each batch normalisation a second time", "nothing", ("batch normalisations",)
    )

    p: float = 0.5
    """The probability of the statistics of the batch: 1 is plain batch normalisation, 0 that of eval mode."""
    seed: int = 0
    """For s, with the number of the batch."""

    drawn: int = field(default=0, init=False)
    """For how many batches s was drawn."""

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is a probability, but is {self.p!r}; take one from 0 to 1")

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Refuses a model that has nothing to be normalised in another way."""
        if not _norms(model):
            raise ValueError(
                f"{type(bare(model)).__name__} has no batch normalisation with running statistics, so stochnorm would "
                "change nothing; leave it out"
            )

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """What follows in the chain, under other normalisations."""
        if self.p == 1:
            return rest(model, batch)
        random = torch.Generator().manual_seed(mix(self.seed, self.drawn))
        self.drawn += 1
        with forwarding(_norms(model), lambda norm: partial(_tossed, norm, norm.forward, self.p, random)):
            return rest(model, batch)


def _norms(model: nn.Module) -> list[Any]:
    return [m for m in bare(model).modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _tossed(module: Any, plain: Any, p: float, random: torch.Generator, x: Tensor) -> Tensor:
    if not module.training:
        answer: Tensor = plain(x)
        return answer
    # Copies: in the backward pass the statistics are still needed as they were, but `plain` moves them.
    mean, variance = module.running_mean.clone(), module.running_var.clone()
    steady = F.batch_norm(x, mean, variance, module.weight, module.bias, training=False, eps=module.eps)
    coin = torch.rand(module.num_features, generator=random) < p
    return torch.where(coin.to(x.device).view(1, -1, *[1] * (x.dim() - 2)), plain(x), steady)
