"""A feed from a list, which hands records out in chunks of whatever sizes, and the services that read it."""

import random

from everlearn.metrics.prequential import Prequential
from everlearn.online.drift import Drift
from everlearn.online.making import make_online
from everlearn.online.service import Service
from everlearn.online.settings import make_settings
from everlearn.streams.feed import Record


class Listed:
    """All of a list, at most `most` records at a time, or as `chance` will have it."""

    name, trouble = "a list", ""

    def __init__(self, records, *, most=1000, chance=None, ends=True, follow=False):
        self.records = [at(record, place + 1) for place, record in enumerate(records)]
        self.most, self.chance, self.ends, self.follow = most, chance, ends, follow
        self.place, self.safe, self.sought = 0, [], []

    @property
    def ended(self):
        return self.ends and self.place == len(self.records)

    def read(self, most, wait=0.0):
        count = min(most, self.most)
        if self.chance:
            count = self.chance.randint(0, count)
        chunk = self.records[self.place : self.place + count]
        self.place += len(chunk)
        return chunk

    def seek(self, position):
        self.sought.append(position)
        self.place = position or 0

    def acknowledge(self, position):
        self.safe.append(position)

    def close(self):
        pass


def at(record, place):
    return Record(record.id, record.fields, record.label, record.time, place, record.problem)


def stream(count, *, seed=0, classes="abc", labelled=True, gap=1.0):
    """Rows of three noisy classes, one each second; the world turns half way."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        label = chance.choice(classes)
        centre = classes.index(label) - 1 + (number > count // 2) * 0.5
        fields = {"x": chance.gauss(centre, 0.4), "z": chance.gauss(-centre, 0.4), "day": chance.choice(["mon", "tue"])}
        rows.append(Record(f"r{number}", fields, label if labelled else None, time=1000.0 + gap * number))
    return rows


def service(folder, feed, *, make=None, drift=True, **settings):
    """A service in a folder of its own, which has all that has a state."""
    folder.mkdir(exist_ok=True)
    chosen = {"checkpoint_seconds": 0.0, "checkpoint_rows": 50}
    chosen |= {"model": "mlp:hidden=8", "method": "er:memory=20,count=4"}
    asked = make_settings({"source": "a list", "out": str(folder)} | chosen | settings)

    def new():
        return (make or make_online)(
            model=asked.model, method=asked.method, optimizer=asked.optimizer, task=asked.task, seed=asked.seed
        )

    kind = "accuracy" if asked.task == "classification" else "error"
    return Service(
        asked,
        feed,
        new(),
        Prequential(kind, window=50),
        Drift(warmup=20, cooldown=50, reactions="boost:steps=20+recent:rows=30,steps=20") if drift else None,
        replicas=(new(), new()) if asked.queue else None,
    )


def run(made):
    """All of it; what it is in the end, but for what a clock said."""
    for _ in made.steps():
        pass
    return state(made)


def state(made):
    return {"service": {k: v for k, v in made._state().items() if k != "clock"}, "learning": made.learning.state_dict()}
