"""Which way of updating wins where: the logs of real streams, replayed with labels that come late.

    EVERLEARN_DATA=... python benchmarks/backtests.py [NAME ...] --out runs/backtests [--docs docs] [--pictures]

Each takes a few minutes of one core, and goes on where it was interrupted. `--docs` writes the tables into
backtest-results.md, and `--pictures` what the pages look like, by chromium.
"""

import argparse
import csv
import gzip
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import Progress

from everlearn.backtest.config import Config
from everlearn.backtest.run import begin
from everlearn.checkpoint import write


@dataclass(frozen=True)
class Case:
    """A log, what it is about, and the policies."""

    about: str
    source: str
    policies: tuple[str, ...]
    settings: dict[str, Any]


def _policies(every: str, window: str, *more: str) -> tuple[str, ...]:
    """The warm-up and each training from scratch take 20 passes, each update of a model that is there 5."""
    return (
        "never",
        f"retrain:every={every}",
        f"retrain:every={every},window={window}",
        f"retrain:every={every},warm=true,epochs=5",
        f"finetune:every={every},epochs=5",
        f"er:memory=1000,every={every},epochs=5",
        "online",
        "er:memory=1000",
        "drift",
        *more,
    )


CASES = {
    "weather": Case(
        "Weather: will it rain? 18,159 days at one place, eight measurements, slow drift; labels 30 rows late",
        "streams/noaa_weather.csv.gz",
        _policies("2000", "4000", "odl:layers=6,width=64"),
        {"label": "rain", "label_delay": "30"},
    ),
    "outdoor": Case(
        "Outdoor: which of 40 objects? 4,000 rows of colours, objects come one after another; labels 10 rows late",
        "streams/outdoor.csv.gz",
        _policies("400", "1000", "odl:layers=6,width=64"),
        {"label": "label", "label_delay": "10"},
    ),
    "bikes": Case(
        "Bike sharing: how many are rented this hour? 10,886 hours in two years that grow; labels a day late",
        "streams/bikesharing_train.csv.gz",
        _policies("28d", "180d"),
        {
            "label": "count", "time": "datetime", "label_delay": "1d", "task": "regression",
            "features": (
                *("season", "holiday", "workingday", "weather", "temp", "atemp", "humidity", "windspeed", "hour"),
            ),
        },
    ),
    "news": Case(
        "AG News: which of four topics? 10,000 texts in the order of the file; labels 100 rows late",
        "text/agnews_train10k.tsv.gz",
        _policies("1000", "4000"),
        {"label": "label", "label_delay": "100", "model": "linear", "encoder": "words:buckets=4096", "epochs": 5},
    ),
}  # fmt: skip


def prepared(case: Case, data: Path, folder: Path) -> Path:
    """The log as a file; the hour of the day stands apart where there is a time."""
    source = data / case.source
    if case.settings.get("time") is None:
        return source
    place = folder / source.name.removesuffix(".gz")
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    out = StringIO()
    lines = csv.DictWriter(out, [*rows[0], "hour"])
    lines.writeheader()
    lines.writerows({**row, "hour": f"at {row['datetime'][11:13]}"} for row in rows)
    write(place, out.getvalue().encode())
    return place


def run(name: str, data: Path, folder: Path) -> Path:
    case, out = CASES[name], folder / name
    config = Config(str(prepared(case, data, folder)), str(out), case.policies, **case.settings)
    backtest = begin(config)
    with Progress(transient=True) as progress:
        tasks = {}
        for moment in backtest.steps():
            if moment.policy not in tasks:
                tasks[moment.policy] = progress.add_task(f"{name}: {moment.policy}", total=moment.of)
            progress.update(tasks[moment.policy], completed=moment.at)
    return out


def section(name: str, out: Path) -> str:
    """What the page of results says of a log."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    regression = report["error"] != "share of wrong answers"
    lines = [f"## {CASES[name].about}", "", report["summary"], ""]
    lines += ["| policy | error | behind the best | seconds of learning | rows trained | rows kept | updates |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for policy, each in report["policies"].items():
        effort, behind = each["effort"], report["behind"].get(policy)
        error = f"{each['error']:.1f}" if regression else f"{100 * each['error']:.1f} %"
        unit = 1 if regression else 100
        away = "best" if behind is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(
            *(unit * behind[key] for key in ("mean", "low", "high"))
        )  # fmt: skip
        seconds = each["seconds"]["learning"] if effort["trained"] else 0
        cells = [f"`{policy}`", error, away, f"{seconds:.1f}"]
        cells += [f"{effort[key]:,}" for key in ("trained", "kept", "updates")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(out: Path, to: Path) -> None:
    """What the page looks like, from its head to its curves."""
    whole = out / "page.png"
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "pictures need chromium"
    page = (out / "report.html").resolve().as_uri()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1240,1480"]
    subprocess.run([browser, *options, f"--screenshot={whole}", page], check=True, capture_output=True)
    Image.open(whole).convert("RGB").resize((930, 1110), Image.Resampling.LANCZOS).quantize(256).save(to, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *CASES])
    parser.add_argument("--out", type=Path, default=Path("runs/backtests"))
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--pictures", action="store_true")
    given = parser.parse_args()
    data = Path(os.environ["EVERLEARN_DATA"])
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names or CASES:
        out = run(name, data, given.out)
        text = section(name, out)
        print(text)
        if given.docs and given.pictures:
            picture(out, given.docs / f"backtest-{name}.png")
            text += f"\n\n![The report of the backtest](backtest-{name}.png)"
        if given.docs:
            written(given.docs / "backtest-results.md", name, text)


def written(page: Path, name: str, text: str) -> None:
    """Puts the text between the marks of the page."""
    before = page.read_text(encoding="utf-8")
    start, end = f"<!-- backtest: {name} -->", f"<!-- end: {name} -->"
    head, found, rest = before.partition(start)
    assert found, f"{page} has no {start}"
    write(page, f"{head}{start}\n\n{text}\n\n{end}{rest.partition(end)[2]}".encode())


if __name__ == "__main__":
    main()
