"""Streams learned row by row, each row answered first: our nets beside the models of river.

    python benchmarks/prequential.py                                    all of it: tables, and JSON
    python benchmarks/prequential.py --data Weather --models mlp arf    some of it; the JSON keeps what it had
    python benchmarks/prequential.py --docs docs/online-results.md      the tables of the page anew, from the JSON too
    python benchmarks/prequential.py --page timeline.html               accuracy over time, as pictures
    python benchmarks/prequential.py --tiny                             300 rows of each: does it run?

Phishing and Bananas come with river; Weather and Outdoor are read from `streams/` in the folder that EVERLEARN_DATA
names, if it is set. One pass, one row at a time, one core. All settings are defaults, of river and of ours, but for the
rates that are named and the 500 rows of a memory; they were fixed after a trial on 300 rows with other rates, and none
was chosen by the results. Both sides scale inputs by the mean and the variance so far, but for trees and naive Bayes.
"""

import argparse
import csv
import gzip
import json
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from everlearn.metrics.prequential import Prequential
from everlearn.metrics.style import sheet
from everlearn.metrics.timeline import timeline
from everlearn.online.making import make_online
from everlearn.streams.feed import Label, Record

Stream = list[tuple[dict[str, float], str]]
"""Fields and the class, row by row."""
Answer = Callable[[dict[str, float]], Label | None]
Learn = Callable[[dict[str, float], str], object]

OURS: dict[str, dict[str, str]] = {
    "linear, SGD 0.01": {"model": "linear", "optimizer": "sgd:lr=0.01"},
    "mlp, SGD 0.01": {"optimizer": "sgd:lr=0.01"},
    "mlp, Adam 0.001": {"optimizer": "adam:lr=0.001"},
    "mlp, Adam 0.01": {"optimizer": "adam:lr=0.01"},
    "mlp, Adam 0.01, logitadj": {"optimizer": "adam:lr=0.01", "method": "logitadj"},
    "mlp, Adam 0.01, er": {"optimizer": "adam:lr=0.01", "method": "er:memory=500"},
    "hedge, 6 layers, SGD 0.01": {"model": "hedge:layers=6,width=64", "optimizer": "sgd:lr=0.01"},
    "slda": {"model": "identity", "method": "slda"},
    "ncm": {"model": "identity", "method": "ncm"},
}
"""Nets have two layers of 64 units, where they do not say how many."""
THEIRS = (
    *("no-change", "logistic regression", "Gaussian naive Bayes", "Hoeffding tree", "Hoeffding adaptive tree"),
    *("adaptive random forest", "kNN, last 1,000 rows"),
)


def streams() -> dict[str, Callable[[], Stream]]:
    """Those that can be read here."""
    found = {"Phishing": lambda: bundled("Phishing"), "Bananas": lambda: bundled("Bananas")}
    if "EVERLEARN_DATA" in os.environ:
        folder = Path(os.environ["EVERLEARN_DATA"]) / "streams"
        found["Weather"] = lambda: table(folder / "noaa_weather.csv.gz", "rain")
        found["Outdoor"] = lambda: table(folder / "outdoor.csv.gz", "label")
    return found


def bundled(name: str) -> Stream:
    from river import datasets

    return [({key: float(value) for key, value in x.items()}, str(y)) for x, y in getattr(datasets, name)()]


def table(path: Path, label: str) -> Stream:
    with gzip.open(path, "rt") as file:
        return [({k: float(v) for k, v in row.items() if k != label}, row[label]) for row in csv.DictReader(file)]


def theirs(name: str, classes: Sequence[str]) -> tuple[Answer, Learn]:
    """A model of river, at its defaults."""
    from river import dummy, forest, linear_model, naive_bayes, neighbors, preprocessing, tree

    regression = linear_model.SoftmaxRegression if len(classes) > 2 else linear_model.LogisticRegression
    scaled = preprocessing.StandardScaler
    model = {
        "no-change": dummy.NoChangeClassifier,
        "logistic regression": lambda: scaled() | regression(),
        "Gaussian naive Bayes": naive_bayes.GaussianNB,
        "Hoeffding tree": tree.HoeffdingTreeClassifier,
        "Hoeffding adaptive tree": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=0),
        "adaptive random forest": lambda: forest.ARFClassifier(seed=0),
        "kNN, last 1,000 rows": lambda: (
            scaled() | neighbors.KNNClassifier(engine=neighbors.LazySearch(window_size=1000))
        ),
    }[name]()
    if name == "logistic regression" and len(classes) == 2:  # it answers with True and False
        return lambda x: classes[int(model.predict_one(x))], lambda x, y: model.learn_one(x, y == classes[1])
    return model.predict_one, model.learn_one


def ours(name: str) -> tuple[Answer, Learn]:
    """A learner that knows neither fields nor classes before they come."""
    online = make_online(**OURS[name])
    ids = iter(range(1 << 62))
    held: list[Record] = []

    def answer(x: dict[str, float]) -> Label:
        held[:] = [Record(str(next(ids)), x)]
        return online.predict(held)[0].answer

    return answer, lambda _, y: online.learn(held, [y])


def measured(name: str, rows: Stream) -> dict[str, Any]:
    """Answers, then lessons, row by row; scored when all is done, so that it takes no time."""
    answer, learn = ours(name) if name in OURS else theirs(name, sorted({y for _, y in rows}))
    answers, begun = [], time.perf_counter()
    for x, y in rows:
        answers.append(answer(x))
        learn(x, y)
    took = time.perf_counter() - begun
    score = Prequential(window=1000)
    for given, (_, y) in zip(answers, rows, strict=True):
        score.update(given, y)
    return {
        "readings": score.reading(),
        "curve": [[int(at), round(value, 4)] for at, value in thinned(score.curve("windowed"))],
        "speed": len(rows) / took,
    }


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """About a hundred of them, the last included."""
    return points[:: -max(1, len(points) // 100)][::-1]


def cells(row: dict[str, Any]) -> list[str]:
    """What a line of the table says."""
    readings = row["readings"]
    half = readings.get("accuracy_block_high", 0) - readings["accuracy"]
    accuracy = f"{100 * readings['accuracy']:.1f}" + (f" ± {100 * half:.1f}" if half > 0 else "")
    kappas = [f"{readings[name]:.3f}" if name in readings else "" for name in ("kappa", "kappa_m", "kappa_t")]
    return [accuracy, f"{100 * readings['windowed']:.1f}", *kappas, f"{100 * readings['worst_recall']:.0f}", speed(row)]


def speed(row: dict[str, Any]) -> str:
    return f"{float(format(row['speed'], '.2g')):,.0f}"


HEAD = ("accuracy, %", "last 1,000", "kappa", "kappa-M", "kappa-T", "worst recall, %", "rows/s")


def ordered(rows: dict[str, Any]) -> list[str]:
    """River's first, then ours, as they stand in the lists above."""
    return [name for name in (*THEIRS, *OURS) if name in rows]


def shown(runs: dict[str, Any], console: Console) -> None:
    for data, rows in runs["data"].items():
        grid = Table(title=data, title_justify="left")
        for name in ("", *HEAD):
            grid.add_column(name, justify="right" if name else "left", no_wrap=not name)
        for name in ordered(rows):
            grid.add_row(f"{'' if name in OURS else 'river: '}{name}", *cells(rows[name]))
        console.print(grid)


def markdown(data: str, rows: dict[str, Any], runs: dict[str, Any]) -> str:
    best = max(rows[name]["readings"]["accuracy"] for name in rows)
    lines = [f"| | {' | '.join(HEAD)} |", "|---|" + "---:|" * len(HEAD)]
    for name in ordered(rows):
        first, *others = cells(rows[name])
        first = f"**{first}**" if rows[name]["readings"]["accuracy"] == best else first
        lines.append(f"| {'' if name in OURS else 'river: '}{name} | {' | '.join([first, *others])} |")
    count = next(iter(rows.values()))["readings"]["rows"]
    return (
        "\n".join(lines) + f"\n\n{data}: {count:,.0f} rows, one seed; ± is half of the 95 % interval by blocks. "
        f"`python benchmarks/prequential.py`, {runs['date']}; {runs['versions']}."
    )


def pictures(runs: dict[str, Any]) -> str:
    parts = []
    for data, rows in runs["data"].items():
        curves = {name: rows[name]["curve"] for name in ordered(rows)}
        parts.append(
            timeline(curves, title=f"{data}: accuracy, last 1,000 rows", unit="share", baselines=["no-change"])
        )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Streams</title><style>{sheet()}</style>'
        f"<body><h1>Streams, row by row</h1>{''.join(parts)}</body></html>"
    )


def main() -> None:
    """Measures, prints, and writes."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--data", nargs="*", default=list(streams()), choices=list(streams()))
    options.add_argument("--models", nargs="*", default=[*THEIRS, *OURS], help="names, or parts of names")
    options.add_argument("--tiny", action="store_true", help="300 rows of each")
    options.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "prequential.json")
    options.add_argument("--docs", type=Path, help="the page whose tables are written anew")
    options.add_argument("--page", type=Path, help="an HTML page of pictures")
    given = options.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, Any] = {"data": {}}
    if given.json.exists() and not given.tiny:
        runs = json.loads(given.json.read_text(encoding="utf-8"))
    runs["date"] = str(datetime.now(UTC).date())
    runs["versions"] = (
        f"torch {version('torch')}, river {version('river')}, Python {platform.python_version()}, one core"
    )
    names = [name for name in (*THEIRS, *OURS) if any(part.lower() in name.lower() for part in given.models)]
    console = Console()
    console.width = max(console.width, 110)  # a table of its own width, in a log too
    for data in given.data:
        rows = streams()[data]()
        for name in names:
            console.print(f"{data}: {name}", style="dim")
            runs["data"].setdefault(data, {})[name] = measured(name, rows[:300] if given.tiny else rows)
    shown(runs, console)
    if not given.tiny:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(runs) + "\n", encoding="utf-8")
    if given.docs:
        page = given.docs.read_text(encoding="utf-8")
        for data, rows in runs["data"].items():
            marks = rf"(<!-- {data} -->\n).*?(<!-- end of {data} -->)"
            text = markdown(data, rows, runs)
            page = re.sub(marks, lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.DOTALL)
        given.docs.write_text(page, encoding="utf-8")
    if given.page:
        given.page.write_text(pictures(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
