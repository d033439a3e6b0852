"""Which layers of a model have rows for classes, and how these rows lie: classifiers, and torchvision's detectors."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from everlearn.models.heads import head_of
from everlearn.models.views import bare


@runtime_checkable
class Boxes(Protocol):
    """The head of Faster R-CNN: scores and boxes for each class, of which row 0 is the background."""

    cls_score: nn.Linear
    bbox_pred: nn.Linear


@runtime_checkable
class Masks(Protocol):
    """The masks of Mask R-CNN, one for each class."""

    mask_fcn_logits: nn.Conv2d


@runtime_checkable
class Dense(Protocol):
    """The classification of RetinaNet and FCOS: sigmoids for each anchor and class."""

    cls_logits: nn.Conv2d
    num_classes: int
    num_anchors: int


@runtime_checkable
class Scoring(Protocol):
    """The classification of SSD: for each feature map a layer with a softmax for each anchor."""

    module_list: nn.ModuleList
    num_columns: int


@runtime_checkable
class Detecting(Protocol):
    """The head of a one-stage detector."""

    classification_head: nn.Module


@dataclass(frozen=True)
class Part:
    """A layer of which the rows are (anchors, classes, per class): all scores of one anchor, then of the next."""

    name: str
    classes: int
    per_class: int = 1
    prior: float | None = None
    """The probability that a new class begins with (focal loss); its weights are small then, as in RetinaNet."""
    scores: bool = True
    """Whether it scores classes; boxes and masks do not."""
    background: bool = False
    """Whether row 0 may stand for the background."""


def class_parts(model: nn.Module, head: str | None = None) -> list[Part]:
    """The layers that have rows for classes: those of a detector, or the linear layer `head` (None: the last)."""
    modules = dict(bare(model).named_modules())
    parts: list[Part] = []
    for name, module in modules.items() if head is None else ():
        path = f"{name}." if name else ""
        if isinstance(module, Boxes):
            classes = module.cls_score.out_features
            parts.append(Part(f"{path}cls_score", classes, background=True))
            parts.append(Part(f"{path}bbox_pred", classes, 4, scores=False))
        elif isinstance(module, Masks):
            parts.append(Part(f"{path}mask_fcn_logits", module.mask_fcn_logits.out_channels, scores=False))
        elif isinstance(module, Detecting):
            own = module.classification_head
            if isinstance(own, Dense):
                parts.append(
                    Part(f"{path}classification_head.cls_logits", own.num_classes, prior=0.01, background=True)
                )
            elif isinstance(own, Scoring):
                for place, layer in enumerate(own.module_list):
                    last = [n for n, m in layer.named_modules() if isinstance(m, nn.Conv2d)][-1]
                    where = f"{path}classification_head.module_list.{place}.{last}".rstrip(".")
                    parts.append(Part(where, own.num_columns, background=True))
    if parts:
        return parts
    name, layer = head_of(bare(model), head)
    return [Part(name, layer.out_features)]
