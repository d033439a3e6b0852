"""The head start of the newest classes, in two numbers: found on rows that were not learned, and taken back."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS

from everlearn.batch import Batch, move, tensor, unlabeled
from everlearn.models.views import average, bare, evaluating
from everlearn.objective import Objective


def corrected(logits: Tensor, newest: list[int], alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    """The logits, (rows, all classes), with alpha z + beta in the place of z for the newest classes.

    >>> corrected(torch.tensor([[1.0, 2.0, 3.0]]), [2], 0.5, -1.0)
    tensor([[1.0000, 2.0000, 0.5000]])
    """
    ours = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    ours[newest] = True
    return torch.where(ours, alpha * logits + beta, logits)


@torch.no_grad()
def correction(
    model: nn.Module,
    rows: Iterable[Batch],
    objective: Objective,
    learned: list[int],
    newest: list[int],
    *,
    decay: float,
) -> tuple[float, float]:
    """The alpha and beta of `balance` for what the model says about `rows`, in eval mode, of the classes learned.

    Of several processes, all get the mean of theirs.
    """
    device = next(bare(model).parameters()).device
    logits, labels = [torch.empty(0, len(learned))], [torch.empty(0, dtype=torch.int64)]
    with evaluating(model):
        for batch in rows:
            logits.append(objective(model, move(unlabeled(batch), device)).logits[:, learned].float().cpu())
            labels.append(tensor(batch, "y").cpu())
    y, known = torch.cat(labels), torch.tensor(learned)
    asked = torch.isin(y, known)  # the memory may have rows without a label, or from elsewhere
    places = torch.searchsorted(known, y[asked])
    pair = balance(torch.cat(logits)[asked], places, [learned.index(c) for c in newest], decay).to(device)
    average([pair])
    alpha, beta = pair.tolist()
    return alpha, beta


@torch.enable_grad()
def balance(logits: Tensor, y: Tensor, newest: list[int], decay: float) -> Tensor:
    """The (alpha, beta), float64, that minimises CE(corrected logits, y) + decay / 2 * ((alpha - 1)^2 + beta^2).

    In the cross-entropy each class counts alike, however many of the rows are of it. The problem is convex, and has one
    solution if the decay is not zero. Without rows of the newest classes, or of others, nothing can be compared: then
    it is (1, 0). The logits are (rows, classes), the labels `y` (rows,).
    """
    z, none = logits.detach().double(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    ours = torch.isin(y, torch.tensor(newest, dtype=torch.int64))
    if not ours.any() or ours.all():
        return none
    counts = y.bincount(minlength=z.shape[1])
    weight = (1 / counts.clamp(min=1)).double()  # those of all rows sum up to the number of classes: CE divides by it
    pair = none.clone().requires_grad_()
    lbfgs = LBFGS([pair], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def value() -> Tensor:
        pair.grad = None
        loss = F.cross_entropy(corrected(z, newest, *pair), y, weight) + decay / 2 * (pair - none).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    lbfgs.step(value)  # type: ignore[no-untyped-call]
    return pair.detach()
