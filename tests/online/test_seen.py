"""Duplicates are known within a window, exactly."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn import checkpoint
from everlearn.online.seen import Seen


@given(st.lists(st.integers(min_value=0, max_value=9)), st.integers(min_value=1, max_value=6))
def test_it_knows_what_a_list_of_the_last_new_ids_knows(numbers, window):
    seen, oracle = Seen(window), deque(maxlen=window)
    for number in numbers:
        id_ = f"id {number}"
        new = id_ not in oracle
        if new:
            oracle.append(id_)
        assert seen.admit(id_) == new
        assert id_ in seen
        assert len(seen) == len(oracle)


def test_it_holds_no_more_than_its_window():
    seen = Seen(100)
    for number in range(1000):
        assert seen.admit(str(number))
    assert len(seen) == len(seen._known) == len(seen._ring) == 100


def test_its_state_is_one_tensor_from_the_oldest_to_the_newest_and_it_goes_on_alike(tmp_path):
    seen = Seen(10)
    for number in range(25):
        seen.admit(str(number))
    state = seen.state_dict()
    assert list(state) == ["ids"]
    assert state["ids"].shape == (10,)
    checkpoint.save(state, tmp_path / "state")
    again = Seen(10)
    again.load_state_dict(checkpoint.load(tmp_path / "state"))
    for number in [20, 3, 15, 16, 40, 15, 16, 24]:
        assert again.admit(str(number)) == seen.admit(str(number))
    assert checkpoint.same(again.state_dict(), seen.state_dict())


def test_an_empty_state_and_a_smaller_window():
    seen, small = Seen(10), Seen(2)
    seen.load_state_dict(Seen(10).state_dict())
    for id_ in "abc":
        assert seen.admit(id_)
    small.load_state_dict(seen.state_dict())
    assert ["a" in small, "b" in small, "c" in small] == [False, True, True]


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 id, but is 0"):
        Seen(0)
