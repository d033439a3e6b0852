"""Models: looking at them, changing their heads, loading their weights, and small ones to begin with."""

from everlearn.models.body import features_of, frozen
from everlearn.models.classes import Classes
from everlearn.models.features import tap_input, with_features
from everlearn.models.heads import follow, grow, head_of, resize_like
from everlearn.models.loading import load_weights
from everlearn.models.nets import MLP, MultiHead, Net, ResNet18
from everlearn.models.padded import PaddedLinear, pad
from everlearn.models.reading import read_classes, read_weights
from everlearn.models.report import LoadError, Report
from everlearn.models.saving import save_weights
from everlearn.models.views import (
    Weights,
    average,
    bare,
    evaluating,
    recall,
    snapshot,
    tap,
    trainable,
)

__all__ = [
    "MLP",
    "Classes",
    "LoadError",
    "MultiHead",
    "Net",
    "PaddedLinear",
    "Report",
    "ResNet18",
    "Weights",
    "average",
    "bare",
    "evaluating",
    "features_of",
    "follow",
    "frozen",
    "grow",
    "head_of",
    "load_weights",
    "pad",
    "read_classes",
    "read_weights",
    "recall",
    "resize_like",
    "save_weights",
    "snapshot",
    "tap",
    "tap_input",
    "trainable",
    "with_features",
]
