"""ADDA: what stays, what learns, and from what."""

import pytest
import torch
from adaptation import batch, learner, stream
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.methods import ADDA, Naive
from everlearn.models import snapshot
from everlearn.objective import classify


def begun(model="mlp", **options):
    net, made = learner(Naive(), model).model, ADDA(**{"hidden": 16} | options)
    made.begin(net, stream()[1], classify)
    return net, made


@pytest.mark.parametrize("model", ["mlp", "conv", "transformer"])
def test_the_encoder_of_the_target_moves_and_the_head_does_not(model):
    subject = learner(ADDA(hidden=16), model, optimizer=lambda w: torch.optim.SGD(w, 0.1, 0.9, weight_decay=0.1))
    subject.learn(stream()[0])
    before, name = snapshot(subject.model), "5" if model == "mlp" else "head"
    subject.learn(stream()[1])
    after = snapshot(subject.model)
    held = {key for key in before if torch.equal(before[key], after[key])}
    assert {f"{name}.weight", f"{name}.bias"} <= held
    statistics = {key for key in before if "running" in key or "batches" in key}
    assert statistics <= held
    assert held == {f"{name}.weight", f"{name}.bias"} | statistics


def test_the_source_is_encoded_by_the_model_as_the_experience_found_it():
    seen = []

    class Watched(ADDA):
        def gap(self, model, source, target):
            seen.append((source, target))
            return super().gap(model, source, target)

    subject = learner(Watched(hidden=16))
    subject.learn(stream()[0])
    before = snapshot(subject.model)
    subject.learn(stream()[1])
    assert subject.method.source == {}
    reference = learner(Naive())
    reference.model.load_state_dict(before)
    for source, target in seen:
        assert not source.features.requires_grad
        assert target.features.requires_grad
        found = reference.model.eval()[-1](source.features)
        torch.testing.assert_close(found, source.logits)


def test_the_loss_is_that_the_target_does_not_pass_for_the_source_after_the_steps_of_the_discriminator():
    model, made = begun(steps=3, trade_off=2.0)
    output = made(model.eval(), batch(), classify)
    features = model[:-1](batch()["x"][:8])
    torch.testing.assert_close(output.loss, 2 * F.softplus(-made.critic(features)).mean())
    assert float(made.critic.age) == 3
    output.loss.backward()
    assert all(weight.grad is None for weight in model[-1].parameters())
    torch.testing.assert_close(output.logits, model(batch()["x"]))  # f is still f0


def test_the_discriminator_learns_to_tell_the_source_from_the_target():
    model, made = begun(steps=200, lr=0.01)
    model.eval()
    made(model, batch(), classify)
    said = made.critic(model[:-1](batch()["x"])).flatten()
    assert (said[8:] > 0).all()
    assert (said[:8] < 0).all()


def test_with_the_sides_apart_the_normalisations_follow_the_target():
    found = []
    for together in (True, False):
        subject = learner(ADDA(hidden=16, together=together), "conv")
        subject.learn(stream()[0])
        before = dict(subject.model.named_buffers())["features.1.running_mean"].clone()
        subject.learn(stream()[1])
        found.append(torch.equal(before, dict(subject.model.named_buffers())["features.1.running_mean"]))
    assert found == [True, False]


def test_the_copy_of_the_encoder_goes_with_the_checkpoint(tmp_path):
    subject = learner(ADDA(hidden=16))
    for step in subject.steps(stream()[1]):
        if step.number == 3:
            break
    checkpoint.save(subject.state_dict(), tmp_path / "c")
    other = learner(ADDA(hidden=16))
    other.load_state_dict(checkpoint.load(tmp_path / "c"))
    assert checkpoint.same(subject.method.source, other.method.source)
    assert other.method.source.keys() == snapshot(subject.model).keys()


def test_at_the_beginning_both_encoders_say_the_same_for_all_the_dropout():
    model, made = begun()  # in train mode
    found = []
    made.gap = lambda _, source, target: found.append((source, target)) or target.features.sum() * 0
    made(model, batch(), classify)
    features = model.eval()[:-1](batch()["x"])
    torch.testing.assert_close(found[0][0].features, features[8:])
    torch.testing.assert_close(found[0][1].features, features[:8])


@pytest.mark.parametrize("given", [{"hidden": 0}, {"steps": 0}])
def test_sizes_are_whole_numbers_of_at_least_1(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        ADDA(**given)
