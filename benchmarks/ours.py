"""The same loops with everlearn: all that a user writes."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from everlearn import Learner, Memory, Method
from everlearn.methods import AGEM, DANN, EWC, GEM, MAS, MIR, DERpp, ICaRL, LwF, Naive, Replay
from everlearn.stepping import View

METHODS: dict[str, Callable[[int, int], Method]] = {
    "naive": lambda _capacity, _count: Naive(),
    "er": lambda capacity, count: Replay(Memory(capacity), count),
    "ewc": lambda _capacity, _count: EWC(1.0, fisher="empirical", rows=None),
    "ewc-gradient": lambda _capacity, _count: EWC(1.0, fisher="empirical", rows=None),
    "derpp": lambda capacity, count: DERpp(Memory(capacity), alpha=0.1, beta=0.5, count=count),
    "lwf": lambda _capacity, _count: LwF(lambda_o=1.0, T=2.0),
    "mas": lambda _capacity, _count: MAS(1.0, rows=None),
    "agem": lambda capacity, count: AGEM(Memory(capacity), count),
    "gem": lambda capacity, _count: GEM(Memory(capacity), gamma=0.5),
    "mir": lambda capacity, count: MIR(Memory(capacity), count, subsample=2 * count, virtual_lr=0.05),
    "icarl": lambda capacity, _count: ICaRL(capacity),
    "dann": lambda _capacity, _count: DANN(),
}

optimizer = partial(torch.optim.SGD, lr=0.01, fused=True)


def learner(method: str, model: nn.Module, size: int, capacity: int, view: View | None) -> Learner:
    """Learns in batches of `size`, and draws as many old rows from a memory of `capacity`."""
    return Learner(model, METHODS[method](capacity, size), optimizer=optimizer, batch_size=size, view=view)
