"""Co-Tuning: what the pretrained head says of a class is learned, and then taught beside the class itself.

You et al., Co-Tuning for Transfer Learning, NeurIPS 2020.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, length, tensor
from everlearn.data.order import batches
from everlearn.method import Card, Method
from everlearn.models.body import labelled, look
from everlearn.models.features import with_features
from everlearn.models.heads import head_of
from everlearn.models.statistics import widened
from everlearn.models.views import bare
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class CoTuning(Method):
    """L = L_new + lambda * mean over labelled rows of CE( p(y_s | y), g_s(x) ).

    g_s are the answers of the pretrained head about its own classes y_s, and p(y_s | y) is their mean, as probabilities
    at `temperature`, over the rows of class y when an experience begins, in eval mode. The pretrained head is `source`,
    a copy of which learns along; or, in a head that grew, the outputs of other classes than the first experience has.
    Departures: this is the first of the paper's two ways to p(y_s | y), the authors' code takes the other, by Bayes'
    rule; a temperature that calibrates the source is to be known, as there are no rows of the source to find it by.
    """

    card: ClassVar[Card] = Card(
        "tuning", "at a beginning 1 forward over its rows", "a head, and what it says", ("a pretrained head",)
    )

    lambda_: float = 2.3
    temperature: float = 1.0
    source: nn.Linear | None = None
    head: str | None = None
    """The linear layer that answers, and whose input the source reads; None for the last one."""

    others: list[int] = field(default_factory=list, init=False)
    """The outputs that are the source, where it is part of the head."""
    relation: Tensor = field(default_factory=lambda: torch.zeros(0, 0), init=False)
    """p(y_s | y), (classes, source classes); zero for classes not met."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, but is {self.temperature!r}")
        self.source = deepcopy(self.source)  # it learns, and may still be of use to whoever gave it

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Learns what the source says of each class."""
        layer = head_of(bare(model), self.head)[1]
        if self.source is not None and self.source.in_features != layer.in_features:
            raise ValueError(f"the source reads {self.source.in_features} features, but the head {layer.in_features}")
        if self.source is None and not self.others:
            self.others = [output for output in range(layer.out_features) if output not in experience.classes]
        if self.source is None and not (self.others and experience.classes):
            raise ValueError(
                "cotuning needs the pretrained head: give it as it was before it was replaced (source=...), or let the "
                "head grow, and say the new classes of the first experience"
            )
        sums, counts = torch.zeros(0, 0), torch.zeros(0)
        parts = [rows for rows in (experience.train, experience.reference) if rows is not None]
        for batch in (batch for rows in parts for batch in batches(rows, torch.arange(len(rows)), 256)):
            output, features = look(model, batch, objective, self.head)
            with torch.no_grad():
                said = (self._said(features, output.logits).float() / self.temperature).softmax(1)
            said, y = labelled(said, batch)
            if len(y):
                shape = max(len(sums), int(y.max()) + 1), said.shape[1]
                sums = widened(sums.to(said), shape).index_add(0, y, said)
                counts = widened(counts.to(said), shape[:1]).index_add(0, y, torch.ones_like(said[:, 0]))
        if len(counts):
            shape = max(len(self.relation), len(sums)), sums.shape[1]
            met = widened(counts, shape[:1]) > 0
            now = widened(sums / counts.clamp(min=1).unsqueeze(1), shape)
            self.relation = torch.where(met.unsqueeze(1), now, widened(self.relation.to(now), shape))

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the lesson."""
        if not len(self.relation) or self.lambda_ == 0:
            return rest(model, batch)
        output, features = with_features(model, batch, rest, self.head)
        if output.loss is None:
            return output
        rows, y = length(batch), tensor(batch, "y")  # rows that the rest of the chain joined come behind
        known = (y >= 0) & (y < len(self.relation))
        said = self._said(features[:rows], output.logits[:rows]).float().log_softmax(1)
        right = self.relation[y.clamp(0, len(self.relation) - 1)] * known.unsqueeze(1)
        return Output(output.loss - self.lambda_ * (right * said).sum() / known.sum().clamp(min=1), output.logits)

    def _said(self, features: Tensor, logits: Tensor) -> Tensor:
        return logits[:, self.others] if self.source is None else self.source(features)
