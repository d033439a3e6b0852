"""What each of two processes does in `test_processes.py`; what it ends with goes to a file."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import adaptation
import torch
import zoo
from torch import distributed, nn

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.methods import Naive
from everlearn.models import snapshot
from everlearn.streams import Experience

KINDS = {
    "mlp": {"model": "mlp", "growing": True},
    "conv": {"model": "conv", "drop_last": True},
    "tasks": {"tasks": True},
    "transformer": {"model": "transformer", "growing": True},
}
RESUMED = [("er+lwf+si", "mlp"), ("derpp", "conv"), ("ewc", "tasks"), ("lwf+er", "tasks")]
SPLITS = [(16, 1), (16, 3), (7, 1), (11, 4), (40, 1)]
"""Sizes of batches, and pieces of each; 40 rows leave last batches of 8, 5 and 7 rows, or none."""


COMPARED = ("naive", "er", "der", "derpp", "ewc", "si", "lwf")
"""Methods whose weights on one kind of model, `mlp`, have to differ."""


def cases():
    """Each method with task labels and without where that suits it: on each kind of model, or on one in turn."""
    found = []
    for place, method in enumerate(zoo.METHODS):
        kinds = [k for k in KINDS if zoo.suits(method, tasks=k == "tasks", model=k)]
        kinds = [k for k in kinds if k != "transformer" or method in zoo.TOKENS]
        without = [k for k in kinds if k != "tasks"]
        if without and os.environ.get("EVERLEARN_CONTRACT") != "all":
            chosen = "mlp" if method in COMPARED else without[place % len(without)]
            kinds = [k for k in kinds if k in ("tasks", chosen)]
        found += [(method, kind) for kind in kinds]
    return found


def stream(kind):
    return (zoo.task_stream(True, rows=260) if kind == "tasks" else zoo.stream(True, rows=260))[:3]


def ends(method, kind, pause=None, experiences=3):
    """All that a learner is after some experiences; if it paused, another one went on from its state."""
    subject = zoo.learner(method, **{"epochs": 1} | KINDS[kind])
    for experience in stream(kind)[:experiences]:
        for step in subject.steps(experience):
            if step.number == pause:
                break
        if subject.number == pause:
            state = subject.state_dict()
            torch.manual_seed(999)
            subject, pause = zoo.learner(method, **{"epochs": 1} | KINDS[kind]), None
            subject.load_state_dict(state)
            subject.learn(experience)
    if pause is not None:
        raise ValueError(f"{method} on {kind} took {subject.number} steps, and never came to {pause}")
    return subject.state_dict()


def experience(rows):
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0))
    data = Columns(x=x, y=(x[:, 0] > 0).long())
    return Experience(0, data, data, (0, 1))


def split(batch_size, accumulate, rows=40):
    """The weights after learning `rows` rows without dropout, in batches that have a few rows, or one, at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    subject = Learner(model, Naive(), optimizer=zoo.SGD, epochs=3, batch_size=batch_size, accumulate=accumulate)
    subject.learn(experience(rows))
    return snapshot(model)


def strangers(rank):
    """The weights after learning from first weights that differ from process to process."""
    torch.manual_seed(rank)
    model = nn.Linear(8, 2)
    Learner(model, zoo.METHODS["si"](), optimizer=zoo.SGD).learn(experience(40))
    return snapshot(model)


def old_head():
    """The head of the first task, before and after the second."""
    subject = zoo.learner("naive", tasks=True)
    first, second = stream("tasks")[:2]
    subject.learn(first)
    before = snapshot(subject.model.heads[0])
    subject.learn(second)
    return {"before": before, "after": snapshot(subject.model.heads[0])}


ADAPTED = [(name, size) for name in ("dann", "mcd", "mdd", "wdgrl", "adda", "er+dann") for size in (8, 13)]
"""With 40 rows without a label, 13 leave a last batch of one, of which one process has no share."""


def adapted(name, size, pause=None):
    """All that a learner without dropout is after a labelled experience and one without labels."""

    def begin():
        subject = adaptation.learner(adaptation.method(name), batch_size=size)
        adaptation.still(subject.model)
        return subject

    subject = begin()
    for experience in adaptation.stream():
        for step in subject.steps(experience):
            if step.number == pause:
                break
        if subject.number == pause:
            state = subject.state_dict()
            subject, pause = begin(), None
            subject.load_state_dict(state)
            subject.learn(experience)
    return subject.state_dict()


def everything(rank):
    yield from ((f"{method} {kind}", ends(method, kind, experiences=2)["model"]) for method, kind in cases())
    for method, kind in RESUMED:
        yield f"whole {method} {kind}", ends(method, kind)
        yield f"resumed {method} {kind}", ends(method, kind, pause=7)
    for size, pieces in SPLITS:
        yield f"split {size} {pieces}", split(size, pieces)
    for name, size in ADAPTED:
        yield f"adapted {name} {size}", adapted(name, size)
    for name in ("mdd", "wdgrl", "adda"):
        yield f"adapted and resumed {name}", adapted(name, 8, pause=20)
    yield "split 1 row", split(16, 1, rows=33)
    yield "strangers", strangers(rank)
    yield "old head", old_head()


def main(rank, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", store, timedelta(seconds=60), world_size=2, rank=rank)
    checkpoint.save(dict(everything(rank)), folder / f"{rank}.checkpoint")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
