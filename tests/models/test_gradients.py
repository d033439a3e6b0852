"""Gradients as one vector: nothing is lost on the way there and back; angles are turned by as little as it takes."""

from itertools import product

import numpy as np
import pytest
import torch
from methods.small import everything, net, norm_net, rows
from scipy.optimize import nnls
from torch import nn

from everlearn.models.gradients import agreeing, dual, get_gradient, gradient_at, set_gradient
from everlearn.models.views import snapshot
from everlearn.objective import Output, classify


def problem(count, weights=7, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(weights, generator=random).double(), torch.randn(count, weights, generator=random).double()


def gradients(model):
    return [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()]


def test_there_and_back_is_the_same_gradient():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).to(memory_format=torch.channels_last)
    model(torch.randn(5, 3, 3, 3).to(memory_format=torch.channels_last)).square().sum().backward()
    assert not model[0].weight.grad.is_contiguous()
    before = gradients(model)
    vector = get_gradient(model)
    assert torch.equal(vector, torch.cat([g.contiguous().view(-1) for g in before]))
    set_gradient(model, vector * 2)
    assert all(torch.equal(now, 2 * then) for now, then in zip(gradients(model), before, strict=True))
    assert not model[0].weight.grad.is_contiguous()


def test_a_weight_without_a_gradient_counts_as_zero_and_gets_one_only_where_there_is_something_to_move():
    model = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    model[0](torch.ones(1, 2)).sum().backward()
    assert get_gradient(model).tolist() == [1, 1, 1, 0, 0, 0]
    set_gradient(model, torch.tensor([2.0, 2, 2, 0, 0, 0]))
    assert model[1].weight.grad is None
    assert model[1].bias.grad is None
    set_gradient(model, torch.tensor([0.0, 0, 0, 3, 0, 0]))
    assert model[0].weight.grad.tolist() == [[0, 0]]
    assert model[1].weight.grad.tolist() == [[3, 0]]
    assert model[1].bias.grad is None


def test_frozen_weights_are_no_part_of_it():
    model = net()
    model[0].requires_grad_(requires_grad=False)
    assert len(get_gradient(model)) == sum(weight.numel() for weight in model[3].parameters())
    assert len(gradient_at(model, everything(rows()), classify)) == len(get_gradient(model))


def test_small_numbers_are_summed_up_in_float32_and_written_back_as_they_were():
    model = nn.Linear(2, 2).bfloat16()
    model.weight.grad = torch.ones_like(model.weight)
    assert get_gradient(model).dtype == torch.float32
    set_gradient(model, get_gradient(model) / 2)
    assert model.weight.grad.dtype == torch.bfloat16
    assert (model.weight.grad == 0.5).all()


def test_the_gradient_at_a_batch_is_that_of_eval_mode():
    model, batch = net(dropout=0.5), everything(rows())
    found = gradient_at(model, batch, classify)
    classify(model.eval(), batch).loss.backward()
    assert torch.equal(found, get_gradient(model))


def test_the_gradient_at_a_batch_leaves_no_trace():
    model, batch = norm_net(), everything(rows())
    before, state = snapshot(model), torch.get_rng_state()
    assert gradient_at(model, batch, classify).abs().sum() > 0
    assert all(torch.equal(before[name], value) for name, value in snapshot(model).items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(weight.grad is None for weight in model.parameters())
    assert all(module.training for module in model.modules())


def test_where_there_is_nothing_to_descend_it_is_zero():
    found = gradient_at(net(), everything(rows()), lambda model, batch: Output(None, model(batch["x"])))
    assert not found.any()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("least", [0.0, 0.5])
def test_the_dual_is_the_best_of_all_active_sets(count, least):
    """Each subset of the constraints as if it were the active one: the feasible answer with the lowest value."""
    for seed in range(20):
        gradient, references = problem(count, seed=seed)
        if seed % 4 == 0:
            references[-1] = references[0]  # as alike as two experiences with the same rows
        gram, q = (references @ references.T).numpy(), (references @ gradient).numpy()
        hessian = gram + 1e-3 * np.eye(count)
        best = np.inf
        for choice in product([True, False], repeat=count):
            held, free, v = np.array(choice), ~np.array(choice), np.full(count, least)
            v[free] = np.linalg.solve(hessian[np.ix_(free, free)], -(q[free] + hessian[np.ix_(free, held)] @ v[held]))
            if (v >= least - 1e-9).all():
                best = min(best, v @ hessian @ v / 2 + q @ v)
        v = dual(gram, q, least)
        assert (v >= least).all()
        assert v @ hessian @ v / 2 + q @ v == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("count", "weights", "size"), [(20, 50, 1.0), (20, 5, 1.0), (20, 50, 1e-4), (40, 10, 1e3)])
def test_the_dual_is_that_of_another_solver(count, weights, size):
    """1/2 u^T H u + s^T u is 1/2 |A u - b|^2 with H = A^T A and b = -A^-T s."""
    for seed in range(5):
        gradient, references = (size * each for each in problem(count, weights, seed))
        gram, q = (references @ references.T).numpy(), (references @ gradient).numpy()
        hessian = gram + 1e-3 * np.eye(count)
        upper = np.linalg.cholesky(hessian).T
        expected, _ = nnls(upper, np.linalg.solve(upper.T, -(q + 0.3 * hessian.sum(1))), maxiter=1000)
        v, w = dual(gram, q, 0.3), expected + 0.3
        assert v.min() >= 0.3
        assert v @ hessian @ v / 2 + q @ v == pytest.approx(w @ hessian @ w / 2 + q @ w, rel=1e-9)
        if count < weights:  # else the problem is so near to having many answers that rounding chooses one
            np.testing.assert_allclose(v, w, rtol=1e-6)


def test_a_gradient_that_agrees_with_all_is_left_alone_bit_for_bit():
    gradient, references = problem(4)
    agreeable = references * (references @ gradient).sign()[:, None]
    assert torch.equal(agreeing(gradient, agreeable, 0.5), gradient)


def test_a_turned_gradient_agrees_with_all_and_is_the_nearest_that_does():
    for seed in range(10):
        gradient, references = problem(3, seed=seed)
        references *= 100  # next to which the 1e-3 on the diagonal is nothing
        turned = agreeing(gradient, references, 0.0)
        assert (references @ turned).min() > -1e-3
        random = torch.Generator().manual_seed(seed)
        others = turned + 0.3 * torch.randn(20_000, 7, generator=random).double()
        others = others[(others @ references.T >= 0).all(1)]
        assert len(others) > 100
        assert ((others - gradient).norm(dim=1) >= (turned - gradient).norm() - 1e-4).all()


def test_an_overflow_is_left_to_the_scaler():
    gradient, references = problem(2)
    gradient[0] = torch.inf
    assert torch.equal(agreeing(gradient, references, 0.5), gradient)
