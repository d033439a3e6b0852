"""Normalisation layers: what of them learns, and by what they normalise."""

import torch
from torch import nn

from everlearn import checkpoint
from everlearn.models import snapshot
from everlearn.models.norms import adapting, affine, by_batch, copies, moving, statistics


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.BatchNorm1d(4)
        self.two = nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4))
        self.three = nn.LayerNorm(4, elementwise_affine=False)
        self.four = nn.RMSNorm(4)
        self.five = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):
        return self.five(self.four(self.three(self.two(self.one(x)))))


def test_scales_and_shifts_are_found_in_all_kinds_of_norms_and_nowhere_else():
    model = Norms()
    names = ["one.weight", "one.bias", "two.1.weight", "two.1.bias", "four.weight", "five.weight", "five.bias"]
    assert affine(model) == names
    model.one.bias.requires_grad = False
    assert affine(model) == [name for name in names if name != "one.bias"]
    assert affine(Norms(), 0.4) == names[:4]
    assert affine(nn.LayerNorm(3)) == ["weight", "bias"]


def test_batch_norms_in_train_mode_are_the_ones_that_move():
    model = Norms()
    assert list(moving(model)) == ["one", "five"]
    assert statistics(moving(model)) == ["one.running_mean", "one.running_var", "one.num_batches_tracked"]
    model.one.eval()
    assert list(moving(model)) == ["five"]
    assert not moving(model.eval())


def test_copies_are_copies():
    model = Norms()
    held = copies(model, ["one.weight", "one.running_mean"])
    model.one.weight.data += 1
    assert held.keys() == {"one.weight", "one.running_mean"}
    assert torch.equal(held["one.weight"], torch.ones(4))


def test_untracked_passes_normalise_by_the_batch_and_leave_no_trace():
    model, x = Norms().eval(), torch.randn(9, 4) + 3
    before = snapshot(model)
    with by_batch([model.one], track=False):
        assert model.one(x).mean().abs() < 1e-5
    assert checkpoint.same(before, snapshot(model))
    assert not model.one.training
    assert model.one.track_running_stats
    with by_batch([model.one]):
        model.one(x)
    assert not checkpoint.same(before, snapshot(model))


def test_what_adapts_is_in_the_graph_and_all_is_as_it_was_afterwards():
    model, x = Norms(), torch.randn(9, 4)
    with adapting(model, ["four.weight"], [model.one]):
        model(x).square().mean().backward()
        assert [module.training for module in (model, model.one, model.two)] == [False, True, False]
    assert [name for name, weight in model.named_parameters() if weight.grad is not None] == ["four.weight"]
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())
