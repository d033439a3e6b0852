"""Statistics computed anew are those of the rows, and nothing else is touched."""

from functools import partial

import pytest
import torch
from methods.small import experience, rows
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.models import MLP, snapshot
from everlearn.objective import classify
from everlearn.transfer.freezing import freeze
from everlearn.transfer.statistics import recompute_statistics


def net():
    """Two blocks with batch normalisation and dropout, which have seen some rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6), nn.BatchNorm1d(6))
    model(torch.randn(50, 5) + 1)
    return model


@pytest.mark.parametrize("count", [20, 17, 2])
def test_recomputed_statistics_are_those_of_the_rows(count):
    """The oracle: of the first layer by hand, in batches as even as the last one allows."""
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4))
    freeze(model, "0", norm="recompute")
    data = rows(count)
    Learner(model, optimizer=partial(torch.optim.SGD, lr=0.1)).learn(experience())
    assert torch.equal(model[0].running_mean, torch.zeros(5))  # until now it was as if frozen
    model.train()
    before, generator = [module.training for module in model.modules()], torch.get_rng_state()
    assert recompute_statistics(model, data, batch_size=4) == 1
    x = data.take(torch.arange(count))["x"]
    parts = x.split(5 if count == 17 else 4)
    torch.testing.assert_close(model[0].running_mean, x.mean(0))
    torch.testing.assert_close(model[0].running_var, sum(part.var(0) * len(part) for part in parts) / count)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(generator, torch.get_rng_state())
    assert model[0].momentum == 0.1


def test_statistics_are_computed_through_the_view_of_the_learner_with_dropout_off_and_where_it_is_asked_for():
    model = net()
    freeze(model, "1")
    held = {name: value for name, value in snapshot(model).items() if name.startswith("1.")}
    data = Columns(x=torch.randint(255, (30, 5), dtype=torch.uint8))
    look = lambda batch, key: batch | {"x": batch["x"].float() / 255}  # noqa: E731
    assert recompute_statistics(model, data, view=look) == 1
    assert checkpoint.same(held, {name: value for name, value in snapshot(model).items() if name.startswith("1.")})
    with torch.no_grad():
        x = model.eval()[:4](data.take(torch.arange(30))["x"].float() / 255)
    torch.testing.assert_close(model[4].running_mean, x.mean(0))
    with pytest.raises(ValueError, match="no batch normalisation whose statistics"):
        recompute_statistics(MLP(5, (4,), 2), data)
    with pytest.raises(ValueError, match="at least 2 rows, but there are 1"):
        recompute_statistics(model, rows(1))


def test_where_rows_cannot_be_seen_the_statistics_are_as_they_were():
    model, calls = net(), []
    before, momenta = snapshot(model), [model[1].momentum, model[4].momentum]

    def failing(asked, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise ValueError("a row that cannot be read")
        return classify(asked, batch)

    with pytest.raises(ValueError, match="cannot be read"):
        recompute_statistics(model, rows(20), failing, batch_size=5)
    assert checkpoint.same(before, snapshot(model))
    assert [model[1].momentum, model[4].momentum] == momenta
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_batch_has_a_single_row_however_small_batches_are(size):
    model = net()
    assert recompute_statistics(model, rows(5), batch_size=size) == 2
    assert all(bool(value.isfinite().all()) for value in snapshot(model).values())


def test_batches_without_rows_are_refused():
    with pytest.raises(ValueError, match="batch_size"):
        recompute_statistics(net(), rows(5), batch_size=0)
