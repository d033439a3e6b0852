"""CoTTA: learn what a slow teacher says about many views of a row, while some weights go back to the source.

Wang et al., Continual Test-Time Domain Adaptation, CVPR 2022. arXiv:2203.13591
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch
from everlearn.border import positive
from everlearn.data.transforms import View
from everlearn.method import Card
from everlearn.methods.testtime import AtTestTime
from everlearn.models.norms import by_batch, moving
from everlearn.models.quadratic import fitted
from everlearn.models.resting import restore
from everlearn.models.spread import LOWEST
from everlearn.models.views import Weights, bare, recall, trainable
from everlearn.objective import Objective, Output, Viewed
from everlearn.randomness import mix


@dataclass
class CoTTA(AtTestTime):
    """L = -mean sum_c t_c log softmax f(x)_c with t = softmax of the teacher's logits; all weights learn.

    If the source is sure about the rows (mean confidence at least `ap`) the teacher is asked once, else its logits are
    the mean over N views: the learner's, under N other keys. After each step the teacher follows, v <- mt v + (1 - mt)
    w, with the statistics of the student, of whose weights a share `rst`, drawn anew, goes back to w0. The teacher
    answers, in `observe` and in `predict`. Departures: where the view does not augment it is asked once, and teaches
    nothing until something else has moved the student; the alarm.
    """

    card: ClassVar[Card] = Card("test time", "2 forwards, or N + 1 where the source is unsure", "the weights, twice")

    mt: float = 0.999
    rst: float = 0.01
    ap: float = 0.92
    N: int = 32
    seed: int = 0
    """For the views, and for which weights go back."""

    teacher: Weights = field(default_factory=dict, init=False)
    taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        positive(N=self.N)

    def scope(self, model: nn.Module) -> list[str]:
        """All weights."""
        return list(trainable(model))

    def lesson(self, model: nn.Module, target: Batch, look: Objective) -> Output:
        """What the teacher says."""
        norms, there = list(moving(model).values()), bare(model).state_dict()
        self.source = fitted(self.source, there)
        self.teacher = fitted(self.teacher, there) or {name: there[name].clone() for name in self.source}

        def ask(inner: nn.Module, looking: Objective) -> Tensor:
            with by_batch(norms, track=False):
                return looking(inner, target).logits.float()

        views: list[Objective] = [look]
        if isinstance(look, Viewed) and not (isinstance(look.view, View) and not look.view.augment):
            sure = recall(model, self.source, ask, look).softmax(-1).amax(-1).mean()
            if bool(sure < self.ap):
                views = [replace(look, key=mix(self.seed, self.taken, place)) for place in range(self.N)]
        told = torch.stack([recall(model, self.teacher, ask, view) for view in views]).mean(0)
        logits = look(model, target).logits.float()
        return Output(-(told.softmax(-1) * logits.log_softmax(-1).clamp(min=LOWEST)).sum(-1).mean(), told)

    def after_step(self, model: nn.Module) -> None:
        """The teacher follows, some weights go back."""
        if self.names:
            now = bare(model).state_dict()
            for name, value in self.teacher.items():
                value.copy_(value.lerp(now[name], 1 - self.mt) if name in self.names else now[name])
            weights = [now[name] for name in self.names]
            random = torch.Generator(weights[0].device).manual_seed(mix(self.seed, self.taken))
            draws = (torch.rand(w.shape, generator=random, device=w.device) for w in weights)
            restore(model, self.source, {n: draw >= self.rst for n, draw in zip(self.names, draws, strict=True)})
            self.taken += 1
        else:
            self.teacher = {}  # labels taught the student: there is a new teacher when it needs one
        super().after_step(model)

    def restore(self, model: nn.Module, where: Tensor) -> None:
        """And the teacher."""
        super().restore(model, where)
        self.teacher = {name: value.where(~where, self.source[name]) for name, value in self.teacher.items()}

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """What the teacher says, with its running statistics."""
        weights = self.teacher
        return recall(model, weights, objective, batch).logits if weights else super().predict(model, batch, objective)
