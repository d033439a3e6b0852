"""What adaptation at test time is worth on corrupted digits: the numbers that docs/testtime.md quotes.

    python benchmarks/testtime.py                           a table in the terminal, and JSON
    python benchmarks/testtime.py --docs docs/testtime.md   the same, and the tables of the page anew
    python benchmarks/testtime.py --tiny                    some seconds: does it run?

MNIST, from the folder that EVERLEARN_DATA names. A convnet with three batch norms learns 10,000 training rows in 2
epochs, moved by up to 2 pixels and turned by up to 10 degrees, which are also the views that CoTTA's teacher is asked
about. Then 2,000 test rows come, corrupted, in batches of 100 without labels: each batch is answered, and then learned
from, once. Each method starts from the same source. Adam with learning rate 0.001 for all (that of TENT on CIFAR);
nothing was chosen by target labels, or at all: settings are the defaults, but for 8 views in CoTTA. EATA is shown 2,000
source rows before.

Then the long run: the same 2,000 rows ten times over, at ten times the rate, under the strongest noise.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import statistics
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn import Experience, Learner, Method
from everlearn.data import Columns, view
from everlearn.methods import EATA, SAR, TENT, AdaBN, CoTTA
from everlearn.transfer.testtime import adapt

SEEDS = range(3)
RATE, BATCH, PASSES = 1e-3, 100, 10
VIEW = view("unit", ["crop:2", "rotate:10"])
METHODS: dict[str, Callable[[int], Method]] = {
    "AdaBN": lambda _: AdaBN(),
    "TENT": lambda _: TENT(),
    "EATA": lambda _: EATA(),
    "SAR": lambda _: SAR(),
    "CoTTA": lambda seed: CoTTA(N=8, seed=seed),
}
LONG: dict[str, Callable[[int], Method]] = {
    "TENT, reset=False": lambda _: TENT(reset=False),
    "TENT": lambda _: TENT(),
    "EATA": lambda _: EATA(),
    "SAR": lambda _: SAR(),
}
CORRUPTIONS = {
    "noise": (0.3, 0.5, 0.8),
    "blur": (1.0, 2.0, 3.0),
    "contrast": (0.5, 0.3, 0.1),
    "inversion": (0.2, 0.35, 1.0),
    "shift": (2.0, 4.0, 6.0),
}
"""Standard deviation of the noise, and of the blur in pixels; what is left of the contrast; the share of the negative;
pixels to the right and down."""


def corrupted(x: Tensor, kind: str, by: float, seed: int) -> Tensor:
    """Images in [0, 1], (rows, 1, 28, 28), as they might arrive."""
    if kind == "noise":
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        return (x + by * noise).clamp(0, 1)
    if kind == "blur":
        at = torch.arange(-9.0, 10.0)
        bell = (-(at**2) / (2 * by**2)).exp() / (2 * pi * by**2) ** 0.5
        bell = bell / bell.sum()
        return F.conv2d(F.conv2d(x, bell.view(1, 1, 1, -1), padding=(0, 9)), bell.view(1, 1, -1, 1), padding=(9, 0))
    if kind == "contrast":
        return by * x
    if kind == "inversion":
        return (1 - by) * x + by * (1 - x)
    return F.pad(x, (int(by), 0, int(by), 0))[:, :, :28, :28]


def net() -> nn.Module:
    """Three convolutions with batch norms, and a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


class Source:
    """A trained net, and rows that it has never seen."""

    def __init__(self, seed: int, *, train: int, test: int, device: str) -> None:
        with np.load(Path(os.environ["EVERLEARN_DATA"]) / "mnist" / "mnist.npz", allow_pickle=False) as data:
            pairs = {part: (data[f"x_{part}"], data[f"y_{part}"]) for part in ("train", "test")}
        self.rows: dict[str, Columns] = {}
        for (part, (x, y)), count in zip(pairs.items(), (train, test), strict=True):
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:count]
            images = torch.from_numpy(x[order.numpy()]).unsqueeze(1).float() / 255
            self.rows[part] = Columns(x=images, y=torch.from_numpy(y[order.numpy()]).long())
        self.seed = seed
        torch.manual_seed(seed)
        self.learner = Learner(
            net().to(device),
            optimizer=partial(torch.optim.Adam, lr=RATE),
            epochs=2,
            batch_size=64,
            seed=seed,
            view=VIEW,
        )
        self.learner.learn(Experience(0, self.rows["train"], self.rows["test"], tuple(range(10))))
        self.prepared: dict[str, Method] = {}

    def method(self, name: str, make: Callable[[int], Method]) -> Method:
        """It, having seen source rows where it asks for them."""
        if name not in self.prepared:
            first = Columns(**self.rows["train"].take(torch.arange(min(2000, len(self.rows["train"])))))
            made = make(self.seed)
            seen = Learner(deepcopy(self.learner.model), made, optimizer=self.learner.make_optimizer, view=VIEW)
            if made.card.measures:
                seen.remember(Experience(0, first, first, tuple(range(10))))
            self.prepared[name] = made
        return deepcopy(self.prepared[name])

    def adapting(self, name: str, make: Callable[[int], Method], rate: float = RATE) -> Learner:
        """A learner that starts from the source."""
        return Learner(
            deepcopy(self.learner.model),
            self.method(name, make),
            optimizer=partial(torch.optim.Adam, lr=rate),
            batch_size=BATCH,
            seed=self.seed,
            view=VIEW,
        )

    def target(self, kind: str, by: float) -> Columns:
        """The test rows, corrupted."""
        test = self.rows["test"]
        return Columns(x=corrupted(test.column("x"), kind, by, self.seed), y=test.column("y"))  # type: ignore[arg-type]


def severities(source: Source, corruptions: dict[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    """The accuracy of each method on each corruption, in percent, after `frozen`, that of no adaptation."""
    found: dict[str, dict[str, float]] = {}
    for kind, values in corruptions.items():
        for by in values:
            row = found.setdefault(f"{kind} {by:g}", {})
            for name, make in METHODS.items():
                whole = adapt(source.adapting(name, make), source.target(kind, by)).whole
                row |= {"frozen": 100 * whole.baseline, name: 100 * whole.accuracy}
    return found


def long_run(source: Source, passes: int) -> dict[str, dict[str, Any]]:
    """The accuracy in each pass, the alarms and the resets, at ten times the rate under the strongest noise."""
    found: dict[str, dict[str, Any]] = {}
    rows = source.target("noise", CORRUPTIONS["noise"][-1])
    for name, make in LONG.items():
        learner = source.adapting(name, make, 10 * RATE)
        runs = [adapt(learner, rows).whole for _ in range(passes)]
        found["frozen"] = {"accuracy": [100 * run.baseline for run in runs], "alarms": 0, "resets": 0}
        found[name] = {
            "accuracy": [100 * run.accuracy for run in runs],
            "alarms": sum(run.alarms for run in runs),
            "resets": sum(run.resets for run in runs),
        }
    return found


def measured(seed: int, device: str, *, tiny: bool = False) -> dict[str, Any]:
    """All that is measured with one seed."""
    if device == "cpu":
        torch.set_num_threads(1)  # the same bits, whatever else the machine does
    train, test = (500, 100) if tiny else (10_000, 2000)
    source = Source(seed, train=train, test=test, device=device)
    found: dict[str, Any] = {"clean": 100 * source.learner.evaluate(source.rows["test"]).value}
    found["severities"] = severities(source, {"contrast": (0.3,)} if tiny else CORRUPTIONS)
    found["long"] = long_run(source, 2 if tiny else PASSES)
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def tables(runs: dict[str, Any]) -> dict[str, str]:
    """As Markdown, by the names of their places."""
    seeds = runs["seeds"]
    first = seeds[0]["severities"]
    names = list(next(iter(first.values())))
    shown = ["no adaptation" if name == "frozen" else name for name in names]
    lines = [f"| corruption | {' | '.join(shown)} |", "|---|" + "---:|" * len(names)]
    for row in first:
        cells = [spread([seed["severities"][row][name] for seed in seeds]) for name in names]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    means = [
        spread([statistics.mean(row[name] for row in seed["severities"].values()) for seed in seeds]) for name in names
    ]
    lines.append(f"| **mean** | {' | '.join(means)} |")
    passes = len(seeds[0]["long"]["frozen"]["accuracy"])
    at = sorted({0, passes // 4, passes // 2, passes - 1})
    longer = [f"| | {' | '.join(f'pass {place + 1}' for place in at)} | alarms | resets |"]
    longer.append("|---|" + "---:|" * (len(at) + 2))
    for name in seeds[0]["long"]:
        cells = [spread([seed["long"][name]["accuracy"][place] for seed in seeds]) for place in at]
        counts = [f"{statistics.mean(seed['long'][name][key] for seed in seeds):.1f}" for key in ("alarms", "resets")]
        longer.append(f"| {'no adaptation' if name == 'frozen' else name} | {' | '.join([*cells, *counts])} |")
    clean = spread([seed["clean"] for seed in seeds])
    caption = (
        f"Accuracy in %, mean ± standard deviation over {len(seeds)} seeds; {clean} on the same rows as they are, "
        f"without adaptation. `python benchmarks/testtime.py`, {runs['date']}; {runs['versions']}."
    )
    return {"severities": "\n".join(lines) + f"\n\n{caption}", "long run": "\n".join(longer) + f"\n\n{caption}"}


def main() -> None:
    """Measures, prints, and writes."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--device", default="cpu")
    options.add_argument("--processes", type=int, default=len(SEEDS), help="that share the seeds")
    options.add_argument("--tiny", action="store_true", help="few rows, one seed, one corruption")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "testtime.json")
    options.add_argument("--docs", type=Path, help="the page whose tables are written anew")
    given = options.parse_args()
    if "EVERLEARN_DATA" not in os.environ:
        options.error("set EVERLEARN_DATA to the folder that holds mnist/mnist.npz")
    machine = "CPU" if given.device == "cpu" else torch.cuda.get_device_name()
    runs: dict[str, Any] = {
        "date": str(datetime.now(UTC).date()),
        "versions": f"torch {version('torch')}, Python {platform.python_version()}, {machine}",
        "seeds": [],
    }
    if given.tiny:
        runs["seeds"] = [measured(0, given.device, tiny=True)]
    elif given.processes == 1:
        runs["seeds"] = [measured(seed, given.device) for seed in SEEDS]
    else:
        with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
            runs["seeds"] = pool.map(partial(measured, device=given.device), SEEDS)
    texts = tables(runs)
    print(*texts.values(), sep="\n\n")
    if not given.tiny:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    if given.docs:
        page = given.docs.read_text(encoding="utf-8")
        for place, text in texts.items():
            marks = rf"(<!-- {place} -->\n).*?(<!-- end of {place} -->)"
            page = re.sub(marks, lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.DOTALL)
        given.docs.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
