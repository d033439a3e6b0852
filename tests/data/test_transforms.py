"""What holds for views: a row looks the same under one key, whatever else is in the batch."""

import math

import pytest
import torch

from everlearn.data import Colour, Crop, Flip, Normalize, Rotate, View, view
from everlearn.data.hashing import Draws, mix
from everlearn.data.transforms import NORMALIZE

EXACT = {
    "crop": ["crop:4"],
    "flip": ["flip"],
    "both": ["crop:2", "flip"],
    "flip, crop": ["flip:0.3", "crop:3"],
}
CLOSE = {
    "rotate": ["rotate:20"],
    "colour": ["colour:0.5"],
    "all": ["crop:2", "flip", "rotate:9", "colour:0.2"],
}


def images(count=16, channels=3, height=10, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator),
        "id": torch.randint(0, 2**62, (count,), generator=generator),
    }


def part(batch, index):
    return {name: column[index] for name, column in batch.items()}


@pytest.mark.parametrize("augment", [*EXACT.values(), *CLOSE.values()], ids=[*EXACT, *CLOSE])
def test_a_row_looks_the_same_in_any_batch_under_one_key(augment):
    see = view("cifar10", augment)
    batch = images()
    whole = see(batch, 7)["x"]
    tolerance = {"rtol": 0, "atol": 0 if augment in EXACT.values() else 1e-5}
    for index in (
        torch.tensor([3]),
        torch.randperm(16, generator=torch.Generator().manual_seed(1)),
        torch.arange(5, 9),
    ):
        torch.testing.assert_close(see(part(batch, index), 7)["x"], whole[index], **tolerance)


@pytest.mark.parametrize("augment", [*EXACT.values(), *CLOSE.values()], ids=[*EXACT, *CLOSE])
def test_another_key_and_another_id_give_another_view(augment):
    see = view("unit", augment)
    batch = images()
    once = see(batch, 0)["x"]
    assert not torch.equal(see(batch, 1)["x"], once)
    assert not torch.equal(see({**batch, "id": batch["id"] + 1}, 0)["x"], once)


def test_rows_without_ids_are_known_by_their_position():
    see = view("unit", ["crop:4", "flip"])
    x = images()["x"]
    assert torch.equal(see({"x": x}, 3)["x"], see({"x": x, "id": torch.arange(16)}, 3)["x"])


@pytest.mark.parametrize("augment", [*EXACT.values(), *CLOSE.values()], ids=[*EXACT, *CLOSE])
def test_without_a_key_nothing_is_augmented(augment):
    batch = images()
    assert torch.equal(view("cifar10", augment)(batch)["x"], view("cifar10")(batch)["x"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("augment", [[], *EXACT.values(), *CLOSE.values()])
def test_the_batch_that_is_given_stays_as_it_is_and_the_view_is_float32(augment, dtype):
    batch = images()
    batch["x"] = batch["x"] if dtype == torch.uint8 else batch["x"].to(dtype) / 255
    before = batch["x"].clone()
    for key in (None, 1):
        seen = view("imagenet", augment)(batch, key)
        assert seen["x"].dtype == torch.float32
        assert seen["x"].shape == before.shape
        assert torch.equal(seen["id"], batch["id"])
    assert torch.equal(batch["x"], before)


def test_no_global_generator_is_drawn_from():
    state = torch.get_rng_state()
    view("unit", CLOSE["all"])(images(), 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_crop_is_a_window_of_the_padded_image():
    batch = images(64)
    draws = Draws.of(11, batch["id"])
    place = draws.below(9**2)
    made = Crop(4)(batch["x"], draws)
    corners = set()
    for row, image in enumerate(batch["x"]):
        padded = torch.zeros(3, 18, 16, dtype=torch.uint8)
        padded[:, 4:14, 4:12] = image
        top, left = divmod(int(place[row]), 9)
        corners.add((top, left))
        assert torch.equal(made[row], padded[:, top : top + 10, left : left + 8])
    assert len(corners) > 32


def test_a_flip_mirrors_the_rows_whose_number_is_below_p():
    batch = images(64)
    draws = Draws.of(11, batch["id"])
    made = Flip(0.3)(batch["x"], draws)
    mirrored = draws.uniform() < 0.3
    assert 8 < int(mirrored.sum()) < 32
    for row, image in enumerate(batch["x"]):
        assert torch.equal(made[row], image.flip(-1) if mirrored[row] else image)


def test_crop_and_flip_move_pixels_and_change_none():
    batch = images(8)
    batch["x"] = batch["x"].clamp(min=1)
    seen = view("unit", ["crop:3", "flip"])(batch, 2)["x"] * 255
    assert torch.equal(seen, seen.round())
    for before, after in zip(batch["x"], seen, strict=True):
        assert set(after.unique().tolist()) <= {0.0, *before.unique().tolist()}


def test_a_rotation_by_a_right_angle_is_a_permutation_of_pixels():
    class Right(Draws):
        def uniform(self, number=0):
            return torch.ones(1)

    x = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    turned = Rotate(90.0)(x, Right(torch.zeros(1, dtype=torch.int64)))
    torch.testing.assert_close(turned, x.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_a_rotation_keeps_angles_in_images_that_are_not_square():
    class Half(Draws):
        def uniform(self, number=0):
            return torch.ones(1)

    x = torch.zeros(1, 1, 41, 21)
    x[0, 0, 10, 10] = 1.0  # ten pixels above the middle; turned by 45 degrees, 7.07 to the side and above
    turned = Rotate(45.0)(x, Half(torch.zeros(1, dtype=torch.int64)))[0, 0]
    mass = turned / turned.sum()
    row = (mass.sum(1) * torch.arange(41)).sum() - 20
    column = (mass.sum(0) * torch.arange(21)).sum() - 10
    assert math.isclose(row, -(50**0.5), abs_tol=0.3)
    assert math.isclose(abs(column), 50**0.5, abs_tol=0.3)


def test_colours_stay_in_range_and_grey_images_stay_grey():
    batch = images(32)
    seen = view("unit", ["colour:1"])(batch, 0)["x"]
    assert 0 <= seen.min() <= seen.max() <= 1
    grey = {**batch, "x": batch["x"][:, :1].expand(-1, 3, -1, -1)}
    seen = view("unit", ["colour:0.5"])(grey, 0)["x"]
    torch.testing.assert_close(seen[:, 0], seen[:, 2], atol=1e-5, rtol=0)


def test_each_augmentation_of_a_view_draws_numbers_of_its_own():
    batch = {"x": torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1).expand(200, 1, 1, 2).contiguous()}
    batch["x"][..., 1] = 255
    twice = view("unit", ["flip", "flip"])(batch, 0)["x"]
    flipped = (twice[:, 0, 0, 0] == 1).float().mean()
    assert 0.35 < float(flipped) < 0.65, "the same draw twice would undo every flip"


@pytest.mark.parametrize("name", [name for name, known in NORMALIZE.items() if known])
def test_normalised_pixels_are_those_of_the_definition(name):
    known = NORMALIZE[name]
    batch = images(4, channels=len(known.mean))
    pixels = batch["x"].double() / 255
    mean = torch.tensor(known.mean, dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(known.std, dtype=torch.float64).view(-1, 1, 1)
    expected = ((pixels - mean) / std).float()
    torch.testing.assert_close(view(name)(batch)["x"], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(view(name)({"x": pixels.float()})["x"], expected, atol=1e-5, rtol=0)


def test_unit_and_none_leave_pixels_in_zero_to_one():
    batch = images(4)
    for name in ("unit", "none"):
        assert torch.equal(view(name)(batch)["x"], batch["x"].float() / 255)


def test_vectors_are_normalised_feature_by_feature_or_left_alone():
    batch = {"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    assert torch.equal(view("unit")(batch)["x"], batch["x"])
    seen = view(((1.0, 2.0), (2.0, 4.0)))(batch)["x"]
    torch.testing.assert_close(seen, torch.tensor([[0.0, 0.0], [1.0, 0.5]]))
    with pytest.raises(ValueError, match="3 means for 2 channels"):
        view("imagenet")(batch)


def test_an_empty_batch_has_an_empty_view():
    assert view("unit", CLOSE["all"])(images(0), 1)["x"].shape == (0, 3, 10, 8)


def test_another_column_can_be_seen():
    batch = {"image": images(2)["x"], "x": torch.zeros(2)}
    seen = View(column="image")(batch)
    assert seen["image"].dtype == torch.float32
    assert seen["x"] is batch["x"]


def test_names_and_numbers_make_a_view():
    made = view("mnist", ["crop:2", "flip:0.25", "rotate:10", "colour", "flip"])
    assert made.normalize == Normalize((0.1307,), (0.3081,))
    assert made.augment == (Crop(2), Flip(0.25), Rotate(10.0), Colour(0.4), Flip(0.5))
    assert view(((0.5,), (0.25,))).normalize == Normalize((0.5,), (0.25,))


@pytest.mark.parametrize(
    ("normalize", "augment", "words"),
    [
        ("imagnet", [], r"did you mean 'imagenet'\?.*cifar10"),
        ("unit", ["flipp"], r"did you mean 'flip'\?.*rotate"),
        ("unit", ["zoom"], "known: colour, crop"),
        ("unit", ["crop:big"], "'crop:big' is no augmentation"),
        ("unit", ["crop:0"], "at least 1 pixel"),
        ("unit", ["flip:2"], r"in \[0, 1\], not 2.0"),
        ("unit", ["rotate:0"], "180 degrees"),
        ("unit", ["colour:-1"], "strength"),
        (((0.5,), (0.0,)), [], "positive"),
        (((0.5, 0.5), (1.0,)), [], "one entry a channel"),
    ],
)
def test_what_makes_no_view_is_an_error_that_says_why(normalize, augment, words):
    with pytest.raises(ValueError, match=words):
        view(normalize, augment)


def test_one_text_is_not_a_list_of_augmentations():
    with pytest.raises(TypeError, match=r"\['flip'\]"):
        view("unit", "flip")


def test_only_images_are_augmented():
    with pytest.raises(ValueError, match=r"shape \(2, 5\)"):
        view("unit", ["flip"])({"x": torch.zeros(2, 5)}, 1)


def test_token_ids_are_no_pixels():
    with pytest.raises(TypeError, match="int64"):
        view("unit")({"x": torch.zeros(2, 5, dtype=torch.int64)})
    with pytest.raises(TypeError, match="must be a tensor"):
        view("unit")({"x": ["a text"]})


def test_the_hash_is_that_of_splitmix():
    # The first outputs of the reference implementation of SplitMix64 from the state 1234567.
    state = torch.tensor([1234567]) + torch.arange(1, 4) * (0x9E3779B97F4A7C15 - 2**64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [number % 2**64 for number in mix(state).tolist()] == expected


def test_draws_are_uniform_and_independent_of_each_other():
    draws = Draws.of(3, torch.arange(100_000))
    first, second = draws.uniform(0).double(), draws.uniform(1).double()
    for numbers in (first, second):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        assert abs(float(numbers.mean()) - 0.5) < 0.005
        assert abs(float(numbers.var()) - 1 / 12) < 0.002
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.01
    other = Draws.of(4, torch.arange(100_000)).uniform().double()
    assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.01
    counts = draws.below(9).bincount(minlength=9)
    assert counts.numel() == 9
    assert float((counts / 100_000 - 1 / 9).abs().max()) < 0.005
