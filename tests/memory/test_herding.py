"""Herding chooses, one after the other, rows whose mean stays near the mean of all."""

import pytest
import torch

from everlearn.memory.herding import herd


def features(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def greedy(rows, count, towards=None):
    """The definition, written down: every candidate is tried at every turn."""
    rows = rows.double()
    mean = rows.mean(0) if towards is None else towards.double()
    chosen = []
    for _ in range(count):
        left = [i for i in range(len(rows)) if i not in chosen]
        chosen.append(min(left, key=lambda i: (mean - rows[[*chosen, i]].mean(0)).norm().item()))
    return chosen


def error(rows, chosen):
    return (rows.mean(0) - rows[chosen].mean(0)).norm().item()


@pytest.mark.parametrize(("n", "width", "count"), [(1, 3, 1), (12, 1, 12), (30, 4, 9), (40, 16, 20), (25, 2, 25)])
def test_each_choice_is_the_best_of_all_that_are_left(n, width, count):
    for seed in range(3):
        rows = features(n, width, seed) + 3
        assert herd(rows, count).tolist() == greedy(rows, count)


def test_on_the_unit_sphere_as_in_icarl_it_is_the_same_greedy():
    rows = torch.nn.functional.normalize(features(60, 8), dim=1)
    assert herd(rows, 20).tolist() == greedy(rows, 20)
    mean = torch.nn.functional.normalize(rows.mean(0), dim=0)
    assert herd(rows, 20, mean).tolist() == greedy(rows, 20, mean) != herd(rows, 20).tolist()


def test_the_mean_of_those_chosen_is_much_nearer_than_that_of_random_rows():
    rows = features(300, 16, 5)
    random = [torch.randperm(300, generator=torch.Generator().manual_seed(s))[:15] for s in range(200)]
    errors = sorted(error(rows, chosen) for chosen in random)
    assert error(rows, herd(rows, 15)) < errors[0]
    assert error(rows, herd(rows, 15)) < 0.5 * sum(errors) / 200


def test_the_first_of_many_are_the_choice_of_few():
    rows = features(80, 6)
    assert herd(rows, 40)[:7].equal(herd(rows, 7))


@pytest.mark.parametrize("count", [0, 1, 19, 20, 50])
def test_no_row_is_chosen_twice_and_all_if_there_are_too_few(count):
    rows = features(20, 3)
    rows[10:] = rows[:10]  # each row has a twin
    chosen = herd(rows, count)
    assert chosen.dtype == torch.int64
    assert len(chosen.unique()) == len(chosen) == min(count, 20)


def test_far_from_the_origin_small_differences_still_count():
    rows = features(40, 4).double() + 1e5
    assert herd(rows, 10).tolist() == greedy(rows, 10)


def test_features_keep_their_bits_and_no_graph_is_made():
    rows = features(20, 3).requires_grad_()
    before = rows.detach().clone()
    assert not herd(rows, 5).requires_grad
    assert torch.equal(rows, before)


def test_no_rows_have_no_herd():
    assert herd(torch.zeros(0, 4), 3).tolist() == []


def test_what_has_no_mean_is_refused():
    with pytest.raises(ValueError, match=r"one vector per row, \(n, width\), but have shape \(3, 2, 2\)"):
        herd(torch.zeros(3, 2, 2), 1)
    with pytest.raises(ValueError, match="not finite"):
        herd(torch.tensor([[0.0], [torch.nan]]), 1)
    with pytest.raises(ValueError, match="at least 0, but is -1"):
        herd(torch.zeros(3, 2), -1)
