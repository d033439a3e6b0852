"""Settings that are about speed, memory or interruption leave the trajectory of the weights as it is."""

import random
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import Dataset

from everlearn import checkpoint
from everlearn.data import Columns, Items, view
from everlearn.learner import Learner
from everlearn.models import snapshot
from everlearn.streams import Experience


def learner(method="er", **options):
    """A learner without dropout, whose pieces and processes would draw masks of their own."""
    made = zoo.learner(method, **options)
    for module in made.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return made


def learned(subject, experiences):
    for experience in experiences:
        subject.learn(experience)
    return snapshot(subject.model)


def small():
    return zoo.stream(small=True)[:2]


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_a_batch_in_pieces_is_the_batch(pieces):
    whole = learned(learner("naive", batch_size=15), small())
    in_pieces = learned(learner("naive", batch_size=15, accumulate=pieces), small())
    torch.testing.assert_close(in_pieces, whole, atol=1e-5, rtol=1e-5)


class Noisy(Dataset):
    """A foreign data set with random augmentation of its own, from all three global generators."""

    def __init__(self, rows):
        self.x, self.y = rows.column("x"), rows.column("y")

    def __len__(self):
        return len(self.y)

    def __getitem__(self, place):
        noise = torch.randn(64) + random.random() + np.random.rand()  # noqa: NPY002
        return self.x[place] + 0.1 * noise, int(self.y[place])


class Plain(Noisy):
    """The rows as they are, one by one."""

    def __getitem__(self, place):
        return self.x[place], int(self.y[place])


def foreign(kind):
    return [Experience(e.index, Items(kind(e.train)), e.test, e.classes) for e in small()]


@pytest.mark.parametrize("method", ["er", "derpp"])
def test_workers_change_nothing(method):
    alone = learned(learner(method, workers=0), foreign(Noisy))
    assert checkpoint.same(learned(learner(method, workers=2), foreign(Noisy)), alone)
    assert not checkpoint.same(learned(learner(method), small()), alone)


@pytest.mark.parametrize("method", ["er", "ewc"])
def test_rows_made_one_by_one_are_learned_as_rows_at_hand(method):
    assert checkpoint.same(learned(learner(method), foreign(Plain)), learned(learner(method), small()))


def images():
    """Two experiences of digits as uint8 images."""
    found = []
    for e in small():
        x = (e.train.column("x") * 255).round().to(torch.uint8).view(-1, 1, 8, 8)
        rows = Columns(x=x, y=e.train.column("y"))
        found.append(Experience(e.index, rows, rows, e.classes))
    return found


def cosine(optimizer, steps):
    return CosineAnnealingLR(optimizer, steps)


ADAMW = partial(torch.optim.AdamW, lr=1e-3)
SETTINGS = {
    "float32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "cosine": {"scheduler": cosine},
    "clip": {"clip": 0.1},
    "adamw": {"optimizer": ADAMW},
    "drop_last": {"drop_last": True, "batch_size": 24},
    "accumulate": {"accumulate": 3},
    "fresh optimizer": {"fresh_optimizer": True},
    "view": {"model": "conv", "view": view("unit", ["flip", "crop:1", "rotate", "colour"])},
    "all": {
        "model": "conv",
        "scheduler": cosine,
        "clip": 0.1,
        "optimizer": ADAMW,
        "accumulate": 2,
        "view": view("mnist", ["crop:2", "flip"]),
    },
}
EXPERIENCES = {"view": images, "all": images, "workers": partial(foreign, Noisy)}


def resumed(make, experiences, pause, path):
    """As `learned`, by two learners: the first stops at step `pause`, the second has but its checkpoint."""
    first, stopped = make(), False
    for experience in experiences:
        for step in first.steps(experience):
            if step.number == pause:
                stopped = True
                break
        if stopped:
            break
    checkpoint.save(first.state_dict(), path)
    torch.manual_seed(999)
    second = make()
    second.load_state_dict(checkpoint.load(path))
    return learned(second, experiences[second.experience :]), second


@pytest.mark.parametrize("name", [*SETTINGS, "workers"])
def test_resume_is_exact_under_every_setting(name, tmp_path):
    options = SETTINGS.get(name, {"workers": 2, "epochs": 1})
    experiences = EXPERIENCES.get(name, small)()

    def make():
        return zoo.learner("er+lwf+si", **{"growing": True} | options)

    whole = make()
    expected = learned(whole, experiences)
    assert all(value.isfinite().all() for value in expected.values())
    found, second = resumed(make, experiences, whole.number * 2 // 3, tmp_path / "c")
    assert checkpoint.same(found, expected)
    assert checkpoint.same(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("float32", "view", "all")])
def test_each_setting_makes_a_difference(name):
    ordinary, special = (learned(zoo.learner("er+lwf+si", **o), small()) for o in ({}, SETTINGS[name]))
    assert not checkpoint.same(ordinary, special)


def test_a_step_that_overflows_in_fp16_leaves_no_trace():
    subject = zoo.learner("si", precision="fp16")
    subject.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = snapshot(subject.model)
    for step in subject.steps(small()[0]):
        if step.number == 1:
            assert checkpoint.same(snapshot(subject.model), before)
            assert not any(path.any() for path in subject.method.path.values())
    assert subject.scaler.get_scale() < 2.0**60
    subject.learn(small()[1])
    assert all(value.isfinite().all() for value in subject.method.importance.values())


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch calls it
def test_resume_is_exact_with_torch_compile_and_the_weights_are_those_without(tmp_path):
    def make(compiled=True):
        torch.manual_seed(0)
        return Learner(nn.Linear(64, 10), zoo.METHODS["si"](), optimizer=zoo.SGD, drop_last=True, compile=compiled)

    whole = make()
    expected = learned(whole, small())
    found, second = resumed(make, small(), whole.number - 1, tmp_path / "c")
    assert checkpoint.same(found, expected)
    assert checkpoint.same(second.state_dict(), whole.state_dict())
    torch.testing.assert_close(learned(make(compiled=False), small()), expected, atol=1e-5, rtol=1e-5)
