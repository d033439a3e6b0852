"""What detectors of drift notice, and what reactions are worth: the numbers of docs/online-results.md.

    python benchmarks/drift.py                                a table in the terminal, and JSON
    python benchmarks/drift.py --docs docs/online-results.md  the same, and the section of the page anew
    python benchmarks/drift.py --tiny                         some seconds: does it run?

First, bits that are errors with a known chance: it rises in the middle from 10% to 30%, at once or over 5,000 rows, or
only to 15%, or not at all. All settings are the defaults. Alarms before the rise are false; the delay is that of the
first one after it. KSWIN compares distributions at every row, which takes hundreds of times as long: its streams are
shorter.

Then two synthetic streams of two classes, 10 numbers a row, 5% of the labels wrong: of a plane drawn anew twice, and
of a plane whose sides swap their names and swap back. A small net learns them in batches of 10 rows, each
answered before it is learned, with each reaction. Settings of reactions were written down before they were tried.
"""

import argparse
import json
import platform
import re
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everlearn.online.detectors import KINDS
from everlearn.online.drift import Drift
from everlearn.online.making import make_online
from everlearn.streams.feed import Record

ROWS, LONG, SLOW = 20_000, 100_000, 4_000
SEEDS, LONG_SEEDS, SLOW_SEEDS = 20, 5, 5
LEARNING_SEEDS, BATCH, STAGE, STAGES = 5, 10, 1_000, 3
PAIR = "adwin+page-hinkley"
RISES: dict[str, tuple[float, int]] = {
    "at once, 10% to 30%": (0.3, 0),
    "over 5,000 rows, 10% to 30%": (0.3, 5_000),
    "at once, 10% to 15%": (0.15, 0),
}
"""The chance of an error in the end, and how many rows it takes to get there."""
REACTIONS = {
    "none": "alert",
    "boost": "boost:factor=5,steps=50",
    "recent": "recent:share=0.5,rows=1000,steps=50",
    "refresh": "refresh:rows=200,wait=100",
    "challenge, a copy": "challenge:rows=500,learns=100,factor=5",
    "challenge, anew": "challenge:rows=500,learns=100,start=fresh",
}
LEARNERS = {
    "plain, rate 0.05": ("naive", "sgd:lr=0.05"),
    "plain, rate 0.4": ("naive", "sgd:lr=0.4"),
    "replay, rate 0.4": ("er:memory=500,count=10", "sgd:lr=0.4"),
}
"""A cautious rate, and the best of 0.05, 0.1, 0.2, 0.4 and 0.8 without a reaction, on a seed that is none of these."""


def bits(seed: int, rows: int, after: float = 0.1, over: int = 0) -> list[float]:
    """Errors: 10% up to the middle, `after` in the end."""
    place = np.arange(rows)
    share = np.clip((place - rows // 2) / over, 0, 1) if over else place >= rows // 2
    return list((np.random.default_rng(seed).random(rows) < 0.1 + (after - 0.1) * share).astype(float))


def alarms(detector: str, errors: list[float], cooldown: int) -> list[int]:
    """The rows of the events."""
    drift, online = Drift(detector, cooldown=cooldown, warmup=0), None
    return [event.at for at, error in enumerate(errors) for event in drift.update(error, online, at)]  # type: ignore[arg-type]


def calmed(events: list[int], cooldown: int) -> list[int]:
    """The events that are left of one detector's with a cooldown."""
    left: list[int] = []
    for at in events:
        left += [at] if not left or at - left[-1] > cooldown else []
    return left


def noticed(detector: str, *, tiny: bool) -> dict[str, Any]:
    """What a detector makes of all kinds of rise, and of none; without a cooldown, and with one."""
    slow = detector == "kswin"
    rows = SLOW if slow else ROWS
    seeds = 1 if tiny else SLOW_SEEDS if slow else SEEDS
    found: dict[str, Any] = {"0": {}, "500": {}}
    for name, (after, over) in RISES.items():
        if slow and over:
            continue
        for seed in range(seeds):
            errors = bits(seed, rows, after, over)
            plain = alarms(detector, errors, 0)
            calm = alarms(detector, errors, 500) if "+" in detector else calmed(plain, 500)
            for cooldown, events in (("0", plain), ("500", calm)):
                late = [at - rows // 2 for at in events if at >= rows // 2]
                each = found[cooldown].setdefault(name, {"false": [], "delays": [], "missed": 0, "after": []})
                each["false"].append(len(events) - len(late))
                each["delays"] += late[:1]
                each["missed"] += not late
                each["after"].append(len(late))
    long = SLOW if slow else LONG // 10 if tiny else LONG
    none = [len(alarms(detector, bits(1000 + seed, long), 0)) for seed in range(min(seeds, LONG_SEEDS))]
    found["0"]["none"] = 10_000 * statistics.mean(none) / long
    return found


def concepts(kind: str, draw: np.random.Generator) -> list[np.ndarray]:
    """The plane of each stage."""
    first = draw.standard_normal(10)
    if kind == "recurring":
        return [first if stage % 2 == 0 else -first for stage in range(STAGES)]
    return [first, *(draw.standard_normal(10) for _ in range(STAGES - 1))]


def stream(kind: str, seed: int) -> tuple[list[Record], list[str]]:
    """Rows and labels."""
    draw = np.random.default_rng(seed)
    planes = concepts(kind, draw)
    x = draw.standard_normal((STAGES * STAGE, 10))
    sides = np.concatenate([x[i * STAGE : (i + 1) * STAGE] @ plane > 0 for i, plane in enumerate(planes)])
    sides ^= draw.random(len(x)) < 0.05
    records = [Record(str(at), {f"x{i}": value for i, value in enumerate(row)}) for at, row in enumerate(x.tolist())]
    return records, ["yes" if side else "no" for side in sides]


def learned(kind: str, learner: str, reactions: str, seed: int, *, stages: int = STAGES) -> dict[str, Any]:
    """Errors in percent: of all rows, and of the 500 after each drift; and how many drifts were noticed."""
    method, optimizer = LEARNERS[learner]
    make = partial(make_online, model="mlp:hidden=32", optimizer=optimizer, method=method, seed=seed)
    online, drift = make(), Drift(PAIR, reactions, make=make)
    records, labels = stream(kind, seed)
    errors: list[float] = []
    for start in range(0, stages * STAGE, BATCH):
        rows, names = records[start : start + BATCH], labels[start : start + BATCH]
        for place, (prediction, label) in enumerate(zip(online.predict(rows), names, strict=True)):
            errors.append(float(prediction.answer != label))
            drift.update(errors[-1], online, start + place)
        drift.learn(online, rows, names)
    after = [errors[stage * STAGE : stage * STAGE + 500] for stage in range(1, stages)]
    return {
        "all": 100 * statistics.mean(errors),
        "after": 100 * statistics.mean(map(statistics.mean, after)),
        "noticed": drift.count,
        "won": sum("won" in event.detail for event in drift.events),
    }


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def detector_table(found: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    columns = ["false alarms before, a run", "runs with any", "delay: median (quartiles)", "missed", "alarms after"]
    columns += ["with cooldown 500", "without a rise, in 10,000 rows"]
    lines = [f"| detector | rise | {' | '.join(columns)} |", "|---|---|" + "---:|" * len(columns)]
    for name, each in found.items():
        for rise in (rise for rise in RISES if rise in each["0"]):
            plain, calm = each["0"][rise], each["500"][rise]
            seeds, delays = len(plain["false"]), plain["delays"]
            low, middle, high = np.quantile(delays, [0.25, 0.5, 0.75]) if delays else (np.nan,) * 3
            cells = [
                f"{statistics.mean(plain['false']):.2f}",
                f"{100 * sum(map(bool, plain['false'])) / seeds:.0f}%",
                f"{middle:.0f} ({low:.0f} to {high:.0f})" if delays else "never",
                f"{plain['missed']} of {seeds}",
                f"{statistics.mean(plain['after']):.1f}",
                f"{statistics.mean(calm['after']):.1f}",
                f"{each['0']['none']:.2f}" if rise == next(iter(RISES)) else "",
            ]
            lines.append(f"| {name} | {rise} | {' | '.join(cells)} |")
    return "\n".join(lines)


def reaction_table(found: dict[str, Any]) -> str:
    """As Markdown."""
    columns = ["error in the 500 rows after a drift, %", "less than with none", "error of all rows, %"]
    columns += [f"drifts noticed, of {STAGES - 1}"]
    lines = [f"| stream | learner | reaction | {' | '.join(columns)} |", "|---|---|---|" + "---:|" * len(columns)]
    for kind, methods in found.items():
        for method, reactions in methods.items():
            none = [run["after"] for run in reactions["none"]]
            for reaction, runs in reactions.items():
                gains = [before - run["after"] for before, run in zip(none, runs, strict=True)]
                won = sum(run["won"] for run in runs)
                name = (
                    f"{reaction} (won {won} of {sum(run['noticed'] for run in runs)})"
                    if "chall" in reaction
                    else reaction
                )
                cells = [
                    spread([run["after"] for run in runs]),
                    "" if reaction == "none" else spread(gains),
                    spread([run["all"] for run in runs]),
                    f"{statistics.mean(run['noticed'] for run in runs):.1f}",
                ]
                lines.append(f"| {kind} | {method} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def section(runs: dict[str, Any]) -> str:
    """The part of the page."""
    detectors, reactions = (runs[name] for name in PARTS)
    first, second = (
        f"`python benchmarks/drift.py`, {part['date']}; {part['versions']}." for part in (detectors, reactions)
    )
    return f"""\
## Drift

Bits that are errors with a known chance, {SEEDS} seeds of {ROWS:,} rows, the rise in the middle ({SLOW_SEEDS} seeds of
{SLOW:,} rows for kswin); without a rise, {LONG_SEEDS} seeds of {LONG:,} ({SLOW:,}). A rise is all that counts
(`side=up`). {first}

{detector_table(detectors["found"])}

What reactions are worth: {LEARNING_SEEDS} seeds, {STAGES * STAGE:,} rows, a drift every {STAGE:,}; mean ± standard
deviation over seeds, the gain seed by seed. {second}

{reaction_table(reactions["found"])}"""


def written(page: Path, text: str) -> None:
    """Puts the section between its marks, or at the end of the page, which is made if there is none."""
    begin, end = "<!-- drift: written by benchmarks/drift.py -->", "<!-- end of drift -->"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Online learning, measured\n"
    block = f"{begin}\n\n{text}\n\n{end}"
    if begin in old:
        new = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, old, flags=re.DOTALL)
    else:
        new = f"{old.rstrip()}\n\n{block}\n"
    page.write_text(new, encoding="utf-8")


def by_detector(part: Callable[[str], None], *, tiny: bool) -> dict[str, Any]:
    """What each notices."""
    detectors: dict[str, Any] = {}
    for name in [*KINDS, PAIR]:
        if tiny and name == "kswin":
            continue
        detectors[name] = noticed(name, tiny=tiny)
        part(name)
    return detectors


def by_reaction(part: Callable[[str], None], *, tiny: bool) -> dict[str, Any]:
    """What each is worth."""
    reactions: dict[str, Any] = {}
    for kind in ("redrawn", "recurring"):
        for method in LEARNERS:
            for reaction, spec in REACTIONS.items():
                runs = [
                    learned(kind, method, spec, seed, stages=2 if tiny else STAGES)
                    for seed in range(1 if tiny else LEARNING_SEEDS)
                ]
                reactions.setdefault(kind, {}).setdefault(method, {})[reaction] = runs
            part(f"{kind}, {method}")
    return reactions


PARTS = {"detectors": by_detector, "reactions": by_reaction}


def main() -> None:
    """Measures, prints, and writes."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--tiny", action="store_true", help="one seed, short streams")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "drift.json")
    options.add_argument("--docs", type=Path, help="the page whose section is written anew")
    options.add_argument("--only", choices=[*PARTS, "none"], help="measure this anew; the rest is what --json holds")
    given = options.parse_args()
    torch.set_num_threads(1)  # the same bits, whatever else the machine does
    runs: dict[str, Any] = json.loads(given.json.read_text(encoding="utf-8")) if given.only else {}
    said = f"torch {version('torch')}, river {version('river')}, Python {platform.python_version()}, CPU"
    for name, measure in PARTS.items():
        if given.only in (None, name):
            found = measure(partial(print, "measured:", flush=True), tiny=given.tiny)
            runs[name] = {"date": str(datetime.now(UTC).date()), "versions": said, "found": found}
    print(section(runs))
    if not given.tiny:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    if given.docs:
        written(given.docs, section(runs))


if __name__ == "__main__":
    main()
