"""An operation that moves the function, or fails, leaves everything as it was; one that does not is checked to."""

import pytest
import torch
from torch import nn
from transfer.surgery.operated import Convolutions, Watched, answer, images, shaken

from everlearn.models import MLP
from everlearn.transfer.surgery import SurgeryError
from everlearn.transfer.surgery.checked import carry, operation, replace


def watched():
    model = shaken(Convolutions()).train()
    model.norm.eval()
    model.first.bias.requires_grad_(False)
    model.depth.register_forward_hook(lambda *_: None)
    return model, Watched(model)


def everything_changes(model):
    """Wrecks whatever an operation could."""
    model.first = nn.Conv2d(3, 6, 3)
    model.head.weight = nn.Parameter(model.head.weight.detach() * 2)
    model.depth._forward_hooks.clear()
    model.depth.register_forward_pre_hook(lambda *_: None)
    model.second.requires_grad_(False)
    model.norm.running_mean.add_(1)
    model.norm3.num_features = 7
    model.add_module("more", nn.ReLU())
    model.drop.__class__ = nn.Identity
    model.norm.train()
    model.norm2.eval()


def test_what_moves_the_function_is_undone_whole():
    model, before = watched()
    with torch.random.fork_rng(), pytest.raises(SurgeryError, match=r"would move by .* but may move by"):  # noqa: SIM117
        with operation(model, images()):
            everything_changes(model)
    assert before.same()


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_what_fails_half_way_is_undone_whole(error):
    model, before = watched()
    with torch.random.fork_rng(), pytest.raises(error), operation(model, images()):  # noqa: PT012
        everything_changes(model)
        raise error
    assert before.same()


def test_a_model_that_no_longer_runs_is_undone_and_said_so():
    model, before = watched()
    with pytest.raises(SurgeryError, match="would no longer run"), operation(model, images()):
        replace(model.head, "weight", model.head.weight[:, :3])
    assert before.same()


def test_nan_is_no_small_difference():
    model, before = watched()
    with pytest.raises(SurgeryError, match="would move by nan"), operation(model, images()):
        replace(model.head, "bias", torch.full((4,), torch.nan))
    assert before.same()


def test_the_check_looks_at_statistics_of_the_batch_too():
    """In eval mode a norm with other statistics and the same line through them is the same; in train mode it is not."""
    model = shaken(Convolutions())
    with pytest.raises(SurgeryError, match=r"by (0\.0e\+00|\d.\de-0[6-9]) in eval mode"), operation(model, images()):  # noqa: PT012
        model.norm.running_mean += 1
        replace(model.norm, "bias", model.norm.bias + model.norm.weight / (model.norm.running_var + 1e-5).sqrt())
    assert torch.equal(answer(model, images()), answer(shaken(Convolutions()), images()))


def test_a_check_changes_nothing_and_draws_nothing():
    model, before = watched()
    with operation(model, images()) as outcome:
        pass
    assert before.same()
    assert outcome.evaluated == outcome.trained == 0
    assert outcome.scale > 0


def test_the_optimizer_goes_on_drops_and_adds():
    model = MLP(4, (3,), 2)
    before = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    kept, momentum = model.head.bias, optimizer.state[model.head.weight]["momentum_buffer"].clone()
    replace(model.head, "weight", torch.cat([model.head.weight, torch.zeros(1, 3)]))
    model.features[1] = nn.Identity()
    model.more = nn.Linear(2, 2)
    carry(optimizer, before, dict(model.named_parameters()))
    members = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in members} == {id(weight) for weight in model.parameters()}
    assert len(members) == 4
    assert torch.equal(optimizer.state[model.head.weight]["momentum_buffer"], torch.cat([momentum, torch.zeros(1, 3)]))
    assert kept in optimizer.state
    assert optimizer.param_groups[1]["momentum"] == 0.9
    assert not set(optimizer.state) - set(members)


def test_one_row_is_too_few_for_statistics_of_the_batch():
    model, before = watched()
    with pytest.raises(SurgeryError, match="give more rows"), operation(model, images(rows=1)):
        pass
    assert before.same()


def test_a_lazy_layer_is_refused_before_it_is_given_a_size():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(SurgeryError, match=r"'0\.weight' has no size yet"), operation(model, torch.randn(2, 4)):
        pass
    assert isinstance(model[0], nn.LazyLinear)
