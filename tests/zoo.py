"""Every method, ready to run on small streams of digits, on three kinds of model."""

from dataclasses import dataclass, field
from functools import cache, partial

import torch
from sklearn.datasets import load_digits
from torch import nn

from everlearn.data import Columns, Subset
from everlearn.data.hashing import Draws
from everlearn.learner import Learner
from everlearn.memory import Balanced, Diverse, LossAware, Memory, Ring
from everlearn.method import Chain
from everlearn.methods import (
    ADDA,
    AFN,
    AGEM,
    BSP,
    BSS,
    CDAN,
    CODA,
    CORAL,
    CWR,
    DAN,
    DANN,
    DELTA,
    DER,
    DGR,
    EATA,
    ERACE,
    EWC,
    GEM,
    GPM,
    GSS,
    HAT,
    JAN,
    L2,
    L2P,
    L2SP,
    LPFT,
    MAS,
    MCC,
    MCD,
    MDD,
    MIR,
    NCM,
    OGD,
    PNN,
    SAR,
    SCR,
    SI,
    SLDA,
    TENT,
    WDGRL,
    AdaBN,
    AutoRGN,
    BiC,
    CoTTA,
    CoTuning,
    DERpp,
    FeatDistill,
    FeCAM,
    FixMatch,
    Freeze,
    GrowHead,
    Hedge,
    ICaRL,
    Independent,
    InfLoRA,
    LogitAdjust,
    LoRA,
    LwF,
    LwFMC,
    Naive,
    OLoRA,
    PackNet,
    Probe,
    RanPAC,
    Replay,
    Ridge,
    RWalk,
    StochNorm,
    Thaw,
)
from everlearn.models import MultiHead
from everlearn.models.exits import Exits
from everlearn.models.heads import head_of
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience, by_class, by_task

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
SGD = partial(torch.optim.SGD, lr=0.02, momentum=0.9)


@cache
def digits() -> tuple[Columns, Columns]:
    """1,400 training and 397 test rows: x float (64,), y int64."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(data.target)[order]
    return Columns(x=x[:1400], y=y[:1400]), Columns(x=x[1400:], y=y[1400:])


@cache
def stream(small: bool = False, rows: int = 400) -> list[Experience]:
    """Two digits each; of `rows` rows in all where it is small."""
    train, test = digits()
    return by_class(Subset(train, torch.arange(rows)) if small else train, test, PAIRS)


@cache
def task_stream(small: bool = False, rows: int = 400) -> list[Experience]:
    """The same, with task labels."""
    train, test = digits()
    return by_task(Subset(train, torch.arange(rows)) if small else train, test, PAIRS)


class Conv(nn.Module):
    """Convolutions with batch normalisation, in channels_last."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.head = nn.Linear(16 * 9, outputs)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.head(self.features(x.view(-1, 1, 8, 8).contiguous(memory_format=torch.channels_last)).flatten(1))


class Transformer(nn.Module):
    """The rows of an image as eight tokens."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.place = nn.Parameter(torch.randn(8, 16) * 0.1)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, outputs)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs)
    )


def tapped(net: nn.Module, taps: tuple[str, ...]) -> nn.Module:
    """Exits in place of the head, and one at the input."""
    name, head = head_of(net)
    setattr(net, name, nn.Identity())
    return Exits(net, taps, head.out_features, example=torch.zeros(2, 64), at_input=True)


def multihead() -> nn.Module:
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1))
    return MultiHead(body, 64, 2)


@dataclass
class Diary(Naive):
    """Writes down what it is asked to do."""

    days: list[str] = field(default_factory=list, init=False)

    def begin(self, model, experience, objective):
        self.days.append("begin")

    def before_step(self, model):
        self.days.append("before")

    def after_step(self, model):
        self.days.append("after" if not torch.is_grad_enabled() else "after, with gradients")

    def end(self, model, experience, objective):
        self.days.append("end")

    def predict(self, model, batch, objective):
        return objective(model, batch).logits + 100


def shaken(batch, key):
    """A strong view of rows of numbers: noise, as the key and the ids of the rows decide."""
    draws = Draws.of(key, batch["id"])
    noise = torch.stack([draws.uniform(number) for number in range(batch["x"].shape[1])], 1)
    return {**batch, "x": batch["x"] + 0.3 * noise}


MODELS = {"mlp": mlp, "conv": Conv, "transformer": Transformer}

METHODS = {
    "naive": Naive,
    "er": lambda: Replay(Memory(100), count=16),
    "er-balanced": lambda: Replay(Balanced(100), count=16),
    "er-ring": lambda: Replay(Ring(100), count=16),
    "er-lossaware": lambda: Replay(LossAware(100), count=16),
    "er-sum": lambda: Replay(Memory(100), count=16, combine="sum"),
    "erace": lambda: ERACE(Memory(100), count=16),
    "mir": lambda: MIR(Memory(100), count=16, subsample=30),
    "gss": lambda: GSS(Diverse(40), count=16, n=6),
    "der": lambda: DER(Memory(100), alpha=0.3, count=16),
    "derpp": lambda: DERpp(Memory(100), alpha=0.1, beta=0.5, count=16),
    "dgr": lambda: DGR(inputs=64, hidden=32, z=8, count=16),
    "ewc": lambda: EWC(lambda_=20.0, rows=60),
    "ewc-online": lambda: EWC(lambda_=20.0, mode="online", gamma=0.9, fisher="empirical", rows=60),
    "ewc-proximal": lambda: EWC(lambda_=1000.0, rows=60, step="proximal", eta=0.02),
    "si": lambda: SI(c=1.0),
    "si-proximal": lambda: SI(c=1.0, step="proximal", eta=0.02),
    "mas": lambda: MAS(lambda_=0.01, rows=60),
    "rwalk": lambda: RWalk(lambda_=1.0, every=5),
    "l2": lambda: L2(lambda_=0.1),
    "logitadj": LogitAdjust,
    "er+logitadj": lambda: Chain(Replay(Memory(100), count=16), LogitAdjust()),
    "lwf": LwF,
    "lwfmc": lambda: LwFMC(T=2.0),
    "featdistill": FeatDistill,
    "bic": lambda: BiC(Balanced(200), count=16),
    "icarl": lambda: ICaRL(K=60, T=2.0),
    "scr": lambda: SCR(Memory(100), count=16),
    "gpm": lambda: GPM(threshold=0.9, rows=60),
    "ogd": lambda: OGD(directions=60, rows=30),
    "gem": lambda: GEM(Memory(60)),
    "agem": lambda: AGEM(Memory(100), count=16),
    "ncm": NCM,
    "slda": lambda: SLDA(eps=1e-6),
    "ridge": lambda: Ridge(lambda_=1e-3),
    "ranpac": lambda: RanPAC(M=200),
    "fecam": lambda: FeCAM(lambda_=1.0),
    "cwr": CWR,
    "lora": LoRA,
    "olora": OLoRA,
    "inflora": lambda: InfLoRA(rows=60),
    "l2p": lambda: L2P(M=6, N=2, L=3, mask=False),
    "coda": lambda: CODA(M=3, L=2, mask=False),
    "probe": Probe,
    "thaw": lambda: Thaw(stages=3),
    "autorgn": AutoRGN,
    "l2sp": lambda: L2SP(alpha=0.1, beta=0.01),
    "delta": lambda: DELTA(alpha=0.1),
    "bss": lambda: BSS(eta=0.01),
    "stochnorm": StochNorm,
    "cotuning": lambda: CoTuning(lambda_=0.5),
    "lpft": lambda: LPFT(C=0.01),
    "freeze": Freeze,
    "packnet": lambda: PackNet(prune=0.6),
    "independent": Independent,
    "hat": lambda: HAT(s_max=50.0),
    "pnn": PNN,
    "hedge": Hedge,
    "er+hedge": lambda: Chain(Replay(Memory(100), count=16), Hedge(rule="authors")),
    "dann": lambda: DANN(hidden=16),
    "cdan": lambda: CDAN(hidden=16),
    "adda": lambda: ADDA(hidden=16),
    "mcd": MCD,
    "mdd": lambda: MDD(hidden=16),
    "wdgrl": lambda: WDGRL(hidden=16),
    "bsp": BSP,
    "bsp+dann": lambda: Chain(BSP(), DANN(hidden=16)),
    "er+dann": lambda: Chain(Replay(Memory(100), count=16), DANN(hidden=16)),
    "adabn": AdaBN,
    "tent": TENT,
    "eata": EATA,
    "sar": SAR,
    "cotta": CoTTA,
    "coral": lambda: CORAL(trade_off=100.0),
    "dan": DAN,
    "jan": JAN,
    "mcc": MCC,
    "afn": AFN,
    "fixmatch": lambda: FixMatch(threshold=0.5, strong=shaken),
    "er+ewc": lambda: Chain(Replay(Memory(100), count=16), EWC(lambda_=20.0, rows=60)),
    "lwf+er": lambda: Chain(LwF(), Replay(Memory(100), count=16)),
    "er+lwf+si": lambda: Chain(Replay(Memory(100), count=16), LwF(), SI()),
}

NEEDS_TASKS: set[str] = {"packnet", "independent", "hat", "pnn"}
"""Methods that only know what to do with task labels."""
NO_TASKS: set[str] = {
    "hedge",
    "er+hedge",
    "coral",
    "dan",
    "jan",
    "mcc",
    "afn",
    "bss",
    "cotuning",
    "delta",
    "dgr",
    "erace",
    "logitadj",
    "er+logitadj",
    "ncm",
    "slda",
    "ridge",
    "ranpac",
    "fecam",
    "bic",
    "icarl",
    "lwfmc",
    "cwr",
    "featdistill",
    "scr",
    "dann",
    "cdan",
    "adda",
    "mcd",
    "mdd",
    "wdgrl",
    "bsp",
    "bsp+dann",
    "er+dann",
}
"""Methods that have one head, and no use for task labels."""

EXITS = {"hedge", "er+hedge"}
"""Methods for a model with exits, which are last in a chain."""
TAPS = {"mlp": ("1", "4"), "conv": ("features.2", "features.5"), "transformer": ("embed", "encoder")}
TENSORS = {"dgr"}
"""Methods that make up rows, which therefore must be tensors."""
RESTING = {"cwr", "freeze"}
"""Methods whose body learns in the first experience only, and is in eval mode from then on."""
PARTLY = {"thaw"}
"""Methods of which some parts learn later than others, and are in eval mode until then."""
HEADED = {"cotuning"}
"""Methods for a model that answers about other classes already."""
NORMS = {"stochnorm"}
"""Methods for a model with batch normalisation."""
UNLABELLED = {
    *("dann", "cdan", "adda", "mcd", "mdd", "wdgrl", "bsp", "bsp+dann", "er+dann"),
    *("coral", "dan", "jan", "mcc", "afn", "fixmatch"),
    *("adabn", "tent", "eata", "sar", "cotta"),
}
"""Methods for rows without labels, which are plain training where all rows have one: they have a contract of their own
(`test_adaptation.py`, `test_testtime.py`), and of this one the cases of `LABELLED` only."""
LABELLED = {"mlp", "conv-growing"}
TOKENS = {"l2p", "coda"}
"""Methods for a transformer whose body never learns, and is in eval mode."""


def suits(method: str, *, tasks: bool, model: str = "mlp") -> bool:
    """Whether a method can learn with task labels, or without, with this model."""
    if method in TOKENS:
        return model == "transformer" and not tasks
    if method in NORMS:
        return model == "conv" and not tasks
    return method not in (NO_TASKS if tasks else NEEDS_TASKS)


def alone(method: str) -> bool:
    """Whether it takes no step along the gradient of a batch."""
    return METHODS[method]().card.alone


def learner(method: str, model: str | None = None, *, growing: bool = False, tasks: bool = False, **options) -> Learner:
    """A learner ready to start, the same at each call."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed keeps a stack trace for each kind of device, too
    model = model or ("transformer" if method in TOKENS else "conv" if method in NORMS else "mlp")
    net = multihead() if tasks else MODELS[model](10 if not growing else 3 if method in HEADED else 2)
    if method in EXITS:
        net = tapped(net, TAPS[model])
    chain = METHODS[method]()
    if growing or tasks:
        chain = Chain(GrowHead(), chain)
    torch.default_generator.manual_seed(1)
    settings = {"optimizer": SGD, "epochs": 2, "batch_size": 16} | options
    return Learner(net, chain, classify_by_task if tasks else classify, **settings)
