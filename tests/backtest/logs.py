"""Logs to replay: rows an hour apart, two classes, and a world that turns over halfway."""

import csv
from datetime import UTC, datetime, timedelta

import numpy as np

from everlearn.backtest.log import log_of
from everlearn.streams.feed import Record

HOUR = 3600.0
START = 1_767_225_600.0
"""2026-01-01."""


def rows(count=600, *, turn=None, seed=0, timed=True):
    """Records with labels; from row `turn` on, what was yes is no."""
    generator = np.random.default_rng(seed)
    made = []
    for i in range(count):
        x = generator.normal(size=3)
        sure = float(x @ (1.0, -1.0, 0.5)) * (-1 if turn is not None and i >= turn else 1)
        fields = dict(zip("abc", map(float, x), strict=True))
        made.append(Record(f"r{i}", fields, "yes" if sure > 0 else "no", START + HOUR * i if timed else None))
    return made


def log(count=600, *, turn=None, delay=None, timed=True, **options):
    return log_of("log", rows(count, turn=turn, timed=timed), delay=delay, **options)


def numbers(count=400):
    """A log whose labels are numbers."""
    generator = np.random.default_rng(1)
    made = []
    for i in range(count):
        x = generator.normal(size=2)
        made.append(Record(f"r{i}", {"a": float(x[0]), "b": float(x[1])}, float(2 * x[0] - x[1]), START + HOUR * i))
    return log_of("numbers", made, regression=True)


def table(path, count=400, *, turn=None, known=False):
    """The same as a CSV file, with the columns when, a, b, c and answer; `known` is a column of times of labels."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["when", "a", "b", "c", "answer", *(["known"] if known else [])])
        for row in rows(count, turn=turn):
            when = datetime.fromtimestamp(row.time, UTC).replace(tzinfo=None)
            later = [(when + timedelta(hours=5)).isoformat()] if known else []
            lines.writerow([when.isoformat(), *row.fields.values(), row.label, *later])
    return path
