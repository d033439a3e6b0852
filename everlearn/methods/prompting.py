"""Prompts for a body that stays as it is: what methods that learn them have in common."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from everlearn.batch import Batch
from everlearn.method import Method
from everlearn.models.heads import head_of, head_weights
from everlearn.models.prompts import Span, Tokens, prompted, sites, try_out
from everlearn.models.resting import drop_gradients, resting
from everlearn.models.rivals import only_among
from everlearn.models.views import bare
from everlearn.objective import Objective, Output
from everlearn.streams.experience import Experience


@dataclass
class Prompting(Method):
    """f(x; p(q(x))), where f is in eval mode and never changes, and q(x) is what its head sees without prompts.

    The head learns, and what p is made of. Each row is asked with prompts of its own, whatever its batch has besides.
    """

    at: str | None = field(default=None, kw_only=True)
    """A regular expression for the names of blocks that read prompts; None for each `nn.TransformerEncoderLayer`."""
    head: str | None = field(default=None, kw_only=True)
    """The linear layer that answers, which learns as a whole; None for the last one."""
    mask: bool = field(default=True, kw_only=True)
    """Whether rows of an experience are told apart among its classes only."""
    seed: int = field(default=0, kw_only=True)

    tokens: Tokens = field(default_factory=Tokens, init=False)
    axes: dict[str, int] = field(default_factory=dict, init=False)
    """The blocks, in the order in which they are called, and which dimension counts tokens there."""
    classes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64), init=False)
    """Those of this experience, if there is one, and if there is a mask."""
    stepped: bool = field(default=False, init=False)
    """Whether there has been a step: prompts that have learned nothing say nothing."""

    def draw(self, experience: Experience, query: int, widths: Sequence[int]) -> None:
        """Makes the first weights, for queries of `query` numbers and blocks of these widths."""

    def spans(self) -> Sequence[Span]:
        """Where prompts come, and where they go; none where there are no prompts."""
        raise NotImplementedError

    def prompts(self, q: Tensor) -> Sequence[Tensor]:
        """The prompts of each span, (rows, prompts, width), for the queries (rows, width)."""
        raise NotImplementedError

    def penalty(self, q: Tensor) -> Tensor | None:
        """What is added to the loss, for the queries of a batch."""
        raise NotImplementedError

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Finds the blocks, and tries whether they take prompts."""
        if experience.task is not None:
            raise ValueError("prompts need one head for all classes, but these have a task; take by_class, or lora")
        found = sites(model, experience.train, objective, self.at)
        self.axes = {name: site.axis for name, site in found.items()}
        weight = head_of(bare(model), self.head)[1].weight
        self.draw(experience, weight.shape[1], [site.width for site in found.values()])
        self.tokens.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        self.classes = torch.tensor(experience.classes if self.mask else (), dtype=torch.int64, device=weight.device)
        with torch.no_grad(), resting(model, but=()), self._asking(model):
            try_out(model, experience.train, objective, self.axes)

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Only prompts and the head are in the graph."""
        rivals = only_among(head_of(bare(model), self.head)[1], self.classes, batch)
        with resting(model, but=head_weights(bare(model), self.head)), rivals as whole, self._asking(model) as queries:
            output = whole(rest(bare(model), batch))  # compiled, it would not see the hooks
        if output.loss is None or not queries:
            return output
        with torch.autocast(queries[0].device.type, enabled=False):
            more = self.penalty(torch.cat(queries))
        return output if more is None else Output(output.loss + more, output.logits)

    def before_step(self, model: nn.Module) -> None:
        """Nothing flows into the body."""
        drop_gradients(model, but=head_weights(bare(model), self.head))
        self.stepped = self.stepped or bool(self.tokens)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Between experiences, rows are told apart among all classes."""
        self.classes = self.classes[:0]

    def predict(self, model: nn.Module, batch: Batch, objective: Objective) -> Tensor:
        """Each row is answered with prompts of its own."""
        if not self.stepped:
            return objective(model, batch).logits
        with self._asking(model):
            return objective(bare(model), batch).logits

    def _asking(self, model: nn.Module) -> AbstractContextManager[list[Tensor]]:
        return prompted(model, self.spans(), self.axes, self.prompts, self.head)
