"""Each tensor moves as it would with a learning rate in proportion to its relative gradient."""

import copy
from functools import partial

import pytest
import torch
from methods.small import assert_resume_is_exact, drawn, experience, growing, learner, net, norm_net
from torch import nn

from everlearn import checkpoint
from everlearn.method import Chain
from everlearn.methods.autorgn import AutoRGN
from everlearn.methods.growth import GrowHead
from everlearn.models import snapshot
from everlearn.objective import classify

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5),
}


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_it_is_the_optimizer_with_a_learning_rate_for_each_tensor(make, clip):
    """The oracle: r by its definition, and an optimizer with a group for each tensor whose lr is set at each step."""
    model = net()
    by_hand = copy.deepcopy(model)
    named = dict(by_hand.named_parameters())
    optimizer = make([{"params": [weight]} for weight in named.values()])
    base, history = make.keywords["lr"], []
    for batch in drawn(experience(), epochs=4):
        optimizer.zero_grad()
        classify(by_hand, batch).loss.backward()
        r = {n: float(named[n].grad.norm() / named[n].detach().norm()) for n in ("0.weight", "3.weight")}
        history = [*history, r][-3:]
        mean = {name: sum(each[name] for each in history) / len(history) for name in r}
        if clip is not None:
            nn.utils.clip_grad_norm_(list(named.values()), clip)
        for group, name in zip(optimizer.param_groups, named, strict=True):
            group["lr"] = base * mean[f"{name[0]}.weight"] / max(mean.values())
        optimizer.step()
    learner(AutoRGN(batches=3), model, optimizer=make, epochs=4, clip=clip).learn(experience())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, named[name], atol=1e-6, rtol=1e-5)


def test_the_tensor_of_the_largest_ratio_has_the_full_rate_bit_for_bit_and_all_shares_are_at_most_1():
    model, method = net(), AutoRGN()
    seen = []

    class Watch(AutoRGN):
        def after_step(self, model):
            whole = {name: weight.clone() for name, weight in model.named_parameters()}
            shares = self.shares()
            super().after_step(model)
            top = max(self.names, key=lambda name: float(shares[name]))
            assert float(shares[top]) == 1
            assert torch.equal(model.get_parameter(top), whole[top])
            assert all(0 <= float(share) <= 1 for share in shares.values())
            seen.append(top)

    learner(Watch(), model).learn(experience())
    assert len(seen) == 6
    assert method.shares() == {}


def test_normalisations_learn_only_if_they_may():
    for norms in (False, True):
        model = norm_net()
        before = snapshot(model)
        learner(AutoRGN(norms=norms), model).learn(experience())
        after = snapshot(model)
        same = [torch.equal(before[f"2.{part}"], after[f"2.{part}"]) for part in ("weight", "bias")]
        assert same == [not norms] * 2
        assert not torch.equal(before["2.running_mean"], after["2.running_mean"])


def test_a_bias_has_the_share_of_its_layer_and_a_matrix_of_zeros_learns():
    model, method = net(), AutoRGN()
    with torch.no_grad():
        model[3].weight.zero_()
        model[0].bias.zero_()
    subject = learner(method, model)
    batch = experience().train.take(torch.arange(8))
    subject.method.begin(model, experience(), classify)
    classify(model, batch).loss.backward()
    method.before_step(model)
    shares = method.shares()
    assert float(shares["3.weight"]) == float(shares["3.bias"]) == 1
    assert all(share.isfinite() for share in shares.values())
    assert shares["0.bias"] is shares["0.weight"]


def test_weights_without_gradient_stay_and_count_as_zero():
    model, method = net(), AutoRGN()
    with torch.no_grad():
        model[3].weight.mul_(2)
    model(torch.randn(4, 5))[:, :2].sum().backward()
    model[0].weight.grad = None
    method.before_step(model)
    assert "0.weight" not in method.before
    assert float(method.shares()["0.weight"]) == 0
    with torch.no_grad():
        method.after_step(model)


def test_resume_is_exact(tmp_path):
    def fresh():
        return learner(Chain(GrowHead(), AutoRGN()), net(2), optimizer=OPTIMIZERS["adamw"])

    assert_resume_is_exact(fresh, growing(), (1, 4, 7, 11), tmp_path)


def test_a_gradient_that_overflowed_is_no_measurement():
    found = []
    for factors in ((1.0, torch.inf, 1.0), (1.0, 1.0)):
        model, method = net(), AutoRGN()
        for factor in factors:
            model.zero_grad()
            classify(model, experience().train.take(torch.arange(8))).loss.backward()
            for weight in model.parameters():
                weight.grad *= factor
            method.before_step(model)  # and no step, as a scaler would have it
        found.append(method.shares())
    assert any(float(share) < 1 for share in found[0].values())
    assert checkpoint.same(*found)


def test_each_experience_is_measured_anew():
    subject = learner(AutoRGN())
    subject.learn(experience(0))
    assert len(subject.method.ratios) == 5
    next(iter(subject.steps(experience(1))))
    assert len(subject.method.ratios) == 1


def test_a_window_without_steps_is_refused():
    with pytest.raises(ValueError, match="batches must be a whole number of at least 1, but is 0"):
        AutoRGN(batches=0)
