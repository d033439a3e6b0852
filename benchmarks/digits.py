"""How much each method remembers of five pairs of digits: the numbers that the pages of the methods quote.

    python benchmarks/digits.py                      a table in the terminal, and JSON
    python benchmarks/digits.py --docs docs/methods  the same, and the tables of the pages anew

scikit-learn's 1,797 digits arrive as (0, 1), (2, 3), ... (8, 9). A net 64-128-64 learns them twice: with one head of
ten outputs and no hint (class-incremental), and with a head of two outputs for each pair, the pair being named
(task-incremental). Fixed for all methods: Adam with learning rate 0.003, batches of 16, 6 epochs, the split into
1,400 training and 397 test rows; methods that keep rows keep 200 of them, and draw 16 a step.

The strength of a method is the best of a grid on the first two pairs: trained on four fifths of their training rows,
asked about the others, with two seeds that the table does not use; of equals, the weakest. No test row is looked at.
"""

import argparse
import json
import multiprocessing
import platform
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from math import isnan, nan
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from everlearn import Balanced, Chain, Experience, Learner, Memory, Method, classify, classify_by_task
from everlearn.border import NonFiniteError
from everlearn.data import Columns, Subset
from everlearn.memory import Diverse, LossAware, Ring
from everlearn.methods import (
    AGEM,
    CWR,
    DER,
    DGR,
    ERACE,
    EWC,
    GEM,
    GPM,
    GSS,
    HAT,
    L2,
    MAS,
    MIR,
    NCM,
    OGD,
    PNN,
    SCR,
    SI,
    SLDA,
    BiC,
    DERpp,
    FeatDistill,
    FeCAM,
    Freeze,
    GDumb,
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
    RanPAC,
    Replay,
    Ridge,
    RWalk,
)
from everlearn.metrics import Scores, average_accuracy, forgetting
from everlearn.models import MLP, MultiHead
from everlearn.streams import by_class, by_task, cumulative, joint

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
SETTINGS = ("class-incremental", "task-incremental")
SEEDS, CHOOSING = range(5), range(100, 102)
KEPT, DRAWN = 200, 16

Runs = dict[str, dict[str, "Row"]]
"""What was measured, by setting and method."""


def replay(seed: int, kind: type[Memory] = Memory) -> Replay:
    return Replay(kind(KEPT, seed), count=DRAWN)


@dataclass(frozen=True)
class Contender:
    """A method by its strength and a seed, the strengths to choose from, and the stream that it learns."""

    make: Callable[[float, int], Method]
    grid: tuple[float, ...] = ()
    strength: str = ""
    """What the hyperparameter is called."""
    of: Callable[[list[Experience]], list[Experience]] = list
    """The stream as it is, or as it would be if the past were still there."""
    settings: tuple[str, ...] = SETTINGS
    """Where it can be used."""


CONTENDERS = {
    "naive": Contender(lambda _, __: Naive()),
    "ewc": Contender(lambda by, _: EWC(by), (1e2, 1e3, 1e4, 1e5), "lambda"),
    "ewc-online": Contender(lambda by, _: EWC(by, mode="online", gamma=0.9), (1e2, 1e3, 1e4, 1e5), "lambda"),
    "si": Contender(lambda by, _: SI(by), (1, 10, 100, 1000), "c"),
    "mas": Contender(lambda by, _: MAS(by), (0.01, 0.1, 1, 10), "lambda"),
    "rwalk": Contender(lambda by, _: RWalk(by), (1, 10, 100, 1000), "lambda"),
    "l2": Contender(lambda by, _: L2(by), (0.01, 0.1, 1, 10), "lambda"),
    "lwf": Contender(lambda by, _: LwF(by), (0.3, 1, 3, 10), "lambda_o"),
    "lwfmc": Contender(lambda _, __: LwFMC(), settings=SETTINGS[:1]),
    "featdistill": Contender(lambda by, _: FeatDistill(by), (1, 5, 25, 125), "lambda", settings=SETTINGS[:1]),
    "bic": Contender(lambda _, seed: BiC(Balanced(KEPT, seed), DRAWN, seed=seed), settings=SETTINGS[:1]),
    "icarl": Contender(lambda _, seed: ICaRL(KEPT, seed=seed), settings=SETTINGS[:1]),
    "scr": Contender(lambda _, seed: SCR(Memory(KEPT, seed), DRAWN, seed=seed), settings=SETTINGS[:1]),
    "gdumb": Contender(lambda _, seed: GDumb(Balanced(KEPT, seed), seed=seed)),
    "er": Contender(lambda _, seed: replay(seed)),
    "er-balanced": Contender(lambda _, seed: replay(seed, Balanced)),
    "er-ring": Contender(lambda _, seed: replay(seed, Ring)),
    "er-lossaware": Contender(lambda _, seed: replay(seed, LossAware)),
    "erace": Contender(lambda _, seed: ERACE(Memory(KEPT, seed), DRAWN), settings=SETTINGS[:1]),
    "logitadj": Contender(lambda *_: LogitAdjust(), settings=SETTINGS[:1]),
    "mir": Contender(lambda _, seed: MIR(Memory(KEPT, seed), DRAWN)),
    "gss": Contender(lambda _, seed: GSS(Diverse(KEPT, seed), DRAWN)),
    "der": Contender(lambda by, seed: DER(Memory(KEPT, seed), by, DRAWN), (0.1, 0.3, 1, 3), "alpha"),
    "derpp": Contender(lambda by, seed: DERpp(Memory(KEPT, seed), by, 0.5, DRAWN), (0.1, 0.3, 1, 3), "alpha"),
    "er+ewc": Contender(lambda by, seed: Chain(replay(seed), EWC(by)), (1, 10, 100, 1000), "lambda"),
    "er+lwf": Contender(lambda by, seed: Chain(replay(seed), LwF(by)), (0.1, 0.3, 1, 3), "lambda_o"),
    "agem": Contender(lambda _, seed: AGEM(Memory(KEPT, seed), count=DRAWN)),
    "gem": Contender(lambda by, seed: GEM(Memory(KEPT, seed), by), (0.1, 0.3, 1), "gamma"),
    "ogd": Contender(lambda _, __: OGD()),
    "gpm": Contender(lambda by, _: GPM(by), (0.9, 0.95, 0.99), "threshold"),
    "ncm": Contender(lambda _, __: NCM(), settings=SETTINGS[:1]),
    "slda": Contender(lambda by, _: SLDA(by), (1e-4, 1e-3, 1e-2, 1e-1), "eps", settings=SETTINGS[:1]),
    "ridge": Contender(lambda by, _: Ridge(by), (0.1, 1, 10, 100), "lambda", settings=SETTINGS[:1]),
    "ranpac": Contender(lambda _, seed: RanPAC(M=500, seed=seed), settings=SETTINGS[:1]),
    "fecam": Contender(lambda _, __: FeCAM(), settings=SETTINGS[:1]),
    "cwr": Contender(lambda _, __: CWR(), settings=SETTINGS[:1]),
    "packnet": Contender(lambda by, _: PackNet(by, after=4), (0.5, 0.65, 0.8, 0.9), "prune", settings=SETTINGS[1:]),
    "hat": Contender(lambda by, seed: HAT(c=by, seed=seed), (0.1, 0.75, 2.5), "c", settings=SETTINGS[1:]),
    "pnn": Contender(lambda _, seed: PNN(seed=seed), settings=SETTINGS[1:]),
    "independent": Contender(lambda _, __: Independent(), settings=SETTINGS[1:]),
    "lora": Contender(lambda by, _: LoRA(int(by), 2 * by), (2, 8, 32), "r"),
    "olora": Contender(lambda by, _: OLoRA(lambda_1=by), (0.1, 0.5, 2, 10), "lambda_1"),
    "inflora": Contender(lambda by, _: InfLoRA(threshold=by), (0.9, 0.95, 0.99), "threshold"),
    "freeze": Contender(lambda _, __: Freeze()),
    "dgr": Contender(lambda _, seed: DGR(64, 64, 8, DRAWN, seed=seed), settings=SETTINGS[:1]),
    "cumulative": Contender(lambda _, __: Naive(), of=cumulative),
    "joint": Contender(lambda _, __: Naive(), of=joint),
}


@cache
def digits() -> tuple[Columns, Columns]:
    """1,400 training and 397 test rows: x float32 (64,), y int64."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = torch.tensor(data.data / 16, dtype=torch.float32)[order], torch.tensor(data.target)[order]
    return Columns(x=x[:1400], y=y[:1400]), Columns(x=x[1400:], y=y[1400:])


def stream(setting: str, *, choosing: bool) -> list[Experience]:
    """All five pairs; or the first two, with a fifth of their training rows in the place of the test."""
    arrive = by_class if setting == "class-incremental" else by_task
    train, test = digits()
    if not choosing:
        return arrive(train, test, PAIRS)
    fifth = torch.arange(len(train)) % 5 == 0
    learn, ask = (Subset(train, part.nonzero().flatten()) for part in (~fifth, fifth))
    return arrive(learn, ask, PAIRS[:2])


def learned(setting: str, name: str, strength: float, seed: int, *, choosing: bool = False) -> tuple[float, float]:
    """The average accuracy, in percent, and the forgetting, in points, of one run; NaN for joint training."""
    torch.set_num_threads(1)  # the same bits, however many processes share the work
    torch.manual_seed(seed)
    contender, pairs = CONTENDERS[name], stream(setting, choosing=choosing)
    learner = Learner(
        MLP(64, (128, 64), 10) if setting == "class-incremental" else multihead(seed),
        contender.make(strength, seed),
        classify if setting == "class-incremental" else classify_by_task,
        optimizer=partial(torch.optim.Adam, lr=0.003, fused=True),
        epochs=6,
        batch_size=16,
        seed=seed,
    )
    scores = Scores()
    try:
        for experience in contender.of(pairs):
            learner.learn(experience)
            for on, pair in enumerate(pairs):
                scores.add(learner.evaluate(pair.test), after=experience.index, on=on, step=learner.number)
    except NonFiniteError:  # a strength that the learning rate cannot follow
        return 0.0, 100.0
    if contender.of is joint:
        return 100 * statistics.mean(score.value for score in scores), nan
    return 100 * average_accuracy(scores.matrix()), 100 * forgetting(scores.matrix())


def multihead(seed: int) -> MultiHead:
    return MultiHead(MLP(64, (128,), 64), 64, outputs_per_task=2, tasks=len(PAIRS), seed=seed)


def chosen(workers: Pool) -> dict[tuple[str, str], float]:
    """The strength of each method in each setting; 0 where there is nothing to choose."""
    keys = [(setting, name) for name, contender in CONTENDERS.items() for setting in contender.settings]
    grids = {key: CONTENDERS[key[1]].grid for key in keys}
    jobs = [(*key, by, seed) for key, grid in grids.items() for by in grid for seed in CHOOSING]
    found = dict(zip(jobs, workers.starmap(partial(learned, choosing=True), jobs, chunksize=1), strict=True))
    strengths = dict.fromkeys(grids, 0.0)
    for key, grid in grids.items():
        if grid:
            held_out = {by: statistics.mean(found[*key, by, seed][0] for seed in CHOOSING) for by in grid}
            strengths[key] = max(held_out, key=held_out.__getitem__)
    return strengths


@dataclass(frozen=True)
class Row:
    """One method in one setting: its strength, and what it reached with each seed."""

    strength: float
    accuracy: tuple[float, ...]
    forgetting: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """As plain values; joint training has no forgetting."""
        return asdict(self) | {"forgetting": None if isnan(self.forgetting[0]) else self.forgetting}

    def cells(self) -> tuple[str, str]:
        """As they stand in the tables: the mean and the standard deviation over seeds."""
        return _spread(self.accuracy), "" if isnan(self.forgetting[0]) else _spread(self.forgetting)


def _spread(values: tuple[float, ...]) -> str:
    mean = round(statistics.mean(values), 1) + 0.0  # no "-0.0"
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}"


def measured(workers: Pool) -> Runs:
    """All methods in both settings, with all seeds."""
    strengths = chosen(workers)
    jobs = [(*key, by, seed) for key, by in strengths.items() for seed in SEEDS]
    found = dict(zip(jobs, workers.starmap(learned, jobs, chunksize=1), strict=True))
    runs: Runs = {setting: {} for setting in SETTINGS}
    for (setting, name), by in strengths.items():
        accuracy, lost = zip(*(found[setting, name, by, seed] for seed in SEEDS), strict=True)
        runs[setting][name] = Row(by, accuracy, lost)
    return runs


def versions() -> str:
    """What the last digits depend on."""
    names = ("torch", "numpy", "scikit-learn")
    return ", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}, CPU"


# -- showing --------------------------------------------------------------------------------------------------

Line = tuple[str, str, str, str, str, str]
HEADER: Line = ("method", "class-incremental, %", "forgetting", "task-incremental, %", "forgetting", "strengths")


def lines(runs: Runs, names: Iterable[str]) -> list[Line]:
    """The lines of the table: the average accuracy and the forgetting in both settings, and the strengths."""
    made = []
    for name in names:
        rows = [runs[setting].get(name) for setting in SETTINGS]
        strengths = ", ".join(f"{row.strength:g}" for row in rows if row is not None and row.strength)
        label = f"{CONTENDERS[name].strength} = {strengths}" if strengths else ""
        first, second = (("", "") if row is None else row.cells() for row in rows)
        made.append((name, *first, *second, label))
    return made


def show(runs: Runs) -> None:
    """Prints the table."""
    table = Table(*HEADER, title=f"mean ± standard deviation of {len(SEEDS)} seeds", title_justify="left")
    for column in table.columns[1:5]:
        column.justify = "right"
    for line in lines(runs, CONTENDERS):
        table.add_row(*line)
    Console().print(table)


def write_pages(runs: Runs, folder: Path) -> None:
    """Writes the table between `<!-- digits: NAME, NAME -->` (all methods if none is named) and `<!-- end -->`."""

    def filled(found: re.Match[str]) -> str:
        names = found[2].replace(",", " ").split() or list(CONTENDERS)
        rows = [HEADER, ("---", "---:", "---:", "---:", "---:", "---"), *lines(runs, names)]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        today = datetime.now(UTC).date()
        caption = (
            f"Mean ± standard deviation over {len(SEEDS)} seeds. `python benchmarks/digits.py`, {today}; {versions()}."
        )
        return f"{found[1]}\n{table}\n\n{caption}\n\n{found[3]}"

    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(
            re.sub(r"(<!-- digits:(.*?)-->\n).*?(<!-- end -->)", filled, text, flags=re.DOTALL), encoding="utf-8"
        )


def main() -> None:
    """Measures, prints, and writes."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--processes", type=int, default=2, help="runs at a time, one thread each")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "digits.json")
    options.add_argument("--docs", type=Path, help="the folder of the pages whose tables are written anew")
    given = options.parse_args()
    with multiprocessing.get_context("spawn").Pool(given.processes) as workers:
        runs = measured(workers)
    show(runs)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    content = {setting: {name: row.to_json() for name, row in rows.items()} for setting, rows in runs.items()}
    given.json.write_text(json.dumps({"versions": versions(), "seeds": list(SEEDS), **content}, indent=1) + "\n")
    if given.docs:
        write_pages(runs, given.docs)


if __name__ == "__main__":
    main()
