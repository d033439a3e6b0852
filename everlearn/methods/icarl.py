"""iCaRL: a few well-chosen rows of each class, to learn again and to compare with.

Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017. arXiv:1611.07725
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch, join, length, move, take, unlabeled
from everlearn.border import positive
from everlearn.memory.exemplars import Exemplars
from everlearn.method import Card, Method
from everlearn.methods.lwfmc import advised, binary, classes_of
from everlearn.models.features import with_features
from everlearn.models.views import Weights, evaluating, snapshot
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class ICaRL(Method):
    """The loss of `LwFMC` over new rows and exemplars; the answer is argmin_c || phi(x) - mu_c ||, with mu_c the mean
    of phi over the exemplars of c, and phi what the head sees, in eval mode, of length 1 (as are means).

    The exemplars of a class are herded from its rows, plain, at the end of an experience: K / classes of each, and as
    the classes grow, the first of each. Departures: instead of batches from the union of new rows and exemplars, each
    batch of new rows is joined by its share of exemplars, so that a pass over the new rows is one over the exemplars;
    T, and classes that come back, as in `LwFMC`: their exemplars are herded from the new rows and the exemplars kept.
    """  # noqa: D205 (one definition, one sentence)

    card: ClassVar[Card] = Card("replay", "1 forward of the teacher; at an end 1", "rows, the weights", ("classes",))

    K: int = 2000
    """Exemplars in all."""
    m: int | None = None
    """Exemplars of each class, in place of K / classes."""
    T: float = 1.0
    count: int | None = None
    """Exemplars in each batch, in place of their share."""
    head: str | None = None
    """The dotted name of the linear layer that sees the features; None for the last one."""
    seed: int = 0

    exemplars: Exemplars = field(default_factory=Exemplars, init=False)
    means: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    """mu of each class that has exemplars; none while the weights are moving."""
    teacher: Weights = field(default_factory=dict, init=False)
    new: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        positive(K=self.K, **{} if self.m is None else {"m": self.m})

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Looks which classes have come."""
        self.new = classes_of(experience)
        self.exemplars.restart(len(experience.train))
        if self.m is None and (classes := len({*self.exemplars.classes, *self.new})) > self.K:
            raise ValueError(f"K = {self.K} exemplars cannot be shared by {classes} classes; raise K to that at least")

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Joins exemplars to the batch, and asks about each class by itself."""
        self.means = torch.empty(0)
        if len(self.exemplars):
            batch = join(batch, self.exemplars.beside(length(batch), self.count, self.seed))
        output = rest(model, batch)
        advice = advised(model, self.teacher, objective, batch, self.T)
        return binary(output, batch, advice, self.exemplars.classes, self.new, alone=rest is objective)

    @torch.no_grad()
    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Chooses exemplars of the new classes, and keeps the first of the old ones."""
        most = self.m or self.K // len({*self.exemplars.classes, *self.new})
        self.exemplars.choose(experience.train, most, partial(self._phi, model, objective), experience.index << 40)
        self.teacher, self.means, self.new = snapshot(model), self._means(model, objective), []

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """Minus the squared distance to each mean, -inf for a class without; the logits before the first end."""
        output, features = with_features(model, batch, objective, self.head)
        if not len(self.exemplars):
            return output.logits
        means = self.means if len(self.means) else self._means(model, objective)
        phi, answer = F.normalize(features.float()), torch.full_like(output.logits.float(), -torch.inf)
        answer[:, self.exemplars.classes] = -torch.stack([(phi - mean).square().sum(1) for mean in means], 1)
        return answer

    def _means(self, model: nn.Module, objective: Objective) -> Tensor:
        by_class = map(self.exemplars.of, self.exemplars.classes)
        return F.normalize(torch.stack([self._phi(model, objective, rows).mean(0) for rows in by_class]))

    def _phi(self, model: nn.Module, objective: Objective, rows: Batch) -> Tensor:
        device = next(model.parameters()).device
        with evaluating(model):
            parts = [move(unlabeled(take(rows, part)), device) for part in torch.split(torch.arange(length(rows)), 128)]
            features = [with_features(model, part, objective, self.head)[1] for part in parts]
        return F.normalize(torch.cat(features).float())
