"""One scale for all columns: counted when told so, and never by looking."""

import copy

import pytest
import torch
from torch import nn

from everlearn.models.standardise import Standardise


def rows(count, columns=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, columns, generator=random, dtype=torch.float64) * torch.tensor([1.0, 50, 0.01]) + 1e3


def counted(*batches, columns=3, **options):
    scale = Standardise(columns, **options)
    for batch in batches:
        scale.update(batch)
    return scale


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_the_scale_is_that_of_all_rows_at_once_however_they_were_dealt_out(size):
    x = rows(100)
    scale = counted(*x.split(size))
    assert torch.equal(scale.count, torch.full((3,), 100.0, dtype=torch.float64))
    torch.testing.assert_close(scale.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(scale.squares / scale.count, x.var(0, unbiased=False), rtol=1e-9, atol=0)
    torch.testing.assert_close(scale(x), (x - x.mean(0)) / x.std(0, unbiased=False), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_column_that_never_varied_becomes_zero_whatever_rounding_makes_of_a_mean(size):
    x = torch.full((30, 3), 0.1, dtype=torch.float64)
    scale = counted(*x.split(size))
    assert not scale.squares.any()
    assert not scale(x + 5).any()


def test_before_anything_was_counted_all_is_zero():
    assert not Standardise(3)(rows(4)).any()


@pytest.mark.parametrize("size", [1, 4, 20])
def test_what_is_missing_is_not_counted_and_becomes_the_mean(size):
    x = rows(20)
    x[::3, 1] = torch.nan
    x[0, 2] = torch.nan
    scale = counted(*x.split(size))
    assert scale.count.tolist() == [20, 13, 19]
    torch.testing.assert_close(scale.mean, x.nanmean(0), rtol=1e-14, atol=0)
    assert not scale(x)[::3, 1].any()
    filled = scale.update(x)
    assert torch.equal(filled[::3, 1], scale.mean[1].expand(7))
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])


@pytest.mark.parametrize("size", [1, 5])
def test_columns_that_are_left_are_handed_on_with_zero_for_what_is_missing(size):
    x = rows(10)
    scale = Standardise()
    scale.grow([False, True, False])
    for batch in x.split(size):
        scale.update(batch)
    assert torch.equal(scale(x)[:, 1], x[:, 1])
    x[3, 1] = torch.nan
    assert scale(x)[3, 1] == 0
    assert scale.filled(x)[3, 1] == 0


def test_without_scaling_rows_are_as_they_are_and_what_is_missing_is_the_mean():
    x = rows(10)
    scale = counted(x, scale=False)
    assert torch.equal(scale(x), x)
    x[3, 1] = torch.nan
    assert scale(x)[3, 1] == scale.mean[1]


@pytest.mark.parametrize("training", [True, False])
def test_scaling_changes_nothing_in_any_mode(training):
    scale = counted(rows(10)).train(training)
    before = copy.deepcopy(scale.state_dict())
    scale(rows(10, seed=1))
    assert all(torch.equal(value, before[name]) for name, value in scale.state_dict().items())


def test_columns_grow_behind_those_there_are():
    x = rows(10)
    scale = counted(x)
    before = scale(x)
    scale.grow([False, True])
    wider = torch.cat([x, torch.ones(10, 2, dtype=torch.float64)], 1)
    assert torch.equal(scale(wider), torch.cat([before, torch.tensor([[0.0, 1.0]]).expand(10, 2)], 1))


@pytest.mark.parametrize("columns", [0, 2, 5])
def test_a_state_brings_its_number_of_columns(columns):
    scale, other = counted(rows(10)), Standardise(columns)
    other.load_state_dict(scale.state_dict())
    assert torch.equal(other(rows(3)), scale(rows(3)))
    assert other.columns == 3


def test_statistics_stay_in_float64_whatever_the_model_becomes():
    model = nn.Sequential(counted(rows(10)), nn.Linear(3, 1))
    mean = model[0].mean.clone()
    model.float().half().bfloat16()
    assert torch.equal(model[0].mean, mean)
    assert model[0](rows(2).float()).dtype == torch.float32


@pytest.mark.parametrize("count", [1, 3])
def test_rows_that_lie_elsewhere_are_counted_where_the_statistics_are(count):
    scale = Standardise(3).to("meta")
    assert scale.update(rows(count)).device.type == "meta"
