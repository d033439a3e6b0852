"""Nearest class mean: a row belongs to the class whose mean its features are nearest to.

Mensink et al., Distance-Based Image Classification, TPAMI 2013. doi:10.1109/TPAMI.2013.83
With cosines: Zhou et al., Revisiting Class-Incremental Learning with Pre-Trained Models, 2023. arXiv:2303.07338
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from everlearn.border import one_of
from everlearn.method import Card
from everlearn.methods.frozen import Frozen


@dataclass
class NCM(Frozen):
    """score_k(x) = -|h - mu_k|^2, with h the features of x and mu_k the mean of those of class k, all rows alike.

    `metric="cosine"` scales h and mu_k to length 1 first, which orders the classes by the cosines of the angles
    (SimpleCIL).
    """

    card: ClassVar[Card] = Card(
        "frozen features",
        "none a step; at an end 1 forward over its rows",
        "a mean for each class",
        alone=True,
    )

    metric: Literal["euclidean", "cosine"] = "euclidean"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("metric", self.metric, ("euclidean", "cosine"))

    def scores(self, h: Tensor, *solution: Tensor) -> Tensor:
        """The negative squared distances."""
        (mean,) = solution
        if self.metric == "cosine":
            h, mean = F.normalize(h), F.normalize(mean)
        return 2 * h @ mean.T - mean.square().sum(1) - h.square().sum(1, keepdim=True)
