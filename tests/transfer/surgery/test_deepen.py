"""A deeper net computes the same: the new layer is the identity where it stands, not a shift, or adds zero."""

import copy

import pytest
import torch
from torch import nn
from transfer.surgery.operated import Convolutions, Watched, apart, both, images, shaken

from everlearn.models import MLP, Net, ResNet18
from everlearn.transfer.surgery import SurgeryError, deepen


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_an_identity_convolution_is_one_at_its_centre(kernel):
    """Net2Net by erogol has k // 2 + 1 there, which is a shift."""
    model, x = Net(4, 3, 12), images()
    before = both(model, x)
    deepen(model, "features.1", x, kernel=kernel)
    assert apart(before, both(model, x)) == 0
    layer = model.features[1][1][0]
    expected = torch.zeros(16, 16, kernel, kernel)
    expected[torch.arange(16), torch.arange(16), kernel // 2, kernel // 2] = 1
    assert torch.equal(layer.weight, expected)
    assert not layer.bias.any()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("make", "after"),
    [
        (lambda: ResNet18(4, width=4), "features.2"),
        (lambda: ResNet18(4, width=4), "features.4"),
        (lambda: MLP(3 * 144, (8, 6), 4), "features.2"),
    ],
    ids=["activation", "block that ends with a function", "linear"],
)
def test_the_function_stays_in_eval_and_in_train_mode(make, after, norm, residual):
    model, x = shaken(make()), images()
    names, before = list(model.state_dict()), both(model, x)
    outcome = deepen(model, after, x, norm=norm, residual=residual)
    after = both(model, x)
    assert apart(before[:1], after[:1]) < 1e-6
    assert apart(before[1:], after[1:]) < 1e-5
    assert max(outcome.evaluated, outcome.trained) == apart(before, after)
    assert [name for name in model.state_dict() if name in set(names)] == names
    assert len(model.state_dict()) > len(names)


def test_a_norm_that_changes_nothing_has_the_statistics_of_the_batch_in_train_mode():
    model, x = shaken(ResNet18(4, width=4)).train(), images()
    seen = copy.deepcopy(model).features[:3](x).detach()
    deepen(model, "features.2", x, norm=True)
    norm = model.features[2][1][1]
    torch.testing.assert_close(norm.bias.detach(), seen.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    variance = seen.var((0, 2, 3), correction=0)
    torch.testing.assert_close(norm.weight.detach(), (variance + norm.eps).sqrt(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [nn.Tanh, nn.Sigmoid, nn.GELU, nn.LeakyReLU])
def test_an_activation_that_is_not_its_own_square_is_refused(kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), kind(), nn.Linear(3, 2)), torch.randn(5, 4)
    watch = Watched(model)
    with pytest.raises(SurgeryError, match="holds for ReLU and its like only"):
        deepen(model, "1", x)
    assert watch.same()
    before = both(model, x)
    deepen(model, "1", x, residual=True)
    assert apart(before, both(model, x)) == 0


def test_a_layer_that_happens_to_have_no_negative_output_on_the_batch_is_refused():
    head = nn.Linear(4, 6)
    nn.init.constant_(head.bias, 100.0)
    inner = nn.Sequential(nn.ReLU(), head)
    for first in (head, inner):
        model = nn.Sequential(first, nn.Linear(6, 2))
        with pytest.raises(SurgeryError, match="would move the function"):
            deepen(model, "0", torch.rand(8, 4))
    deepen(nn.Sequential(nn.Sequential(head, nn.ReLU()), nn.Linear(6, 2)), "0", torch.rand(8, 4))


class Shifted(nn.Module):
    """A block with a bias of its own, as Fixup has them, and a ReLU at its end."""

    def __init__(self):
        super().__init__()
        self.layer, self.bias = nn.Linear(4, 6), nn.Parameter(torch.full((1,), 0.1))

    def forward(self, x):
        return (self.layer(x) + self.bias).relu()


def test_a_block_that_ends_with_an_activation_may_have_weights_of_its_own():
    model, x = nn.Sequential(Shifted(), nn.Linear(6, 2)), torch.randn(8, 4)
    before = model(x)
    deepen(model, "0", x)
    assert torch.equal(model(x), before)


def test_a_deepened_net_learns_in_its_new_layers():
    for residual in (False, True):
        model, x = MLP(3 * 144, (8, 6), 4), images()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        deepen(model, "features.2", x, residual=residual, optimizer=optimizer)
        assert len(optimizer.param_groups) == 2
        new = optimizer.param_groups[1]["params"]
        before = [weight.detach().clone() for weight in new]
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        assert all((weight != value).any() for weight, value in zip(new, before, strict=True))


def test_a_layer_with_weights_outside_of_a_sequential_has_no_room_behind_it():
    model, x = Convolutions(), images()
    watch = Watched(model)
    with pytest.raises(SurgeryError, match="names of which would change"):
        deepen(model, "norm", x, residual=True)
    with pytest.raises(SurgeryError, match="odd size"):
        deepen(model, "drop", x, kernel=2)
    with pytest.raises(SurgeryError, match="holds for ReLU"):
        deepen(model, "drop", x)
    assert watch.same()


def test_modes_dtype_layout_and_generator_stay():
    model = Net(4, 3, 12).to(torch.bfloat16).to(memory_format=torch.channels_last).eval()
    x = images().bfloat16().to(memory_format=torch.channels_last)
    state = torch.get_rng_state()
    deepen(model, "features.1", x, norm=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.features[1][1][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(weight.requires_grad for weight in model.parameters())
