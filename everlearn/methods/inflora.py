"""InfLoRA: adapters that read only what is new in the inputs of an experience, so old answers stay.

Liang and Li, InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning, CVPR 2024. arXiv:2404.00228
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from everlearn.data.order import batches, epoch_order
from everlearn.method import Card
from everlearn.methods.lora import LoRA
from everlearn.models.inputs import second_moments
from everlearn.models.spans import missing
from everlearn.models.views import Weights, bare
from everlearn.objective import Objective
from everlearn.streams.experience import Experience


@dataclass
class InfLoRA(LoRA):
    """W = W_0 + alpha / r * B A where only B learns: the rows of A are the r first principal directions of the inputs
    of the layer in this experience, H - M M^T H, and M is an orthonormal basis of the inputs of earlier ones.

    As A M = 0, no adapted layer changes what it makes of old inputs. M grows at an end by the fewest directions that
    hold `threshold` of the sum of squares of these inputs. The paper has alpha = r. Departures: the threshold does not
    rise with the share of experiences done, as their number is not known; M itself is kept where the paper keeps the
    smaller one of M and its complement. Of the targets, the linear and convolution layers that the model calls are
    adapted.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card(
        "architecture",
        "none a step; at a beginning and at an end 1 forward over `rows` rows",
        "up to a square of its inputs for each layer; while it learns, the adapted weights",
    )

    r: int = 10
    alpha: float = 10.0
    threshold: float = 0.98
    """The share of old inputs that is held, as squares; the paper's epsilon_th."""
    rows: int = 300
    """Rows of each experience that the inputs are taken of."""

    basis: Weights = field(default_factory=dict, init=False)
    """M, (inputs, directions), by the name of the weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is a share of old inputs, from 0 to 1, but is {self.threshold}")

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Finds A: what is new in the inputs of each layer."""
        super().begin(model, experience, objective)
        moments = self._moments(model, experience, objective)
        self.base = {name: base for name, base in self.base.items() if name in moments}
        if not self.base:
            raise ValueError(
                f"{type(bare(model)).__name__} calls no linear or convolution layer that matches "
                f"targets={self.targets!r}, so their inputs are not known; use lora or olora, which need none"
            )
        for name, base in self.base.items():
            a, b = self.adapters.pair(name)
            old = self.basis.get(name, base.new_zeros(base.shape[1], 0))
            self.adapters.put(name, _leading(moments[name], old, self.r).to(a), b)

    def before_step(self, model: nn.Module) -> None:
        """A stays."""
        super().before_step(model)
        for name in self.base:
            self.adapters.pair(name)[0].grad = None

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Adds the inputs of this experience to the old ones."""
        moments = self._moments(model, experience, objective) if self.base and self.threshold else {}
        for name in [name for name in self.base if name in moments]:
            old = self.basis.get(name, self.base[name][:0].T).to(moments[name])
            new = torch.cat([old, missing(old, moments[name], self.threshold)], 1)
            self.basis = self.basis | {name: new.to(self.base[name])}
        super().end(model, experience, objective)

    def _moments(self, model: nn.Module, experience: Experience, objective: Objective) -> Weights:
        order = epoch_order(len(experience.train), 0, experience.index, 0)[: self.rows]
        found = second_moments(model, batches(experience.train, order, 128), objective)
        return {name: moment[:-1, :-1] for name, moment in found.items()}  # less what the bias would be read from


def _leading(moment: torch.Tensor, basis: torch.Tensor, count: int) -> torch.Tensor:
    """The first principal directions outside of `basis`, (count, inputs); zeros where there are no more."""
    away = torch.eye(len(moment)).to(moment) - basis.to(moment) @ basis.to(moment).T
    values, vectors = torch.linalg.eigh(away @ moment @ away)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    directions = vectors * (values > 1e-9 * moment.trace())  # what is below is the noise of the basis in float32
    # Exactly outside: what float32 left of the basis in them would be read with every old input.
    return nn.functional.pad((away @ directions).T, (0, 0, 0, count - directions.shape[1]))
