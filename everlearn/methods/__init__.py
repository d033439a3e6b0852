"""One file, one method."""

from everlearn.method import Method
from everlearn.methods.adabn import AdaBN
from everlearn.methods.adda import ADDA
from everlearn.methods.afn import AFN
from everlearn.methods.agem import AGEM
from everlearn.methods.autorgn import AutoRGN
from everlearn.methods.bic import BiC
from everlearn.methods.bsp import BSP
from everlearn.methods.bss import BSS
from everlearn.methods.cdan import CDAN
from everlearn.methods.coda import CODA
from everlearn.methods.coral import CORAL
from everlearn.methods.cotta import CoTTA
from everlearn.methods.cotuning import CoTuning
from everlearn.methods.cwr import CWR
from everlearn.methods.dan import DAN
from everlearn.methods.dann import DANN
from everlearn.methods.delta import DELTA
from everlearn.methods.der import DER
from everlearn.methods.derpp import DERpp
from everlearn.methods.dgr import DGR
from everlearn.methods.eata import EATA
from everlearn.methods.erace import ERACE
from everlearn.methods.ewc import EWC
from everlearn.methods.featdistill import FeatDistill
from everlearn.methods.fecam import FeCAM
from everlearn.methods.fixmatch import FixMatch
from everlearn.methods.freeze import Freeze
from everlearn.methods.gdumb import GDumb
from everlearn.methods.gem import GEM
from everlearn.methods.gpm import GPM
from everlearn.methods.growth import GrowHead
from everlearn.methods.gss import GSS
from everlearn.methods.hat import HAT
from everlearn.methods.hedge import Hedge
from everlearn.methods.icarl import ICaRL
from everlearn.methods.independent import Independent
from everlearn.methods.inflora import InfLoRA
from everlearn.methods.jan import JAN
from everlearn.methods.l2 import L2
from everlearn.methods.l2p import L2P
from everlearn.methods.l2sp import L2SP
from everlearn.methods.logitadj import LogitAdjust
from everlearn.methods.lora import LoRA
from everlearn.methods.lpft import LPFT
from everlearn.methods.lwf import LwF
from everlearn.methods.lwfmc import LwFMC
from everlearn.methods.mas import MAS
from everlearn.methods.mcc import MCC
from everlearn.methods.mcd import MCD
from everlearn.methods.mdd import MDD
from everlearn.methods.mir import MIR
from everlearn.methods.naive import Naive
from everlearn.methods.ncm import NCM
from everlearn.methods.ogd import OGD
from everlearn.methods.olora import OLoRA
from everlearn.methods.packnet import PackNet
from everlearn.methods.pnn import PNN
from everlearn.methods.probe import Probe
from everlearn.methods.ranpac import RanPAC
from everlearn.methods.replay import Replay
from everlearn.methods.ridge import Ridge
from everlearn.methods.rwalk import RWalk
from everlearn.methods.sar import SAR
from everlearn.methods.scr import SCR
from everlearn.methods.si import SI
from everlearn.methods.slda import SLDA
from everlearn.methods.stochnorm import StochNorm
from everlearn.methods.tent import TENT
from everlearn.methods.thaw import Thaw
from everlearn.methods.wdgrl import WDGRL

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
    "logitadj": LogitAdjust,
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
    "hedge": Hedge,
    "independent": Independent,
    "lora": LoRA,
    "olora": OLoRA,
    "inflora": InfLoRA,
    "l2p": L2P,
    "coda": CODA,
    "probe": Probe,
    "lpft": LPFT,
    "thaw": Thaw,
    "autorgn": AutoRGN,
    "l2sp": L2SP,
    "delta": DELTA,
    "bss": BSS,
    "stochnorm": StochNorm,
    "cotuning": CoTuning,
    "freeze": Freeze,
    "dann": DANN,
    "cdan": CDAN,
    "adda": ADDA,
    "mcd": MCD,
    "mdd": MDD,
    "wdgrl": WDGRL,
    "bsp": BSP,
    "adabn": AdaBN,
    "tent": TENT,
    "eata": EATA,
    "sar": SAR,
    "cotta": CoTTA,
    "grow": GrowHead,
    "afn": AFN,
    "coral": CORAL,
    "dan": DAN,
    "fixmatch": FixMatch,
    "jan": JAN,
    "mcc": MCC,
}
"""The methods by the names they have on the command line."""

__all__ = [
    "ADDA",
    "AFN",
    "AGEM",
    "BSP",
    "BSS",
    "CDAN",
    "CODA",
    "CORAL",
    "CWR",
    "DAN",
    "DANN",
    "DELTA",
    "DER",
    "DGR",
    "EATA",
    "ERACE",
    "EWC",
    "GEM",
    "GPM",
    "GSS",
    "HAT",
    "JAN",
    "L2",
    "L2P",
    "L2SP",
    "LPFT",
    "MAS",
    "MCC",
    "MCD",
    "MDD",
    "METHODS",
    "MIR",
    "NCM",
    "OGD",
    "PNN",
    "SAR",
    "SCR",
    "SI",
    "SLDA",
    "TENT",
    "WDGRL",
    "AdaBN",
    "AutoRGN",
    "BiC",
    "CoTTA",
    "CoTuning",
    "DERpp",
    "FeCAM",
    "FeatDistill",
    "FixMatch",
    "Freeze",
    "GDumb",
    "GrowHead",
    "Hedge",
    "ICaRL",
    "Independent",
    "InfLoRA",
    "LoRA",
    "LogitAdjust",
    "LwF",
    "LwFMC",
    "Naive",
    "OLoRA",
    "PackNet",
    "Probe",
    "RWalk",
    "RanPAC",
    "Replay",
    "Ridge",
    "StochNorm",
    "Thaw",
]
