"""DELTA: fine-tuning keeps what the pretrained model sees, rather than its weights.

Li et al., DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional Networks, ICLR 2019.
arXiv:1901.09229
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, length, unlabeled
from everlearn.method import Card, Method
from everlearn.models.features import learning, tap_input
from everlearn.models.heads import head_of, head_weights
from everlearn.models.views import Weights, bare, recall, snapshot, tap
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class DELTA(Method):
    """L = L_new + alpha / 2 * mean over rows of sum_l |FM_l(w, x) - FM_l(w_0, x)|^2 + beta / 2 * |w_head|^2.

    FM_l are the outputs of the modules named by `taps`, and w_0 the weights when the first experience began, which are
    the pretrained ones: asked in eval mode, about the same rows under the same augmentation. Departures: all channels
    weigh alike (the paper weighs them by what leaving them out costs); the mean over rows makes alpha independent of
    the batch, where the authors' code has a sum, so that their 0.01 with batches of 64 is 0.64 here.
    """

    card: ClassVar[Card] = Card("tuning", "1 forward of the teacher", "the weights")

    alpha: float = 0.01
    beta: float = 0.01
    taps: str | None = None
    """A regular expression for the names of modules, as `model.named_modules()` has them; None: the head's input."""
    head: str | None = None
    """The linear layer that answers; None for the last one."""

    teacher: Weights = field(default_factory=dict, init=False)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """The model as it comes is the teacher of all experiences."""
        self._tapped(model)
        if not self.teacher:
            self.teacher = snapshot(model)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the distance, and the decay of the head."""
        if not self.teacher or self.alpha == self.beta == 0:
            return rest(model, batch)
        output, now = self._maps(model, batch, rest)
        if output.loss is None:
            return output
        loss = output.loss
        if self.alpha:
            _, before = recall(model, self.teacher, self._maps, unlabeled(batch), objective)
            # Rows that the rest of the chain joined come behind.
            loss = loss + self.alpha / 2 * sum(_away(a[: length(batch)], b) for a, b in zip(now, before, strict=True))
        if self.beta:
            head = head_weights(bare(model), self.head).values()
            loss = loss + self.beta / 2 * torch.stack([weight.float().square().sum() for weight in head]).sum()
        return Output(loss, output.logits)

    def _maps(self, model: nn.Module, batch: Batch, objective: Objective) -> tuple[Output, list[Tensor]]:
        """The output of the objective, and the feature maps on the way to it."""
        with ExitStack() as stack:
            inputs, modules = self._tapped(model)
            seen = [stack.enter_context((tap_input if inputs else tap)(module)) for module in modules.values()]
            output = objective(model, batch)
        seen = list(map(learning, seen))
        for name, maps in zip(modules, seen, strict=True):
            if len(maps) != 1 or not isinstance(maps[0], Tensor):
                what = f"was called {len(maps)} times" if len(maps) != 1 else f"gives a {type(maps[0]).__name__}"
                raise ValueError(
                    f"{name!r} {what} for one batch, but one tensor is held on to; name other modules with taps=, and "
                    "put methods that ask the model more than once in front of this one"
                )
        return output, [maps[0] for maps in seen]

    def _tapped(self, model: nn.Module) -> tuple[bool, dict[str, nn.Module]]:
        """Whether inputs are held, and of which modules."""
        if self.taps is None:
            return True, dict([head_of(bare(model), self.head)])
        found = {name: module for name, module in bare(model).named_modules() if re.fullmatch(self.taps, name)}
        if not found:
            raise ValueError(f"no module of {type(bare(model)).__name__} has a name that matches taps={self.taps!r}")
        return False, found


def _away(now: Tensor, before: Tensor) -> Any:
    return (now.float() - before.float()).flatten(1).square().sum(1).mean()
