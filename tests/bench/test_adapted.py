"""Adaptation on small digits blown up to 28 pixels: what may be seen, what chooses a step, and what is scored."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from bench.tiny import digits
from bench.tiny import row as tiny_row
from PIL import Image
from torch.nn import functional as F

from everlearn import Learner
from everlearn.bench.adapted import Adapted
from everlearn.bench.domains import Domains, blended, domains
from everlearn.bench.mnist import Digits
from everlearn.bench.nets import convolutional
from everlearn.bench.published import adaptation
from everlearn.bench.row import Row
from everlearn.bench.running import Job
from everlearn.data import Columns
from everlearn.methods.composition import build
from everlearn.transfer.selection import select

SMALL = Adapted("a paper", "mnist-usps", "dann", steps=6, batch_size=8, looks=3, held=50)
SCORES = {"target", "by im", "by source", "ORACLE", "source"}


def large(rows, turned=False):
    x = F.interpolate(rows.column("x").float(), size=(28, 28)).to(torch.uint8)
    return Columns(x=x.flip(-1) if turned else x, y=rows.column("y"), id=torch.arange(len(rows)))


def two():
    """Digits, and the same ones mirrored."""
    train, test = digits()
    few = Columns(**test.take(torch.arange(60)))
    return Domains(*(Digits(large(train, turned), large(few, turned), "") for turned in (False, True)))


FOUND = two()


@pytest.fixture
def seen(monkeypatch):
    """The experiences that are learned, the batches, and the rows that are asked about."""
    found = {"experiences": [], "batches": [], "asked": []}
    steps, update, predict = Learner.steps, Learner._update, Learner.predict

    def learned(self, experience):
        found["experiences"].append(experience)
        yield from steps(self, experience)

    def updated(self, batch, beside=None):
        found["batches"].append((batch, beside))
        return update(self, batch, beside)

    def asked(self, batch):
        found["asked"].append((self.number, batch))
        return predict(self, batch)

    for name, spy in (("steps", learned), ("_update", updated), ("predict", asked)):
        monkeypatch.setattr(Learner, name, spy)
    return found


def test_the_target_has_no_labels_and_the_source_stands_beside_it_without_what_is_held_out(seen):
    values = SMALL.scored("dan", 0, FOUND)
    assert set(values) == SCORES == set(SMALL.chance)
    assert len(seen["batches"]) == 6
    assert all("y" not in batch for batch, _ in seen["batches"])
    assert {(len(batch["x"]), len(beside["x"])) for batch, beside in seen["batches"]} == {(8, 8)}
    used = {int(row) for _, beside in seen["batches"] for row in beside["id"]}
    held = {int(row) for _, batch in seen["asked"] if len(batch["x"]) == 50 for row in batch["id"]}
    assert len(seen["experiences"][0].reference) == 1350
    whole = {int(i) for i in seen["experiences"][0].reference.column("id")}
    assert used <= whole
    assert held - whole


def test_the_experience_is_as_long_as_there_are_steps_so_that_schedules_end_where_it_does(seen):
    SMALL.scored("naive", 0, FOUND)
    assert len(seen["experiences"][0].train) == 6 * 8
    assert [step for step, _ in seen["asked"]][-1] == 6
    few = Digits(Columns(**FOUND.target.train.take(torch.arange(60))), FOUND.target.test, "")
    SMALL.scored("naive", 0, Domains(FOUND.source, few))
    replace(SMALL, steps=20).scored("naive", 0, Domains(FOUND.source, few))
    counts = seen["experiences"][2].train.column("id").bincount()
    assert counts.sum() == 20 * 8
    assert counts.max() - counts.min() <= 1  # each row as often as any other


def test_source_only_sees_no_row_of_the_target(seen):
    replace(SMALL, seen=False).scored("naive", 0, FOUND)
    assert all(beside is None for _, beside in seen["batches"])
    assert seen["experiences"][0].reference is None
    assert all((batch["y"] >= 0).all() for batch, _ in seen["batches"])


def test_the_source_may_be_learned_before(seen):
    replace(SMALL, before=5).scored("dan", 0, FOUND)
    first, second = seen["experiences"]
    assert (len(first.train), len(second.train)) == (5 * 8, 6 * 8)
    assert first.reference is None
    assert len(seen["batches"]) == 11


def test_looks_are_spread_over_the_steps_and_the_last_is_after_all(seen):
    SMALL.scored("naive", 0, FOUND)
    assert sorted({number for number, _ in seen["asked"]}) == [2, 4, 6]


def test_the_oracle_is_never_below_what_is_chosen_without_target_labels():
    for seed in range(2):
        values = replace(SMALL, steps=12, looks=4).scored("mcc", seed, FOUND)
        assert values["ORACLE"] >= max(values["target"], values["by im"], values["by source"])


def test_without_the_oracle_target_labels_mean_nothing(monkeypatch):
    plain = replace(SMALL, steps=12, looks=4)
    target = FOUND.target
    wrong = Columns(x=target.train.column("x"), y=9 - target.train.column("y"), id=target.train.column("id"))
    lied = Domains(FOUND.source, Digits(wrong, target.test, ""))
    assert plain.scored("mcc", 0, lied) == plain.scored("mcc", 0, FOUND)
    chosen = []

    def spy(candidates, by):
        found = select(candidates, by)
        chosen.append((by, found.chosen))
        return found

    monkeypatch.setattr("everlearn.bench.adapted.select", spy)
    plain.scored("naive", 0, FOUND)
    asked = Columns(x=target.test.column("x"), y=9 - target.test.column("y"), id=target.test.column("id"))
    plain.scored("naive", 0, Domains(FOUND.source, Digits(target.train, asked, "")))
    half = len(chosen) // 2
    blind = [[pair for pair in part if pair[0] != "oracle"] for part in (chosen[:half], chosen[half:])]
    assert blind[0] == blind[1]


def test_a_run_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    drops, before = replace(SMALL, net="lenet"), torch.get_rng_state()
    first = drops.scored("dan", 0, FOUND)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(7)
    assert drops.scored("dan", 0, FOUND) == first
    assert drops.scored("dan", 1, FOUND) != first


def test_the_learning_rate_falls_over_the_steps(monkeypatch):
    rates = []
    steps = Learner.steps

    def spy(self, experience):
        for step in steps(self, experience):
            rates.append(self.optimizer.param_groups[0]["lr"])
            yield step

    monkeypatch.setattr(Learner, "steps", spy)
    SMALL.scored("naive", 0, FOUND)
    expected = [0.01 * (1 + 10 * step / 6) ** -0.75 for step in range(1, 7)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "width"), [("lenet", 256), ("dann", 100)])
def test_the_nets_are_drawn_from_their_seed_alone(kind, width):
    one, same, other = (convolutional(kind, 3, 10, seed=seed) for seed in (1, 1, 2))
    assert one.head.in_features == width
    assert one(torch.zeros(2, 3, 28, 28)).shape == (2, 10)
    assert one.head.weight.equal(same.head.weight)
    assert not one.head.weight.equal(other.head.weight)


def test_another_device_is_another_run():
    row = Row("made", replace(SMALL, device="cpu"), "naive")
    assert row.on("meta").protocol.device == "meta"
    assert row.on("meta").config() != row.config()
    assert row.on("cpu") == row
    with pytest.raises(ValueError, match="made runs on the CPU only; leave --device out"):
        tiny_row().on("cuda")


def test_rows_can_be_made_and_orderings_are_between_them():
    rows = {row.name: row for row in adaptation.ROWS}
    assert len(rows) == len(adaptation.ROWS) == 2 * (2 + len(adaptation.METHODS)) + 10
    for row in rows.values():
        if row.there:
            build(row.method)
        assert set(row.published) <= {"ORACLE"}  # numbers of others that target labels chose
    for ordering in adaptation.ORDERINGS:
        assert {ordering.higher, ordering.lower} <= rows.keys()
        assert ordering.score == "target"


# -- the data ---------------------------------------------------------------------------------------------------


def test_a_blended_row_is_the_distance_of_a_digit_from_a_crop_of_a_photograph():
    random = torch.Generator().manual_seed(0)
    rows = Columns(x=torch.randint(256, (20, 1, 6, 6), dtype=torch.uint8, generator=random), y=torch.arange(20) % 10)
    photographs = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=random)
    made = blended(rows, photographs, "a name")
    x, y = made.column("x"), made.column("y")
    assert (x.dtype, x.shape) == (torch.uint8, (20, 3, 6, 6))
    assert y.equal(rows.column("y"))
    crops = [photographs[n, :, i : i + 6, j : j + 6].int() for n in range(3) for i in range(3) for j in range(3)]
    found = [
        next(
            place for place, crop in enumerate(crops) if (crop - rows.column("x")[row].int()).abs().equal(x[row].int())
        )
        for row in range(20)
    ]
    assert len(set(found)) > 5
    assert blended(rows, photographs, "a name").column("x").equal(x)
    assert not blended(rows, photographs, "another").column("x").equal(x)


def archive(folder, name, count):
    """Photographs as they lie on disk."""
    images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "WEBP", lossless=True)
        files.append(buffer.getvalue())
    (folder / "cifar100").mkdir(exist_ok=True)
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(folder / "cifar100" / name, data=np.frombuffer(b"".join(files), np.uint8), offsets=offsets)
    return images


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name, side in (("mnist", 28), ("usps", 16)):
        (tmp_path / name).mkdir()
        arrays = {
            f"{kind}_{split}": random.integers(0, 256, (30, side, side), dtype=np.uint8)
            if kind == "x"
            else np.arange(30) % 10
            for kind in "xy"
            for split in ("train", "test")
        }
        np.savez(tmp_path / name / f"{name}.npz", **arrays)
    return tmp_path


def test_usps_becomes_as_large_as_mnist(folder):
    found = domains("mnist-usps", folder)
    assert [each.train.column("x").shape for each in found] == [(30, 1, 28, 28)] * 2
    assert domains("usps-mnist", folder).source.digest == found.target.digest
    assert domains("usps-mnist", folder).digest != found.digest


def test_mnist_m_is_made_of_photographs_that_are_split_as_the_digits_are(folder):
    train = archive(folder, "cifar100_train10k_webp.npz", 5)
    archive(folder, "cifar100_test_webp.npz", 4)
    found = domains("mnist-mnistm", folder)
    assert [each.train.column("x").shape for each in found] == [(30, 3, 28, 28)] * 2
    digit, made = (each.train.column("x")[0].int() for each in found)
    crops = [
        torch.from_numpy(image).permute(2, 0, 1)[:, i : i + 28, j : j + 28].int()
        for image in train
        for i in range(5)
        for j in range(5)
    ]
    assert any((crop - digit).abs().equal(made) for crop in crops)


def test_what_is_missing_is_named(folder, tmp_path_factory):
    with pytest.raises(
        ValueError, match=r"no photographs for MNIST-M in .* expected cifar100/cifar100_train10k_webp.npz"
    ):
        domains("mnist-mnistm", folder)
    empty = tmp_path_factory.mktemp("empty")
    (empty / "mnist").symlink_to(folder / "mnist")
    with pytest.raises(ValueError, match=r"no USPS in .* expected usps/usps.npz"):
        domains("mnist-usps", empty)
    with pytest.raises(ValueError, match="no USPS"):
        Job.of(Row("made", SMALL, "naive"), 0, empty, empty)
