"""A wider net computes the same, in eval mode and with statistics of the batch; where it could not, it says so."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transfer.surgery.operated import Convolutions, Untraceable, Watched, apart, both, images, shaken

from everlearn.models import MLP, ResNet18
from everlearn.transfer.surgery import SurgeryError, widen


def trained_like(model, x):
    """A gradient step for each weight with momentum, so that the optimizer has a state."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize(
    ("make", "name", "to", "sizes"),
    [
        (lambda: MLP(3 * 144, (8, 6), 4), "features.1", 13, {"features.1.weight": 13, "features.3.weight": 6}),
        (lambda: MLP(3 * 144, (8, 6), 4), "features.3", 7, {"features.3.weight": 7}),
        (Convolutions, "first", 10, {"norm.weight": 10, "depth.weight": 20, "norm2.running_var": 20}),
        (Convolutions, "second", 9, {"second.weight": 9, "norm3.running_mean": 36}),
        (lambda: ResNet18(4, width=4), "features.3.conv1", 9, {"features.3.bn1.weight": 9}),
    ],
    ids=["linear-linear", "linear-head", "conv-BN-depthwise-BN-conv", "conv-flatten-BN-linear", "residual branch"],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_function_stays_in_eval_and_in_train_mode(make, name, to, sizes, layout):
    model, x = shaken(make()).to(memory_format=layout), images()
    before = both(model, x)
    layer = model.get_submodule(name)
    outcome = widen(model, name, x, to=to)
    after = both(model, x)
    assert apart(before, after) < 1e-5
    assert outcome.evaluated == apart(before[:1], after[:1])
    assert outcome.trained == apart(before[1:], after[1:])
    assert model.get_submodule(name) is layer
    assert {key: len(model.state_dict()[key]) for key in sizes} == sizes
    assert all(weight.is_contiguous(memory_format=layout) for weight in model.parameters() if weight.dim() == 4)


def test_the_weights_are_those_of_the_paper():
    """By hand: W1'[j] = W1[g(j)], and the copies share the weight of the one they copy."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    first, second = model[0].weight.detach().clone(), model[2].weight.detach().clone()
    widen(model, "0", x, to=9)
    origin = [int((first == row).all(1).nonzero()) for row in model[0].weight]
    assert origin[:4] == [0, 1, 2, 3]
    for j, k in enumerate(origin):
        assert torch.equal(model[2].weight[:, j], second[:, k] / origin.count(k))
    shared = torch.zeros(2, 4).index_add(1, torch.tensor(origin), model[2].weight.detach())
    torch.testing.assert_close(shared, second)
    assert (model[0].out_features, model[2].in_features) == (9, 9)


def test_copies_of_a_norm_are_exact():
    model = shaken(Convolutions())
    old = {name: value.clone() for name, value in model.norm.state_dict().items()}
    widen(model, "first", images(), to=20)
    origin = [int((old["running_mean"] == value).nonzero()) for value in model.norm.running_mean]
    assert origin[:6] == list(range(6))
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(model.norm.state_dict()[name], old[name][origin])


def test_joined_layers_are_refused_or_widened_together():
    model, x = shaken(ResNet18(4, width=4)), images()
    watch = Watched(model)
    with pytest.raises(SurgeryError, match=r"joined with those of 'features.3.conv2', 'features.4.conv2'"):
        widen(model, "features.0", x, to=7)
    assert watch.same()
    before = both(model, x)
    outcome = widen(model, "features.4.conv2", x, to=7, together=True)
    assert apart(before, both(model, x)) < 1e-5
    assert "features.5.shortcut.0" in outcome.changed
    assert {
        model.features[0].out_channels,
        model.features[3].conv2.out_channels,
        model.features[3].conv1.in_channels,
    } == {7}


def test_a_gate_is_widened_with_what_it_gates():
    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.down, self.up = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            x = F.relu(self.conv(x))
            x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
            return self.head(x.mean([2, 3]))

    model, x = Squeeze(), images()
    before = both(model, x)
    assert set(widen(model, "conv", x, to=8, together=True).changed) == {"conv", "up", "down", "head"}
    assert apart(before, both(model, x)) < 1e-5


def test_a_model_that_cannot_be_traced_asks_for_names_and_takes_them():
    model, x = shaken(Untraceable()), images()
    with pytest.raises(SurgeryError, match=r"cannot trace Untraceable .* into="):
        widen(model, "one", x, to=8)
    before = both(model, x)
    widen(model, "one", x, to=8, into=("two",), between=("norm",))
    assert apart(before, both(model, x)) < 1e-5
    assert model.two.in_features == 8 * 25


def test_a_reader_that_was_forgotten_is_noticed_and_all_is_undone():
    model, x = shaken(Untraceable()), images()
    watch = Watched(model)
    with pytest.raises(SurgeryError, match="would no longer run"):
        widen(model, "one", x, to=8, into=("two",))
    assert watch.same()
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    with pytest.raises(SurgeryError, match="would no longer run"):
        widen(model, "0", torch.randn(5, 3), to=8, into=("2",))


class Joined(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.one, self.two, self.join = nn.Linear(4, 4), nn.Linear(4, 2), join

    def forward(self, x):
        return self.two(self.join(self.one(x), x))


@pytest.mark.parametrize(
    ("join", "reason"),
    [
        (lambda y, x: y + x, "what the model is given"),
        (lambda y, x: F.layer_norm(y, (4,)), "mixes them"),
        (lambda y, x: y.softmax(1), "mixes them"),
        (lambda y, x: torch.cat([y, x], 0)[:5], "mixes them"),
        (lambda y, x: y.view(-1, 2, 2).transpose(1, 2).flatten(1), "mixes them"),
        (lambda y, x: y.unflatten(1, (2, 2)).flatten(1), "mixes them"),
    ],
)
def test_what_mixes_units_is_refused_with_the_reason(join, reason):
    model, x = Joined(join), torch.randn(5, 4)
    watch = Watched(model)
    with pytest.raises(SurgeryError, match=reason):
        widen(model, "one", x, to=6)
    assert watch.same()


def test_what_the_model_answers_cannot_be_widened():
    with pytest.raises(SurgeryError, match="what the model answers"):
        widen(MLP(4, (3,), 2), "head", torch.randn(2, 4), to=5)


def test_tied_and_computed_weights_and_grouped_layers_are_refused():
    x = torch.randn(5, 4)
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[4].weight = tied[2].weight
    with pytest.raises(SurgeryError, match="share their weights"):
        widen(tied, "0", x, to=6)
    computed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(SurgeryError, match="computed"):
        widen(computed, "0", x, to=6, into=("2",))
    grouped = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1, groups=2))
    with pytest.raises(SurgeryError, match="of 2 groups, reads them"):
        widen(grouped, "0", torch.randn(2, 4, 5, 5), to=8)
    with pytest.raises(SurgeryError, match="no wider"):
        widen(tied, "0", x, to=4)
    with pytest.raises(SurgeryError, match="no layer named 'nine'"):
        widen(tied, "nine", x, to=6)


def test_a_layer_called_twice_is_widened_where_it_can_be():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.two(self.one(x)) + self.two(self.one(x.square())))

    model, x = Twice(), torch.randn(5, 4)
    before = both(model, x)
    widen(model, "two", x, to=5)
    widen(model, "one", x, to=6)
    assert apart(before, both(model, x)) < 1e-5
    other = Joined(lambda y, x: y)
    other.join = lambda y, x: other.two(y).new_zeros(len(x), 4) + other.two(x).sum(1, keepdim=True) + y
    with pytest.raises(SurgeryError):
        widen(other, "one", x, to=6)


def test_modes_flags_dtype_and_wrappers_stay():
    model = Convolutions().to(torch.bfloat16).train()
    model.norm.eval()
    model.first.weight.requires_grad_(False)
    x = images().bfloat16()
    before = both(model, x)
    widen(torch.compile(model, backend="eager"), "first", x, to=12)
    assert apart(before, both(model, x)) < 0.05 * max(1.0, float(before[0].abs().max()))
    assert model.training
    assert not model.norm.training
    assert not model.first.weight.requires_grad
    assert model.first.bias.requires_grad
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_the_optimizer_goes_on_with_the_units_that_were_there():
    model, x = MLP(4, (6,), 3), torch.randn(8, 4)
    optimizer = trained_like(model, x)
    old = optimizer.state[model.features[1].weight]["momentum_buffer"].clone()
    widen(model, "features.1", x, to=9, optimizer=optimizer)
    assert torch.equal(optimizer.state[model.features[1].weight]["momentum_buffer"][:6], old)
    before = model.head.weight.detach().clone()
    model(x).sum().backward()
    optimizer.step()
    assert (model.head.weight != before).any(0)[6:].any()


def test_noise_is_off_unless_asked_for_and_touches_copies_only():
    x = torch.randn(8, 4)
    torch.manual_seed(0)
    plain, noisy = MLP(4, (6,), 3), MLP(4, (6,), 3)
    noisy.load_state_dict(plain.state_dict())
    widen(plain, "features.1", x, to=9)
    assert not widen(noisy, "features.1", x, to=9, noise=0.01).exact
    assert torch.equal(plain.features[1].weight[:6], noisy.features[1].weight[:6])
    away = (plain.features[1].weight - noisy.features[1].weight)[6:].abs()
    assert 0 < away.max() < 0.1
    assert torch.equal(plain.head.weight, noisy.head.weight)


def test_the_seed_says_which_units_are_copied():
    x = torch.randn(8, 4)
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(3)
        model = MLP(4, (6,), 3)
        widen(model, "features.1", x, to=16, seed=seed)
        made.append(model.features[1].weight.detach())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_hooks_are_not_called_by_the_trace():
    model, x, calls = MLP(4, (6,), 3), torch.randn(8, 4), []
    model.features.register_forward_hook(lambda _, __, output: calls.append(type(output)))
    widen(model, "features.1", x, to=9)
    assert set(calls) == {torch.Tensor}
    assert len(model.features._forward_hooks) == 1
