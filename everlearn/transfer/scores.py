"""How well the features of a pretrained model suit labelled rows, without training the model: scores and probes.

Each function takes features (rows, width) and labels int64 (rows,), and gives one number of which more is better.
Features are computed once (`everlearn.models.body.features_of`), on the training split, and by each model at its own
input size: with another, the order of models is another. The scores rank models; none of them is an accuracy that
fine-tuning would reach.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Array = np.ndarray[Any, Any]
CAUTION = (
    "Scores rank bases, they do not promise accuracies (over ten ImageNet models and eight data sets, Kendall's τ with "
    "the accuracy of fine-tuning was 0.67): fine-tune the best three, if you can."
)
ROUNDS = 200
"""Rounds of the fixed point, at most. It is reached to 1e-6 in ten or twenty, but on features that say nothing."""


@torch.no_grad()
def logme(features: Tensor, y: Tensor) -> float:
    """The logarithm of the maximum evidence, per row and output, of a Bayesian linear model on the features.

        y = F w + ε,   w ~ N(0, I/α),   ε ~ N(0, I/β),   LogME = 1/(N C) Σ_c max_{α,β} log p(y_c | F, α, β)

    y_c is the indicator of class c; float y (rows,) or (rows, outputs) is regression. With the singular value
    decomposition F = U Σ Vᵀ, x = Uᵀ y and t = α/β, for all outputs at once:

        γ = Σ σ²/(σ²+t),   m² = Σ σ² x²/(σ²+t)²,   r² = Σ x² t²/(σ²+t)² + ‖y‖² − ‖x‖²,   t ← γ r² / (m² (N−γ))
        log p = N/2 log(N / (2πe q)) − ½ Σ log(1 + σ²/t),   q = r² + t m²

    You et al. 2021, arXiv:2102.11005; the fixed point: JMLR 2022, arXiv:2110.10545. Departures: it begins at the best
    of a grid, since with more dimensions than rows there are several maxima (theirs: at 1); it is followed until t
    moves by less than 1e-6 (theirs: 1e-3, at most 11 rounds); the noise is the best one for that t; and the
    determinant has all dimensions, also where there are more of them than rows (their code leaves some out).
    """
    f, targets = features.detach().double(), _targets(features, y)
    rows = len(f)
    u, s, _ = torch.linalg.svd(f, full_matrices=False)
    variances, x = s.square(), (u.T @ targets).square()
    rest = (targets.square().sum(0) - x.sum(0)).clamp_min(0)

    def evidence(t: Tensor) -> Tensor:
        """For each output and each of its t, (tries, outputs)."""
        ratio = t[..., None] / (variances + t[..., None])
        q = (ratio * x.T).sum(-1) + rest
        fit = torch.log(rows / (2 * math.pi * math.e * q.clamp_min(torch.finfo(q.dtype).tiny)))
        value: Tensor = rows / 2 * fit + ratio.log().sum(-1) / 2
        return value

    lowest, highest = 1e-12 * float(variances[0]), 1e12 * float(variances[0])
    tries = torch.logspace(math.log10(lowest), math.log10(highest), 97, dtype=f.dtype, device=f.device)
    values = torch.stack([evidence(t.expand_as(rest)) for t in tries])
    t = tries[values.argmax(0)]
    for _ in range(ROUNDS):
        share, other = variances[:, None] / (variances[:, None] + t), t / (variances[:, None] + t)
        squares = (x * share / (variances[:, None] + t)).sum(0)
        errors = (x * other.square()).sum(0) + rest
        moved = share.sum(0) * errors / (squares * (rows - len(s) + other.sum(0)))
        moved = moved.nan_to_num(highest, highest).clamp(lowest, highest)
        done = bool(((moved - t).abs() <= 1e-6 * t).all())
        t = moved
        if done:
            break
    return float(torch.maximum(evidence(t), values.amax(0)).mean() / rows)


def h_score(features: Tensor, y: Tensor) -> float:
    """The regularised H-score: how much of the variance of the features is between classes.

        H = (1 − λ) tr( Σ_λ⁻¹ Σ_z ),   Σ_λ = (1 − λ) Σ + λ (tr Σ / D) I

    Σ is the covariance of the features, Σ_z that of the class means given to each row, and λ the shrinkage of Ledoit
    and Wolf. Ibrahim et al. 2021, "Newer is not always better", arXiv:2110.06893; without λ it is the H-score of Bao
    et al. 2019, which needs many more rows than dimensions.
    """
    from sklearn.covariance import LedoitWolf  # noqa: PLC0415

    f, labels, _ = _classes(features, y)
    f = f - f.mean(0)
    with _quiet():
        shrunk = LedoitWolf(assume_centered=True).fit(f)
    onehot = np.eye(labels.max() + 1)[labels]
    means = onehot.T @ f / np.sqrt(len(f) * onehot.sum(0)[:, None])  # Σ_z is the sum of their outer products
    covariance = shrunk.covariance_ + 1e-12 * np.trace(shrunk.covariance_) / f.shape[1] * np.eye(f.shape[1])
    return float((1 - shrunk.shrinkage_) * (np.linalg.solve(covariance, means.T) * means.T).sum())


def n_leep(features: Tensor, y: Tensor, *, energy: float = 0.8, per_class: int = 5, seed: int = 0) -> float:
    """LEEP with the clusters of a Gaussian mixture in the place of source classes: any body has them.

        N-LEEP = 1/n Σᵢ log Σ_z P(yᵢ | z) P(z | xᵢ),   P(y | z) = Σ_{i: yᵢ=y} P(z | xᵢ) / Σᵢ P(z | xᵢ)

    P(z | x) are posteriors of a mixture of `per_class` · C components on the principal components that hold `energy`
    of the variance. Li et al. 2021, "Ranking neural checkpoints", arXiv:2011.11200; LEEP: Nguyen et al. 2020,
    arXiv:2002.12462. Departures: diagonal covariances, and at most one component for every five rows.
    """
    from sklearn.decomposition import PCA  # noqa: PLC0415
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415

    f, labels, count = _classes(features, y)
    components = max(1, min(per_class * count, len(f) // 5))
    with _quiet():
        reduced = PCA(energy, svd_solver="full").fit_transform(f)
        reduced = reduced / (reduced.std() or 1)  # the mixture's floor of variances is absolute
        mixture = GaussianMixture(components, covariance_type="diag", reg_covar=1e-3, random_state=seed)
        posteriors = mixture.fit(reduced).predict_proba(reduced)
    return leep(posteriors, labels)


def leep(posteriors: Array, labels: Array) -> float:
    """The mean log of what the labels are expected to be, given the posteriors (rows, clusters) of source classes.

    >>> leep(np.eye(2), np.array([0, 1]))
    0.0
    """
    joint = np.eye(labels.max() + 1)[labels].T @ posteriors
    total = joint.sum(0)
    given = joint / np.where(total > 0, total, 1)
    return float(np.log((posteriors * given[labels]).sum(1)).mean())


def knn(features: Tensor, y: Tensor, *, neighbours: int = 5, folds: int = 5, seed: int = 0) -> float:
    """The accuracy of the nearest neighbours by cosine, each vote weighted by nearness, over stratified folds."""
    from sklearn.neighbors import KNeighborsClassifier  # noqa: PLC0415

    f, labels, _ = _classes(features, y)
    parts = _folds(labels, folds, seed)
    fewest = min(len(train) for train, _ in parts)
    f = F.normalize(torch.from_numpy(f)).numpy()  # on the sphere, the Euclidean order is that of the cosine
    model = KNeighborsClassifier(min(neighbours, fewest), weights="distance")
    return _cross_validated(model, f, labels, parts)


def ridge(features: Tensor, y: Tensor, *, folds: int = 5, seed: int = 0) -> float:
    """The accuracy of a linear probe: ridge regression on standardised features, over stratified folds.

    Within each fold, its strength is chosen among 0.1, 1, ..., 10,000 by leaving out one training row at a time.
    """
    from sklearn.linear_model import RidgeClassifierCV  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    f, labels, _ = _classes(features, y)
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-1, 4, 6)))
    return _cross_validated(model, f, labels, _folds(labels, folds, seed))


SCORES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "logme": logme,
    "h-score": h_score,
    "n-leep": n_leep,
    "knn": knn,
    "ridge": ridge,
}
"""By name; more is better in all."""


def need_sklearn() -> None:
    """Raises an ImportError that says how to install scikit-learn, if it is not there."""
    try:
        import sklearn  # noqa: F401, PLC0415
    except ImportError as error:
        raise ImportError("these scores need scikit-learn: pip install 'everlearn[choose]'") from error


def _targets(features: Tensor, y: Tensor) -> Tensor:
    """What is regressed, float64 (rows, outputs): an indicator for each class that there is, or the numbers."""
    _rows(features, y)
    if not y.is_floating_point():
        present, place = torch.unique(y, return_inverse=True)
        _two(len(present))
        return F.one_hot(place, len(present)).double()
    targets = y.detach().double().reshape(len(y), -1)
    if not bool(targets.isfinite().all()):
        raise ValueError("the numbers to be predicted are not all finite; leave their rows out")
    return targets


def _classes(features: Tensor, y: Tensor) -> tuple[Array, Array, int]:
    """Features (float64) and labels as arrays; classes are counted from 0 without gaps."""
    need_sklearn()
    _rows(features, y)
    if y.is_floating_point() or y.ndim != 1:
        raise TypeError(f"labels must be int64 of shape (rows,), but are {y.dtype} of shape {tuple(y.shape)}")
    present, place = torch.unique(y, return_inverse=True)
    _two(len(present))
    return features.detach().cpu().double().numpy(), place.cpu().numpy(), len(present)


def _rows(features: Tensor, y: Tensor) -> None:
    if features.ndim != 2 or len(features) != len(y) or len(y) < 2:
        raise ValueError(
            f"scores need features (rows, width) and one label for each of at least 2 rows, but the features have the "
            f"shape {tuple(features.shape)}, and there are {len(y)} labels"
        )
    if not bool(features.isfinite().all()):
        row = int((~features.isfinite().all(1)).nonzero()[0])
        raise ValueError(f"the features of row {row} are not finite: the model cannot take this row")
    if torch.equal(features, features[:1].expand_as(features)):
        raise ValueError("all rows have the same features, so no class can be told from another: is this model dead?")


def _two(classes: int) -> None:
    if classes < 2:
        raise ValueError("all rows are of one class, so nothing can be told apart; give rows of at least two")


def _folds(labels: Array, folds: int, seed: int) -> list[tuple[Array, Array]]:
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415

    fewest = int(np.bincount(labels).min())
    if fewest < 2:
        raise ValueError("a probe needs at least 2 rows of each class, one to learn from and one to be asked about")
    cut = StratifiedKFold(min(folds, fewest), shuffle=True, random_state=seed)
    return list(cut.split(labels, labels))


def _cross_validated(model: Any, f: Array, labels: Array, parts: list[tuple[Array, Array]]) -> float:
    """The share of all rows that are right when their fold is asked about."""
    right = 0
    with _quiet():
        for train, test in parts:
            right += int((model.fit(f[train], labels[train]).predict(f[test]) == labels[test]).sum())
    return right / len(labels)


def _quiet() -> AbstractContextManager[Any]:
    """Without the warnings of scikit-learn: that a mixture has not converged, say, is of no weight for a rank."""
    return warnings.catch_warnings(action="ignore")
