"""Reference nets: their sizes, and a head for each task."""

import copy

import pytest
import torch
from torch import nn

from everlearn.models.nets import MLP, MultiHead, Net, ResNet18


def count(model):
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("model", "shape", "parameters", "width"),
    [
        (MLP(), (1, 28, 28), 478_410, 400),
        (MLP(64, (32,), 5), (64,), 2_245, 32),
        (MLP(8, (), 2), (8,), 18, 8),
        (Net(), (3, 32, 32), 25_578, 2048),
        (Net(7, channels=1, size=28), (1, 28, 28), 448 - 288 + 4_640 + 7 * (1568 + 1), 1568),
        (ResNet18(width=20), (3, 32, 32), 1_094_750, 160),
        (ResNet18(100, width=20), (3, 32, 32), 1_109_240, 160),
    ],
)
def test_nets_have_the_published_number_of_parameters(model, shape, parameters, width):
    assert count(model) == parameters
    x = torch.zeros(2, *shape)
    assert model.features(x).shape == (2, width)
    assert model(x).shape == (2, model.head.out_features)


def test_resnet18_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert count(ResNet18()) == 11_173_962
        assert count(ResNet18(1000)) == 11_173_962 + 990 * 513


def test_resnet18_halves_its_images_three_times_and_no_more():
    model = ResNet18(width=4).eval()
    assert model.features[:-2](torch.zeros(1, 3, 32, 32)).shape == (1, 32, 4, 4)


def test_dropout_is_there_only_when_asked_for():
    x = torch.ones(4, 16)
    assert torch.equal((plain := MLP(16))(x), plain(x))
    assert not any(isinstance(layer, nn.Dropout) for layer in MLP().modules())
    dropping = MLP(16, dropout=0.5)
    assert not torch.equal(dropping(x), dropping(x))
    assert torch.equal(dropping.eval()(x), dropping(x))


# -- a head for each task


def multi(tasks=3, **settings):
    return MultiHead(nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh()), 6, 2, tasks, **settings)


def test_each_row_is_answered_by_the_head_of_its_own_task():
    model, x = multi(), torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    task = torch.tensor([2, 0, 1, 1, 2, 0, 0])
    logits = model(x, task)
    for row, one in enumerate(task.tolist()):
        alone = model.heads[one](model.backbone(x[row : row + 1]))[0]
        torch.testing.assert_close(logits[row], alone)


def test_a_batch_of_one_task_and_an_empty_batch_are_answered_too():
    model = multi()
    assert torch.equal(model(torch.ones(3, 4), torch.full((3,), 2)), model.heads[2](model.backbone(torch.ones(3, 4))))
    assert model(torch.ones(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 2)


def test_a_task_that_is_not_in_the_batch_is_moved_by_neither_momentum_nor_decay():
    model = multi()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)

    def step(task):
        optimizer.zero_grad()
        model(torch.ones(4, 4), torch.tensor(task)).square().sum().backward()
        optimizer.step()

    step([0, 0, 1, 1])
    before = copy.deepcopy(model.heads[0].state_dict())
    step([1, 2, 1, 2])
    assert all(torch.equal(value, before[name]) for name, value in model.heads[0].state_dict().items())
    assert model.heads[0].weight.grad is None


def test_predicting_for_an_unknown_task_is_an_error_and_makes_no_head():
    model = multi(2)
    with pytest.raises(ValueError, match=r"tasks \[0, 5\].*0 to 1.*grow_tasks\(6\)"):
        model(torch.ones(2, 4), torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"tasks \[-1\]"):
        model(torch.ones(1, 4), torch.tensor([-1]))
    assert len(model.heads) == 2


def test_growing_keeps_old_heads_and_draws_new_ones_from_their_own_seed():
    model = multi(1).to(torch.bfloat16).eval()
    old = model.heads[0].weight
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model.grow_tasks(3)
    model.grow_tasks(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.heads[0].weight is old
    assert model.heads[2].weight.dtype == torch.bfloat16
    assert not model.heads[2].training
    assert len(model.heads) == 3
    fresh = multi(3)
    assert torch.equal(model.heads[2].weight, fresh.heads[2].weight.bfloat16())
    assert not torch.equal(fresh.heads[1].weight, fresh.heads[2].weight)
    assert not torch.equal(fresh.heads[1].weight, multi(3, seed=1).heads[1].weight)


@pytest.mark.parametrize("saved", [1, 2, 5])
def test_a_state_with_another_number_of_tasks_loads(saved):
    state = nn.Sequential(multi(saved, seed=9)).state_dict()
    model = nn.Sequential(multi(3))
    model.load_state_dict(state)
    assert len(model[0].heads) == saved
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_without_tasks_is_refused():
    with pytest.raises(ValueError, match="tasks is 0"):
        multi(0)
