"""The second moments of what goes into each layer are those of the inputs that its outputs are products of."""

import pytest
import torch
import zoo
from methods.small import everything, net, norm_net, rows
from torch import nn

from everlearn.models.inputs import layer_inputs, second_moments, used_weights
from everlearn.models.views import snapshot
from everlearn.objective import classify

LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "linear on tokens": (nn.Linear(6, 4), (5, 3, 6)),
    "conv": (nn.Conv2d(3, 4, 3), (5, 3, 6, 6)),
    "padding": (nn.Conv2d(3, 4, 3, padding=1), (5, 3, 6, 6)),
    "same": (nn.Conv2d(3, 4, (3, 5), padding="same"), (5, 3, 6, 6)),
    "circular": (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular"), (5, 3, 6, 6)),
    "stride": (nn.Conv2d(3, 4, 3, stride=(2, 1), dilation=(1, 2)), (5, 3, 7, 7)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (5, 4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (5, 4, 6, 6)),
    "conv1d": (nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), (5, 2, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_output_is_a_product_with_an_input(name):
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a, groups = layer_inputs(layer, x), getattr(layer, "groups", 1)
    outputs = layer(x) if isinstance(layer, nn.Linear) else layer(x).flatten(2).transpose(1, 2)
    outputs = outputs.reshape(-1, groups, len(layer.weight) // groups)
    weight = layer.weight.reshape(groups, len(layer.weight) // groups, -1)
    products = torch.einsum("ngi,goi->ngo", a.reshape(-1, groups, a.shape[1]), weight)
    torch.testing.assert_close(products + layer.bias.view(groups, -1), outputs, atol=1e-5, rtol=1e-5)


def test_moments_are_sums_over_all_rows_with_a_1_for_the_bias():
    model, batch = net(), everything(rows())
    found = second_moments(model, [{"x": batch["x"][:7]}, {"x": batch["x"][7:]}], classify)
    assert found.keys() == {"0.weight", "3.weight"}
    hidden = torch.tanh(model[0](batch["x"])).detach()
    for name, a in (("0.weight", batch["x"]), ("3.weight", hidden)):
        a = torch.cat([a, torch.ones(20, 1)], 1).double()  # noqa: PLW2901 (the same, as the layer takes it)
        torch.testing.assert_close(found[name], a.T @ a)


def test_without_a_bias_to_train_there_is_no_1():
    model = net()
    model[3].bias.requires_grad_(requires_grad=False)
    found = second_moments(model, [everything(rows())], classify)
    assert not found["3.weight"][-1].any()
    assert found["0.weight"][-1, -1] == 20


def test_a_frozen_layer_and_one_that_is_not_called_are_left_out():
    model = nn.ModuleDict({"used": nn.Linear(5, 4), "idle": nn.Linear(5, 4), "frozen": nn.Linear(4, 4)})
    model["frozen"].requires_grad_(requires_grad=False)

    def ask(model, batch):
        return classify(lambda x: model["frozen"](model["used"](x)), batch)

    assert second_moments(model, [everything(rows())], ask).keys() == {"used.weight"}
    assert used_weights(model, everything(rows()), ask) == ["used.weight", "used.bias"]


def test_a_weight_that_two_layers_share_has_the_inputs_of_both():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    model[2].weight = model[0].weight
    found = second_moments(model, [everything(rows())], classify)
    assert found.keys() == {"0.weight"}
    assert found["0.weight"][-1, -1] == 40


def test_the_layers_of_a_transformer_are_not_passed_over():
    found = second_moments(zoo.Transformer(10), [{"x": torch.randn(4, 64)}], classify)
    assert found.keys() == {"embed.weight", "encoder.linear1.weight", "encoder.linear2.weight", "head.weight"}


def test_it_leaves_the_model_as_it_was():
    model = norm_net()
    before, state = snapshot(model), torch.get_rng_state()
    second_moments(model, [everything(rows())], classify)
    used_weights(model, everything(rows()), classify)
    assert all(torch.equal(before[name], value) for name, value in snapshot(model).items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())
