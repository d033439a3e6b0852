"""The parts: Fisher information, heads in closed form, memories, augmentation, and the start of the program."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Literal

import bare
import torch
from measure import Line, interleaved, per_second, ratios, resident, seconds, times
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn import Experience, Learner, Memory, Method
from everlearn.batch import Batch
from everlearn.data import Columns, epoch_order, view
from everlearn.methods import SLDA, RanPAC
from everlearn.models import MLP, Net, ResNet18
from everlearn.models.fisher import fisher
from everlearn.objective import classify
from everlearn.transfer.scores import logme

FISHER: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], int, Literal["exact", "empirical"], float | None]] = [
    ("MLP, one label a row", MLP, (784,), 6_000, "empirical", 1.6),
    ("CNN, one label a row", Net, (3, 32, 32), 2_000, "empirical", 2.5),
    ("slim ResNet-18, one label a row", lambda: ResNet18(width=20), (3, 32, 32), 256, "empirical", None),
    ("MLP, all 10 labels", MLP, (784,), 6_000, "exact", None),
    ("CNN, all 10 labels", Net, (3, 32, 32), 1_000, "exact", None),
]
START_RUNS = 7


def fisher_cost(runs: int, *, quick: bool) -> Iterator[Line]:
    """In units of one plain forward and backward pass over the same rows, in the same batches."""
    for name, make, shape, rows, labels, goal in FISHER:
        rows = rows // 4 if quick else rows  # noqa: PLW2901
        torch.manual_seed(0)
        model = make().eval()
        random = torch.Generator().manual_seed(0)
        x, y = torch.randn(rows, *shape, generator=random), torch.randint(10, (rows,), generator=random)
        batches: list[Batch] = [{"x": a, "y": b} for a, b in zip(x.split(128), y.split(128), strict=True)]

        def plain(model: nn.Module = model, batches: list[Batch] = batches) -> None:
            for batch in batches:
                model.zero_grad(set_to_none=True)
                classify(model, batch).loss.backward()

        def estimate(
            model: nn.Module = model,
            batches: list[Batch] = batches,
            labels: Literal["exact", "empirical"] = labels,
        ) -> None:
            fisher(model, batches, classify, labels)

        mine, theirs = interleaved(estimate, plain, runs)
        detail = f"{per_second(rows, mine)} rows/s, plain pass {per_second(rows, theirs)}"
        yield Line("fisher", name, ratios(mine, theirs), "plain passes", goal, more_is_better=False, detail=detail)


def closed_form(runs: int, *, quick: bool) -> Iterator[Line]:
    """One experience of ten classes, learned and solved, on the 400 features of an MLP; both sides in float64."""
    rows, size, wide = (1_280 if quick else 5_120), 128, 1000
    torch.manual_seed(0)
    model = MLP().eval()
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(rows, 784, generator=random), torch.randint(10, (rows,), generator=random)
    x[:, :10] += F.one_hot(y, 10)
    experience = Experience(0, Columns(x=x, y=y), Columns(x=x, y=y), tuple(range(10)))
    order, share = epoch_order(rows, 0, 0, 0), 0.2
    cut = rows - round(rows * share)

    def dealt(index: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(x.index_select(0, part), y.index_select(0, part)) for part in index.split(size)]

    def ours(method: Method) -> Tensor:
        learner = Learner(model, method, optimizer=partial(torch.optim.SGD, lr=0.01), batch_size=size)
        learner.learn(experience)
        return learner.predict({"x": x[:size]})

    def slda() -> Tensor:
        weight, bias = bare.slda(model.features, dealt(torch.arange(rows)), 400, 10, 1e-4)
        return model.features(x[:size]).double() @ weight + bias

    def ranpac() -> Tensor:
        P = torch.randn(400, wide, generator=torch.Generator().manual_seed(0)).double()  # noqa: N806
        weight = bare.ranpac(model.features, dealt(order[:cut]), dealt(order[cut:]), 10, P)
        return (model.features(x[:size]).double() @ P).relu() @ weight

    by_hand: dict[str, tuple[Callable[[], Method], Callable[[], Tensor], int]] = {
        "slda": (SLDA, slda, 3 * runs),  # a fifth of a second each: more of them
        f"ranpac, M = {wide}": (partial(RanPAC, M=wide, holdout=share), ranpac, runs),
    }
    for name, (make, other, turns) in by_hand.items():
        torch.testing.assert_close(ours(make()), other().float().detach(), rtol=1e-3, atol=1e-4)
        mine, theirs = interleaved(lambda make=make: ours(make()), other, turns)
        detail = f"{per_second(rows, mine)} rows/s, by hand {per_second(rows, theirs)}"
        yield Line("closed-form", name, ratios(theirs, mine), "of by hand", 0.9, detail=detail)


def memory(runs: int, *, quick: bool) -> Iterator[Line]:
    """100,000 images of 3x32x32 with label and id, against a reservoir by hand of the same columns, 128 at a time."""
    rows, size = (20_000 if quick else 100_000), 128
    x = torch.randint(256, (4 * size, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(4 * size) % 10

    def batch(first: int) -> Batch:
        here = slice(first % (4 * size), first % (4 * size) + size)
        return {"x": x[here], "y": y[here], "id": torch.arange(first, first + size)}

    warm = Memory(10 * size)  # what the first use of anything loads is no part of a row
    for first in range(0, 40 * size, size):
        warm.add(batch(first))
    warm.sample(size)
    before = resident()
    ours = Memory(rows)
    filled = 0
    while len(ours) < rows:
        ours.add(batch(filled))
        filled += size
    ours.sample(size)
    raw = rows * (x[0].numel() + 8)  # pixels and label
    if before is not None:
        grown = (resident() or 0) - before
        yield Line(
            "memory", "bytes a row", (grown / raw,), "of raw", 1.03, more_is_better=False,
            detail=f"{grown / rows:,.0f} bytes, measured on the process",
        )  # fmt: skip
    theirs = bare.Reservoir(rows)
    while len(theirs) < rows:
        theirs.add(*_columns(batch(theirs.seen)))

    count = 200 if quick else 1000
    # A tenth of a second each: short turns, and more of them.
    mine, other = interleaved(
        times(lambda: ours.sample(size), count), times(lambda: theirs.sample(size), count), 4 * runs
    )
    detail = f"{per_second(count, mine)} draws/s, by hand {per_second(count, other)}"
    yield Line("memory", "sample 128", ratios(other, mine), "of by hand", 0.9, detail=detail)

    def add_ours() -> None:
        nonlocal filled
        ours.add(batch(filled))
        filled += size

    mine, other = interleaved(
        times(add_ours, count), times(lambda: theirs.add(*_columns(batch(theirs.seen))), count), 4 * runs
    )
    detail = f"{per_second(count * size, mine)} rows/s, by hand {per_second(count * size, other)}"
    yield Line("memory", "offer 128 when full", ratios(other, mine), "of by hand", detail=detail)

    def fill_ours() -> None:
        fresh = Memory(rows // 2)
        for first in range(0, rows // 2, size):
            fresh.add(batch(first))

    def fill_theirs() -> None:
        fresh = bare.Reservoir(rows // 2)
        for first in range(0, rows // 2, size):
            fresh.add(*_columns(batch(first)))

    mine, other = interleaved(fill_ours, fill_theirs, runs)
    detail = f"{per_second(rows // 2, mine)} rows/s, by hand {per_second(rows // 2, other)}"
    yield Line("memory", "fill, 128 at a time", ratios(other, mine), "of by hand", detail=detail)


def _columns(batch: Batch) -> tuple[torch.Tensor, ...]:
    return batch["x"], batch["y"], batch["id"]


def augmentation(runs: int, *, quick: bool) -> Iterator[Line]:
    """Batches of 128 images of 3x32x32, uint8 in and float32 out, on one thread."""
    torch.set_num_threads(1)
    size, count = 128, 100 if quick else 400
    x = torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch: Batch = {"x": x, "id": torch.arange(size)}
    seen, random = view("cifar10", ["flip", "crop:4"]), torch.Generator().manual_seed(0)
    mine, other = interleaved(
        times(lambda: seen(batch, 1), count), times(lambda: bare.augmented(x, random), count), runs
    )
    detail = f"by hand {per_second(count * size, other)}"
    rates = tuple(count * size / took for took in mine)
    yield Line("augmentation", "flip, crop, normalise", rates, "images/s", 100_000, detail=detail)


def transferability(runs: int, *, quick: bool) -> Iterator[Line]:
    """LogME of 2,000 rows of 512 features for 100 classes, beside the decomposition that any form of it begins with."""
    rows, width, classes = (500 if quick else 2_000), 512, 100
    random = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (rows,), generator=random)
    f = torch.randn(rows, width, generator=random)
    f[:, :classes] += F.one_hot(y, classes)
    took, alone = interleaved(lambda: logme(f, y), lambda: torch.linalg.svd(f.double(), full_matrices=False), runs)
    detail = f"its SVD alone {median(alone):.3f} s"
    yield Line("logme", "2,000 x 512 x 100", tuple(took), "s", 0.5, more_is_better=False, detail=detail)


def start() -> Iterator[Line]:
    """What everlearn adds to `import torch`, and how long a person waits for the help."""
    code = (
        "import torch, time; start = time.perf_counter(); import everlearn; everlearn.Learner;"
        "print(time.perf_counter() - start)"
    )
    took = tuple(float(_python(code)) for _ in range(START_RUNS + 1))[1:]
    yield Line("start", "import everlearn after torch", took, "s", 0.2, more_is_better=False)
    code = "import sys; from everlearn.cli import main; sys.argv = ['everlearn', '--help']; main()"
    took = tuple(seconds(lambda: _python(code)) for _ in range(START_RUNS + 1))[1:]
    nothing = median(seconds(lambda: _python("pass")) for _ in range(START_RUNS))
    yield Line(
        "start", "everlearn --help", took, "s", 0.3, more_is_better=False, detail=f"Python alone {nothing:.3f} s"
    )


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
