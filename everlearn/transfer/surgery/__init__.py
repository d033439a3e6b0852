"""Surgery on trained models: heads by name, wider, deeper, other activations, weights of another architecture."""

from everlearn.transfer.surgery.activations import swap
from everlearn.transfer.surgery.checked import Outcome, SurgeryError
from everlearn.transfer.surgery.deepen import deepen
from everlearn.transfer.surgery.distil import Agreement, Imitate, distil
from everlearn.transfer.surgery.heads import Reclassed, reclass
from everlearn.transfer.surgery.layers import insert, remove, stack
from everlearn.transfer.surgery.parts import Part, class_parts
from everlearn.transfer.surgery.transplant import Transplant, transplant
from everlearn.transfer.surgery.widen import widen

__all__ = [
    "Agreement",
    "Imitate",
    "Outcome",
    "Part",
    "Reclassed",
    "SurgeryError",
    "Transplant",
    "class_parts",
    "deepen",
    "distil",
    "insert",
    "reclass",
    "remove",
    "stack",
    "swap",
    "transplant",
    "widen",
]
