"""Published results, rerun: python benchmarks/published.py [ROW ...] [--seeds N] [--processes N].

Split MNIST as in two papers. MNIST is read from the folder that EVERLEARN_DATA names (mnist/mnist.npz with x_train,
y_train, x_test, y_test). A row passes if |ours - theirs| <= 3 sqrt(s^2 / n + s_theirs^2 / n_theirs) + slack.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from everlearn import Chain, Learner, Memory, Method, classify, classify_by_task
from everlearn.data import load, view
from everlearn.methods import DER, EWC, SI, DERpp, GrowHead, LwF, Naive, Replay
from everlearn.models import MultiHead
from everlearn.streams import Experience, by_class, by_task

DER_PAPER = "Buzzega et al. 2020"
THREE_TYPES = "van de Ven et al. 2022"


@dataclass(frozen=True)
class Row:
    """One published number: `spread` is its standard deviation over `runs`."""

    method: Callable[[int], Method]
    theirs: float
    spread: float
    runs: int
    slack: float
    source: str
    lr: float = 0.0


ROWS = {
    # class-incremental: 784-100-100-10, plain SGD, batches of 10, one epoch
    "smnist-sgd": Row(lambda _: Naive(), 19.60, 0.04, 10, 0.3, DER_PAPER, 0.03),
    "smnist-er-200": Row(lambda s: Replay(Memory(200, s), 10), 80.43, 1.89, 10, 1.0, DER_PAPER, 0.01),
    "smnist-er-500": Row(lambda s: Replay(Memory(500, s), 10), 86.12, 1.89, 10, 1.0, DER_PAPER, 0.1),
    "smnist-der-200": Row(lambda s: DER(Memory(200, s), 0.2, 10), 84.55, 1.64, 10, 1.0, DER_PAPER, 0.03),
    "smnist-derpp-500": Row(lambda s: DERpp(Memory(500, s), 1.0, 0.5, 10), 91.00, 1.49, 10, 1.0, DER_PAPER, 0.03),
    # task-incremental: 784-400-400 and a head of two for each task, Adam, 2000 batches of 128 a task
    "task-none": Row(lambda _: Naive(), 84.32, 4.43, 20, 1.0, THREE_TYPES),
    "task-ewc": Row(lambda _: EWC(lambda_=1e5, rows=None), 99.06, 0.67, 20, 0.5, THREE_TYPES),
    "task-si": Row(lambda _: SI(c=10, xi=0.1), 99.20, 0.49, 20, 0.5, THREE_TYPES),
    # their distillation has no factor T^2 = 4
    "task-lwf": Row(lambda _: LwF(lambda_o=0.25), 99.60, 0.13, 20, 0.2, THREE_TYPES),
}


def measure(name: str, seed: int) -> float:
    """The average accuracy in percent after the last of five tasks."""
    torch.set_num_threads(1)
    row = ROWS[name]
    folder = Path(os.environ["EVERLEARN_DATA"]) / "mnist" / "mnist.npz"
    train, test = (load(folder, split=split).rows for split in ("train", "test"))
    torch.manual_seed(seed)
    if name.startswith("smnist"):
        learner = Learner(
            _der_net(), row.method(seed), classify, optimizer=partial(torch.optim.SGD, lr=row.lr),
            batch_size=10, seed=seed, view=view(),
        )  # fmt: skip
        stream = by_class(train, test, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)])
        for experience in stream:
            learner.learn(experience)
    else:
        body = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU())
        learner = Learner(
            MultiHead(body, 400, 2, seed=seed), Chain(GrowHead(), row.method(seed)), classify_by_task,
            optimizer=partial(torch.optim.Adam, lr=1e-3), batch_size=128, epochs=30, seed=seed,
            drop_last=True, view=view(),
        )  # fmt: skip
        digits = np.random.default_rng(seed).permutation(10).tolist()
        stream = by_task(train, test, [digits[i : i + 2] for i in range(0, 10, 2)])
        for experience in stream:
            for step in learner.steps(experience):
                if step.place == 2000:
                    learner.stop()
    return 100 * float(np.mean([_score(learner, experience) for experience in stream]))


def _score(learner: Learner, experience: Experience) -> float:
    return learner.evaluate(experience.test).value


def _der_net() -> nn.Module:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "published.json")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; the rows are {', '.join(ROWS)}")
    if not os.environ.get("EVERLEARN_DATA"):
        parser.error("EVERLEARN_DATA must name the folder that holds mnist/mnist.npz")
    table = Table(title="published results, rerun")
    for title in ("row", "ours, %", "theirs, %", "tolerance", "", "source"):
        table.add_column(title, no_wrap=True)
    results = {}
    started = time.monotonic()
    # spawned, not forked: torch's threads do not survive a fork
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        jobs = {name: [pool.submit(measure, name, seed) for seed in range(options.seeds)] for name in options.rows}
        for name, waiting in jobs.items():
            row, values = ROWS[name], [job.result() for job in waiting]
            mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            tolerance = 3 * (spread**2 / len(values) + row.spread**2 / row.runs) ** 0.5 + row.slack
            passed = abs(mean - row.theirs) <= tolerance
            results[name] = {
                "ours": mean, "spread": spread, "values": values, "theirs": row.theirs, "their_spread": row.spread,
                "their_runs": row.runs, "tolerance": tolerance, "passed": passed, "source": row.source,
            }  # fmt: skip
            table.add_row(
                name, f"{mean:.2f} ± {spread:.2f}", f"{row.theirs:.2f} ± {row.spread:.2f}", f"{tolerance:.2f}",
                "pass" if passed else "FAIL", row.source,
            )  # fmt: skip
            print(f"{name}: {mean:.2f} ± {spread:.2f} ({time.monotonic() - started:.0f} s)", flush=True)
    Console().print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"seeds": options.seeds, "torch": torch.__version__, "rows": results}, indent=2))


if __name__ == "__main__":
    main()
