"""Rows without labels beside labelled ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from math import exp
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bare.loop import Loop


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * -ctx.strength, None


@dataclass
class DANN(Loop):
    """One pass of both through the body; the head reads the labelled rows, the critic all of them."""

    def __post_init__(self) -> None:
        layers = [(nn.Linear(*ends), nn.ReLU()) for ends in pairwise((self.model.head.in_features, 1024, 1024, 1))]
        self.critic = nn.Sequential(*list(chain(*layers))[:-1])
        self.optimizer.param_groups[0]["params"].extend(self.critic.parameters())

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:  # noqa: ARG002 (they have no labels)
        body, head = self.model.features, self.model.head
        source_x, source_y, source_order = self.source
        steps = list(zip(order.split(self.size), source_order.split(self.size), strict=True))
        for step, (index, near) in enumerate(steps):
            features = body(self.see(torch.cat([x.index_select(0, index), source_x.index_select(0, near)])))
            loss = F.cross_entropy(head(features[len(index) :]), source_y.index_select(0, near))
            said = self.critic(_Reversal.apply(features, 2 / (1 + exp(-10 * step / len(steps))) - 1)).flatten()
            target, source = F.softplus(said[: len(index)]).mean(), F.softplus(-said[len(index) :]).mean()
            loss = loss + (source + target) / 2
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            yield
