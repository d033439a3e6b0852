"""What the data of a run become: what is learned, what is tested on, and which rows are the same."""

import numpy as np
import pytest
import torch

from everlearn.data import Columns, Subset
from everlearn.workspace.arrivals import Marked, arrange, load_sources
from everlearn.workspace.config import make


@pytest.fixture
def config(shop):
    def given(**changes):
        paths = {"weights": shop / "deployed.pth", "data": shop / "first.npz", "old": shop / "old.npz", "out": "run"}
        return make({"model": shop.model()} | {name: str(path) for name, path in paths.items()} | changes)

    return given


@pytest.fixture
def arranged(config, shop):
    """The data of a run for the net with three outputs."""

    def run(**changes):
        for name in ("data", "test"):
            if name in changes:
                changes[name] = [str(shop / f"{item}.npz") for item in changes[name]]
        asked = config(**changes)
        return arrange(asked, load_sources(asked), outputs=3)

    return run


def labels(rows):
    return sorted(set(rows.column("y").tolist()))


def test_one_set_of_tests_is_split_by_the_arrival_that_brought_the_class(arranged):
    data = arranged(data=["first", "second"], test=["test-all"])
    assert [labels(each.test) for each in (data.past, *data.arrivals)] == [[0, 1, 2], [3, 4], [5, 6]]


def test_an_arrival_without_new_classes_is_tested_on_those_it_has(arranged):
    data = arranged(data=["more", "first"], test=["test"])
    assert [labels(each.test) for each in (data.past, *data.arrivals)] == [[0, 1, 2], [0, 2], [3, 4]]


def test_held_out_rows_and_learned_rows_are_all_rows_once(arranged):
    data = arranged(holdout=0.3)
    assert data.held_out
    for each in (data.past, *data.arrivals):
        rows = torch.cat([each.train.column("x"), each.test.column("x")])
        assert len(rows.unique(dim=0)) == len(rows) in (40, 60)
        assert 0.1 < len(each.test) / len(rows) < 0.5


def test_nothing_is_held_out_where_there_are_tests(arranged):
    data = arranged(test=["test"])
    assert not data.held_out
    assert [len(each.train) for each in (data.past, *data.arrivals)] == [60, 40]


def test_outputs_without_names_are_numbers_where_all_labels_are(arranged):
    data = arranged(old="", data=["second"])
    assert data.classes == ("0", "1", "2", "5", "6")
    assert data.known == 3
    assert labels(data.arrivals[0].train) == [3, 4]  # a class gets the next output, whatever its name


# -- ids -------------------------------------------------------------------------------------------------------


def test_marked_rows_are_the_same_rows_with_other_ids():
    rows = Columns(x=torch.arange(4.0), y=torch.tensor([0, 1, 0, 1]), id=torch.tensor([3, 5, 8, 2**62]))
    marked = Marked(Subset(rows, [3, 0]), 2**63 - 12345)
    batch = marked.take(torch.tensor([1, 0]))
    assert torch.equal(batch["x"], torch.tensor([0.0, 3.0]))
    assert torch.equal(batch["id"], marked.column("id")[[1, 0]])
    assert torch.equal(batch["id"] ^ (2**63 - 12345), torch.tensor([3, 2**62]))
    assert bool((batch["id"] >= 0).all())
    assert torch.equal(marked.column("y"), torch.tensor([1, 0]))
    assert (len(marked), marked.resident) == (2, True)


def test_equal_data_has_equal_ids_wherever_it_lies_and_other_data_others(arranged, config, shop, tmp_path):
    (tmp_path / "first.npz").write_bytes((shop / "first.npz").read_bytes())
    here, there = (
        arranged(data=["first"], test=["test"]),
        config(data=str(tmp_path / "first.npz"), test=str(shop / "test.npz")),
    )
    there = arrange(there, load_sources(there), outputs=3)
    ids = [each.arrivals[0].train.column("id") for each in (here, there)]
    assert torch.equal(*ids)
    with np.load(shop / "first.npz") as arrays:
        np.savez(tmp_path / "first.npz", x=arrays["x"][:30], y=arrays["y"][:30])
    other = config(data=str(tmp_path / "first.npz"), test=str(shop / "test.npz"))
    other = arrange(other, load_sources(other), outputs=3).arrivals[0].train.column("id")
    assert not torch.isin(other, ids[0]).any()
