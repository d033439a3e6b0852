"""All methods side by side on Split MNIST and Permuted MNIST: accuracy against memory and against compute.

    EVERLEARN_DATA=... python benchmarks/compare.py [--only NAME ...] [--again] [--docs docs] [--processes 4]

Class-incremental: five pairs of digits, one head of ten outputs, no hint. Domain-incremental: ten permutations of the
pixels, 6,000 rows each. An MLP 784-200-200-10 sees each row once: SGD with learning rate 0.05, batches of 32. Methods
with a memory keep 500 rows and draw 32 a step. The strength of a method is the best of a grid on the first two
experiences, a fifth of their training rows held out, with a seed that the table does not use; no test row is looked at.

Memory is counted in bytes: all that a method keeps besides the model. Compute is the time of the processor for the
whole stream, divided by the median of fine-tuning.
"""

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from everlearn import Experience, Learner
from everlearn.border import NonFiniteError
from everlearn.data import Columns, Subset, load
from everlearn.methods import METHODS
from everlearn.methods.composition import build
from everlearn.metrics import Scores, average_accuracy, forgetting
from everlearn.models import MLP
from everlearn.streams import by_class, by_domain, cumulative

SEEDS, CHOOSING = range(3), 100
STREAMS = ("split", "permuted")
CUMULATIVE = "cumulative"
RESULTS = Path(__file__).parent / "results" / "compare.json"
RUNS = RESULTS.with_name("compare-runs.json")
KEEPS = "memory=500,keep=reservoir"
FISHER = "fisher=empirical,rows=1000,step=proximal,eta=0.05"  # a gradient step diverges where it is strong


Job = tuple[str, str, float, int]
"""The stream, the method, its strength, the seed."""
Done = dict[str, dict[str, float]]
"""What came out of runs, by what was run."""
Results = dict[str, dict[str, dict[str, object]]]
"""By stream and method: its strength, and its runs."""


@dataclass(frozen=True)
class Contender:
    """A method as typed, with a place for its strength, and the strengths to choose from."""

    text: str
    grid: tuple[float, ...] = ()


CONTENDERS = {
    "naive": Contender("naive"),
    "cumulative": Contender("naive"),
    "ewc": Contender(f"ewc:{FISHER},lambda={{}}", (1, 10, 100, 1000)),
    "ewc-online": Contender(f"ewc:mode=online,{FISHER},lambda={{}}", (1, 10, 100, 1000)),
    "si": Contender("si:c={}", (0.1, 1, 10, 100)),
    "mas": Contender("mas:lambda={}", (0.01, 0.1, 1, 10)),
    "rwalk": Contender("rwalk:lambda={}", (0.1, 1, 10, 100)),
    "l2": Contender("l2:lambda={}", (0.001, 0.01, 0.1, 1)),
    "lwf": Contender("lwf:lambda_o={}", (0.1, 0.3, 1, 3)),
    "lwfmc": Contender("lwfmc"),
    "featdistill": Contender("featdistill:lambda={}", (0.1, 1, 10, 100)),
    "er": Contender(f"er:{KEEPS},count=32"),
    "erace": Contender(f"erace:{KEEPS},count=32"),
    "mir": Contender(f"mir:{KEEPS},count=32"),
    "gss": Contender("gss:memory=500,count=32"),
    "der": Contender(f"der:{KEEPS},count=32,alpha={{}}", (0.1, 0.3, 1, 3)),
    "derpp": Contender(f"derpp:{KEEPS},count=32,beta=0.5,alpha={{}}", (0.1, 0.3, 1, 3)),
    "agem": Contender(f"agem:{KEEPS},count=128"),
    "gem": Contender("gem:memory=500"),
    "ogd": Contender("ogd"),
    "gpm": Contender("gpm"),
    "bic": Contender("bic:memory=500,count=32"),
    "icarl": Contender("icarl:K=500"),
    "gdumb": Contender("gdumb:memory=500"),
    "scr": Contender("scr:memory=500,keep=reservoir,count=32"),
    "dgr": Contender("dgr:count=32"),
    "freeze": Contender("freeze"),
    "cwr": Contender("cwr"),
    "lora": Contender("lora"),
    "ncm": Contender("ncm"),
    "slda": Contender("slda"),
    "ridge": Contender("ridge"),
    "ranpac": Contender("ranpac:M=2000"),
    "fecam": Contender("fecam"),
}


@cache
def mnist() -> tuple[Columns, Columns]:
    """60,000 and 10,000 rows: x float32 (784,) from 0 to 1, y int64."""
    folder = Path(os.environ["EVERLEARN_DATA"]) / "mnist" / "mnist.npz"
    made = []
    for split in ("train", "test"):
        rows = load(folder, split=split).rows
        x, y = torch.as_tensor(rows.column("x")), torch.as_tensor(rows.column("y"))
        made.append(Columns(x=x.reshape(len(x), -1).float() / 255, y=y))
    return made[0], made[1]


def stream(name: str, *, choosing: bool) -> list[Experience]:
    """The stream; or its first two experiences, with a fifth of their training rows in the place of the test."""
    train, test = mnist()
    if name == "split":
        experiences = by_class(train, test, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)])
    else:
        domains = []
        for task in range(10):
            order = torch.randperm(784, generator=torch.Generator().manual_seed(task)) if task else torch.arange(784)
            own = torch.arange(6000 * task, 6000 * task + 6000)
            domains.append((_permuted(Subset(train, own), order), _permuted(Subset(test, torch.arange(2000)), order)))
        experiences = by_domain(domains)
    if not choosing:
        return experiences
    first = []
    for experience in experiences[:2]:
        fifth = torch.arange(len(experience.train)) % 5 == 0
        learn, ask = (Subset(experience.train, part.nonzero().flatten()) for part in (~fifth, fifth))
        first.append(replace(experience, train=learn, test=ask))
    return first


def _permuted(rows: Subset, order: torch.Tensor) -> Columns:
    batch = rows.take(torch.arange(len(rows)))
    return Columns(x=batch["x"][:, order], y=batch["y"])


@dataclass(frozen=True)
class Run:
    """What came out of one run: percent, points, bytes, and seconds of the processor."""

    accuracy: float
    forgetting: float
    bytes: int
    seconds: float


def learned(on: str, name: str, strength: float, seed: int, *, choosing: bool = False) -> Run:
    """One method learns one stream."""
    torch.set_num_threads(1)
    text = CONTENDERS[name].text.format(f"{strength:g}")
    torch.manual_seed(seed)
    learner = Learner(
        MLP(784, (200, 200), 10),
        build(text, seed=seed),
        optimizer=partial(torch.optim.SGD, lr=0.05),
        batch_size=32,
        seed=seed,
    )
    scores, experiences, spent = Scores(), stream(on, choosing=choosing), 0.0
    arriving = cumulative(experiences) if name == CUMULATIVE else experiences
    for experience in arriving:
        begun = time.process_time()
        try:
            learner.learn(experience)
        except NonFiniteError:  # a strength that the learning rate cannot follow
            return Run(0.0, 100.0, 0, 0.0)
        spent += time.process_time() - begun
        for place, asked in enumerate(experiences):
            if place <= experience.index:
                scores.add(learner.evaluate(asked.test), after=experience.index, on=place, step=learner.number)
    kept = (
        sum(len(each.train) * 785 for each in experiences)
        if name == CUMULATIVE
        else _bytes(learner.method.state_dict())
    )
    matrix = scores.matrix()
    return Run(100 * average_accuracy(matrix), 100 * forgetting(matrix), kept, spent)


def _bytes(state: object) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(_bytes, state.values()))
    return sum(map(_bytes, state)) if isinstance(state, list | tuple) else 0


def measured(names: list[str], processes: int, before: Done) -> Results:
    """All methods on both streams, with all seeds. Runs that `before` has are not made again; it gets the others."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        grids = [(on, name, by, CHOOSING) for on in STREAMS for name in names for by in CONTENDERS[name].grid]
        tried = _runs(pool, grids, before, choosing=True)
        best = {
            (on, name): max(
                CONTENDERS[name].grid,
                key=lambda by, on=on, name=name: tried[on, name, by, CHOOSING]["accuracy"],
                default=0.0,
            )
            for on in STREAMS
            for name in names
        }
        found = _runs(pool, [(*key, by, seed) for key, by in best.items() for seed in SEEDS], before, choosing=False)
    return {
        on: {
            name: {"strength": best[on, name], "runs": [found[on, name, best[on, name], seed] for seed in SEEDS]}
            for name in names
        }
        for on in STREAMS
    }


def _runs(pool: ProcessPoolExecutor, jobs: list[Job], before: Done, *, choosing: bool) -> dict[Job, dict[str, float]]:
    """What came out of each job; written down as soon as it is known."""
    keys = {
        job: f"{job[0]} {CONTENDERS[job[1]].text.format(f'{job[2]:g}')} {job[1]} {job[3]} {choosing}" for job in jobs
    }
    waiting = {pool.submit(learned, *job, choosing=choosing): key for job, key in keys.items() if key not in before}
    for done in track(as_completed(waiting), "choosing" if choosing else "measuring", total=len(waiting)):
        before[waiting[done]] = vars(done.result())
        RUNS.write_text(json.dumps(before, indent=1) + "\n")
    return {job: before[key] for job, key in keys.items()}


# -- showing --------------------------------------------------------------------------------------------------


def rows(results: Results, on: str) -> list[tuple[str, ...]]:
    """The lines of the table, the best first."""
    found = results[on]
    best = sorted(found, key=lambda name: -statistics.mean(_values(found[name], "accuracy")))
    return [
        (
            name, METHODS[_first(name)].card.family if name != CUMULATIVE else "bound",
            *(_spread(found[name], key) for key in ("accuracy", "forgetting")),
            _size(_median(found[name], "bytes")), f"{_compute(found, name):.1f}",
            f"{found[name]['strength']:g}" if CONTENDERS[name].grid else "",
        )
        for name in best
    ]  # fmt: skip


HEADER = ("method", "family", "accuracy, %", "forgetting", "keeps", "compute", "strength")


def _first(name: str) -> str:
    return CONTENDERS[name].text.partition(":")[0]


def _values(entry: dict[str, object], key: str) -> list[float]:
    runs: list[dict[str, float]] = entry["runs"]
    return [run[key] for run in runs]


def _median(entry: dict[str, object], key: str) -> float:
    return statistics.median(_values(entry, key))


def _compute(found: dict[str, dict[str, object]], name: str) -> float:
    return _median(found[name], "seconds") / _median(found["naive"], "seconds")


def _spread(entry: dict[str, object], key: str) -> str:
    values = _values(entry, key)
    if 0.0 in _values(entry, "accuracy"):
        return "diverged" if key == "accuracy" else ""
    return f"{statistics.mean(values) + 0.0:.1f} ± {statistics.stdev(values):.1f}"


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB" if count else "nothing"


def draw(results: Results, folder: Path) -> None:
    """The two pictures of each stream, as comparison-split.svg and comparison-permuted.svg."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "everlearn", "font.size": 9, "font.family": "sans-serif"}
    )
    colours = dict(zip(_families(), mpl.color_sequences["tab10"], strict=False))
    for on in STREAMS:
        figure, axes = plt.subplots(1, 2, figsize=(12, 6.6), sharey=True)
        figure.subplots_adjust(0.06, 0.14, 0.99, 0.98, 0.05)
        pictures = [("bytes", "kept besides the model, bytes"), ("compute", "compute, times fine-tuning")]
        for ax, (key, label) in zip(axes, pictures, strict=True):
            dots = []
            for name, entry in results[on].items():
                if 0.0 in _values(entry, "accuracy"):
                    continue
                family = METHODS[_first(name)].card.family
                x = max(_median(entry, "bytes"), 1e3) if key == "bytes" else _compute(results[on], name)
                y = _median(entry, "accuracy")
                ax.scatter(x, y, s=28, color=colours[family], zorder=3)
                dots.append((x, y, name, colours[family]))
            ax.set_xscale("log")
            ax.set_xlabel(label)
            ax.grid(visible=True, linewidth=0.4)
            ax.spines[["top", "right"]].set_visible(False)
            ax.margins(x=0.16, y=0.06)
            ax.autoscale_view()  # now, so that names are placed on the axes as they will be
            _label(ax, dots)
        axes[0].set_ylabel("average accuracy after the last experience, %")
        handles = [plt.Line2D([], [], marker="o", linestyle="", color=c, label=f) for f, c in colours.items()]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
        figure.savefig(folder / f"comparison-{on}.svg", metadata={"Date": None})
        plt.close(figure)


def _families() -> list[str]:
    return list(dict.fromkeys(METHODS[_first(name)].card.family for name in CONTENDERS if _first(name) in METHODS))


def _label(ax: object, dots: list[tuple[float, float, str, object]]) -> None:
    """Names beside their dots, each in the nearest place that is free, with a line to the dot where that is far."""
    edges = ax.get_window_extent()
    places = [ax.transData.transform(dot[:2]) for dot in dots]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    offsets = [(side, up * sign) for up in range(0, 400, 3) for side in (1, -1) for sign in (1, -1)]
    offsets.sort(key=lambda offset: abs(offset[1]) + (12 if offset[0] < 0 else 0))
    crowd = [sum(abs(x - other) < 60 and abs(y - height) < 40 for other, height in places) for x, y in places]
    for place in sorted(range(len(dots)), key=lambda place: (crowd[place], -places[place][1])):
        (px, py), (x, y, name, colour) = places[place], dots[place]
        width = 6.2 * len(name) + 2
        for side, up in offsets:
            far = 8 if abs(up) < 8 else 16
            left = px + far if side > 0 else px - far - width
            box = (left, py + up - 6, left + width, py + up + 6)
            inside = edges.x0 < box[0] and box[2] < edges.x1 and edges.y0 < box[1] and box[3] < edges.y1
            if inside and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        ax.annotate(
            name, (x, y), (far * side * 0.72, up * 0.72), textcoords="offset points", color=colour, fontsize=8,
            ha="left" if side > 0 else "right", va="center",
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": colour, "shrinkA": 0} if abs(up) > 8 else None,
        )  # fmt: skip


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def write_page(results: Results, folder: Path) -> None:
    """Fills the tables of comparison.md."""
    page = folder / "comparison.md"
    text = page.read_text(encoding="utf-8")
    for on in STREAMS:
        table = [HEADER, ("---", "---", "---:", "---:", "---:", "---:", "---:"), *rows(results, on)]
        lines = "\n".join(f"| {' | '.join(row)} |" for row in table)
        start, end = f"<!-- compare: {on} -->", "<!-- end -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n\n{lines}\n\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures, prints, draws and writes."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [name for name in CONTENDERS if _first(name) in METHODS]
    asked.add_argument("--only", nargs="+", choices=there, default=there)
    asked.add_argument("--processes", type=int, default=os.cpu_count())
    asked.add_argument("--docs", type=Path, help="the folder whose comparison.md and pictures are written anew")
    asked.add_argument("--again", action="store_true", help="do not repeat the runs that results/compare-runs.json has")
    given = asked.parse_args()
    if not os.environ.get("EVERLEARN_DATA"):
        asked.error("EVERLEARN_DATA must name the folder that holds mnist/mnist.npz")
    for name in given.only:
        build(CONTENDERS[name].text.format(1))  # a text that cannot be read should be found now, and not after an hour
    if "naive" not in given.only:
        asked.error("naive is what compute is measured by; name it among the methods")
    RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(RUNS.read_text(encoding="utf-8")) if given.again and RUNS.exists() else {}
    results = measured(given.only, given.processes, before)
    RESULTS.write_text(
        json.dumps({"torch": torch.__version__, "seeds": len(SEEDS), "results": results}, indent=1) + "\n"
    )
    for on in STREAMS:
        drawn = Table(*HEADER, title=f"{on} MNIST, {len(SEEDS)} seeds", title_justify="left")
        for row in rows(results, on):
            drawn.add_row(*row)
        Console().print(drawn)
    if given.docs:
        write_page(results, given.docs)
        draw(results, given.docs)


if __name__ == "__main__":
    main()
