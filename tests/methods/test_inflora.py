"""Adapters read only what is new, so adapted layers make of old inputs what they made of them."""

from functools import partial

import pytest
import torch
from torch import nn

from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.methods.inflora import InfLoRA
from everlearn.models.inputs import second_moments
from everlearn.objective import classify
from everlearn.streams import Experience

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.05),
    "adam": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
}


def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 10), nn.Tanh(), nn.Linear(10, 4))


def arrival(index):
    """Rows in three directions, and a little of those of the experience before."""
    random = torch.Generator().manual_seed(index)
    axes = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(99)))[0]
    x = torch.randn(40, 3, generator=random) @ axes[3 * index : 3 * index + 3]
    if index:
        x += torch.randn(40, 3, generator=random) @ axes[3 * index - 3 : 3 * index]
    rows = Columns(x=x, y=torch.randint(4, (40,), generator=random))
    return Experience(index, rows, rows, (0, 1, 2, 3))


def learner(method, optimizer="sgd", model=None):
    return Learner(model or deep(), method, optimizer=OPTIMIZERS[optimizer], epochs=3, batch_size=8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_layer_makes_of_old_inputs_what_it_made_of_them(optimizer):
    subject = learner(InfLoRA(r=3, threshold=1.0), optimizer)
    made = []
    for index in range(3):
        before = subject.model[0].weight.detach().clone()
        subject.learn(arrival(index))
        assert not torch.allclose(subject.model[0].weight, before, atol=0.01)
        for old, answer in enumerate(made):
            now = subject.model[0](arrival(old).train.column("x")).detach()
            torch.testing.assert_close(now, answer, atol=2e-5, rtol=0)
        made.append(subject.model[0](arrival(index).train.column("x")).detach())
    torch.testing.assert_close(subject.method.basis["0.weight"].T @ subject.method.basis["0.weight"], torch.eye(9))


def test_a_is_what_an_svd_of_the_new_inputs_without_the_old_ones_finds():
    """The oracle: the paper's H - M M^T H, and its first singular vectors."""
    subject = learner(InfLoRA(r=2, threshold=0.9))
    subject.learn(arrival(0))
    basis = subject.method.basis["0.weight"]
    assert 1 <= basis.shape[1] <= 3
    subject.method.begin(subject.model, arrival(1), classify)
    h = arrival(1).train.column("x").T
    vectors = torch.linalg.svd(h - basis @ basis.T @ h)[0][:, :2]
    a, b = subject.method.adapters.pair("0.weight")
    torch.testing.assert_close(a.T @ a, vectors @ vectors.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(a @ basis, torch.zeros(2, basis.shape[1]), atol=1e-6, rtol=0)
    assert not b.any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_b_learns(optimizer):
    subject = learner(InfLoRA(r=2), optimizer)
    first = None
    for _ in subject.steps(arrival(0)):
        a, b = subject.method.adapters.pair("2.weight")
        first = a.detach().clone() if first is None else first
        assert torch.equal(a, first)
    assert b.any()


def test_the_inputs_that_are_held_are_the_fewest_directions_with_that_share_of_them():
    subject = learner(InfLoRA(r=2, threshold=0.9))
    subject.learn(arrival(0))
    moments = second_moments(subject.model, [{"x": arrival(0).train.column("x")}], classify)
    for name, basis in subject.method.basis.items():
        moment = moments[name][:-1, :-1].float()
        values = torch.linalg.eigvalsh(moment).flip(0)
        count = int((values.cumsum(0) < 0.9 * values.sum()).sum()) + 1
        assert basis.shape[1] == count
        held = (basis.T @ moment @ basis).trace()
        torch.testing.assert_close(held, values[:count].sum(), rtol=1e-4, atol=1e-4)


def test_where_nothing_is_new_nothing_but_the_head_moves():
    subject = learner(InfLoRA(r=2, threshold=1.0))
    subject.learn(arrival(0))
    subject.method.basis = {name: torch.eye(len(m)) for name, m in subject.method.basis.items()}
    before = [subject.model[0].weight.detach().clone(), subject.model[2].weight.detach().clone()]
    subject.learn(arrival(1))
    for weight, old in zip((subject.model[0].weight, subject.model[2].weight), before, strict=True):
        assert torch.equal(weight, old)
    assert all(basis.shape[1] == basis.shape[0] for basis in subject.method.basis.values())


def test_more_directions_than_there_are_inputs_do_no_harm():
    subject = learner(InfLoRA(r=20, alpha=20.0))
    for index in range(2):
        subject.learn(arrival(index))
    assert all(weight.isfinite().all() for weight in subject.model.parameters())


def test_layers_that_the_model_does_not_call_are_left_out_and_none_at_all_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (3, 4)), nn.TransformerEncoderLayer(4, 1, 6, batch_first=True))
    model.extend([nn.Flatten(), nn.Linear(12, 4)])
    subject = learner(InfLoRA(r=2), model=model)
    subject.learn(arrival(0))
    assert subject.method.basis.keys() == {"1.linear1.weight", "1.linear2.weight"}
    with pytest.raises(ValueError, match=r"calls no linear or convolution layer.*'.*in_proj_weight'.*use lora"):
        learner(InfLoRA(targets=".*in_proj_weight"), model=model).learn(arrival(0))
    with pytest.raises(ValueError, match=r"threshold is a share.*but is 2"):
        InfLoRA(threshold=2)
