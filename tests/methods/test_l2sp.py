"""L2-SP holds the body to the weights that it came with, in every experience, and the head to zero."""

from functools import partial

import pytest
import torch
from methods.small import (
    assert_resume_is_exact,
    everything,
    experience,
    heads,
    learner,
    net,
    norm_net,
    of_task,
    opposed,
    rows,
    shake,
    trains_plainly,
    weights,
)

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import L2SP, GrowHead
from everlearn.methods.composition import build
from everlearn.objective import Output, classify, classify_by_task
from everlearn.streams import Experience


def test_the_penalty_is_half_the_squared_distance_to_the_first_weights_and_of_the_head_to_zero():
    method, model = L2SP(alpha=3.0, beta=0.5), net()
    first = weights(model)
    for index in range(2):
        method.begin(model, experience(index), classify)
        shake(model, seed=index)
        method.end(model, experience(index), classify)
    batch = everything(experience().train)
    added = method(model, batch, classify).loss - classify(model, batch).loss
    body = sum((model[0].get_parameter(n) - first[f"0.{n}"]).square().sum() for n in ("weight", "bias"))
    head = sum(weight.square().sum() for weight in model[3].parameters())
    torch.testing.assert_close(added, 3 / 2 * body + 0.5 / 2 * head)
    grads = torch.autograd.grad(added, list(model.parameters()))
    expected = [3 * (model[0].weight - first["0.weight"]), 3 * (model[0].bias - first["0.bias"])]
    expected += [0.5 * model[3].weight, 0.5 * model[3].bias]
    torch.testing.assert_close(grads, tuple(each.detach() for each in expected))


@pytest.mark.parametrize("settings", [{}, {"step": "proximal", "eta": 0.05}])
def test_what_is_learned_is_ridge_regression_about_the_old_body(settings):
    """The oracle: squares of a linear body, read by a head of one constant weight that does not train."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 5, generator=random), torch.randn(20, generator=random)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    model[1].requires_grad_(requires_grad=False)
    old, scale = model[0].weight.detach().clone().flatten(), float(model[1].weight.detach())

    def squares(model, batch):
        answer = model(batch["x"])
        return Output(None if "y" not in batch else (answer.flatten() - batch["y"]).square().mean(), answer)

    subject = Learner(
        model,
        L2SP(alpha=0.7, **settings),
        squares,
        optimizer=partial(torch.optim.SGD, lr=0.05),
        batch_size=20,
        epochs=400,
    )
    subject.learn(Experience(0, Columns(x=x, y=y), Columns(x=x, y=y)))
    expected = torch.linalg.solve(
        2 / 20 * scale**2 * x.T @ x + 0.7 * torch.eye(5), 2 / 20 * scale * x.T @ y + 0.7 * old
    )
    torch.testing.assert_close(model[0].weight.detach().flatten(), expected, rtol=1e-4, atol=1e-5)


def test_scales_and_shifts_of_normalisations_are_held_and_running_statistics_are_not():
    subject = learner(L2SP(), norm_net())
    before = weights(subject.model)
    subject.learn(opposed(0))
    held = subject.method.anchor
    assert torch.equal(held["2.weight"], before["2.weight"])
    assert held.keys() == before.keys()
    assert not any("running" in name for name in held)
    assert not held["6.weight"].any()


def test_the_anchor_is_a_copy():
    method, model = L2SP(), net()
    method.begin(model, experience(), classify)
    before = {name: value.clone() for name, value in method.anchor.items()}
    shake(model)
    assert checkpoint.same(before, method.anchor)


def test_a_layer_that_is_thawed_later_is_held_to_what_it_was():
    method, model = L2SP(), net()
    model[0].requires_grad_(requires_grad=False)
    method.begin(model, experience(), classify)
    assert "0.weight" not in method.anchor
    model[0].requires_grad_(requires_grad=True)
    method.begin(model, experience(1), classify)
    assert torch.equal(method.anchor["0.weight"], model[0].weight)


def test_a_head_that_grows_is_held_to_zero_as_a_whole():
    subject = learner(Chain(GrowHead(), L2SP(beta=2.0)), net(2))
    for index, classes in enumerate([(0, 1), (0, 1, 2, 3)]):
        subject.learn(experience(index, classes=classes))
        method = subject.method.methods[1]
        assert (method.importance["3.weight"] == 2).all()
        assert method.importance["3.weight"].shape == (len(classes), 6)


def test_of_many_heads_only_that_of_the_task_is_held_to_zero():
    subject = learner(L2SP(beta=5.0, alpha=0.0), heads(), objective=classify_by_task)
    subject.learn(of_task(0, rows(classes=2)))
    other = subject.model.heads[0].weight.detach().clone()
    subject.learn(of_task(1, rows(classes=2)))
    assert torch.equal(subject.model.heads[0].weight, other)


@pytest.mark.parametrize("settings", [{}, {"step": "proximal", "eta": 0.1}])
@pytest.mark.parametrize("model", [net, norm_net])
def test_without_strength_it_is_plain_fine_tuning(settings, model):
    assert trains_plainly(L2SP(alpha=0.0, beta=0.0, **settings), model)


def test_gradient_steps_that_cannot_be_stable_are_refused():
    with pytest.raises(ValueError, match=r"learning rate x curvature < 2, but 0\.1 x 30 is 3"):
        L2SP(alpha=30.0, eta=0.1).begin(net(), experience(), classify)


def test_weights_in_half_precision_are_held_as_strongly():
    method, model = L2SP(alpha=0.01), net().bfloat16()
    method.begin(model, experience(), classify)
    assert method.importance["0.weight"].dtype == torch.float32
    batch = {"x": torch.zeros(2, 5, dtype=torch.bfloat16), "y": torch.zeros(2, dtype=torch.int64)}
    method(model, batch, classify).loss.backward()
    assert model[0].weight.grad.dtype == torch.bfloat16


def test_resume_is_exact(tmp_path):
    assert_resume_is_exact(lambda: learner(L2SP(alpha=1.0), norm_net()), [opposed(0), opposed(1)], (1, 8), tmp_path)


def test_a_batch_without_labels_has_no_loss_to_add_to():
    method, model = L2SP(), net()
    method.begin(model, experience(), classify)
    assert method(model, {"x": torch.zeros(2, 5)}, classify).loss is None


def test_on_the_command_line():
    method = build("lpft+l2sp:alpha=1,beta=0.1").methods[1]
    assert (method.alpha, method.beta) == (1, 0.1)
