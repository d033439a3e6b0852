"""MNIST is read as an archive or as the files of its authors, with one and the same result, or refused by name."""

import gzip
import hashlib
import struct
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from everlearn.bench import mnist as module
from everlearn.bench.mnist import download, mnist, read_idx

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def arrays():
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (count, 28, 28), dtype=np.uint8) for count in (30, 10)]
    return [images[0], np.arange(30, dtype=np.uint8) % 10, images[1], np.arange(10, dtype=np.uint8)]


def idx(array):
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def everything(rows):
    return rows.take(torch.arange(len(rows)))


def written(folder, *, zipped=False, names=NAMES):
    folder.mkdir(parents=True)
    for name, array in zip(names, arrays(), strict=True):
        content = idx(array)
        (folder / f"{name}{'.gz' if zipped else ''}").write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("place", module.FOLDERS)
@pytest.mark.parametrize("zipped", [False, True])
def test_both_forms_give_the_same_rows_ids_and_digest(place, zipped, tmp_path):
    (tmp_path / "archive" / "mnist").mkdir(parents=True)
    x_train, y_train, x_test, y_test = arrays()
    np.savez(
        tmp_path / "archive" / "mnist" / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test
    )
    written(tmp_path / "files" / place, zipped=zipped)
    archive, files = mnist(tmp_path / "archive"), mnist(tmp_path / "files")
    assert archive.digest == files.digest
    for one, other in zip(archive[:2], files[:2], strict=True):
        one, other = everything(one), everything(other)  # noqa: PLW2901
        assert all(one[name].equal(other[name]) for name in ("x", "y", "id"))
        assert one["x"].dtype == torch.uint8
        assert one["x"].shape[1:] == (1, 28, 28)
        assert one["y"].dtype == torch.int64


def test_other_data_has_another_digest(tmp_path):
    written(tmp_path / "a" / "mnist")
    written(tmp_path / "b" / "mnist")
    path = tmp_path / "b" / "mnist" / NAMES[3]
    path.write_bytes(path.read_bytes()[:-1] + b"\5")
    assert mnist(tmp_path / "a").digest != mnist(tmp_path / "b").digest


def test_where_there_is_no_mnist_the_way_out_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no MNIST in .*mnist/mnist\.npz.*--download"):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no IDX file"),
        (b"\0\0\x0d\1\0\0\0\1\0", "is no IDX file of bytes: it begins with 00000d01"),
        (idx(np.zeros(5, np.uint8))[:-1], "is cut short: 4 bytes of 5"),
        (idx(np.zeros((2, 3), np.uint8))[:7], "is no IDX file"),
    ],
)
def test_a_damaged_file_is_refused(content, said, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_idx(path)


def test_a_damaged_zip_is_refused(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(500, np.uint8)))[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        read_idx(path)


class Answer:
    def __init__(self, content):
        self.content = content

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def read(self):
        return self.content


@pytest.fixture
def host(monkeypatch):
    """The two hosts: the first is never there, the second has the files; and what was asked for."""
    files = {f"{name}.gz": gzip.compress(idx(array)) for name, array in zip(NAMES, arrays(), strict=True)}
    asked = []

    def opened(url, timeout):
        asked.append(url)
        if url.startswith(module.HOSTS[0]):
            raise urllib.error.URLError("no route")
        return Answer(files[url.rpartition("/")[2]])

    sums = {name: hashlib.md5(files[f"{name}.gz"], usedforsecurity=False).hexdigest() for name in NAMES}
    monkeypatch.setattr(urllib.request, "urlopen", opened)
    monkeypatch.setattr(module, "FILES", sums)
    return files, asked


def test_a_download_is_checked_and_not_made_twice(host, tmp_path):
    _, asked = host
    download(tmp_path)
    assert len(asked) == 8
    assert len(mnist(tmp_path).train) == 30
    download(tmp_path)
    assert len(asked) == 8


def test_a_file_with_another_sum_is_refused(host, tmp_path):
    files, _ = host
    files[f"{NAMES[1]}.gz"] = b"a page that says: log in"
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz could not be fetched .*no route.*another MD5"):
        download(tmp_path)
    assert not (tmp_path / "mnist" / f"{NAMES[1]}.gz").exists()
