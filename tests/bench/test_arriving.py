"""Ten arrivals of small patterns to a tiny base: as it came, adapted to the first of them, or tuned on and on."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from everlearn import Learner
from everlearn.bench import arriving
from everlearn.bench.arriving import ARRIVALS, Arriving, cifar100
from everlearn.bench.domains import PHOTOGRAPHS
from everlearn.bench.published import cifar100 as published
from everlearn.bench.tuned import IMAGENET
from everlearn.data import Columns
from everlearn.models import snapshot
from everlearn.randomness import seeded
from everlearn.transfer.opening import open_base
from everlearn.transfer.preprocessing import ImagePreprocessing

CLASSES = 20
FROZEN, ADAPTED, TUNED = (Arriving("a paper", body, epochs=4, lr=0.05, batch_size=8) for body in arriving.Body.__args__)
READINGS = ("accuracy", "anytime", "forgetting")


def patterns(each, seed):
    """Rows of 20 classes, each a pattern under noise."""
    own = torch.randint(60, 196, (CLASSES, 3, 6, 6), generator=torch.Generator().manual_seed(0))
    y = torch.arange(CLASSES).repeat(each)
    noise = torch.randint(-60, 60, (len(y), 3, 6, 6), generator=torch.Generator().manual_seed(seed))
    return Columns(x=(own[y] + noise).to(torch.uint8), y=y, id=torch.arange(len(y)))


TRAIN, TEST = patterns(8, 1), patterns(5, 2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(arriving.HEADS, "ranpac", "ranpac:M=50")


def base():
    """A base of three classes that nobody asks for."""
    with seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(108, 24), nn.ReLU(), nn.Linear(24, 3))
    half = (0.5, 0.5, 0.5)
    return open_base(net, preprocessing=ImagePreprocessing(resize=(6, 6), mean=half, std=half))


def scored(protocol, method="naive", seed=0, model=None):
    return protocol.scored(method, seed, TRAIN, TEST, model or base())


@pytest.mark.parametrize("protocol", [FROZEN, ADAPTED])
def test_all_heads_learn_over_a_body_that_is_not_tuned_on(protocol):
    values = scored(protocol)
    assert set(values) == {f"{head}, {score}" for head in arriving.HEADS for score in READINGS}
    assert set(protocol.chance) == {f"{head}, accuracy" for head in arriving.HEADS}
    for head in arriving.HEADS:
        assert values[f"{head}, accuracy"] <= values[f"{head}, anytime"]  # a tenth of the classes is easier
        assert values[f"{head}, accuracy"] > 50
    assert set(protocol.chance.values()) == {1.0}


def test_a_frozen_body_stays_and_the_means_are_those_of_its_features():
    model = base()
    before = snapshot(model.module[1])
    accuracy = scored(FROZEN, model=model)["ncm, accuracy"]
    assert all(value.equal(before[name]) for name, value in snapshot(model.module[1]).items())
    x, asked = (model.features(rows).column("x").double() for rows in (TRAIN, TEST))
    y = TRAIN.column("y")
    means = torch.stack([x[y == label].mean(0) for label in range(CLASSES)])
    right = torch.cdist(asked, means).argmin(1) == TEST.column("y")
    assert accuracy == pytest.approx(100 * float(right.double().mean()), abs=1e-9)


def test_an_adapted_body_learns_the_first_arrival_and_nothing_after(monkeypatch):
    learned, bodies = [], []
    learn = Learner.learn

    def spy(self, experience):
        learn(self, experience)
        if isinstance(self.model, nn.Sequential):
            learned.append(experience)
            bodies.append(snapshot(self.model[1]))

    monkeypatch.setattr(Learner, "learn", spy)
    model = base()
    before = snapshot(model.module[1])
    assert scored(ADAPTED, model=model) != scored(FROZEN)
    (first,) = learned
    assert first.index == 0
    assert len(first.classes) == CLASSES // ARRIVALS
    assert not bodies[0]["weight"].equal(before["weight"])
    assert snapshot(model.module[1])["weight"].equal(bodies[0]["weight"])


def test_a_body_that_is_tuned_learns_each_arrival_by_the_method_of_the_row():
    naive, replay = scored(TUNED), scored(TUNED, "er:memory=100,count=8")
    assert set(naive) == set(READINGS)
    assert TUNED.chance == {"accuracy": 1.0}
    assert naive["accuracy"] + 20 < replay["accuracy"]
    assert naive["forgetting"] > replay["forgetting"]


def test_classes_arrive_in_an_order_of_the_seed_that_all_bodies_share(monkeypatch):
    orders = []
    by_class = arriving.by_class

    def spy(train, test, groups):
        orders.append(tuple(groups))
        return by_class(train, test, groups)

    monkeypatch.setattr(arriving, "by_class", spy)
    for protocol, seed in ((FROZEN, 0), (replace(TUNED, epochs=1), 0), (FROZEN, 1)):
        scored(protocol, seed=seed)
    assert orders[0] == orders[1] != orders[2]
    assert [len(group) for group in orders[0]] == [2] * ARRIVALS
    assert sorted(label for group in orders[0] for label in group) == list(range(CLASSES))


@pytest.mark.parametrize("protocol", [FROZEN, ADAPTED, replace(TUNED, epochs=1)])
def test_a_run_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(protocol):
    before = torch.get_rng_state()
    first = scored(protocol)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(7)
    assert scored(protocol) == first
    assert scored(protocol, seed=1) != first


def test_rows_are_made_and_their_ordering_is_between_them():
    rows = {row.name: row for row in published.ROWS}
    assert {row.protocol.body for row in rows.values()} == set(arriving.Body.__args__)
    for ordering in published.ORDERINGS:
        assert {ordering.higher, ordering.lower} <= rows.keys()
        assert ordering.score in rows[ordering.higher].protocol.chance


# -- the data -------------------------------------------------------------------------------------------------


def archive(file, count):
    """So many images of four pixels, as they lie on disk: ten different ones over and over."""
    images = np.random.default_rng(count).integers(0, 256, (10, 2, 2, 3), dtype=np.uint8)
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "WEBP", lossless=True)
        files.append(buffer.getvalue())
    whole = [files[i % 10] for i in range(count)]
    offsets = np.cumsum([0, *map(len, whole)])
    file.parent.mkdir(exist_ok=True)
    np.savez(file, data=np.frombuffer(b"".join(whole), np.uint8), offsets=offsets, y=np.arange(count) % 100)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def test_the_archives_are_read_as_they_were_written_and_the_test_rows_are_the_first_half(tmp_path):
    made = [
        archive(tmp_path / "cifar100" / PHOTOGRAPHS[split], count) for split, count in (("train", 20), ("test", 5010))
    ]
    train, test = cifar100(tmp_path)
    assert (len(train), len(test)) == (20, 5000)
    for rows, images in zip((train, test), made, strict=True):
        batch = rows.take(torch.arange(15))
        assert batch["x"].equal(images[torch.arange(15) % 10])
        assert batch["y"].equal(torch.arange(15))
        assert batch["y"].dtype == torch.int64
    assert not set(train.column("id").tolist()) & set(test.take(torch.arange(5000))["id"].tolist())


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"there is no {PHOTOGRAPHS['train']} in .*cifar100; it is a part of the data"):
        FROZEN.data(tmp_path)
    for name in PHOTOGRAPHS.values():
        archive(tmp_path / "cifar100" / name, 3)
    with pytest.raises(ValueError, match=f"there is no {IMAGENET.name} in .*weights"):
        FROZEN.data(tmp_path)
    (tmp_path / IMAGENET).parent.mkdir()
    (tmp_path / IMAGENET).write_bytes(b"weights")
    digest = FROZEN.data(tmp_path)
    (tmp_path / IMAGENET).write_bytes(b"other weights")
    assert FROZEN.data(tmp_path) != digest
