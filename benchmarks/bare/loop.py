"""A loop by hand, and the plainest of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from bare.rows import Reservoir


@dataclass
class Loop:
    """What all loops share: `learn` learns one experience and stops after each step, so that two loops can take
    turns; `end` is called, off the clock, after it.
    """  # noqa: D205 (one sentence)

    model: nn.Module
    optimizer: Optimizer
    see: Callable[[Tensor], Tensor]
    size: int
    """Rows in a batch, and in each draw from the memory."""
    memory: Reservoir
    source: tuple[Tensor, ...] = ()
    """Labelled rows to learn beside those given: x, y, and their order."""

    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        raise NotImplementedError

    def end(self, found: list[Tensor], classes: int) -> None:
        """Given what the method finds when an experience ends, its importances or the old rows that it keeps, and the
        number of classes so far.
        """  # noqa: D205 (one sentence)


class Naive(Loop):
    def learn(self, x: Tensor, y: Tensor, order: Tensor) -> Iterator[None]:
        for index in order.split(self.size):
            loss = F.cross_entropy(self.model(self.see(x.index_select(0, index))), y.index_select(0, index))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            yield
