"""Validators: how good an adapted model is, without target labels.

Every validator is a function of plain tensors and gives a number of which more is better. Target labels are read by
one of them alone, "oracle", and every place where its number appears says ORACLE: a method whose strength was chosen
by target labels is not comparable to one whose strength was not (in one rerun of a benchmark, DANN on Amazon to
Webcam reached 89.7 % against 84.9 %).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

DECAYS = (1.0, 0.1, 0.01, 0.001)
"""Weight decays that the discriminator of domains chooses from."""

_ROUNDING = 1e-12
"""How far apart weights are at most, relative to their mean, that differ by rounding alone."""


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of rows whose largest logit is that of their label. On source rows: source validation accuracy.

        A = 1/n Σᵢ [argmax gᵢ = yᵢ]

    Ganin et al. 2016, arXiv:1505.07818, choose so. It sees nothing of the target.

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    _answered(logits, labels)
    return float((logits.argmax(1) == labels).double().mean())


def entropy(target_logits: Tensor) -> float:
    """Minus the mean entropy of the predictions: a model that fits the target is sure.

        E = 1/n Σᵢ Σ_c p_ic log p_ic

    Morerio et al. 2018, arXiv:1711.10288. A model that calls every row the same class is sure, too: see `information`.
    """
    return -float(_entropies(_probabilities(target_logits)).mean())


def information(target_logits: Tensor) -> float:
    """Information maximisation: each prediction is sure, and all together use all classes.

        IM = H( 1/n Σᵢ pᵢ ) − 1/n Σᵢ H(pᵢ)

    The mutual information of row and prediction: Krause et al. 2010; a validator in Musgrave et al. 2022,
    arXiv:2208.07360. It expects target classes to be about equally frequent.
    """
    p = _probabilities(target_logits)
    return float(_entropies(p.mean(0, keepdim=True)).mean() - _entropies(p).mean())


def snd(target_logits: Tensor, temperature: float = 0.05) -> float:
    """Soft neighbourhood density: a row has many neighbours that are predicted as it is.

        P_ij = exp(⟨zᵢ, zⱼ⟩/τ) / Σ_{k≠i} exp(⟨zᵢ, z_k⟩/τ)  for j ≠ i,  z = p/‖p‖₂;   SND = −1/n Σᵢ Σ_j P_ij log P_ij

    Saito et al. 2021, arXiv:2108.10860. A model that calls every row the same class has the largest density of all.
    Departure: a row is no neighbour of itself at all; the authors' code gives it the similarity −1.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature must be above 0, but is {temperature}")
    z = F.normalize(_probabilities(target_logits))
    if len(z) < 2:
        raise ValueError(f"neighbours need at least 2 target rows, but there is {len(z)}")
    total = z.new_zeros(())
    for start in range(0, len(z), 1024):  # some rows of the matrix at a time, which may be large
        rows = torch.arange(start, min(start + 1024, len(z)), device=z.device)
        near = z[rows] @ z.T / temperature
        near[rows - start, rows] = -torch.inf
        total += _entropies(near.softmax(1)).sum()
    return float(total / len(z))


def dev(
    source_logits: Tensor,
    source_labels: Tensor,
    source_features: Tensor,
    target_features: Tensor,
    train_features: Tensor | None = None,
) -> float:
    """Deep embedded validation: minus the risk on the target, estimated on held-out source rows.

        R = 1/n Σᵢ wᵢ lᵢ + η (1/n Σᵢ wᵢ − 1),   η = −Cov(w l, w) / Var(w)

    lᵢ is the cross-entropy of a row, wᵢ its importance (`importance`); η makes the mean of the weights, known to be
    1, a control variate. You et al. 2019, "Towards accurate model selection in deep unsupervised domain adaptation",
    ICML. Departure: the discriminator is logistic regression on the features, where the authors train an MLP.
    """
    _answered(source_logits, source_labels)
    w = importance(source_features if train_features is None else train_features, target_features, source_features)
    return -controlled(w, F.cross_entropy(source_logits.double(), source_labels, reduction="none"))


def controlled(weights: Tensor, losses: Tensor) -> float:
    """The weighted mean of the losses with a control variate: the risk R of `dev`.

    >>> controlled(torch.ones(2), torch.tensor([1.0, 3.0]))
    2.0
    """
    w, weighted = weights.double(), weights.double() * losses.double()
    if w.shape != losses.shape or len(w) < 2:
        raise ValueError(
            f"a risk needs one weight for each of at least 2 losses, but there are {len(w)} and {len(losses)}"
        )
    variance = w.var()
    if float(variance) <= (_ROUNDING * float(w.mean())) ** 2:  # they are equal but for rounding: nothing to control
        return float(weighted.mean())
    eta = -((weighted - weighted.mean()) * (w - w.mean())).sum() / (len(w) - 1) / variance
    return float(weighted.mean() + eta * (w.mean() - 1))


def importance(source: Tensor, target: Tensor, at: Tensor) -> Tensor:
    """How much more frequent the features `at` are in the target than in the source, float64 (rows,).

        w(x) = (n_s / n_t) · p(target | x) / p(source | x)

    p is logistic regression on standardised features, with the weight decay of `DECAYS` that tells domains apart
    best on held-out rows (each fifth).
    """
    for name, features in (("source", source), ("target", target)):
        if features.ndim != 2 or len(features) < 5 or features.shape[1:] != at.shape[1:]:
            raise ValueError(
                f"importances need (rows, width) features of one width and at least 5 rows a domain, but those of the "
                f"{name} are {tuple(features.shape)}, and they are asked for at {tuple(at.shape)}"
            )
    x = torch.cat([source, target]).detach().double()
    mean, scale = x.mean(0), x.std(0)
    scale = torch.where(scale > 0, scale, 1)
    x = (x - mean) / scale
    d = torch.cat([x.new_zeros(len(source)), x.new_ones(len(target))])
    held = torch.cat([torch.arange(len(part), device=x.device) for part in (source, target)]) % 5 == 0

    def loss(decay: float) -> float:
        weight = _logistic(x[~held], d[~held], decay)
        return float(F.binary_cross_entropy_with_logits(x[held] @ weight[1:] + weight[0], d[held]))

    weight = _logistic(x, d, min(DECAYS, key=loss))
    logit = (at.detach().double() - mean) / scale @ weight[1:] + weight[0]
    return len(source) / len(target) * logit.exp()


def _logistic(x: Tensor, d: Tensor, decay: float) -> Tensor:
    """The intercept and the weights, which minimise the mean cross-entropy + decay/2 ‖w‖²."""
    weight = torch.zeros(x.shape[1] + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def closure() -> Tensor:
        solver.zero_grad()
        fit = F.binary_cross_entropy_with_logits(x @ weight[1:] + weight[0], d)
        objective = fit + decay / 2 * weight[1:].square().sum()
        objective.backward()  # type: ignore[no-untyped-call]
        return objective

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach()


def _probabilities(logits: Tensor) -> Tensor:
    """Softmax in float64."""
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise ValueError(
            "logits must have the shape (rows, classes), with some rows and at least 2 classes, or every answer would "
            f"be sure and right; but they have {tuple(logits.shape)}"
        )
    p = logits.detach().double().softmax(1)
    if not bool(p.isfinite().all()):
        row = int((~p.isfinite().all(1)).nonzero()[0])
        raise ValueError(
            f"the logits of row {row} make no probabilities: they hold NaN or +inf; this model has diverged"
        )
    return p


def _entropies(p: Tensor) -> Tensor:
    entropies: Tensor = torch.special.entr(p).sum(1)
    return entropies


def _answered(logits: Tensor, labels: Tensor) -> None:
    """Raises a ValueError unless there is a class position for each row of the logits."""
    _probabilities(logits)
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64, one for each of the {len(logits)} rows, but are {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, but the model answers for the classes 0 to "
            f"{logits.shape[1] - 1}; leave rows without a label out"
        )


VALIDATORS: dict[str, tuple[Callable[..., float], tuple[str, ...], tuple[str, ...]]] = {
    "source": (accuracy, ("source_logits", "source_labels"), ()),
    "entropy": (entropy, ("target_logits",), ()),
    "im": (information, ("target_logits",), ()),
    "snd": (snd, ("target_logits",), ()),
    "dev": (dev, ("source_logits", "source_labels", "source_features", "target_features"), ("train_features",)),
    "oracle": (accuracy, ("target_logits", "target_labels"), ()),
}
"""By name: the function, and which of `Outputs`, in the order of its parameters, it must have and may have."""
