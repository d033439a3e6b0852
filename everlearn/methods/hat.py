"""HAT: each task learns which units it uses, and weights between units that earlier tasks use stand still.

Serra et al., Overcoming Catastrophic Forgetting with Hard Attention to the Task, ICML 2018. arXiv:1801.01423
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, length
from everlearn.method import Card, Method
from everlearn.methods.independent import each_task
from everlearn.models.nets import MultiHead
from everlearn.models.resting import restore
from everlearn.models.views import Weights, bare, snapshot, total, trainable
from everlearn.objective import Objective, Output
from everlearn.randomness import mix
from everlearn.streams.experience import Experience


@dataclass
class HAT(Method):
    """h_l <- a_l h_l with a_l = sigmoid(s e_l), e_l learned for each task; s goes from 1 / s_max to s_max in each epoch.

    L = L_new + c * sum a (1 - a_old) / sum (1 - a_old), where a_old is the largest a of the tasks before. The gradient of
    a weight from unit j to unit i is multiplied by 1 - min(a_old_i, a_old_j), that of e by s_max (cosh(s e) + 1) /
    (s (cosh(e) + 1)). Departure: where that leaves nothing, momentum and weight decay do not move the weight either.
    """

    card: ClassVar[Card] = Card("architecture", "none", "the weights, a mask a task", ("task labels", "MultiHead"))

    s_max: float = 400.0
    c: float = 0.75
    seed: int = 0
    """For the first embeddings."""
