"""What the numbers say, in words: who wins, who ties, what that costs, and plainly so if what is there is best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from everlearn.backtest.outcome import Outcome
from everlearn.backtest.paired import FEWEST, Difference, difference
from everlearn.metrics import wording

BASELINES = ("no-change", "majority")
"""What is shown beside the policies that were asked for."""


@dataclass(frozen=True)
class Verdict:
    """Outcomes, the best first, and how far each is behind the best."""

    outcomes: tuple[Outcome, ...]
    behind: Mapping[str, Difference]
    """By name: the error of each but the best, less that of the best."""
    regression: bool

    @property
    def best(self) -> Outcome:
        """The one with the smallest error."""
        return self.outcomes[0]

    @property
    def tied(self) -> tuple[Outcome, ...]:
        """The best, and those that the rows do not show to be worse."""
        return tuple(each for each in self.outcomes if each is self.best or not self.behind[each.name].shown)

    @property
    def advised(self) -> Outcome:
        """Of these, the one that learned least; of equals, the one that kept least.

        A few rows by themselves may take longer than many in batches: what another one beats in its errors, and in half
        the time or less, is not advised.
        """
        sound = [each for each in self.tied if not any(_beats(other, each) for other in self.tied)]
        return min(sound, key=lambda each: (each.effort.trained, each.effort.kept, each.error))


def judged(outcomes: Sequence[Outcome], *, regression: bool, seed: int = 0) -> Verdict:
    """Compares the outcomes, row by row."""
    ranked = tuple(sorted(outcomes, key=lambda each: (each.error, each.effort.trained)))
    behind = {each.name: difference(each.errors, ranked[0].errors, seed=seed) for each in ranked[1:]}
    return Verdict(ranked, behind, regression)


def _beats(one: Outcome, other: Outcome) -> bool:
    """Whether one has no more errors, and took half the time or less: by a second at least, as clocks are not exact."""
    saved = other.seconds["learning"] - one.seconds["learning"]
    return one.error <= other.error and saved >= max(1.0, one.seconds["learning"])


def summary(verdict: Verdict) -> str:
    """A few sentences."""
    best, tied, advised = verdict.best, verdict.tied, verdict.advised
    said = [f"{best.name} is best, with {level(best.error, verdict)} over {len(best.errors):,} rows."]
    if others := [each.name for each in tied if each is not best]:
        verb = "is" if len(others) == 1 else "are"
        said.append(f"{listed(others)} {verb} not shown to be worse.")
    if all(each.name in BASELINES for each in tied):
        said.append(f"No model here earns its keep: {advised.name} needs none, and each of them is behind it.")
    elif advised.name in BASELINES:
        said.append(f"No model here is shown to be better than {advised.name}, which needs none.")
    elif not any(each.effort.trained for each in verdict.outcomes):
        said.append("None of these learned anything after the warm-up, so nothing is said of what updates are worth.")
    elif not advised.effort.trained:
        said.append("Updates are not shown to be worth anything on this log: leave the model as it is.")
    else:
        said.append(_advice(verdict))
    if advised is not best and verdict.behind[advised.name].high > 0:
        most = difference_in_words(verdict.behind[advised.name].high, verdict)
        said.append(f"By its interval {advised.name} may be up to {most} worse than {best.name}.")
    return " ".join([*said, *_doubts(verdict)])


def _advice(verdict: Verdict) -> str:
    """What to do where a policy that learns is the one to take, beside the retraining and the standing still."""
    advised = verdict.advised
    retrained = [each for each in verdict.outcomes if each.name.startswith("retrain")]
    if advised in retrained:
        text = f"Keep retraining, by {advised.name} ({_cost(advised)}): nothing that costs less is as good."
    else:
        fewer = [each for each in verdict.tied if each.effort.trained < advised.effort.trained]
        why = "; of these it trains on the fewest rows" if len(verdict.tied) > 1 else ""
        why = f"; {fewer[0].name} trains on fewer rows, but takes longer" if fewer else why
        text = f"Take {advised.name} ({_cost(advised)}{why})."
        if retrained:
            text += f" The best retraining is {retrained[0].name} ({_cost(retrained[0])})."
    never = next((each for each in verdict.outcomes if each.name == "never"), None)
    if never is not None:
        text += f" Without updates it would be {level(never.error, verdict)}."
    return text


def _cost(outcome: Outcome) -> str:
    """What it takes."""
    effort = outcome.effort
    seconds = wording.duration(outcome.seconds["learning"])
    return f"{effort.trained:,} rows trained in {seconds}, {effort.kept:,} kept"


def _doubts(verdict: Verdict) -> list[str]:
    """What the intervals cannot bear."""
    few = [each for each in verdict.behind.values() if each.blocks < FEWEST]
    if not few:
        return []
    return [f"The log is short for such intervals: some rest on fewer than {FEWEST} blocks of rows."]


def level(value: float, verdict: Verdict) -> str:
    """An error in words."""
    return f"a mean absolute error of {value:.4g}" if verdict.regression else f"{100 * value:.1f} % of answers wrong"


def difference_in_words(value: float, verdict: Verdict) -> str:
    """A difference of errors."""
    return f"{value:.3g}" if verdict.regression else f"{100 * value:.1f} points"


def listed(names: Sequence[str]) -> str:
    """Names in a row.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
