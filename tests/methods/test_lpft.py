"""LP-FT is fine-tuning that begins with the head of a probe."""

import pytest
import torch
from methods.small import (
    SGD,
    assert_resume_is_exact,
    drawn,
    everything,
    experience,
    heads,
    learner,
    net,
    norm_net,
    of_task,
    opposed,
    rows,
    weights,
)
from torch import nn

from everlearn import checkpoint
from everlearn.method import Chain
from everlearn.methods import EWC, LPFT, Naive
from everlearn.methods.composition import build
from everlearn.models import snapshot
from everlearn.models.probing import install, probed
from everlearn.objective import classify, classify_by_task


def test_it_is_fine_tuning_from_the_head_of_a_probe_in_each_experience():
    subject, model = learner(LPFT(C=2.0)), net()
    for index in range(2):
        subject.learn(experience(index))
        install(model, probed(model, experience(index), classify, None, 2.0))
        optimizer = SGD(model.parameters())
        for batch in drawn(experience(index)):
            optimizer.zero_grad()
            classify(model, batch).loss.backward()
            optimizer.step()
        assert checkpoint.same(snapshot(model), snapshot(subject.model))


def test_it_begins_with_the_loss_of_the_probe():
    first = {}
    for method in (Naive(), LPFT(C=10.0)):
        subject = learner(method, epochs=5)
        first[type(method)] = next(iter(subject.steps(experience(count=40)))).loss
    assert first[LPFT] < 0.9 * first[Naive]


@pytest.mark.parametrize("settled", [True, False])
def test_settled_normalisations_keep_their_statistics_and_learn_their_scale(settled):
    subject = learner(LPFT(settled=settled), norm_net())
    before = snapshot(subject.model)
    subject.learn(opposed(0))
    after = snapshot(subject.model)
    assert torch.equal(after["2.running_mean"], before["2.running_mean"]) == settled
    assert not torch.equal(after["2.weight"], before["2.weight"])
    assert all(module.training for module in subject.model.modules())


def test_settled_normalisations_use_their_statistics_in_training():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    method, batch = LPFT(settled=True), everything(rows())
    method.begin(model, experience(), classify)
    trained = method(model, batch, classify)
    torch.testing.assert_close(trained.logits, model.eval()(batch["x"]))


def test_to_remember_what_a_model_knows_already_leaves_its_head():
    subject = learner(LPFT())
    before = weights(subject.model)
    subject.remember(experience())
    assert checkpoint.same(before, weights(subject.model))


def test_a_process_without_a_share_of_the_first_batch_has_the_head_before_the_step():
    model, method = net(), LPFT()
    method.begin(model, experience(), classify)
    solution = method.solution
    method.before_step(model)
    assert torch.equal(model[3].weight, solution["3.weight"])
    assert method.solution == {}


def test_resume_is_exact(tmp_path):
    assert_resume_is_exact(lambda: learner(LPFT(), norm_net()), [opposed(0), opposed(1)], (2, 5, 8, 11), tmp_path)


def test_it_goes_with_methods_that_hold_and_with_tasks():
    subject = learner(Chain(LPFT(), EWC(lambda_=5.0)), heads(), objective=classify_by_task)
    for index in range(2):
        subject.learn(of_task(index, rows(classes=2)))
    assert all(weight.isfinite().all() for weight in subject.model.parameters())
    assert build("lpft:settled=true+ewc").methods[0].settled
