"""Streams: predict, then learn, a row or a few at a time; 10 features, a layer of 64, two classes, plain SGD.

"1" and "fused, 1" are `predict` and then `observe`, as where labels come later; "together" is `test_then_train`, for
labels that come along with the rows. All are held against `predict` and then `learn` by hand.
"""

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import bare
import torch
from measure import Line, interleaved, ratios, resident
from torch import Tensor, nn

from everlearn import Learner

SIZES = {1: 0.9, 32: 0.9, 1024: 0.9}
"""Rows at a time, and what part of the speed of the step by hand is asked for."""
SHARE = 60 / 166
"""The goal of a fused step: 60 microseconds, where the step by hand took 166."""
SGD = partial(torch.optim.SGD, lr=0.01)
Pairs = list[tuple[Tensor, Tensor]]


def stream(runs: int, *, quick: bool) -> Iterator[Line]:
    """Each beside the step by hand."""
    torch.set_num_threads(1)
    for fused in (False, True):
        for size, goal in SIZES.items():
            for together in (False, True) if fused and size == 1 else (False,):
                steps = (100 if size < 1024 else 20) // (2 if quick else 1)
                mine, theirs = _beside(size, steps, 8 * runs, fused=fused, together=together)
                rate = f"{steps * size / median(mine):,.0f} rows/s, by hand {steps * size / median(theirs):,.0f}"
                name = f"{'fused, ' if fused else ''}{size}{', together' if together else ''}"
                if fused:
                    goal = 1 / SHARE if size == 1 else None  # noqa: PLW2901
                yield Line("online", name, ratios(theirs, mine), "of by hand", goal, detail=rate)
    for fused in (False, True):
        yield from _long(2_000 if quick else 100_000, fused=fused)


def _beside(
    size: int, steps: int, turns: int, *, fused: bool, together: bool = False
) -> tuple[list[float], list[float]]:
    """The seconds that so many steps take, ours and those by hand, turn by turn; both must learn the same."""
    data = _rows(steps, size)
    learner = Learner(_net(), optimizer=SGD, fused=fused)
    model = _net()
    step = bare.Online(model, SGD(model.parameters())).step

    def ours() -> None:
        for x, y in data:
            if together:
                learner.test_then_train({"x": x, "y": y})
            else:
                learner.predict({"x": x})
                learner.observe({"x": x, "y": y})

    def by_hand() -> None:
        for x, y in data:
            step(x, y)

    took = interleaved(ours, by_hand, turns)
    for mine, other in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    return took


def _long(rows: int, *, fused: bool) -> Iterator[Line]:
    """So many rows, one by one: the time of each beside that of a learner that is new, and the memory."""
    learner, data = Learner(_net(), optimizer=SGD, fused=fused), _rows(1000, 1)
    ask: Callable[[int], None] = partial(_one, learner, data)
    for row in range(1000):
        ask(row)
    gc.collect()
    took = torch.ones(rows, dtype=torch.float64)  # written once, so that its own memory is there
    before = resident()
    for row in range(rows):
        start = time.perf_counter()
        ask(row)
        took[row] = time.perf_counter() - start
    name, after = "fused, " if fused else "", resident()
    half, most = (float(took.quantile(share)) * 1e6 for share in (0.5, 0.99))
    told = f"p50 {half:.0f} us, p99 {most:.0f} us"
    # A tenth against another tells how busy the machine was by then; a learner with the same weights, how old this is.
    other = Learner(_net(), optimizer=SGD, fused=fused)
    other.load_state_dict(learner.state_dict())
    old, new = interleaved(*[partial(_some, each, data, 50) for each in (learner, other)], 100)
    yield Line(
        "online",
        f"{name}after {rows:,} rows",
        ratios(old, new),
        "of a new one's time",
        1.1,
        more_is_better=False,
        detail=told,
    )
    if before is not None and after is not None:
        grown = (after - before) / 2**20
        yield Line("online", f"{name}memory", (grown,), "MiB more", 1.0, more_is_better=False, detail=f"{rows:,} rows")


def _some(learner: Learner, data: Pairs, rows: int) -> None:
    for row in range(rows):
        _one(learner, data, row)


def _one(learner: Learner, data: Pairs, row: int) -> None:
    x, y = data[row % len(data)]
    learner.predict({"x": x})
    learner.observe({"x": x, "y": y})


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 2))


def _rows(steps: int, size: int) -> Pairs:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(steps, size, 10, generator=random)
    return list(zip(x, (x[:, :, 0] > x[:, :, 1]).long(), strict=True))
