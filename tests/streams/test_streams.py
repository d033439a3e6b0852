"""Streams deal out every row exactly once, load nothing while they are built, and say which classes come."""

import time

import pytest
import torch

from everlearn.batch import UNLABELED, take
from everlearn.data import Columns, Subset
from everlearn.streams import blurry, by_class, by_domain, by_task, by_time, cumulative, joint


class Lazy:
    """Rows that count how often they are asked for, apart from their labels."""

    resident = True

    def __init__(self, **columns):
        self.columns, self.taken, self.columns_read = columns, 0, 0

    def __len__(self):
        return len(self.columns["y"])

    def take(self, index):
        self.taken += 1
        return take(self.columns, index)

    def column(self, name):
        assert name in {"y", "when"}, "only labels and times may be read while a stream is built"
        self.columns_read += 1
        return self.columns[name]


def rows(labels, *, seed=0):
    """Rows whose x is their position."""
    y = torch.as_tensor(labels)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    return Lazy(x=torch.arange(len(y)), y=shuffled)


def everything(part):
    return part.take(torch.arange(len(part)))


def positions(part):
    return everything(part)["x"].tolist()


TEN = [label for label in range(10) for _ in range(12)]
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))


def test_by_class_partitions_the_rows_by_their_labels():
    train, test = rows(TEN), rows(TEN, seed=1)
    stream = by_class(train, test, PAIRS)
    assert [e.index for e in stream] == [0, 1, 2, 3, 4]
    assert [e.classes for e in stream] == list(PAIRS)
    for e in stream:
        assert set(everything(e.train)["y"].tolist()) == set(everything(e.test)["y"].tolist()) == set(e.classes)
    assert sorted(p for e in stream for p in positions(e.train)) == list(range(120))
    assert sorted(p for e in stream for p in positions(e.test)) == list(range(120))


def test_rows_keep_their_order_within_an_experience():
    for e in by_class(rows(TEN), rows(TEN), PAIRS):
        assert positions(e.train) == sorted(positions(e.train))


def test_a_class_that_comes_back_is_dealt_out_without_overlap():
    train, test = rows(TEN), rows(TEN)
    stream = by_class(train, test, [(0, 1), (1, 2), (1,)], seed=3)
    shares = [{p for p in positions(e.train) if train.columns["y"][p] == 1} for e in stream]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert set.union(*shares) == set((train.columns["y"] == 1).nonzero().flatten().tolist())
    assert len(positions(stream[2].test)) == 12
    again, other = (by_class(train, test, [(0, 1), (1, 2), (1,)], seed=seed) for seed in (3, 4))
    assert positions(again[1].train) == positions(stream[1].train)
    assert positions(other[1].train) != positions(stream[1].train)


def test_a_class_named_twice_in_one_group_is_there_once():
    (e,) = by_class(rows([0, 1]), rows([0, 1]), [(1, 1, 0)])
    assert e.classes == (1, 0)
    assert positions(e.train) == positions(e.test) == [0, 1]


def test_a_class_without_rows_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"no row has the label 7; the labels are \[0, 1\]"):
        by_class(rows([0, 1]), rows([0, 1]), [(0, 7)])


def test_a_class_without_test_rows_is_tested_on_none():
    (e,) = by_class(rows([0, 1]), rows([0]), [(0, 1)])
    assert len(e.test) == 1


def test_by_task_counts_labels_within_their_task():
    train = rows(TEN)
    stream = by_task(train, rows(TEN), [(5, 2), (9, 0, 1)])
    assert [e.task for e in stream] == [0, 1]
    assert [e.classes for e in stream] == [(0, 1), (0, 1, 2)]
    for e, group in zip(stream, [(5, 2), (9, 0, 1)], strict=True):
        for part in (e.train, e.test):
            batch = everything(part)
            assert batch["task"].tolist() == [e.task] * len(part)
        batch = everything(e.train)
        assert [group[new] for new in batch["y"].tolist()] == train.columns["y"][batch["x"]].tolist()


def test_a_class_of_two_tasks_is_an_error():
    with pytest.raises(ValueError, match=r"each class belongs to one task.*use by_class"):
        by_task(rows(TEN), rows(TEN), [(0, 1), (1, 2)])


def test_by_domain_tells_each_row_its_domain():
    stream = by_domain([(rows([0, 1]), rows([1])), (rows([1, 0, 1]), rows([0]))])
    assert [e.classes for e in stream] == [(0, 1), (0, 1)]
    assert [everything(e.train)["domain"].tolist() for e in stream] == [[0, 0], [1, 1, 1]]
    assert [everything(e.test)["domain"].tolist() for e in stream] == [[0], [1]]


def test_by_time_goes_by_the_column_in_chunks_of_equal_size():
    when = torch.tensor([5.0, 1.0, 4.0, 0.0, 3.0, 2.0, 6.0])
    data = Lazy(x=torch.arange(7), y=torch.tensor([0, 0, 1, 1, 2, 2, 0]), when=when)
    test = rows([0, 1, 2])
    stream = by_time(data, test, chunks=3, column="when")
    assert [positions(e.train) for e in stream] == [[3, 1, 5], [4, 2], [0, 6]]
    assert [e.classes for e in stream] == [(0, 1, 2), (1, 2), (0,)]
    assert all(e.test is test for e in stream)


def test_by_time_goes_by_the_order_of_the_rows_where_no_column_is_named():
    stream = by_time(rows([0] * 6), rows([0]), chunks=2)
    assert [positions(e.train) for e in stream] == [[0, 1, 2], [3, 4, 5]]


def test_equal_times_keep_the_order_of_the_rows():
    data = Lazy(x=torch.arange(40), y=torch.zeros(40, dtype=torch.long), when=torch.zeros(40))
    assert [p for e in by_time(data, rows([0]), chunks=4, column="when") for p in positions(e.train)] == list(range(40))


def test_without_a_test_set_the_most_recent_part_of_each_chunk_is_held_out():
    stream = by_time(rows([0] * 20), chunks=2, held_out=0.3)
    assert [positions(e.train) for e in stream] == [[0, 1, 2, 3, 4, 5, 6], [10, 11, 12, 13, 14, 15, 16]]
    assert [positions(e.test) for e in stream] == [[7, 8, 9], [17, 18, 19]]


def test_an_empty_test_set_is_still_the_one_that_was_given():
    test = rows([])
    assert all(e.test is test for e in by_time(rows([0] * 4), test, chunks=2))


@pytest.mark.parametrize("chunks", [0, 5])
def test_more_chunks_than_rows_are_an_error(chunks):
    with pytest.raises(ValueError, match=r"chunks must be 1 to 4"):
        by_time(rows([0] * 4), rows([0]), chunks=chunks)


def test_rows_without_a_label_belong_to_no_class():
    (e,) = by_time(rows([0, UNLABELED, 2]), rows([0]), chunks=1)
    assert e.classes == (0, 2)


def test_numbers_to_predict_are_no_classes():
    (e,) = by_time(rows([0.5, 1.5]), rows([0.0]), chunks=1)
    assert e.classes == ()


@pytest.mark.parametrize("groups", [PAIRS, ((0,), (1, 2, 3, 4, 5), (6, 7), (8, 9, 0))])
def test_blurry_without_width_has_sharp_borders(groups):
    train, test = rows(TEN), rows(TEN)
    for sharp, soft in zip(by_class(train, test, groups), blurry(train, test, groups, width=0), strict=True):
        assert positions(sharp.train) == positions(soft.train)
        assert set(sharp.classes) == set(soft.classes)


def test_blurry_borders_deal_out_every_row_once_and_the_mix_changes_gradually():
    train = rows([label for label in range(10) for _ in range(200)])
    stream = blurry(train, rows(TEN), PAIRS, width=0.7)
    assert sorted(p for e in stream for p in positions(e.train)) == list(range(2000))
    group = train.columns["y"] // 2
    shares = torch.stack([group[positions(e.train)].bincount(minlength=5) / len(e.train) for e in stream])
    middle = shares[1:-1].argmax(1)
    assert middle.tolist() == [1, 2, 3]
    # Of each experience some rows come from its neighbours, and fewer the further away they are.
    assert shares[2, 1] > 0.1
    assert shares[2, 3] > 0.1
    assert shares[2, 0] < shares[2, 1]
    assert shares[2, 4] < shares[2, 3]
    wider = blurry(train, rows(TEN), PAIRS, width=3.0)
    assert group[positions(wider[2].train)].bincount()[2] / 400 < shares[2, 2]
    assert [set(everything(e.test)["y"].tolist()) for e in stream] == [set(pair) for pair in PAIRS]
    assert all(set(e.classes) == set(everything(e.train)["y"].tolist()) for e in stream)


def test_blurry_borders_are_drawn_from_the_seed_alone():
    train = rows(TEN)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = blurry(train, train, PAIRS, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    again, other = blurry(train, train, PAIRS, seed=1), blurry(train, train, PAIRS, seed=2)
    assert [positions(e.train) for e in first] == [positions(e.train) for e in again]
    assert [positions(e.train) for e in first] != [positions(e.train) for e in other]


def test_streams_of_a_subset_have_the_rows_of_the_subset_only():
    train = rows(TEN)
    part = Subset(train, torch.arange(0, 120, 2).flip(0))
    for make in (by_class, blurry, by_task):
        stream = make(part, part, PAIRS)
        assert sorted(p for e in stream for p in positions(e.train)) == list(range(0, 120, 2))
    for e in blurry(part, part, PAIRS):
        assert set(e.classes) == set(train.columns["y"][positions(e.train)].tolist())


def test_cumulative_brings_the_past_along():
    stream = by_class(rows(TEN), rows(TEN), PAIRS)
    bound = cumulative(stream)
    for k, e in enumerate(bound):
        assert e.index == k
        assert e.classes == tuple(range(2 * k + 2))
        assert positions(e.train) == [p for past in stream[: k + 1] for p in positions(past.train)]
        assert e.test is stream[k].test


def test_joint_is_everything_at_once():
    stream = by_class(rows(TEN), rows(TEN), PAIRS)
    (e,) = joint(stream)
    assert sorted(positions(e.train)) == sorted(positions(e.test)) == list(range(120))
    assert e.classes == tuple(range(10))


@pytest.mark.parametrize("bound", [cumulative, joint])
def test_bounds_keep_the_columns_of_tasks_and_domains(bound):
    tasks = bound(by_task(rows(TEN), rows(TEN), PAIRS))[-1].train
    assert tasks.column("task").bincount().tolist() == [24] * 5
    assert everything(tasks)["y"].unique().tolist() == [0, 1]
    domains = bound(by_domain([(rows([0, 1]), rows([1])), (rows([1, 0]), rows([0]))]))[-1].train
    assert everything(domains)["domain"].tolist() == [0, 0, 1, 1]


STREAMS = {
    "by_class": lambda train: by_class(train, train, [(k,) for k in range(1000)]),
    "by_task": lambda train: by_task(train, train, [(k,) for k in range(1000)]),
    "by_domain": lambda train: by_domain([(train, train)] * 1000),
    "by_time": lambda train: by_time(train, chunks=1000),
    "blurry": lambda train: blurry(train, train, [(k,) for k in range(1000)]),
    "returning": lambda train: by_class(train, train, [(k % 1000,) for k in range(3000)]),
    "cumulative": lambda train: cumulative(by_class(train, train, [(k,) for k in range(1000)])),
    "cumulative tasks": lambda train: cumulative(by_task(train, train, [(k,) for k in range(1000)])),
    "joint": lambda train: joint(by_class(train, train, [(k,) for k in range(1000)])),
    "joint tasks": lambda train: joint(by_task(train, train, [(k,) for k in range(1000)])),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_thousand_experiences_are_made_quickly_and_load_no_row(name):
    train = rows([label for label in range(1000) for _ in range(5)])
    start = time.perf_counter()
    stream = STREAMS[name](train)
    assert time.perf_counter() - start < 2
    assert train.taken == 0
    assert train.columns_read <= (1000 if name == "by_domain" else 3)
    last = stream[-1].train
    assert len(everything(last)["x"]) == len(last) > 0


def test_streams_of_resident_rows_are_resident():
    data = Columns(x=torch.zeros(4), y=torch.tensor([0, 1, 0, 1]))
    for stream in (
        by_class(data, data, [(0,), (1,)]),
        by_time(data, chunks=2),
        joint(by_task(data, data, [(0,), (1,)])),
    ):
        assert all(e.train.resident for e in stream)
