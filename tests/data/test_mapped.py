"""Arrays in a folder, read in place: larger than memory if need be."""

import numpy as np
import pytest
import torch

from everlearn.data import load


def test_rows_are_those_of_the_arrays(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.array(["cat", "dog"] * 10))
    source = load(tmp_path)
    batch = source.rows.take(torch.tensor([3, 0]))
    assert source.names == ("cat", "dog")
    assert batch["y"].tolist() == [1, 0]
    assert np.array_equal(batch["x"].numpy(), x[[3, 0]].transpose(0, 3, 1, 2))
    assert source.rows.resident


def test_an_array_larger_than_memory_is_opened_without_being_read(tmp_path):
    shape = (10_000_000, 16, 1024)  # 655 GB, all of it a hole in the file
    header = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=shape)
    header[[7, 9_999_999]] = 1
    header.flush()
    y = np.zeros(shape[0], dtype=np.int8)
    np.save(tmp_path / "y.npy", y)
    source = load(tmp_path)
    assert source.rows.take(torch.tensor([9_999_999, 8, 7]))["x"].sum(dim=(1, 2)).tolist() == [16384, 0, 16384]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((4, 2)), np.zeros(4, dtype=int), "uint8 or float32"),
        (np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=int), "no rows"),
        (np.zeros((4, 2), dtype=np.float32), np.zeros(3, dtype=int), "one answer a row"),
    ],
)
def test_what_does_not_fit_is_an_error(x, y, message, tmp_path):
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "y.npy", np.zeros(1, dtype=int))
    with pytest.raises(ValueError, match=r"x\.npy is no array"):
        load(tmp_path)
