"""Transfer: bases to begin with, and what is done with them before and between experiences."""

from everlearn.transfer.bases import Base
from everlearn.transfer.choosing import choose
from everlearn.transfer.freezing import freeze, thaw
from everlearn.transfer.frozen import frozen_report
from everlearn.transfer.merging import greedy_soup, uniform_soup, validated, wise_ft
from everlearn.transfer.opening import open_base
from everlearn.transfer.preprocessing import ImagePreprocessing, TextPreprocessing
from everlearn.transfer.rates import grouped, learner_groups
from everlearn.transfer.selection import Outputs, select
from everlearn.transfer.statistics import recompute_statistics
from everlearn.transfer.sweep import range_test
from everlearn.transfer.testtime import adapt

__all__ = [
    "Base",
    "ImagePreprocessing",
    "Outputs",
    "TextPreprocessing",
    "adapt",
    "choose",
    "freeze",
    "frozen_report",
    "greedy_soup",
    "grouped",
    "learner_groups",
    "open_base",
    "range_test",
    "recompute_statistics",
    "select",
    "thaw",
    "uniform_soup",
    "validated",
    "wise_ft",
]
