"""What was learned and what was lost: raw scores, the named readings of them, and the report."""

from everlearn.metrics.anytime import (
    average_anytime_accuracy,
    minimum_accuracy,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from everlearn.metrics.catalogue import READINGS, Reading, read
from everlearn.metrics.evaluate import Kind, Result, evaluate
from everlearn.metrics.prequential import Prequential, prequential
from everlearn.metrics.readings import (
    NotMeasuredError,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    backward_transfer_mean,
    forgetting,
    forward_transfer,
    forward_transfer_mean,
    intransigence,
    learning_accuracy,
)
from everlearn.metrics.report import Report
from everlearn.metrics.scores import Moments, Score, Scores
from everlearn.metrics.timeline import timeline

__all__ = [
    "READINGS",
    "Kind",
    "Moments",
    "NotMeasuredError",
    "Prequential",
    "Reading",
    "Report",
    "Result",
    "Score",
    "Scores",
    "average_accuracy",
    "average_anytime_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "backward_transfer_mean",
    "evaluate",
    "forgetting",
    "forward_transfer",
    "forward_transfer_mean",
    "intransigence",
    "learning_accuracy",
    "minimum_accuracy",
    "prequential",
    "read",
    "timeline",
    "windowed_forgetting",
    "windowed_plasticity",
    "worst_case_accuracy",
]
