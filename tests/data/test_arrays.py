"""What holds for archives of arrays."""

import os

import numpy as np
import pytest
import torch

from everlearn.data import load


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("names", [("x", "y"), ("data", "labels")])
def test_arrays_become_rows_with_classes_and_ids(tmp_path, names):
    x = np.arange(8.0).reshape(4, 2)
    source = load(save(tmp_path / "a.npz", **dict(zip(names, (x, np.array([10, 9, 10, 2])), strict=True))))
    batch = source.rows.take(torch.tensor([1]))
    assert source.rows.resident
    assert batch["x"].dtype == torch.float32
    assert batch["x"].tolist() == [[2, 3]]
    assert source.names == ("2", "9", "10")
    assert source.rows.column("y").tolist() == [2, 1, 2, 0]
    assert len(set(source.rows.column("id").tolist())) == 4


def test_a_split_is_named_and_its_rows_have_ids_of_their_own(tmp_path):
    x, y = pixels(5, 4, 4), np.arange(5)
    path = save(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    train, test = load(path, split="train"), load(path, split="test")
    assert (len(train.rows), len(test.rows)) == (5, 2)
    assert not set(train.rows.column("id").tolist()) & set(test.rows.column("id").tolist())
    assert train.fingerprint != test.fingerprint
    with pytest.raises(ValueError, match=r"splits \['train', 'test'\]; say which"):
        load(path)
    with pytest.raises(ValueError, match="no split 'val'"):
        load(path, split="val")


@pytest.mark.parametrize(
    ("shape", "made"),
    [
        ((3, 5, 4), (3, 1, 5, 4)),
        ((3, 5, 4, 3), (3, 3, 5, 4)),
        ((3, 5, 4, 1), (3, 1, 5, 4)),
        ((3, 3, 5, 4), (3, 3, 5, 4)),
        ((3, 7), (3, 7)),
    ],
)
def test_pixels_are_channels_first(tmp_path, shape, made):
    x = pixels(*shape)
    rows = load(save(tmp_path / "a.npz", x=x, y=np.zeros(3, int))).rows
    assert rows.column("x").shape == made
    assert rows.column("x").dtype == torch.uint8
    assert rows.column("x").is_contiguous()
    if shape == (3, 5, 4, 3):
        assert rows.column("x")[1, 2, 3, 0] == x[1, 3, 0, 2]


def test_names_of_classes_are_taken_from_the_archive(tmp_path):
    path = save(tmp_path / "a.npz", x=pixels(3, 2), y=np.array([1, 0, 1]), class_names=np.array(["dog", "cat"]))
    source = load(path)
    assert source.names == ("cat", "dog")
    assert source.rows.column("y").tolist() == [0, 1, 0]


def test_numbers_to_predict_are_float32(tmp_path):
    source = load(save(tmp_path / "a.npz", x=pixels(3, 2), y=np.array([0.5, 1, 2])), task="regression")
    assert source.names == ()
    assert source.rows.column("y").tolist() == [0.5, 1, 2]


def test_ids_stay_when_rows_are_added(tmp_path):
    before = load(save(tmp_path / "a.npz", x=pixels(3, 2), y=np.zeros(3, int))).rows.column("id")
    after = load(save(tmp_path / "a.npz", x=pixels(9, 2), y=np.zeros(9, int))).rows.column("id")
    assert torch.equal(after[:3], before)


NAN = np.zeros((3, 2, 2))
NAN[1, 0, 1] = np.nan
BAD = {
    "no pair": ({"a": np.zeros(2)}, r"must have the arrays x and y.*\['a'\]"),
    "objects": ({"x": np.array([{}, 1], object), "y": np.zeros(2, int)}, "pickles, which can run code"),
    "object labels": ({"x": np.zeros(2), "y": np.array([{}, 1], object)}, "pickles"),
    "empty": ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, "has no rows"),
    "other lengths": ({"x": np.zeros((3, 2)), "y": np.zeros(2, int)}, r"y must have shape \(3,\).*\(2,\)"),
    "one-hot labels": ({"x": np.zeros((3, 2)), "y": np.zeros((3, 4))}, r"one answer a row, but has \(3, 4\)"),
    "not finite": ({"x": NAN, "y": np.zeros(3, int)}, r"x is not finite in row 2, position \[0, 1\]"),
    "fractions": ({"x": np.zeros(2), "y": np.array([1, 0.5])}, r"holds 0.5 in row 2.*task='regression'"),
    "texts": ({"x": np.array(["a", "b"]), "y": np.zeros(2, int)}, "must hold numbers"),
    "a class without a name": (
        {"x": np.zeros(2), "y": np.array([0, 2]), "class_names": np.array(["a", "b"])},
        "positions in the 2 class_names",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_archive_is_an_error_that_says_what_is_wrong(tmp_path, what):
    arrays, words = BAD[what]
    with pytest.raises(ValueError, match=words):
        load(save(tmp_path / "a.npz", **arrays))


def test_answers_that_are_not_finite_are_named(tmp_path):
    path = save(tmp_path / "a.npz", x=np.zeros(2), y=np.array([1, np.inf]))
    with pytest.raises(ValueError, match="y is not finite in row 2"):
        load(path, task="regression")


def test_a_file_that_is_no_archive_is_an_error(tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"", b"PK\x03\x04 cut short", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz is no \.npz file"):
            load(path)


def test_a_changed_byte_in_an_archive_is_noticed(tmp_path):
    path = save(tmp_path / "a.npz", x=pixels(100, 9), y=np.zeros(100, int))
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"is damaged: .*CRC"):
        load(path)


@pytest.mark.skipif("EVERLEARN_DATA" not in os.environ, reason="EVERLEARN_DATA does not name a folder of real data")
def test_mnist_is_sixty_thousand_grey_images_of_ten_classes():
    source = load(os.environ["EVERLEARN_DATA"] + "/mnist/mnist.npz", split="train")
    assert source.rows.column("x").shape == (60_000, 1, 28, 28)
    assert source.names == tuple("0123456789")
    assert source.rows.column("y")[:5].tolist() == [5, 0, 4, 1, 9]
