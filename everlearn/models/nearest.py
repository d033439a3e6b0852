"""The nearest of the class means, where the means are those of rows at hand and the features change."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Rows
from everlearn.models.body import looked
from everlearn.models.statistics import Solution
from everlearn.objective import Objective


def class_means(model: nn.Module, rows: Rows, objective: Objective, classes: int, head: str | None = None) -> Solution:
    """mu, (classes, width) float32, of length 1, and which classes there are, (classes,) bool.

    mu_c is the direction of the mean of phi over the rows of c, and phi is what goes into the layer named `head`, or
    into the last linear one, of length 1, in eval mode.
    """
    phi, y = map(torch.cat, zip(*looked(model, rows, torch.arange(len(rows)), objective, head), strict=True))
    with torch.autocast(phi.device.type, enabled=False):
        hot = F.one_hot(y, classes).to(torch.float32)
        return F.normalize(hot.T @ F.normalize(phi.float())), hot.any(0)


def nearness(phi: Tensor, means: Tensor, there: Tensor) -> Tensor:
    """- || phi / |phi| - mu_c ||^2, (rows, classes) float32; -inf for classes that there are not."""
    phi = F.normalize(phi.float())
    # Not by way of products: with those, the answer for a row would depend, in its last bits, on the other rows.
    away = torch.cdist(phi, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    return (-away).masked_fill(~there, -torch.inf)
