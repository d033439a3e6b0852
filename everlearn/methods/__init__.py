"""One file, one method."""

from everlearn.method import Method
from everlearn.methods.agem import AGEM
from everlearn.methods.bic import BiC
from everlearn.methods.coda import CODA
from everlearn.methods.cwr import CWR
from everlearn.methods.der import DER
from everlearn.methods.derpp import DERpp
from everlearn.methods.dgr import DGR
from everlearn.methods.erace import ERACE
from everlearn.methods.ewc import EWC
from everlearn.methods.featdistill import FeatDistill
from everlearn.methods.fecam import FeCAM
from everlearn.methods.freeze import Freeze
from everlearn.methods.gdumb import GDumb
from everlearn.methods.gem import GEM
from everlearn.methods.gpm import GPM
from everlearn.methods.growth import GrowHead
from everlearn.methods.gss import GSS
from everlearn.methods.hat import HAT
from everlearn.methods.icarl import ICaRL
from everlearn.methods.independent import Independent
from everlearn.methods.inflora import InfLoRA
from everlearn.methods.l2 import L2
from everlearn.methods.l2p import L2P
from everlearn.methods.lora import LoRA
from everlearn.methods.lwf import LwF
from everlearn.methods.lwfmc import LwFMC
from everlearn.methods.mas import MAS
from everlearn.methods.mir import MIR
from everlearn.methods.naive import Naive
from everlearn.methods.ncm import NCM
from everlearn.methods.ogd import OGD
from everlearn.methods.olora import OLoRA
from everlearn.methods.packnet import PackNet
from everlearn.methods.pnn import PNN
from everlearn.methods.ranpac import RanPAC
from everlearn.methods.replay import Replay
from everlearn.methods.ridge import Ridge
from everlearn.methods.rwalk import RWalk
from everlearn.methods.scr import SCR
from everlearn.methods.si import SI
from everlearn.methods.slda import SLDA

METHODS: dict[str, type[Method]] = {
    "naive": Naive,
    "er": Replay,
    "erace": ERACE,
    "mir": MIR,
    "gss": GSS,
    "der": DER,
    "derpp": DERpp,
    "dgr": DGR,
    "ewc": EWC,
    "si": SI,
    "mas": MAS,
    "rwalk": RWalk,
    "l2": L2,
    "lwf": LwF,
    "lwfmc": LwFMC,
    "featdistill": FeatDistill,
    "icarl": ICaRL,
    "bic": BiC,
    "scr": SCR,
    "gdumb": GDumb,
    "agem": AGEM,
    "gem": GEM,
    "ogd": OGD,
    "gpm": GPM,
    "ncm": NCM,
    "slda": SLDA,
    "ridge": Ridge,
    "ranpac": RanPAC,
    "fecam": FeCAM,
    "cwr": CWR,
    "packnet": PackNet,
    "hat": HAT,
    "pnn": PNN,
    "independent": Independent,
    "lora": LoRA,
    "olora": OLoRA,
    "inflora": InfLoRA,
    "l2p": L2P,
    "coda": CODA,
    "freeze": Freeze,
    "grow": GrowHead,
}
"""The methods by the names they have on the command line."""

__all__ = [
    "AGEM",
    "CODA",
    "CWR",
    "DER",
    "DGR",
    "ERACE",
    "EWC",
    "GEM",
    "GPM",
    "GSS",
    "HAT",
    "L2",
    "L2P",
    "MAS",
    "METHODS",
    "MIR",
    "NCM",
    "OGD",
    "PNN",
    "SCR",
    "SI",
    "SLDA",
    "BiC",
    "DERpp",
    "FeCAM",
    "FeatDistill",
    "Freeze",
    "GDumb",
    "GrowHead",
    "ICaRL",
    "Independent",
    "InfLoRA",
    "LoRA",
    "LwF",
    "LwFMC",
    "Naive",
    "OLoRA",
    "PackNet",
    "RWalk",
    "RanPAC",
    "Replay",
    "Ridge",
]
