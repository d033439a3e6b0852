"""A batch is a dict of columns of one length, whatever is done to it."""

import pytest
import torch

from everlearn.batch import Rows, check, join, length, move, pick, take, tensor, unlabeled
from everlearn.data import Columns


def batch(count=4, start=0):
    x = torch.arange(start, start + count)
    return {"x": x.float(), "y": x, "text": [f"t{i}" for i in x.tolist()]}


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (torch.tensor([3, 1, 1]), [3, 1, 1]),
        (torch.tensor([], dtype=torch.int64), []),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
    ],
)
def test_take_picks_the_same_rows_of_every_column(index, rows):
    taken = take(batch(), index)
    assert taken["x"].tolist() == taken["y"].tolist() == rows
    assert taken["text"] == [f"t{i}" for i in rows]
    assert length(taken) == len(rows)


def test_a_row_that_is_not_there_is_an_error():
    with pytest.raises(IndexError):
        pick(torch.arange(3), torch.tensor([3]))
    with pytest.raises(IndexError):
        pick(["a"], torch.tensor([3]))


def test_join_keeps_the_order_and_the_columns_that_all_have():
    joined = join(batch(2), {"y": torch.tensor([9]), "text": ["z"], "more": torch.zeros(1)}, batch(1, 5))
    assert list(joined) == ["y", "text"]
    assert joined["y"].tolist() == [0, 1, 9, 5]
    assert joined["text"] == ["t0", "t1", "z", "t5"]


def test_join_copies():
    first = batch(2)
    join(first, batch(2))["x"].zero_()
    assert first["x"].tolist() == [0, 1]


def test_join_of_one_is_itself():
    assert join(batch())["x"].tolist() == [0, 1, 2, 3]


def test_check_names_the_lengths():
    check(batch())
    check({})
    with pytest.raises(ValueError, match=r"must have one length, but these have \{'x': 2, 'y': 3\}"):
        check({"x": torch.zeros(2), "y": [1, 2, 3]})


def test_a_batch_without_columns_has_no_rows():
    assert length({}) == 0


def test_unlabeled_takes_the_answers_away_and_nothing_else():
    some = batch() | {"labels": torch.zeros(4)}
    assert list(unlabeled(some)) == ["x", "text"]
    assert set(some) == {"x", "y", "text", "labels"}


def test_move_moves_tensors_and_leaves_lists():
    moved = move(batch(), torch.device("meta"))
    assert moved["x"].device.type == "meta"
    assert moved["text"] == batch()["text"]


def test_a_column_that_must_be_a_tensor_is_one_or_an_error():
    assert tensor(batch(), "y").tolist() == [0, 1, 2, 3]
    with pytest.raises(KeyError, match=r"no column 'z'; it has \['text', 'x', 'y'\]"):
        tensor(batch(), "z")
    with pytest.raises(TypeError, match=r"'text' must be a tensor, but it is a list of 4"):
        tensor(batch(), "text")


def test_rows_are_what_has_the_three_ways_in():
    assert isinstance(Columns(x=torch.zeros(2)), Rows)
    assert not isinstance([1, 2], Rows)
