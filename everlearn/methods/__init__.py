"""One file, one method."""

from everlearn.method import Method
from everlearn.methods.der import DER
from everlearn.methods.derpp import DERpp
from everlearn.methods.ewc import EWC
from everlearn.methods.growth import GrowHead
from everlearn.methods.lwf import LwF
from everlearn.methods.naive import Naive
from everlearn.methods.replay import Replay
from everlearn.methods.si import SI

METHODS: dict[str, type[Method]] = {
    "naive": Naive,
    "er": Replay,
    "der": DER,
    "derpp": DERpp,
    "ewc": EWC,
    "si": SI,
    "lwf": LwF,
    "grow": GrowHead,
}
"""The methods by the names they have on the command line."""

__all__ = ["DER", "EWC", "METHODS", "SI", "DERpp", "GrowHead", "LwF", "Naive", "Replay"]
