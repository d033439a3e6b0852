"""Heads that grow in place, and optimizers that follow."""

import math

import pytest
import torch
from torch import nn, optim

from everlearn.models.heads import follow, grow, head_of, resize_like


def net(outputs=3, dtype=torch.float32, *, bias=True):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs, bias=bias)).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return model


def named(model):
    return dict(model.named_parameters())


# -- which layer is the head


def test_the_head_is_the_last_linear_layer_or_the_one_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3), nn.Conv2d(1, 1, 1)))
    assert head_of(model) == ("1.0", model[1][0])
    assert head_of(model, "0") == ("0", model[0])


def test_a_model_that_is_a_linear_layer_is_its_own_head():
    model = nn.Linear(2, 3)
    assert head_of(model) == ("", model)
    assert grow(model, 5) is model
    assert model(torch.zeros(1, 2)).shape == (1, 5)


def test_a_head_that_is_not_there_is_an_error_that_names_the_nearest():
    model = nn.ModuleDict({"body": nn.ReLU(), "classifier": nn.Linear(2, 2), "conv": nn.Conv2d(1, 1, 1)})
    with pytest.raises(ValueError, match=r"'clasifier'; the nearest are 'classifier'"):
        grow(model, 5, head="clasifier")
    with pytest.raises(ValueError, match="nearest are 'classifier'"):
        grow(model, 5, head="conv")
    with pytest.raises(ValueError, match=r"no nn.Linear"):
        grow(nn.Conv2d(1, 1, 1), 5)


# -- growing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_old_rows_stay_bit_identical_in_their_dtype(dtype, bias):
    model = net(3, dtype, bias=bias)
    before = {name: weight.detach().clone() for name, weight in named(model).items()}
    head = grow(model, 7)
    assert head is model[2]
    assert head.out_features == 7
    assert named(model).keys() == before.keys()
    for name, weight in named(model).items():
        assert weight.dtype == dtype
        assert torch.equal(weight[: len(before[name])], before[name])
    assert (head.bias is None) is not bias
    assert model(torch.zeros(1, 4, dtype=dtype)).shape == (1, 7)


def test_the_logits_of_old_classes_do_not_change():
    model, x = net(), torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    before = model(x)
    grow(model, 5)
    torch.testing.assert_close(model(x)[:, :3], before)


def test_a_frozen_head_grows_frozen():
    model = net()
    model[2].bias.requires_grad_(requires_grad=False)
    head = grow(model, 5)
    assert head.weight.requires_grad
    assert not head.bias.requires_grad


def test_a_parameter_that_grew_is_a_leaf_without_gradient():
    model = net()
    model(torch.zeros(1, 4)).sum().backward()
    head = grow(model, 5)
    assert head.weight.is_leaf
    assert head.weight.grad is None


@pytest.mark.parametrize("outputs", [3, 2, 0])
def test_as_many_or_fewer_outputs_change_nothing(outputs):
    model = net()
    before = named(model)
    grow(model, outputs)
    assert all(weight is before[name] for name, weight in named(model).items())


def test_growing_neither_draws_from_the_global_generator_nor_depends_on_it():
    heads = []
    for seed in (0, 1):
        model = net()
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        heads.append(grow(model, 9).weight)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*heads)


def test_new_rows_differ_by_seed_and_by_the_rows_before():
    first, other_seed = grow(net(), 5).weight[3:], grow(net(), 5, seed=1).weight[3:]
    assert not torch.equal(first, other_seed)
    model = net()
    grow(model, 4)
    assert not torch.equal(grow(model, 5).weight[4], model[2].weight[3])


def test_new_rows_are_spread_as_linear_layers_begin():
    model = nn.Linear(100, 1)
    grow(model, 2001)
    for rows in (model.weight.detach()[1:], model.bias.detach()[1:]):
        assert rows.abs().max() <= 1 / math.sqrt(100)
        assert rows.std().item() == pytest.approx(1 / math.sqrt(300), rel=0.05)
        assert rows.mean().abs() < 0.005


def test_a_tied_head_is_refused_before_the_tie_breaks():
    model = nn.ModuleDict({"embedding": nn.Embedding(3, 4), "head": nn.Linear(4, 3)})
    model["head"].weight = model["embedding"].weight
    with pytest.raises(ValueError, match=r"'head' shares its weights with 'embedding'.*untie"):
        grow(model, 5)
    assert model["head"].weight is model["embedding"].weight


def test_a_layer_that_is_registered_twice_grows_once():
    head = nn.Linear(4, 3)
    model = nn.Sequential(head, nn.ModuleDict({"again": head}))
    grow(model, 5)
    assert model[1]["again"].out_features == 5


def test_a_head_without_rows_of_its_own_is_refused():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    with pytest.raises(ValueError, match="parametrization"):
        grow(model, 5)
    with pytest.raises(TypeError, match="run one batch"):
        grow(nn.Sequential(nn.LazyLinear(3)), 5)


# -- checkpoints of another size


@pytest.mark.parametrize("saved", [1, 3, 8])
def test_a_model_takes_the_size_of_a_state_and_loads_it_exactly(saved):
    state, model = net(saved, torch.bfloat16).state_dict(), net(3, torch.bfloat16)
    assert resize_like(model, state) == ([] if saved == 3 else ["2"])
    model.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model[2].out_features == saved
    assert model[2].weight.untyped_storage().nbytes() == saved * 6 * 2


def test_layers_that_differ_in_more_than_rows_are_left_to_the_loader_to_refuse():
    model = net()
    state = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(7, 4)).state_dict()
    assert resize_like(model, state) == []
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(state)


def test_a_model_that_is_a_linear_layer_is_resized_under_its_empty_name():
    model = nn.Linear(4, 3)
    assert resize_like(model, nn.Linear(4, 7).state_dict()) == [""]
    assert model.out_features == 7


# -- the optimizer follows

OPTIMIZERS = {
    "SGD": lambda weights: optim.SGD(weights, 0.1),
    "SGD with momentum": lambda weights: optim.SGD(weights, 0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda weights: optim.Adam(weights, 0.01),
    "AdamW amsgrad": lambda weights: optim.AdamW(weights, 0.01, amsgrad=True),
    "Adam fused": lambda weights: optim.Adam(weights, 0.01, fused=True),
    "RMSprop": lambda weights: optim.RMSprop(weights, 0.01, momentum=0.9, centered=True),
    "Adagrad": lambda weights: optim.Adagrad(weights, 0.1, initial_accumulator_value=0.5),
    "NAdam": lambda weights: optim.NAdam(weights, 0.01),
    "RAdam": lambda weights: optim.RAdam(weights, 0.01),
    "Adamax": lambda weights: optim.Adamax(weights, 0.01),
    "Adadelta": lambda weights: optim.Adadelta(weights, 0.1),
    "ASGD": lambda weights: optim.ASGD(weights, 0.1),
    "Rprop": lambda weights: optim.Rprop(weights, 0.01),
}


def train(model, optimizer, steps, seed):
    """Steps on a loss of the first three outputs alone, so the gradients of new rows are zero."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, 4, generator=generator).to(model[0].weight.dtype)
        y = torch.randint(3, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x)[:, :3], y).backward()
        optimizer.step()


def grown(model, optimizer, outputs):
    before = named(model)
    grow(model, outputs)
    follow(optimizer, before, named(model))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_old_rows_go_on_as_if_nothing_had_grown(make):
    models = net().double(), net().double()
    for model, grows in zip(models, (False, True), strict=True):
        optimizer = make(model.parameters())
        train(model, optimizer, 5, seed=1)
        if grows:
            grown(model, optimizer, 8)
        train(model, optimizer, 5, seed=2)
    for calm, busy in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(busy[: len(calm)], calm, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_new_rows_begin_with_the_state_of_a_parameter_never_stepped(make):
    model = net()
    optimizer = make(model.parameters())
    train(model, optimizer, 3, seed=1)
    old = dict(optimizer.state[model[2].weight])
    grown(model, optimizer, 8)
    fresh = nn.Parameter(torch.zeros(5, 6))
    fresh.grad = torch.zeros(5, 6)
    beside = make([fresh])
    beside.step()
    for name, value in optimizer.state[model[2].weight].items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            assert value is old[name]
            continue
        assert value.dtype == old[name].dtype
        assert torch.equal(value[:3], old[name])
        if name not in {"sum", "step_size"}:
            assert not value[3:].any()
    if "Adagrad" in str(type(optimizer)):
        assert (optimizer.state[model[2].weight]["sum"][3:] == 0.5).all()
    if "Rprop" in str(type(optimizer)) and "RMS" not in str(type(optimizer)):
        assert (optimizer.state[model[2].weight]["step_size"][3:] == 0.01).all()


@pytest.mark.parametrize("make", [optim.Adafactor, lambda weights: optim.Muon([w for w in weights if w.dim() == 2])])
def test_optimizers_whose_steps_mix_rows_go_on_too(make):
    model = net(1)
    optimizer = make(model.parameters())
    for outputs in (1, 3, 4):
        grown(model, optimizer, outputs)
        before = model[2].weight.detach().clone()
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        assert torch.isfinite(model[2].weight).all()
        assert not torch.equal(model[2].weight, before)


def test_each_parameter_keeps_its_place_in_its_group():
    model = net()
    optimizer = optim.SGD(
        [{"params": [model[2].bias, model[0].weight], "lr": 1.0}, {"params": [model[2].weight], "lr": 2.0}],
        lr=0.1,
    )
    lists = [group["params"] for group in optimizer.param_groups]
    grown(model, optimizer, 5)
    assert [group["params"] for group in optimizer.param_groups] == lists
    assert [id(weight) for weight in lists[0]] == [id(model[2].bias), id(model[0].weight)]
    assert [id(weight) for weight in lists[1]] == [id(model[2].weight)]
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 2.0]


def test_a_parameter_left_out_of_the_optimizer_stays_out():
    model = net()
    optimizer = optim.Adam([model[0].weight, model[2].bias])
    train(model, optimizer, 2, seed=1)
    grown(model, optimizer, 5)
    assert [id(weight) for weight in optimizer.param_groups[0]["params"]] == [
        id(model[0].weight),
        id(model[2].bias),
    ]
    assert set(optimizer.state) == {model[0].weight, model[2].bias}


def test_new_names_are_not_added():
    model = nn.ModuleDict({"a": nn.Linear(2, 2)})
    optimizer, before = optim.SGD(model.parameters(), 0.1), named(model)
    model["b"] = nn.Linear(2, 2)
    follow(optimizer, before, named(model))
    assert len(optimizer.param_groups[0]["params"]) == 2


def test_the_old_parameters_leave_no_state_behind():
    model = net()
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, 2, seed=1)
    grown(model, optimizer, 5)
    assert set(optimizer.state) == set(model.parameters())
    assert len(optimizer.state) == 4


def test_a_head_that_shrinks_keeps_the_state_of_the_rows_that_stay():
    model = net(5)
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, 2, seed=1)
    moments = optimizer.state[model[2].weight]["exp_avg"]
    before = named(model)
    resize_like(model, net(4).state_dict())
    follow(optimizer, before, named(model))
    assert torch.equal(optimizer.state[model[2].weight]["exp_avg"], moments[:4])
    train(model, optimizer, 1, seed=2)


def test_an_optimizer_that_followed_saves_and_loads():
    model = net()
    optimizer = optim.AdamW(model.parameters())
    train(model, optimizer, 2, seed=1)
    grown(model, optimizer, 5)
    other_model = net(5)
    other = optim.AdamW(other_model.parameters())
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[other_model[2].weight]["exp_avg"], optimizer.state[model[2].weight]["exp_avg"])


def test_a_scheduler_goes_on_after_growing():
    model = net()
    optimizer = optim.SGD(model.parameters(), 1.0)
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    grown(model, optimizer, 5)
    train(model, optimizer, 1, seed=1)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_lbfgs_is_refused_only_when_something_was_replaced():
    model = net()
    optimizer = optim.LBFGS(model.parameters())
    follow(optimizer, named(model), named(model))
    with pytest.raises(TypeError, match="LBFGS cannot follow"):
        grown(model, optimizer, 5)
