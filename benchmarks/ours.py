"""The same loops with everlearn: what a user would write."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from everlearn import Learner, Memory, Method
from everlearn.learner import View
from everlearn.methods import EWC, DERpp, LwF, Naive, Replay

METHODS: dict[str, Callable[[int], Method]] = {
    "naive": lambda count: Naive(),  # noqa: ARG005
    "er": lambda count: Replay(Memory(2000), count=count),
    "ewc": lambda count: EWC(1.0, fisher="empirical"),  # noqa: ARG005
    "derpp": lambda count: DERpp(Memory(2000), alpha=0.1, beta=0.5, count=count),
    "lwf": lambda count: LwF(),  # noqa: ARG005
}

optimizer = partial(torch.optim.SGD, lr=0.01, fused=True)


def learner(name: str, model: nn.Module, size: int, count: int, view: View | None) -> Learner:
    return Learner(model, METHODS[name](count), optimizer=optimizer, batch_size=size, view=view)
