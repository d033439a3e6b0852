"""What a kept row consists of: columns as they came, in a bounded number of bytes."""

import pytest
import torch

from everlearn.batch import Rows, join
from everlearn.memory import Balanced, Memory
from everlearn.memory.bottomk import BottomK


@pytest.fixture(params=["RAM", "disk"])
def folder(request, tmp_path):
    return tmp_path if request.param == "disk" else None


DTYPES = [torch.uint8, torch.bool, torch.int16, torch.float16, torch.bfloat16, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_columns_keep_their_dtype_and_their_bits(dtype, folder):
    x = torch.randint(0, 255, (40, 2, 3, 8), dtype=torch.uint8).view(torch.uint8)
    x = (x % 2).bool() if dtype == torch.bool else x.to(dtype)
    memory = Memory(15, folder=folder)
    for part in x.split(7):
        memory.add({"x": part})
    held = memory.rows()["x"]
    assert held.dtype == dtype
    assert held.equal(x[memory.ids])
    assert memory.sample(4)["x"].dtype == dtype


def test_rows_stay_whole_whatever_leaves_and_comes(folder):
    memory = Memory(50, folder=folder)
    for start in range(0, 4000, 64):
        ids = torch.arange(start, start + 64)
        memory.add({"x": ids[:, None] + torch.arange(3), "y": -ids, "id": ids, "big name/with: signs": ids.float()})
        memory.forget(memory.ids[:1])
        held = memory.rows()
        assert held["id"].equal(memory.ids)
        assert held["y"].equal(-held["id"])
        assert held["x"].equal(held["id"][:, None] + torch.arange(3))
    drawn = memory.sample(20)
    assert drawn["y"].equal(-drawn["id"])


def test_strided_batches_of_which_all_rows_are_kept_are_written_right(folder):
    x = torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1)
    memory = Memory(10, folder=folder)
    memory.add({"x": x, "y": torch.arange(8)[::2]})
    assert memory.rows()["x"].equal(x)
    assert memory.rows()["y"].tolist() == [0, 2, 4, 6]


def test_a_memory_holds_copies_and_gives_copies(folder):
    x = torch.zeros(6, 2)
    memory = Memory(6, folder=folder)
    memory.add({"x": x})
    x += 1
    memory.rows()["x"].add_(1)
    memory.sample(3)["x"].add_(1)
    memory.column("x").add_(1)
    assert memory.rows()["x"].count_nonzero() == 0


def test_what_is_held_has_no_graph(folder):
    x = torch.ones(6, 2, requires_grad=True)
    memory = Memory(3, folder=folder)
    memory.add({"x": x * 2})
    memory.add({"x": x * 2})
    assert not memory.rows()["x"].requires_grad


def test_lists_are_held_beside_tensors():
    boxes = [torch.full((n % 3, 4), float(n), requires_grad=True) for n in range(30)]
    memory = Memory(8)
    for start in range(0, 30, 6):
        memory.add({"x": torch.arange(start, start + 6), "boxes": boxes[start : start + 6], "text": ["a"] * 6})
    memory.forget(memory.ids[2:3])
    held = memory.rows()
    assert len(held["boxes"]) == len(held["text"]) == 7
    assert all(box.equal(boxes[n]) for n, box in zip(held["x"].tolist(), held["boxes"], strict=True))
    assert not any(box.requires_grad for box in held["boxes"])


def test_logits_of_a_head_that_has_grown_widen_the_column_and_old_rows_end_in_nan(folder):
    memory = Memory(12, folder=folder)
    for width in (2, 5, 3):
        memory.add({"logits": torch.full((4, width), float(width)), "y": torch.full((4,), width)})
    logits, y = memory.rows()["logits"], memory.rows()["y"]
    assert logits.shape == (12, 5)
    for row, width in zip(logits, y.tolist(), strict=True):
        assert row[:width].eq(width).all()
        assert row[width:].isnan().all()


def test_a_head_without_classes_may_grow_too():
    memory = Memory(4)
    memory.add({"logits": torch.zeros(2, 0)})
    memory.add({"logits": torch.zeros(2, 3)})
    assert memory.rows()["logits"].isnan().sum() == 6


@pytest.mark.parametrize(
    ("capacity", "size"), [("64kB", 64_000), ("64 KiB", 65_536), ("0.1MB", 100_000), ("20000B", 20_000)]
)
def test_a_capacity_in_bytes_is_used_and_not_exceeded(capacity, size, folder):
    memory = Memory(capacity, folder=folder)
    for _ in range(3):
        memory.add({"x": torch.zeros(100, 3, 32, 32, dtype=torch.uint8), "y": torch.zeros(100, dtype=torch.long)})
    each = 3 * 32 * 32 + 8 + BottomK.ROW_BYTES
    assert len(memory) == size // each


def test_bookkeeping_costs_less_than_three_percent_of_small_images():
    memory = Memory(1000)
    for start in range(0, 20_000, 500):
        ids = torch.arange(start, start + 500)
        memory.add({"x": torch.zeros(500, 1, dtype=torch.uint8), "y": ids % 10, "id": ids})
    index = memory._kept
    index._settle(index._all())
    spent = sum(a.nbytes for a in (*index._base, *index._fresh, index._by_group))
    assert spent <= BottomK.ROW_BYTES * 1000 <= 0.03 * (3 * 32 * 32 + 8) * 1000


def test_rows_that_are_taken_are_a_data_set():
    memory = Memory(20)
    memory.add({"x": torch.arange(50.0), "y": torch.arange(50)})
    assert isinstance(memory, Rows)
    assert memory.take(torch.tensor([3, 3, 0]))["y"].equal(memory.ids[[3, 3, 0]])
    assert memory.column("y").equal(memory.ids)
    assert join({"x": torch.zeros(2)}, memory.sample(3))["x"].shape == (5,)


def test_samples_have_ids_only_if_batches_had():
    memory = Memory(5)
    memory.add({"x": torch.zeros(3)})
    assert memory.sample(2).keys() == {"x"}
    assert memory.ids.tolist() == [0, 1, 2]


def test_an_empty_memory_gives_empty_batches(folder):
    memory = Memory(5, folder=folder)
    memory.add({})
    memory.add({"x": torch.zeros(0, 3)})
    assert len(memory) == memory.seen == 0
    assert memory.sample(4) == memory.rows() == {}
    memory.add({"other": torch.zeros(1)})  # no batch with rows has fixed the columns yet
    assert memory.sample(0) == {}
    assert len(memory.sample(4)["other"]) == 1


@pytest.mark.parametrize("capacity", [0, -3, 2.5, 2**31, "64", "MB", "-1MB", "1 apple", "0.1B", "10B"])
def test_a_capacity_that_holds_no_row_is_refused(capacity):
    with pytest.raises(ValueError, match="capacity"):
        Memory(capacity).add({"x": torch.zeros(1, 3)})


def test_a_capacity_below_one_row_names_the_numbers_and_nothing_is_begun(tmp_path):
    memory = Memory("1kB", folder=tmp_path / "rows")
    with pytest.raises(ValueError, match=r"1000 bytes.*takes 3100"):
        memory.add({"x": torch.zeros(2, 3072, dtype=torch.uint8), "y": torch.zeros(2, dtype=torch.long)})
    assert not (tmp_path / "rows").exists()
    memory.add({"x": torch.zeros(2, 72, dtype=torch.uint8)})
    assert len(memory) == 2


FIRST = {"x": torch.zeros(2, 3), "y": torch.zeros(2, dtype=torch.long), "id": torch.tensor([1, 2])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, r"columns.*\['id', 'x', 'y'\].*\['id', 'x'\]"),
        ({"z": torch.zeros(2)}, r"columns.*'z'"),
        ({"x": torch.zeros(2, 3, dtype=torch.float64)}, "'x'.*float32.*float64"),
        ({"x": torch.zeros(2, 3, 1)}, r"'x'.*\(3,\).*\(3, 1\)"),
        ({"x": [0, 0]}, "'x'.*float32.*a list"),
        ({"y": torch.zeros(2, 4, dtype=torch.long)}, r"'y'.*\(4,\)"),
        ({"y": torch.zeros(3, dtype=torch.long)}, "one length"),
    ],
)
def test_batches_that_do_not_fit_are_refused_and_leave_no_trace(change, message, folder):
    memory = Memory(5, folder=folder)
    memory.add(FIRST)
    with pytest.raises(ValueError, match=message):
        memory.add({name: column for name, column in {**FIRST, **change}.items() if column is not None})
    assert memory.seen == len(memory) == 2
    memory.add({**FIRST, "id": torch.tensor([3, 4])})
    assert memory.ids.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("ids", [torch.zeros(2), torch.zeros(2, 1, dtype=torch.long), ["a", "b"]])
def test_ids_are_whole_numbers(ids, tmp_path):
    memory = Memory(5, folder=tmp_path / "rows")
    with pytest.raises(TypeError, match="id"):
        memory.add({"x": torch.zeros(2), "id": ids})
    assert not (tmp_path / "rows").exists()


def test_a_balanced_memory_wants_labels():
    with pytest.raises(KeyError, match="no column 'y'"):
        Balanced(5).add({"x": torch.zeros(2)})
    with pytest.raises(TypeError, match="whole number per row"):
        Balanced(5).add({"y": torch.zeros(2)})


def test_rows_with_lists_have_no_size_in_bytes_and_no_place_on_disk(tmp_path):
    with pytest.raises(ValueError, match=r"\['text'\].*rows"):
        Memory("1MB").add({"text": ["a"]})
    with pytest.raises(TypeError, match=r"'text'.*folder"):
        Memory(5, folder=tmp_path).add({"text": ["a"]})


@pytest.mark.parametrize("index", [[3], [0, 100], [-1]])
def test_slots_that_hold_nothing_give_an_error_and_no_phantom_rows(index, folder):
    memory = Memory(200, folder=folder)
    memory.add({"x": torch.zeros(3)})
    with pytest.raises(IndexError, match="0 to 2"):
        memory.take(torch.tensor(index))


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="-1"):
        Memory(5).sample(-1)
