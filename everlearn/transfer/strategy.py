"""Which strategy to begin with: a table of rules, each with its reason and where that comes from.

It is no model of anything: the first rule that holds is proposed, and says why, so that a person can disagree.
"""

from collections.abc import Callable
from dataclasses import dataclass

FEW, MANY = 10, 100
"""Rows per class up to which a probe, and from which plain fine-tuning is proposed."""

LARGE = 300_000_000
"""Parameters from which all of them are too many to move."""


@dataclass(frozen=True)
class Case:
    """What is known before anything is learned."""

    rows_per_class: float
    """Labelled rows of the target, on average; 0 where there are none."""
    classes: int
    parameters: int
    labelled: bool = True
    """Whether the rows of the target have labels."""
    source: bool = False
    """Whether labelled rows of the source can be learned beside the target."""
    out_of_distribution: bool = False
    """Whether rows unlike the training rows will be asked about."""
    styles_differ: bool = False
    """Whether source and target look different throughout, as photographs and drawings do."""
    pretrained: bool = True
    regression: bool = False
    """Whether numbers are to be predicted: there are no classes then."""


@dataclass(frozen=True)
class Proposal:
    """A strategy, as `everlearn learn --strategy` knows it, and the method that goes with it ("" for none)."""

    strategy: str
    method: str
    reason: str
    source: str

    @property
    def name(self) -> str:
        """The strategy with its method, as it is typed."""
        return "+".join(dict.fromkeys(text for text in (self.strategy, self.method) if text))

    def to_json(self) -> dict[str, str]:
        """As plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Rule:
    """A proposal, and when it is made."""

    when: str
    holds: Callable[[Case], bool]
    proposal: Proposal


RULES = (
    Rule(
        "no weights, labelled target",
        lambda case: not case.pretrained and case.labelled,
        Proposal(
            "scratch", "", "there are no pretrained weights, so there is nothing to keep: all of them learn",
            "by definition",
        ),
    ),
    Rule(
        "unlabelled target, labelled source, styles that differ",
        lambda case: not case.labelled and case.source and case.styles_differ,
        Proposal(
            "cdan", "cdan",
            "where styles differ, first answers on the target are poor, and what builds on them is weak: from SVHN "
            "to MNIST, MCC reaches 76.6 %, CDAN 93.8 %; so align features and answers by an adversary, and watch for "
            "negative transfer by `select(..., control=...)`",
            "Long et al. 2018, arXiv:1705.10667; digits table of TLlib",
        ),
    ),
    Rule(
        "unlabelled target, labelled source",
        lambda case: not case.labelled and case.source,
        Proposal(
            "mcc", "mcc",
            "least class confusion needs no discriminator and is best or tied on Office-31, Office-Home and VisDA; "
            "cdan for large differences of style, coral where time is short. A stronger base helps more than any of "
            "them: try that first",
            "Jin et al. 2020, arXiv:1912.03699; benchmark of TLlib",
        ),
    ),
    Rule(
        "unlabelled target, no source",
        lambda case: not case.labelled,
        Proposal(
            "adabn", "adabn",
            "without source rows, new statistics of the batch norms are the step that cannot collapse; then eata or "
            "sar, which keep to reliable rows. Never tent on batches below 16 rows",
            "Li et al. 2016, arXiv:1603.04779; Niu et al. 2022, arXiv:2204.02610",
        ),
    ),
    Rule(
        f"more than {LARGE // 1_000_000} million parameters",
        lambda case: case.parameters > LARGE,
        Proposal(
            "lora", "lora", "so many parameters, their gradients and moments need memory four times over: learn "
            "low-rank changes beside them",
            "Hu et al. 2021, arXiv:2106.09685",
        ),
    ),
    Rule(
        "numbers to be predicted, not classes",
        lambda case: case.regression,
        Proposal(
            "finetune", "", "a probe solves for classes, and there are none: all weights move, the head at ten times "
            "the rate of the body",
            "by definition",
        ),
    ),
    Rule(
        f"up to {FEW} rows per class",
        lambda case: case.rows_per_class <= FEW,
        Proposal(
            "probe", "", "so few rows move a body more at random than to the purpose: learn a head on features as "
            "they are",
            "Kumar et al. 2022, arXiv:2202.10054; measured: ants and bees, 5 and 10 a class",
        ),
    ),
    Rule(
        "rows unlike the training rows matter",
        lambda case: case.out_of_distribution,
        Proposal(
            "lpft", "", "fine-tuning distorts features where no training row is: over ten shifts it is 7 points below "
            "a probe there, and a probe first is 10 points above it; then average with the weights before (WiSE-FT), "
            "by validation",
            "Kumar et al. 2022, arXiv:2202.10054; Wortsman et al. 2021, arXiv:2109.01903",
        ),
    ),
    Rule(
        f"{FEW} to {MANY} rows per class",
        lambda case: case.rows_per_class <= MANY,
        Proposal(
            "lpft", "l2sp", "few rows: train the head first, so that the body is not distorted by a head that knows "
            "nothing, and pull the weights to where they began; regularised transfer gains 4 to 8 points at 15 % of "
            "the rows of three benchmarks, and 0 to 3 at all of them. Where batches are small, settle the batch norms "
            "(lpft:settled=true): at 20 photographs a class that made 85 %, without 78 %, a probe 82 %",
            "Kumar et al. 2022, arXiv:2202.10054; Li et al. 2018, arXiv:1802.01483; benchmark of TLlib",
        ),
    ),
    Rule(
        f"more than {MANY} rows per class",
        lambda _: True,
        Proposal(
            "finetune", "", "enough rows for all weights to move, the head at ten times the rate of the body",
            "benchmark of TLlib; Long et al. 2015, arXiv:1502.02791",
        ),
    ),
)  # fmt: skip
"""In order: the first that holds counts."""


def propose(case: Case) -> Proposal:
    """The proposal of the first rule that holds.

    >>> propose(Case(rows_per_class=5, classes=10, parameters=1_000_000)).strategy
    'probe'
    >>> propose(Case(rows_per_class=0, classes=10, parameters=1_000_000, labelled=False, source=True)).strategy
    'mcc'
    """
    if case.classes < 2 and not case.regression:
        raise ValueError(f"a strategy needs at least 2 classes to tell apart, but there are {case.classes}")
    if not case.labelled and not case.source and not case.pretrained:
        raise ValueError(
            "there is nothing to learn from: no weights, no labels, no labelled source; give one of the three"
        )
    return next(rule.proposal for rule in RULES if rule.holds(case))
