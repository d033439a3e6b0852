"""The readings of a prequential evaluation by name: so that every number that is printed can say what it means."""

# ruff: noqa: RUF001 (a minus sign and alpha are meant)

from dataclasses import replace

from everlearn.metrics.catalogue import Reading

_GAMA = "Gama et al., Machine Learning 2013 (On evaluating stream learning algorithms)"
_COHEN = "Cohen, 1960"
_BIFET = "Bifet et al., KDD 2015"
_ZLIOBAITE = "Žliobaitė et al., Machine Learning 2015"
_MURPHY = "Murphy, 1988"


def _reading(name: str, text: str, equation: str, source: str, *, level: bool = True) -> Reading:
    return Reading(name, text, equation, source, level=level, compute=None)


DEFINITIONS: dict[str, Reading] = {
    "rows": _reading("rows", "The rows whose label has come.", "n", _GAMA),
    "accuracy": _reading(
        "prequential accuracy",
        "The share of rows whose class was answered rightly before it was learned.",
        "1/n · Σ_i [ŷ_i = y_i]",
        _GAMA,
    ),
    "windowed": _reading("windowed accuracy", "The same over the last w rows.", "1/w · Σ_{i>n−w} [ŷ_i = y_i]", _GAMA),
    "fading": _reading(
        "fading accuracy",
        "The same with each row counting α times as much as the one after it.",
        "S_n / N_n,  S_n = [ŷ_n = y_n] + α S_{n−1},  N_n = 1 + α N_{n−1}",
        _GAMA,
    ),
    "no_change": _reading(
        "accuracy of no-change",
        "The share of rows whose class is that of the row before; the first row counts as wrong.",
        "1/n · Σ_{i>1} [y_{i−1} = y_i]",
        _ZLIOBAITE,
    ),
    "majority": _reading(
        "accuracy of the majority",
        "The share of rows whose class is the one that most of the rows before have; the first row counts as wrong.",
        "1/n · Σ_{i>1} [mode(y_1 … y_{i−1}) = y_i]",
        _BIFET,
    ),
    "kappa": _reading(
        "kappa",
        "How much of what chance leaves is answered rightly, chance giving the same answers as often, at random.",
        "(p − p_e) / (1 − p_e),  p_e = Σ_k n_k m_k / n²",
        _COHEN,
        level=False,
    ),
    "kappa_m": _reading(
        "kappa-M",
        "How much of what the majority class leaves is answered rightly. Negative where the majority is better.",
        "(p − p_m) / (1 − p_m)",
        _BIFET,
        level=False,
    ),
    "kappa_t": _reading(
        "kappa-T",
        "How much of what no-change leaves is answered rightly. Negative where saying the last class is better.",
        "(p − p_t) / (1 − p_t)",
        _ZLIOBAITE,
        level=False,
    ),
    "recall": _reading(
        "recall of a class", "The share of rows of a class that were answered rightly.", "n_kk / n_k", _GAMA
    ),
    "worst_recall": _reading("worst recall", "The lowest recall of a class.", "min_k n_kk / n_k", _GAMA),
    "accuracy_low": _reading(
        "accuracy, lower end",
        "The lower end of the 95 % interval of Wilson, for rows that are independent.",
        "( p + z²/2n − z √( p(1−p)/n + z²/4n² ) ) / ( 1 + z²/n )",
        "Wilson, 1927",
    ),
    "accuracy_block_low": _reading(
        "accuracy, lower end by blocks",
        "The lower end of the 95 % interval by the means of B blocks of consecutive rows, for blocks that are "
        "independent.",
        "p − t_{B−1} · s(block means) / √B",
        "batch means; Alexopoulos and Seila, 2001",
    ),
    "mae": _reading("mean absolute error", "The mean of what answers were off.", "1/n · Σ_i |ŷ_i − y_i|", _GAMA),
    "rmse": _reading(
        "root mean squared error", "The root of the mean of squared errors.", "√( 1/n · Σ_i (ŷ_i − y_i)² )", _GAMA
    ),
    "r2": _reading(
        "R²",
        "How much of the variance about the mean of all rows, which nobody knew before, the answers explain.",
        "1 − Σ_i (ŷ_i − y_i)² / Σ_i (y_i − ȳ)²",
        _MURPHY,
        level=False,
    ),
    "no_change_mae": _reading(
        "mean absolute error of no-change",
        "That of the value before, from the second row on.",
        "1/(n−1) · Σ_{i>1} |y_{i−1} − y_i|",
        _MURPHY,
    ),
    "running_mean_mae": _reading(
        "mean absolute error of the running mean",
        "That of the mean of all values before, from the second row on.",
        "1/(n−1) · Σ_{i>1} |ȳ_{i−1} − y_i|",
        _MURPHY,
    ),
    "skill_no_change": _reading(
        "skill over no-change",
        "How much of the squared error of saying the value before is avoided, from the second row on. Negative where "
        "that is better.",
        "1 − Σ_{i>1} (ŷ_i − y_i)² / Σ_{i>1} (y_{i−1} − y_i)²",
        _MURPHY,
        level=False,
    ),
    "skill_running_mean": _reading(
        "skill over the running mean",
        "How much of the squared error of saying the mean of all values before is avoided, from the second row on.",
        "1 − Σ_{i>1} (ŷ_i − y_i)² / Σ_{i>1} (ȳ_{i−1} − y_i)²",
        _MURPHY,
        level=False,
    ),
}
"""The readings by id; further ones are variants of these: see `definition`."""


def definition(name: str) -> Reading:
    """What a reading of `Prequential` means: also of the variants `windowed_...`, `fading_...`, `..._high`.

    >>> definition("windowed_kappa_t").name
    'kappa-T, windowed'
    """
    if name in DEFINITIONS:
        return DEFINITIONS[name]
    if name.startswith("recall["):
        return DEFINITIONS["recall"]
    for prefix, said, text in (
        ("windowed_", "windowed", "Over the last w rows."),
        ("fading_", "fading", "Each row counts α times as much as the one after it."),
    ):
        if name.startswith(prefix):
            whole = definition(name.removeprefix(prefix))
            return replace(whole, name=f"{whole.name}, {said}", definition=f"{whole.definition} {text}")
    for here, there, old, new in (
        ("_high", "_low", "lower end", "upper end"),
        ("_rmse", "_mae", "mean absolute error", "root mean squared error"),
        ("mae_block", "accuracy_block", "accuracy", "mean absolute error"),
    ):
        if here in name:
            other = definition(name.replace(here, there))
            text = other.definition.replace(old, new)
            return replace(other, name=other.name.replace(old, new), definition=text, equation=other.equation)
    raise ValueError(f"there is no reading {name!r}; there are {', '.join(DEFINITIONS)}, and variants of them")
