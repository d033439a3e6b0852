"""The readings by name: so that every number that is printed can say what it means."""

# ruff: noqa: RUF001 (a minus sign is meant)

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from everlearn.metrics import anytime, readings
from everlearn.metrics.readings import NotMeasuredError
from everlearn.metrics.scores import Moments, Scores


class Measured(NamedTuple):
    """All that a reading may look at: R (T, T), its counts (T, T), the baseline (T,), the moments."""

    R: Tensor
    counts: Tensor
    baseline: Tensor
    moments: Moments


@dataclass(frozen=True)
class Reading:
    """A number with a definition: its name, a sentence, an equation, where it comes from, how it is computed.

    `level` tells an accuracy from a difference of accuracies. `compute` is None where a reading needs more
    than the scores of one run.
    """

    name: str
    definition: str
    equation: str
    source: str
    level: bool
    compute: Callable[[Measured], float] | None


GEM = "Lopez-Paz and Ranzato, NeurIPS 2017 (GEM)"
RWALK = "Chaudhry et al., ECCV 2018 (RWalk)"
ICARL = "Rebuffi et al., CVPR 2017 (iCaRL)"
DIAZ = "Díaz-Rodríguez et al., 2018 (Don't forget, there is more than forgetting)"
GAP = "De Lange et al., ICLR 2023 (the stability gap)"

READINGS: dict[str, Reading] = {
    "average_accuracy": Reading(
        "average accuracy",
        "The accuracy after the last experience, averaged over all experiences, each counting the same.",
        "1/T · Σ_j R[T−1, j]",
        GEM + ", ACC",
        level=True,
        compute=lambda m: readings.average_accuracy(m.R),
    ),
    "average_accuracy_pooled": Reading(
        "average accuracy, pooled",
        "The accuracy after the last experience on the test rows of all experiences together.",
        "Σ_j n_j R[T−1, j] / Σ_j n_j",
        "class-incremental papers since " + ICARL,
        level=True,
        compute=lambda m: readings.average_accuracy(m.R, m.counts, pooled=True),
    ),
    "average_incremental_accuracy": Reading(
        "average incremental accuracy",
        "The mean over all stages of the average accuracy on the experiences seen so far.",
        "1/T · Σ_k A_k,  A_k = 1/(k+1) · Σ_{j≤k} R[k, j]",
        ICARL + ", with a mean over experiences",
        level=True,
        compute=lambda m: readings.average_incremental_accuracy(m.R),
    ),
    "average_incremental_accuracy_pooled": Reading(
        "average incremental accuracy, pooled",
        "The mean over all stages of the accuracy on all test rows seen so far.",
        "1/T · Σ_k A_k,  A_k = Σ_{j≤k} n_j R[k, j] / Σ_{j≤k} n_j",
        ICARL,
        level=True,
        compute=lambda m: readings.average_incremental_accuracy(m.R, m.counts, pooled=True),
    ),
    "average_incremental_accuracy_without_first": Reading(
        "average incremental accuracy, without the first stage",
        "The same mean, pooled, over the stages after the first.",
        "1/(T−1) · Σ_{k≥1} A_k",
        "some papers after " + ICARL,
        level=True,
        compute=lambda m: readings.average_incremental_accuracy(m.R, m.counts, pooled=True, include_first=False),
    ),
    "learning_accuracy": Reading(
        "learning accuracy",
        "The accuracy on each experience right after it was learned, averaged over experiences.",
        "1/T · Σ_j R[j, j]",
        "Riemer et al., ICLR 2019 (MER)",
        level=True,
        compute=lambda m: readings.learning_accuracy(m.R),
    ),
    "forgetting": Reading(
        "forgetting",
        "The best accuracy on an experience before the last stage minus its accuracy now, averaged over the "
        "experiences before the last. Negative where they improved.",
        "1/(T−1) · Σ_{j<T−1} ( max_{j≤l<T−1} R[l, j] − R[T−1, j] )",
        RWALK,
        level=False,
        compute=lambda m: readings.forgetting(m.R),
    ),
    "forgetting_from_first": Reading(
        "forgetting, from the first value",
        "The accuracy on an experience right after it was learned minus its accuracy now, averaged over the "
        "experiences before the last.",
        "1/(T−1) · Σ_{j<T−1} ( R[j, j] − R[T−1, j] )",
        "Avalanche",
        level=False,
        compute=lambda m: readings.forgetting(m.R, reference="first"),
    ),
    "forgetting_with_last_row": Reading(
        "forgetting, never negative",
        "The best accuracy on an experience at any stage, the last included, minus its accuracy now, "
        "averaged over the experiences before the last.",
        "1/(T−1) · Σ_{j<T−1} ( max_{j≤l≤T−1} R[l, j] − R[T−1, j] )",
        "Mammoth, PyCIL",
        level=False,
        compute=lambda m: readings.forgetting(m.R, include_last_row=True),
    ),
    "forgetting_over_all": Reading(
        "forgetting, over all experiences",
        "The best accuracy on an experience at any stage minus its accuracy now, averaged over all "
        "experiences; the last one adds 0.",
        "1/T · Σ_j ( max_{j≤l≤T−1} R[l, j] − R[T−1, j] )",
        "Mai et al., Neurocomputing 2022 (survey of online continual learning)",
        level=False,
        compute=lambda m: readings.forgetting(m.R, include_last_row=True, include_last_experience=True),
    ),
    "backward_transfer": Reading(
        "backward transfer",
        "How the accuracy on an experience changed from right after it was learned until now, averaged over "
        "the experiences before the last. Negative where they were forgotten.",
        "1/(T−1) · Σ_{j<T−1} ( R[T−1, j] − R[j, j] )",
        GEM + ", BWT",
        level=False,
        compute=lambda m: readings.backward_transfer(m.R),
    ),
    "backward_transfer_mean": Reading(
        "backward transfer, over all stages",
        "The same change, averaged over all later stages and not read at the last alone.",
        "2/(T(T−1)) · Σ_{i>j} ( R[i, j] − R[j, j] )",
        DIAZ,
        level=False,
        compute=lambda m: readings.backward_transfer_mean(m.R),
    ),
    "forward_transfer": Reading(
        "forward transfer",
        "The accuracy on an experience just before it is learned minus that before the first experience.",
        "1/(T−1) · Σ_{j≥1} ( R[j−1, j] − b_j )",
        GEM + ", FWT",
        level=False,
        compute=lambda m: readings.forward_transfer(m.R, m.baseline),
    ),
    "forward_transfer_mean": Reading(
        "forward transfer, without a baseline",
        "The accuracy on experiences that are yet to come, averaged over all stages.",
        "2/(T(T−1)) · Σ_{i<j} R[i, j]",
        DIAZ,
        level=True,
        compute=lambda m: readings.forward_transfer_mean(m.R),
    ),
    "intransigence": Reading(
        "intransigence",
        "The accuracy on the last experience of a model trained on all data, minus that of this one.",
        "J_{T−1} − R[T−1, T−1]",
        RWALK,
        level=False,
        compute=None,
    ),
    "average_anytime_accuracy": Reading(
        "average anytime accuracy",
        "The mean over all evaluations, those in the middle of an experience included, of the average "
        "accuracy on the experiences seen so far.",
        "1/N · Σ_n 1/k_n · Σ_{j<k_n} A(j, n)",
        "Caccia et al., NeurIPS 2020 (AAA)",
        level=True,
        compute=lambda m: anytime.average_anytime_accuracy(m.moments),
    ),
    "minimum_accuracy": Reading(
        "minimum accuracy",
        "The lowest accuracy that an experience fell to after it was learned, averaged over the experiences "
        "before the last.",
        "1/(T−1) · Σ_{j<T−1} min_{n after j} A(j, n)",
        GAP + ", min-ACC",
        level=True,
        compute=lambda m: anytime.minimum_accuracy(m.moments),
    ),
    "worst_case_accuracy": Reading(
        "worst-case accuracy",
        "The accuracy on the last experience, averaged with the lowest accuracies of the earlier ones.",
        "1/T · A(T−1, N−1) + (1 − 1/T) · min-ACC",
        GAP + ", WC-ACC",
        level=True,
        compute=lambda m: anytime.worst_case_accuracy(m.moments),
    ),
    "windowed_forgetting": Reading(
        "windowed forgetting",
        "The largest fall of accuracy within 10 evaluations in a row, averaged over experiences.",
        "1/T · Σ_j max_{m<n<m+10} ( A(j, m) − A(j, n) )⁺",
        GAP + ", WF",
        level=False,
        compute=lambda m: anytime.windowed_forgetting(m.moments),
    ),
    "windowed_plasticity": Reading(
        "windowed plasticity",
        "The largest rise of accuracy within 10 evaluations in a row, averaged over experiences.",
        "1/T · Σ_j max_{m<n<m+10} ( A(j, n) − A(j, m) )⁺",
        GAP + ", WP",
        level=False,
        compute=lambda m: anytime.windowed_plasticity(m.moments),
    ),
}


def read(scores: Scores) -> tuple[dict[str, float], dict[str, str]]:
    """All readings that the scores allow, by id; and for each other reading, the reason why there is none.

    For scores of kind "error", where less is better, what is good is minus the error: so forgetting is the
    rise of the error, and averages are errors again.

    >>> values, missing = read(Scores.of([[0.9, float("nan")], [0.5, 0.8]], counts=100))
    >>> values["forgetting"], missing["forward_transfer"]
    (0.4, 'forward transfer needs the baseline of experiences [1], which was not measured')
    """
    sign = -1.0 if scores.kind == "error" else 1.0
    moments = scores.anytime()
    measured = Measured(
        R=sign * scores.matrix(),
        counts=scores.counts(),
        baseline=sign * scores.baseline,
        moments=moments._replace(values=sign * moments.values),
    )
    values, missing = {}, {}
    for name, reading in READINGS.items():
        if reading.compute is None:
            missing[name] = f"{reading.name} needs a reference beside the scores of this run"
        elif scores.learned == 0:
            missing[name] = f"{reading.name} needs scores after an experience, but there are none"
        else:
            try:
                value = reading.compute(measured)
            except NotMeasuredError as error:
                missing[name] = str(error)
            else:
                values[name] = sign * value if reading.level else value
    return values, missing
