"""A linear probe solves for the head once, and leaves the body, and everything else, as it is."""

import pytest
import torch
from methods.small import everything, experience, heads, learner, net, norm_net, of_task, opposed, rows, weights
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from everlearn import checkpoint
from everlearn.method import Chain
from everlearn.methods import GrowHead, Probe
from everlearn.methods.composition import build
from everlearn.models import features_of, snapshot
from everlearn.objective import classify, classify_by_task


def test_it_answers_as_scikit_learn_does_on_the_features_of_the_body():
    subject = learner(Probe(C=0.5), norm_net())
    data = opposed(0)
    subject.learn(data)
    phi = features_of(data.train, subject.model).column("x").double()
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000))
    expected = torch.from_numpy(theirs.fit(phi, data.train.column("y")).predict_proba(phi)).float()
    torch.testing.assert_close(subject.predict(everything(data.train)).softmax(1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["probe", "slda"])
def test_a_last_batch_of_one_row_is_no_matter_though_there_is_a_batch_norm(name):
    subject = learner(build(name), norm_net())
    subject.batch_size = 19
    subject.learn(experience())
    assert subject.experience == 1


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_body_runs_once_on_a_row_however_many_epochs_there_are(epochs):
    subject, seen = learner(Probe(), epochs=epochs), []
    subject.model[0].register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    subject.learn(experience())
    assert seen == [20, 2]  # the learner tries the model out on two rows


def test_nothing_moves_but_the_rows_of_the_classes_that_there_were():
    subject = learner(Probe(), norm_net())
    before = snapshot(subject.model)
    subject.learn(experience(classes=(0, 1)))
    after = snapshot(subject.model)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"6.weight", "6.bias"}
    assert torch.equal(after["6.weight"][2:], before["6.weight"][2:])
    assert not subject.optimizer.state


def test_to_remember_what_a_model_knows_already_leaves_its_head():
    subject = learner(Probe())
    before = weights(subject.model)
    subject.remember(experience())
    assert checkpoint.same(before, weights(subject.model))
    assert subject.method.solution == {}
    subject.learn(experience(1))
    assert not torch.equal(subject.model[3].weight, before["3.weight"])


def test_resume_is_exact_before_and_after_the_head_is_in_its_place(tmp_path):
    whole = learner(Probe())
    whole.learn(experience())
    for place in (1, 3):
        first = learner(Probe())
        for step in first.steps(experience()):
            if step.place == place:
                break
        checkpoint.save(first.state_dict(), tmp_path / "c")
        second = learner(Probe())
        second.load_state_dict(checkpoint.load(tmp_path / "c"))
        second.learn(experience())
        assert checkpoint.same(whole.state_dict(), second.state_dict())
    begun, again = Probe(), Probe()
    begun.begin(net(), experience(), classify)
    again.load_state_dict(begun.state_dict())
    model = net()
    again(model, everything(rows()), classify)
    assert torch.equal(model[3].weight, whole.model[3].weight)


def test_a_head_that_grows_is_solved_for_as_it_is_then():
    subject = learner(Chain(GrowHead(), Probe()), net(2))
    subject.learn(experience(0, classes=(0, 1)))
    old = subject.model[3].weight.detach().clone()
    subject.learn(experience(1, classes=(0, 1, 2, 3)))
    assert subject.model[3].weight.shape == (4, 6)
    assert not torch.equal(subject.model[3].weight[:2], old)


def test_each_task_has_the_probe_of_its_own_head():
    subject = learner(Probe(), heads(), objective=classify_by_task)
    for index in range(2):
        subject.learn(of_task(index, rows(classes=2)))
    a, b, c = (head.weight.detach() for head in subject.model.heads)
    assert torch.equal(a, b)
    assert torch.equal(c, heads().heads[2].weight)


def test_a_stream_without_borders_has_nothing_to_begin_with_and_teaches_nothing():
    subject = learner(Probe())
    before = weights(subject.model)
    output = subject.observe(everything(rows()))
    assert output.loss is None
    assert output.logits.shape == (20, 4)
    assert checkpoint.same(before, weights(subject.model))


def test_on_the_command_line_it_is_alone():
    assert build("probe:C=10").C == 10
    with pytest.raises(ValueError, match="use probe alone"):
        build("probe+ewc")
