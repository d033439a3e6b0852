"""Statistics that come batch by batch are those of rows that come one by one, and of all rows at once."""

import pytest
import torch

from everlearn.models.statistics import Derived, deviations, solve_definite, widened

H = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(3, (50,), generator=torch.Generator().manual_seed(1))


def before(count):
    """Counts and sums of the first rows, class by class."""
    each = [H[:count][Y[:count] == label] for label in range(3)]
    return torch.tensor([len(rows) for rows in each]), torch.stack([rows.sum(0) for rows in each])


@pytest.mark.parametrize("start", [0, 1, 20])
def test_deviations_are_from_the_mean_of_the_rows_of_the_class_that_came_before(start):
    away, numbers, places = deviations(H[start:], Y[start:], *before(start))
    assert places.sort().values.tolist() == list(range(50 - start))
    for row, number, place in zip(away, numbers, places, strict=True):
        earlier = H[: start + place][Y[: start + place] == Y[start + place]]
        mean = earlier.mean(0) if len(earlier) else torch.zeros(4)
        assert number == len(earlier)
        torch.testing.assert_close(row, H[start + place] - mean)


def test_weighed_deviations_add_up_to_the_scatter_about_the_mean():
    total = torch.zeros(4, 4, dtype=torch.float64)
    for part in torch.arange(50).split(7):
        away, number, _ = deviations(H[part], Y[part], *before(int(part[0])))
        total += (away * (number / (number + 1)).unsqueeze(1)).T @ away
    centred = torch.cat([H[label == Y] - H[label == Y].mean(0) for label in range(3)])
    torch.testing.assert_close(total, centred.T @ centred)


def test_what_is_widened_keeps_what_there_was():
    old = torch.rand(2, 3)
    assert widened(old, (2, 3)) is old
    new = widened(old, (4, 3))
    assert torch.equal(new[:2], old)
    assert not new[2:].any()
    assert widened(torch.zeros(0, 0, 0), (2, 1, 1)).shape == (2, 1, 1)


def test_a_system_is_solved_or_refused_with_the_way_out():
    a = H.T @ H
    torch.testing.assert_close(a @ solve_definite(a, H[:4], ""), H[:4])
    with pytest.raises(ValueError, match="singular to machine precision; take more"):
        solve_definite(torch.ones(3, 3), torch.ones(3, 1), "take more")


def test_what_is_derived_is_computed_once_until_it_is_cleared_and_is_no_state():
    derived, calls = Derived(), []

    def solve():
        calls.append(True)
        return (torch.zeros(()),)

    assert derived.value(solve) is derived.value(solve)
    assert derived.state_dict() == {}
    derived.clear()
    derived.value(solve)
    derived.load_state_dict({})
    derived.value(solve)
    assert len(calls) == 3
