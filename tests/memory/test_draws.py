"""Draws are of different slots, each choice is as likely as any other, and they go on where they stopped."""

import numpy as np
import pytest
import torch

from everlearn.memory.draws import Draws


@pytest.mark.parametrize(("among", "count"), [(1, 1), (7, 7), (40, 2), (100, 50), (5000, 128)])
@pytest.mark.parametrize("again", [True, False])
def test_a_draw_is_of_different_slots(among, count, again):
    draws = Draws(0)
    for _ in range(40):
        drawn = draws.draw(among, count, again=again)
        assert drawn.dtype == torch.int64
        assert len(set(drawn.tolist())) == count
        assert 0 <= int(drawn.min()) <= int(drawn.max()) < among


@pytest.mark.parametrize("again", [True, False])
def test_each_ordered_choice_is_as_likely_as_any_other(again):
    draws, among, times = Draws(3), 33, 80_000  # of two slots, and among few: many have to be drawn again
    pairs = torch.stack([draws.draw(among, 2, again=again) for _ in range(times)]).numpy()
    counts = np.bincount(pairs[:, 0] * among + pairs[:, 1], minlength=among**2).reshape(among, among)
    assert not counts.diagonal().any()
    found = counts[~np.eye(among, dtype=bool)]
    expected = times / len(found)
    excess = ((found - expected) ** 2 / expected).sum() - (len(found) - 1)
    assert abs(excess) < 4 * np.sqrt(2 * (len(found) - 1))


def test_it_goes_on_in_the_middle_of_what_was_drawn_ahead():
    for taken in range(35):
        draws, other = Draws(1), Draws(2)
        for _ in range(taken):
            draws.draw(200, 4, again=True)
        other.load_state_dict(draws.state_dict())
        for _ in range(20):
            assert draws.draw(200, 4, again=True).equal(other.draw(200, 4, again=True))
        assert draws.draw(50, 40, again=True).equal(other.draw(50, 40, again=True))


def test_what_was_drawn_ahead_is_for_the_same_question_only():
    draws, other = Draws(1), Draws(1)
    draws.draw(10_000, 3, again=True)
    assert int(draws.draw(64, 3, again=True).max()) < 64
    other.draw(10_000, 3, again=True)
    other.load_state_dict(other.state_dict())
    assert int(other.draw(64, 3, again=True).max()) < 64
    assert draws.draw(64, 3, again=True).equal(other.draw(64, 3, again=True))
