"""Permuted and rotated domains, and MNIST-360: seeded, lazy, alike in training and test, right pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from everlearn import Memory
from everlearn.batch import take
from everlearn.data import Columns
from everlearn.streams import mnist_360, permuted, rotated
from everlearn.streams.rotated import turned

ALL = torch.arange(30)


class Counted(Columns):
    """Rows that count how often they are taken."""

    taken = 0

    def take(self, index):
        self.taken += 1
        return super().take(index)


def images(*, seed=0, shape=(1, 28, 28), rows=30):
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 256, (rows, *shape), dtype=torch.uint8, generator=random)
    return Counted(x=x, y=torch.arange(rows) % 10, id=torch.arange(rows))


both = pytest.mark.parametrize("arrange", [permuted, rotated])


@both
def test_a_domain_has_all_rows_with_their_labels_and_one_arrangement_for_training_and_test(arrange):
    rows = images()
    for domain, experience in enumerate(arrange(rows, rows, 3)):
        train, test = experience.train.take(ALL), experience.test.take(ALL)
        assert experience.index == domain
        assert experience.classes == tuple(range(10))
        assert train["x"].equal(test["x"])
        assert train["y"].equal(rows.column("y"))
        assert train["domain"].unique().tolist() == [domain]
        assert experience.train.column("x").equal(train["x"])
        assert not train["x"].equal(rows.column("x"))


@both
def test_domains_are_drawn_at_construction_from_their_seed_and_place_alone(arrange):
    rows = images()
    x = [e.train.take(ALL)["x"] for e in arrange(rows, rows, 4, seed=1)]
    torch.manual_seed(5)
    again = arrange(rows, rows, 2, seed=1)
    state = torch.get_rng_state()
    for place in (1, 0):  # in whatever order they are asked for, as often as one likes, without a global draw
        for _ in range(2):
            assert again[place].train.take(ALL)["x"].equal(x[place])
    assert torch.get_rng_state().equal(state)
    other = arrange(rows, rows, 4, seed=2)
    assert not any(e.train.take(ALL)["x"].equal(mine) for e in other for mine in x)
    assert not any(x[i].equal(x[j]) for i in range(4) for j in range(i))


@both
def test_nothing_but_one_row_is_looked_at_while_a_stream_is_built(arrange):
    train, test = images(), images(seed=1)
    arrange(train, test, 20)
    assert (train.taken, test.taken) == (1, 0)


@both
def test_the_same_image_in_another_domain_is_another_row_to_a_memory(arrange):
    rows, memory = images(), Memory(1000)
    for experience in arrange(rows, rows, 3):
        memory.add(experience.train.take(ALL))
    assert len(memory) == 90
    assert int(memory.ids.min()) >= 0


def test_a_permutation_moves_each_pixel_to_one_place_whatever_the_channel():
    rows = images(shape=(3, 4, 5))
    x = permuted(rows, rows, 1)[0].train.take(ALL)["x"]
    first, last = (each.flatten(2)[:, channel] for channel in (0, 2) for each in [x])
    before = rows.column("x").flatten(2)
    order = [int((before[:, 0] == first[:, [place]]).all(0).nonzero()) for place in range(20)]
    assert sorted(order) == list(range(20))
    assert last.equal(before[:, 2][:, order])


def test_vectors_are_permuted_too_but_not_turned():
    rows = Columns(x=torch.arange(12.0).view(3, 4), y=torch.tensor([0, 1, 2]))
    assert permuted(rows, rows, 1)[0].train.take(torch.tensor([2]))["x"].sort().values.tolist() == [[8, 9, 10, 11]]
    with pytest.raises(ValueError, match=r"only images, .* but x has the shape \(1, 4\)"):
        rotated(rows, rows, 1)


@pytest.mark.parametrize("shape", [(28, 28), (27, 27), (8, 12)])
def test_turning_is_that_of_pil_pixel_by_pixel(shape):
    random = np.random.default_rng(0)
    image = random.integers(1, 256, shape, dtype=np.uint8)
    for degrees in [0, 45, 90, 180, 270, 359.999, -30, 1e-9, *random.uniform(0, 360, 50)]:
        where = turned(*shape, torch.tensor([degrees], dtype=torch.float64))[0].numpy()
        ours = np.where(where < 0, 0, image.reshape(-1)[where]).reshape(shape)
        assert (ours == np.asarray(Image.fromarray(image).rotate(degrees))).all(), degrees


def test_rotated_domains_are_turned_by_angles_below_the_largest():
    rows = images()
    turning = rotated(rows, rows, 50, degrees=90)
    names = {experience.train.rows.name for experience in turning}
    angles = sorted(float(name.split()[1]) for name in names)
    assert 0 <= angles[0] < 10
    assert 80 < angles[-1] < 90


def digits(each=40):
    """So many of each digit; the first pixel of the middle row says which row it is."""
    y = torch.arange(10).repeat(each)
    return Columns(x=torch.randint(1, 256, (len(y), 1, 28, 28), dtype=torch.uint8), y=y)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_mnist_360_shows_two_digits_at_a_time_three_rounds_long(size):
    batches = list(mnist_360(digits(), digits(), batch_size=size)[0])
    pairs = list(dict.fromkeys(tuple(sorted(set(b["y"].tolist()))) for b in batches if len(set(b["y"].tolist())) > 1))
    if size > 1:
        assert pairs == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (0, 8)]
    assert all(1 <= len(b["y"]) <= size for b in batches)
    seen = torch.cat([b["y"] for b in batches]).bincount(minlength=10)
    assert seen[9] == 0
    assert bool((seen[:9] <= 40).all())
    assert int(seen.sum()) > 0.85 * 9 * 40  # when one digit of a pair is used up, the rest of the other is passed over


def test_mnist_360_turns_each_digit_once_around_in_training_and_test():
    y = torch.arange(10).repeat(36)
    x = torch.zeros(360, 1, 29, 29, dtype=torch.uint8)
    x[:, :, 2, 14] = 255  # twelve pixels above the middle: where it is then tells the angle
    rows = Columns(x=x, y=y)
    stream, test = mnist_360(rows, rows, batch_size=4)
    batches = list(stream)
    train = {name: torch.cat([batch[name] for batch in batches]) for name in ("x", "y")}
    for batch, first in ((train, 60.0), (test.take(torch.arange(len(test))), 0.0)):
        for digit in (0, 5, 8):
            found = take(batch, batch["y"] == digit)["x"][:, 0].nonzero()
            rows_, down, along = found.unbind(1)
            angle = torch.rad2deg(torch.atan2(14.0 - along, 14.0 - down)) % 360
            start = first * (digit - 1)
            expected = (start + 10.0 * rows_) % 360
            away = (angle - expected + 180) % 360 - 180
            assert len(found) > 20
            assert float(away.abs().max()) < 6  # a pixel is five degrees wide


def test_mnist_360_is_a_function_of_its_seed():
    rows = digits()
    first, second, other = (
        torch.cat([b["x"] for b in mnist_360(rows, rows, batch_size=8, seed=seed)[0]]) for seed in (0, 0, 1)
    )
    assert first.equal(second)
    assert not first.equal(other[: len(first)])
