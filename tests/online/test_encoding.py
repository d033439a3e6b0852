"""From records to rows: columns are only ever appended, and what cannot be read says which row, field and value."""

import math

import numpy as np
import pytest
import torch

from everlearn import checkpoint
from everlearn.online.encoding import Encoder, RowError, row_ids
from everlearn.online.words import Words
from everlearn.streams.feed import Record


def record(number=0, **fields):
    return Record(f"r{number}", fields)


def admitted(*records, labels=(), **options):
    encoder = Encoder(**options)
    for one in records:
        encoder.admit([one], labels)
    return encoder


def x(encoder, *records):
    return encoder.encode(records)["x"]


def test_a_column_keeps_its_place_when_fields_come_that_sort_before_it():
    encoder = admitted(record(m=1, z=2))
    before = x(encoder, record(m=3, z=4))
    encoder.admit([record(a=5, m=6, day="mon")])
    assert encoder.columns == ("m", "z", "a", "day=mon")
    assert torch.equal(x(encoder, record(m=3, z=4))[:, :2], before)


def test_the_order_of_fields_in_a_record_does_not_matter():
    encoder = admitted(record(a=1, b=2, day="mon", ok=True))
    one, two = record(a=1.5, b=2.5, day="mon", ok=False), record(ok=False, day="mon", b=2.5, a=1.5)
    assert torch.equal(x(encoder, one), x(encoder, two))


def test_asking_appends_nothing():
    encoder = admitted(record(a=1, day="mon"), labels=["yes"])
    before = encoder.state_dict()
    assert x(encoder, record(a=2, b=3, day="tue", other="new")).tolist() == [[2, 0]]
    assert encoder.state_dict() == before


def test_what_is_missing_is_nan_in_a_number_and_zero_in_all_columns_of_a_text():
    encoder = admitted(record(a=1, b=2), record(day="mon"), record(day="tue"))
    rows = x(encoder, record(a=None, b=2, day=None), record())
    assert rows.isnan().tolist() == [[True, False, False, False], [True, True, False, False]]
    assert not rows[:, 2:].any()


def test_truth_values_and_numbers_of_any_kind_are_numbers():
    encoder = admitted(record(a=True, b=np.float32(2), c=np.int64(3), d=4))
    assert x(encoder, record(a=False, b=1, c=2.5, d=np.bool_(True))).tolist() == [[0, 1, 2.5, 1]]


@pytest.mark.parametrize(
    "value", ["12", math.nan, math.inf, -math.inf, 1e15, 10**400, [1], {"a": 1}, b"1", torch.ones(2), torch.tensor(1j)]
)
@pytest.mark.parametrize("others", [{}, {"b": 2}])
def test_what_is_no_number_where_numbers_were_is_an_error_that_names_row_field_and_value(value, others):
    encoder = admitted(record(a=1, **others))
    with pytest.raises(RowError, match=r"row 'r7': 'a' is .*a number is needed") as caught:
        x(encoder, record(a=1, **others), record(7, a=value, **others))
    assert (caught.value.row, caught.value.field) == ("r7", "a")
    assert caught.value.value is value


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": 1}, object()])
def test_what_can_have_no_column_is_refused_and_nothing_has_been_appended(value):
    encoder = admitted(record(a=1))
    before = encoder.state_dict()
    with pytest.raises(RowError, match="'b' is"):
        encoder.admit([record(c=1, day="mon"), record(b=value)], ["yes", "no"])
    assert encoder.state_dict() == before


def test_a_number_among_texts_is_an_error():
    with pytest.raises(RowError, match="a text is needed"):
        x(admitted(record(day="mon")), record(day=3))


def test_a_text_has_so_many_columns_and_one_for_all_other_values():
    encoder = admitted(*(record(day=day) for day in ("mon", "tue", "wed", "thu", "fri")), values=2)
    assert encoder.columns == ("day=mon", "day=tue", "day: other")
    rows = x(encoder, record(day="tue"), record(day="fri"), record(day="never seen"))
    assert rows.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_columns_of_texts_are_left_by_what_scales_and_numbers_are_not():
    assert admitted(record(a=1, day="mon", ok=True)).left == (False, True, False)


def test_new_fields_can_be_ignored_or_refused():
    for unseen in ("ignore", "refuse"):
        encoder = admitted(record(a=1, b=2), record(c=1), unseen=unseen)
        assert encoder.columns == ("a", "b")
        assert encoder.knows([record(c=1)], [])
    with pytest.raises(RowError, match="'c' is 3, but there is no such field; there are a, b"):
        x(encoder, record(a=1, b=2, c=3))
    with pytest.raises(RowError, match="no such field"):
        x(encoder, record(b=2, c=3))


def test_fields_named_beforehand_have_the_first_columns():
    encoder = Encoder({"a": "number", "day": ("mon", "tue"), "kind": "text"}, ("yes", "no"))
    assert encoder.columns == ("a", "day=mon", "day=tue")
    assert x(encoder, record(kind="x", day="tue")).nan_to_num(9).tolist() == [[9, 0, 1]]
    assert encoder.targets([record()], ["no"]).tolist() == [1]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_vectors_are_taken_as_they_are(kind):
    encoder = admitted(Record("1", {"x": kind([1.0, 2.0, 3.0])}))
    assert encoder.columns == ("x[0]", "x[1]", "x[2]")
    assert x(encoder, Record("2", {"x": kind([4.0, 5.0, 6.0])}), record()).nan_to_num(0).tolist() == [
        [4, 5, 6],
        [0] * 3,
    ]
    encoder.admit([record(a=1)])
    assert x(encoder, Record("2", {"x": kind([4.0, 5.0, 6.0]), "a": 7})).tolist() == [[4, 5, 6, 7]]
    with pytest.raises(RowError, match="as many numbers as before"):
        x(encoder, Record("3", {"x": kind([4.0, 5.0])}))
    with pytest.raises(RowError, match="must be finite"):
        x(encoder, Record("3", {"x": kind([4.0, 5.0, math.nan])}))


def test_labels_are_names_of_classes_or_numbers():
    encoder, numbers = admitted(record(a=1), labels=["yes"]), Encoder(classes=None)
    assert encoder.targets([record()] * 2, ["yes", "yes"]).tolist() == [0, 0]
    assert numbers.targets([record()], [2]).tolist() == [2]
    for label in (1.0, True, "", None):
        with pytest.raises(RowError, match="classes have names"):
            encoder.admit([record(a=1)], [label])
    for label in ("yes", math.nan, None):
        with pytest.raises(RowError, match="a number is needed"):
            numbers.targets([record(a=1)], [label])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_keep_their_digits(dtype):
    encoder = admitted(record(a=1, b=2), dtype=dtype)
    assert torch.equal(x(encoder, record(a=0.1, b=-7)), torch.tensor([[0.1, -7]], dtype=getattr(torch, dtype)))


def test_a_state_brings_back_all_columns_and_classes(tmp_path):
    encoder = admitted(
        record(b=1, day="mon"),
        record(a=1, v=[1, 2]),
        labels=[
            "yes",
        ][:1],
        values=3,
    )
    checkpoint.save(encoder.state_dict(), tmp_path / "state")
    other = Encoder(values=3)
    other.load_state_dict(checkpoint.load(tmp_path / "state"))
    rows = [record(b=1, day="mon", a=2, v=[3, 4])]
    assert torch.equal(x(other, *rows), x(encoder, *rows))
    assert other.state_dict() == encoder.state_dict()
    with pytest.raises(ValueError, match="values: 3 then, 100 now"):
        Encoder().load_state_dict(encoder.state_dict())


def test_the_id_of_a_row_is_that_of_its_name():
    assert row_ids([record(1), record(2), record(1)]).unique().numel() == 2


def test_words_need_no_columns_of_their_own():
    words = Words(buckets=64)
    assert words.knows([record(text="anything new")], [])
    rows = x(words, record(text="Good good book, good"), record(text="good book"), record(text=None), record(n=3))
    assert torch.equal(rows[0] > 0, torch.logical_or(rows[1] > 0, rows[0] > 0))
    assert rows.norm(dim=1).tolist() == pytest.approx([1, 1, 0, 0])
    with pytest.raises(RowError, match="'title' is a text, too"):
        x(words, record(title="a", text="b"))
    assert torch.equal(x(Words(buckets=64, field="text"), record(title="a", text="good book")), rows[1:2])
    with pytest.raises(RowError, match="a text is needed"):
        x(Words(field="text"), record(text=3))


def test_fields_that_never_end_are_refused_and_change_nothing():
    encoder = Encoder(most=3)
    encoder.admit([Record("1", {"a": 1.0, "t": "x"})])
    for fields in ({"b": 1.0, "c": 2.0}, {"v": [1.0, 2.0]}, {"t": "y", "u": "z"}):
        before = encoder.state_dict()
        with pytest.raises(RowError, match=r"there are [23] columns already, and 3 are the most"):
            encoder.admit([Record("2", fields)], ["new"])
        assert encoder.state_dict() == before
    encoder.admit([Record("3", {"t": "y"})])
    assert encoder.columns == ("a", "t=x", "t=y")


def test_what_was_admitted_is_forgotten_again():
    encoder = Encoder({"day": ["mon"], "size": "number"}, ["a"], values=2)
    sizes, before = encoder.sizes, encoder.state_dict()
    encoder.admit(
        [Record("1", {"day": "tue", "x": 1.0, "t": "u", "v": [1.0]}), Record("2", {"day": "wed"})], ["b", "c"]
    )
    assert encoder.width == 7
    encoder.cut(sizes)
    assert encoder.state_dict() == before
    assert encoder.encode([Record("1", {"day": "mon", "x": 1.0, "size": 2})])["x"].tolist() == [[1.0, 2.0]]


def test_texts_that_were_named_have_a_column_each_however_many_they_are():
    encoder = Encoder({"day": ["mon", "tue", "wed", "mon"]}, values=2)
    assert encoder.columns == ("day=mon", "day=tue", "day=wed")
    encoder.admit([Record("1", {"day": "thu"}), Record("2", {"day": "fri"})], ["a", "a"])
    assert encoder.columns[3:] == ("day: other",)


def test_a_kind_of_field_that_there_is_not_is_no_list_of_letters():
    with pytest.raises(ValueError, match="'a' is 'nmber'; say number, text"):
        Encoder({"a": "nmber"})


@pytest.mark.parametrize("number", [torch.tensor(2.0), np.array(2.0), np.float32(2), np.int64(2)])
def test_a_number_may_come_as_a_tensor_or_an_array(number):
    encoder = Encoder()
    encoder.admit([Record("1", {"a": number})])
    assert encoder.columns == ("a",)
    assert encoder.encode([Record("1", {"a": number})])["x"].tolist() == [[2.0]]


@pytest.mark.parametrize("nothing", [[], (), np.zeros(0), torch.zeros(0)])
def test_a_vector_of_nothing_is_refused(nothing):
    encoder = Encoder()
    with pytest.raises(RowError, match="one number at least"):
        encoder.admit([Record("1", {"a": nothing})])
    assert encoder.state_dict() == Encoder().state_dict()
