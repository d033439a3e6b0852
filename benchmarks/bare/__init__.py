"""The loops that a good engineer would write by hand, in plain PyTorch: what ours are measured against.

Nothing here is checked, saved, resumed or composed, and nothing does more than the method needs: tensors in
RAM, one gather a batch, one forward pass over joined rows, no graph for a quadratic, no `.item()`.
"""

from bare.aligned import DANN
from bare.closed import ranpac, slda
from bare.gradients import AGEM, GEM
from bare.loop import Loop, Naive
from bare.online import Online
from bare.replay import MIR, DERpp, ICaRL, Replay
from bare.rows import Reservoir, as_stored, augmented, normalised
from bare.weights import EWC, MAS, EWCGradient, LwF

LOOPS: dict[str, type[Loop]] = {
    "naive": Naive,
    "er": Replay,
    "ewc": EWC,
    "ewc-gradient": EWCGradient,
    "mas": MAS,
    "derpp": DERpp,
    "lwf": LwF,
    "agem": AGEM,
    "gem": GEM,
    "mir": MIR,
    "icarl": ICaRL,
    "dann": DANN,
}

__all__ = ["LOOPS", "Online", "Reservoir", "as_stored", "augmented", "normalised", "ranpac", "slda"]
