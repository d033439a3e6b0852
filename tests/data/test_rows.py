"""What holds for rows, whichever way they are kept and stacked."""

import resource
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, TensorDataset
from torch.utils.data import Subset as TorchSubset

from everlearn.batch import UNLABELED, Rows
from everlearn.data import Columns, Concat, Items, Relabelled, Subset, With, as_rows


def table(count=6, start=0):
    numbers = torch.arange(start, start + count)
    return Columns(
        x=numbers.float().view(-1, 1),
        y=numbers % 3,
        id=numbers + 100,
        text=[f"t{n}" for n in numbers.tolist()],
    )


class Pairs(Dataset):
    """A data set that counts how often an item is made."""

    def __init__(self, count=5):
        self.count, self.made = count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, position):
        self.made += 1
        return torch.full((2,), position), position % 2


def views():
    parent = table()
    return {
        "columns": parent,
        "subset": Subset(parent, torch.tensor([5, 0, 0, 3])),
        "subset of subset": Subset(Subset(parent, torch.tensor([5, 0, 3])), torch.tensor([2, 0])),
        "concat": Concat([table(2), table(3, 10), table(1, 20)]),
        "relabelled": Relabelled(parent, torch.tensor([7, 8, 9])),
        "with": With(parent, task=3),
        "all": With(Relabelled(Subset(Concat([parent, table(4, 30)]), torch.tensor([9, 1, 6])), [4, 5, 6]), domain=1),
    }


@pytest.mark.parametrize("name", views())
def test_taking_all_rows_in_order_is_every_column_and_ids_survive(name):
    rows = views()[name]
    assert isinstance(rows, Rows)
    assert rows.resident
    batch = rows.take(torch.arange(len(rows)))
    assert "id" in batch
    for column, values in batch.items():
        whole = rows.column(column)
        assert torch.equal(values, whole) if isinstance(values, torch.Tensor) else values == whole
    assert torch.equal(batch["x"].flatten().long() + 100, batch["id"])
    assert batch["text"] == [f"t{number - 100}" for number in batch["id"].tolist()]


@pytest.mark.parametrize("name", views())
def test_any_order_with_repeats_is_a_gather_of_all_rows(name):
    rows = views()[name]
    whole = rows.take(torch.arange(len(rows)))
    index = torch.tensor([len(rows) - 1, 0, 0, 1])
    for column, values in rows.take(index).items():
        if isinstance(values, torch.Tensor):
            assert torch.equal(values, whole[column][index])
        else:
            assert values == [whole[column][position] for position in index.tolist()]


@pytest.mark.parametrize("name", views())
def test_taking_no_rows_gives_all_columns_empty(name):
    rows = views()[name]
    batch = rows.take(torch.tensor([], dtype=torch.int64))
    assert batch.keys() == rows.take(torch.tensor([0])).keys()
    assert all(len(column) == 0 for column in batch.values())


@pytest.mark.parametrize("name", views())
@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_a_position_that_is_no_row_is_an_error(name, wrong):
    with pytest.raises((IndexError, RuntimeError)):
        views()[name].take(torch.tensor([0, wrong]))


def test_columns_share_memory_with_the_tensors_and_arrays_they_were_given():
    array = np.zeros((3, 2), np.float32)
    tensor = torch.zeros(3)
    rows = Columns(x=array, y=tensor)
    array[1, 1], tensor[2] = 5, 7
    assert rows.column("x")[1, 1] == 5
    assert rows.column("y")[2] == 7


def test_columns_of_different_lengths_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'x': 2, 'y': 3"):
        Columns(x=torch.zeros(2), y=torch.zeros(3))


def test_columns_may_be_empty():
    assert len(Columns()) == 0
    rows = Columns(x=torch.zeros(0, 4), y=[])
    assert len(rows) == 0
    assert rows.take(torch.tensor([], dtype=torch.int64))["x"].shape == (0, 4)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.tensor(1), ValueError, "first dimension"),
        (np.array([object()]), TypeError, "no tensor type"),
        (np.zeros(2, ">f4"), TypeError, "no tensor type"),
        (7, TypeError, "must be a tensor"),
    ],
)
def test_a_column_that_cannot_be_one_is_named(value, error, words):
    with pytest.raises(error, match=words) as caught:
        Columns({"speed": value})
    assert "'speed'" in str(caught.value)


def test_a_missing_column_is_named_beside_those_there_are():
    for rows in (table(), Items(Pairs()), Concat([table()]), With(table(), task=1)):
        with pytest.raises(KeyError, match="colour"):
            rows.column("colour")


def test_a_memory_mapped_array_larger_than_what_is_read_of_it_stays_on_disk(tmp_path):
    path = tmp_path / "large.npy"
    count, width = 200_000, 1_000  # 200 MB, of which the file system stores next to nothing
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, width))
    array[123_456], array[7] = 9, 3
    array.flush()
    del array
    assert path.stat().st_blocks * 512 < 10_000_000, "the file must be sparse"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = Columns(x=np.load(path, mmap_mode="r"), y=torch.zeros(count))
    batch = rows.take(torch.tensor([123_456, 0, 7, 123_456]))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert batch["x"][:, 0].tolist() == [9, 0, 3, 9]
    assert rows.resident
    if sys.platform == "linux":  # in KiB there
        assert after - before < 50_000, "a gather must not read the whole file"


def test_rows_of_a_read_only_array_cannot_write_to_it():
    array = np.arange(4.0)
    array.flags.writeable = False
    batch = Columns(x=array).take(torch.tensor([1, 0]))
    batch["x"].zero_()
    assert array.tolist() == [0, 1, 2, 3]


def test_a_subset_of_a_subset_is_one_index_into_the_first_rows():
    parent = table(10)
    nested = parent
    for _ in range(50):
        nested = Subset(nested, torch.arange(len(nested)).flip(0)[:9] if len(nested) > 9 else torch.arange(9))
    assert nested.rows is parent


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (torch.tensor([True, False]), ValueError),
        (torch.tensor([0.0]), ValueError),
        (torch.tensor([[0]]), ValueError),
        ([6], IndexError),
        ([-1], IndexError),
    ],
)
def test_a_subset_refuses_what_is_no_index_of_its_rows(index, error):
    with pytest.raises(error):
        Subset(table(), index)


def test_a_concatenation_keeps_the_columns_that_all_parts_have_whichever_parts_a_batch_comes_from():
    rows = Concat([table(2), Columns(x=torch.zeros(2, 1), y=torch.zeros(2, dtype=torch.int64))])
    for index in ([0], [3], [0, 3]):
        assert set(rows.take(torch.tensor(index))) == {"x", "y"}


def test_a_concatenation_takes_from_each_part_once_and_only_where_needed():
    datasets = [Pairs(3), Pairs(3), Pairs(3)]
    rows = Concat([Items(dataset) for dataset in datasets])
    for dataset in datasets:
        dataset.made = 0
    batch = rows.take(torch.tensor([7, 1, 8, 2]))
    assert batch["x"][:, 0].tolist() == [1, 1, 2, 2]
    assert [dataset.made for dataset in datasets] == [2, 0, 2]


def test_a_concatenation_of_pixels_and_floats_is_refused():
    with pytest.raises(ValueError, match=r"uint8.*float32"):
        Concat([Columns(x=torch.zeros(1, dtype=torch.uint8)), Columns(x=torch.zeros(1))])
    with pytest.raises(ValueError, match="shape"):
        Concat([Columns(x=torch.zeros(1, 2)), Columns(x=torch.zeros(1, 3))])


def test_a_concatenation_is_flat_and_without_empty_parts():
    rows = Concat([Concat([table(2), table(1)]), table(0), table(3)])
    assert [len(part) for part in rows.parts] == [2, 1, 3]
    assert len(Concat([table(0), table(0)])) == 0
    with pytest.raises(ValueError, match="at least one"):
        Concat([])


def test_rows_that_differ_in_size_become_a_list_across_parts_too():
    short, long = Items([{"box": torch.zeros(1)}]), Items([{"box": torch.zeros(2)}])
    column = Concat([short, long]).take(torch.tensor([1, 0]))["box"]
    assert [len(box) for box in column] == [2, 1]


def test_new_labels_leave_rows_without_one_alone():
    rows = Relabelled(Columns(y=[1, UNLABELED, 0]), [30, 10])
    assert rows.take(torch.arange(3))["y"].tolist() == [10, UNLABELED, 30]


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_without_a_new_one_is_an_error_that_names_it(label):
    with pytest.raises(ValueError, match=f"none for {label}"):
        Relabelled(Columns(y=[0, label]), [5, 6]).take(torch.arange(2))


def test_constants_have_the_type_of_their_value():
    batch = With(table(2), task=1, weight=0.5, domain="books", prior=torch.tensor([0.1, 0.9])).take(torch.arange(2))
    assert batch["task"].dtype == torch.int64
    assert batch["weight"].dtype == torch.float32
    assert batch["domain"] == ["books", "books"]
    assert batch["prior"].shape == (2, 2)


def test_items_are_made_when_they_are_taken_and_not_before():
    dataset = Pairs()
    rows = Items(dataset)
    assert not rows.resident
    assert dataset.made == 0
    assert rows.take(torch.tensor([4, 0]))["x"].tolist() == [[4, 4], [0, 0]]
    assert dataset.made == 2


def test_labels_of_items_are_collected_once():
    dataset = Pairs()
    rows = Items(dataset)
    assert rows.column("y").tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(rows.column("y"), rows.column("y"))
    assert dataset.made == 5
    assert rows.column("x").shape == (5, 2)


def test_items_may_be_dicts_of_images_numbers_texts_and_ragged_things():
    def item(position):
        return {
            "x": Image.new("RGB", (4, 3), (position, 20, 30)),
            "grey": Image.new("L", (4, 3), position),
            "array": np.full(2, position, np.float32),
            "number": np.int64(position),
            "flag": position == 1,
            "text": f"t{position}",
            "boxes": torch.zeros(position, 4),
        }

    batch = Items([item(0), item(1)]).take(torch.tensor([1, 0]))
    assert batch["x"].shape == (2, 3, 3, 4)
    assert batch["x"].dtype == torch.uint8
    assert batch["x"][:, :, 0, 0].tolist() == [[1, 20, 30], [0, 20, 30]]
    assert batch["grey"].shape == (2, 1, 3, 4)
    assert batch["array"].tolist() == [[1, 1], [0, 0]]
    assert batch["number"].tolist() == [1, 0]
    assert batch["flag"].tolist() == [True, False]
    assert batch["text"] == ["t1", "t0"]
    assert [len(boxes) for boxes in batch["boxes"]] == [1, 0]


def test_items_that_are_not_alike_are_an_error():
    with pytest.raises(ValueError, match="same columns"):
        Items([{"x": 1}, {"y": 1}]).take(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="tuple of 3"):
        Items([(1, 2, 3)]).take(torch.tensor([0]))
    with pytest.raises(TypeError, match="dicts or tuples"):
        Items([1]).take(torch.tensor([0]))
    assert Items([(1, 2, 3)], names=("x", "y", "task")).take(torch.tensor([0]))["task"].tolist() == [3]


def test_as_rows_takes_what_users_have():
    rows = table()
    assert as_rows(rows) is rows
    x, y = torch.arange(4.0), torch.arange(4)
    for data in ({"x": x, "y": y}, {"x": x.numpy(), "y": y.tolist()}, TensorDataset(x, y)):
        made = as_rows(data)
        assert made.resident
        assert made.take(torch.tensor([2]))["y"].tolist() == [2]
    assert set(as_rows(TensorDataset(x)).take(torch.tensor([0]))) == {"x"}
    assert isinstance(as_rows(Pairs()), Items)
    assert isinstance(as_rows([(1, 2), (3, 4)]), Items)


def test_as_rows_looks_through_the_wrappers_of_torch():
    data = TensorDataset(torch.arange(4.0), torch.arange(4))
    wrapped = ConcatDataset([TorchSubset(data, [3, 1]), data])
    rows = as_rows(wrapped)
    assert rows.resident
    assert rows.column("y").tolist() == [wrapped[place][1].item() for place in range(6)]


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


class Unsized(Dataset):
    def __getitem__(self, position):
        return position


@pytest.mark.parametrize(
    "data",
    [7, "rows.csv", torch.zeros(3), np.zeros(3), Endless(), Unsized(), TensorDataset(*[torch.zeros(1)] * 3)],
)
def test_as_rows_says_what_it_takes_where_it_cannot(data):
    with pytest.raises(TypeError, match=r"give a dict of columns.*TensorDataset"):
        as_rows(data)
