"""More inputs for a trained model: the same function, the same moments, and a clear no where that cannot be."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn.models.heads import follow, grow
from everlearn.models.nets import MLP
from everlearn.models.widening import grow_inputs, input_layers, resize_inputs_like


class Branched(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(7, 2)

    def forward(self, x):
        return self.out(torch.cat([self.one(x).relu(), self.two(x)], 1))


@pytest.mark.parametrize(("model", "names"), [(MLP(4, (4, 4), 4), ["features.1"]), (Branched(), ["one", "two"])])
def test_all_layers_that_read_rows_grow_and_the_function_is_the_same(model, names):
    x = torch.randn(5, 4)
    before = model(x)
    assert list(input_layers(model, 4)) == names
    assert grow_inputs(model, 4, 6) == names
    torch.testing.assert_close(model(torch.cat([x, torch.randn(5, 2) * 100], 1)), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "Adagrad", "RMSprop", "AdamW", "Rprop", "Adafactor"])
def test_the_optimizer_keeps_its_state_and_goes_on_in_both_dimensions_at_once(optimizer):
    model = nn.Linear(3, 2)
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    learns = getattr(torch.optim, optimizer)(model.parameters(), lr=0.01, **options)
    for _ in range(3):
        learns.zero_grad()
        F.cross_entropy(model(torch.randn(8, 3)), torch.randint(2, (8,))).backward()
        learns.step()
    state = {k: v.clone() for k, v in learns.state[model.weight].items() if isinstance(v, torch.Tensor) and v.dim()}
    before = dict(model.named_parameters())
    grow_inputs(model, 3, 5)
    grow(model, 4)
    follow(learns, before, dict(model.named_parameters()))
    for name, old in state.items():
        new = learns.state[model.weight][name]
        assert torch.equal(new[tuple(slice(size) for size in old.shape)], old), name
    learns.zero_grad()
    F.cross_entropy(model(torch.randn(8, 5)), torch.randint(4, (8,))).backward()
    learns.step()
    assert model.weight[:, 3:].any()


def test_the_first_inputs_of_all_are_drawn_for_zeros_would_never_learn():
    with pytest.warns(UserWarning, match="zero-element"):
        one, two = MLP(0, (8,), 2), MLP(0, (8,), 2)
    for model in (one, two):
        grow_inputs(model, 0, 3, seed=5)
    assert torch.equal(one.features[1].weight, two.features[1].weight)
    assert one.features[1].weight.abs().max() <= 3**-0.5
    assert one.features[1].bias.any()


def test_what_else_reads_rows_is_refused_and_nothing_has_changed():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    weight = model[1].weight
    with pytest.raises(ValueError, match="that reads its rows as they come"):
        grow_inputs(model, 4, 5)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(x) + self.norm(x)[:, :2]

    both = Both()
    weight = both.out.weight
    with pytest.raises(ValueError, match="more than linear layers"):
        grow_inputs(both, 4, 5)
    assert both.out.weight is weight
    assert both.out.in_features == 4


def test_looking_for_layers_leaves_no_trace():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    state, random = {n: v.clone() for n, v in model.state_dict().items()}, torch.get_rng_state()
    input_layers(model, 4)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())


def test_a_state_brings_its_number_of_inputs():
    model, other = Branched(), Branched()
    grow_inputs(other, 4, 9)
    resize_inputs_like(model, other.state_dict(), 4, 9)
    model.load_state_dict(other.state_dict())
    x = torch.randn(2, 9)
    assert torch.equal(model(x), other(x))
