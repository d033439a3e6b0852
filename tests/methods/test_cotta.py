"""CoTTA: the teacher, its views, and the weights that go back."""

import copy
from functools import partial

import pytest
import torch
from methods.small import everything, rows, shake
from methods.targets import batch_norms, learner, noise, source, target, told
from torch import nn

from everlearn.batch import unlabeled
from everlearn.data import view
from everlearn.methods import CoTTA
from everlearn.models import snapshot
from everlearn.objective import classify
from everlearn.randomness import mix

PLAIN = partial(torch.optim.SGD, lr=0.1)


def passes(method, **options):
    """The forward passes of one step."""
    seen = []

    def counting(model, batch):
        seen.append(batch["x"])
        return classify(model, batch)

    learner(method, objective=counting, **options).observe({"x": everything(rows(8))["x"]})
    return seen


def test_the_views_are_only_asked_where_the_source_is_unsure():
    assert len(passes(CoTTA(N=6, ap=0.0))) == 3, "the source, the teacher, the student"
    seen = passes(CoTTA(N=6, ap=1.1))
    assert len(seen) == 8
    assert len({tuple(x.flatten().tolist()) for x in seen}) == 7, "six views, and the rows as they are"
    assert len(passes(CoTTA(N=6, ap=1.1), view=None)) == 2, (
        "without a view there is nothing to average, or to be sure of"
    )


def test_a_class_that_the_model_rules_out_leaves_the_loss_finite():
    class Ruling(nn.Linear):
        def forward(self, x):
            return super().forward(x).index_fill(1, torch.tensor([3]), -torch.inf)

    output = learner(CoTTA(), nn.Sequential(Ruling(5, 4)), view=None).observe({"x": everything(rows(8))["x"]})
    assert bool(output.loss.isfinite())


def test_the_views_of_each_step_are_others_and_those_of_a_seed_the_same():
    first, second, other = (passes(CoTTA(N=2, ap=1.1, seed=seed)) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first[1:3], other[1:3]))


def test_a_step_goes_down_the_cross_entropy_with_the_mean_of_the_teachers_logits():
    method = CoTTA(N=3, ap=1.1, rst=0.0, mt=0.9)
    subject, other = learner(method, optimizer=PLAIN), batch_norms()
    other[4].eval()
    x = everything(rows(12))["x"]
    subject.method.taken = 5
    keys = [mix(0, 5, place) for place in range(3)]
    start = snapshot(other)
    said = torch.stack([other(noise({"x": x}, key)["x"]).detach() for key in keys]).mean(0)
    other.load_state_dict(start)
    loss = -(said.softmax(1) * other(x).log_softmax(1)).sum(1).mean()
    slopes = torch.autograd.grad(loss, list(other.parameters()))
    output = subject.observe({"x": x})
    torch.testing.assert_close(output.logits, said)
    torch.testing.assert_close(output.loss, loss.detach())
    now = dict(subject.model.named_parameters())
    for (name, old), slope in zip(other.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(now[name].detach(), old.detach() - 0.1 * slope)
        torch.testing.assert_close(method.teacher[name], 0.9 * start[name] + 0.1 * now[name].detach())
    for name, buffer in subject.model.named_buffers():
        assert torch.equal(method.teacher[name], buffer), "statistics are taken over, not averaged once more"


@pytest.mark.parametrize(("rst", "least", "most"), [(0.0, 0.0, 0.0), (0.3, 0.15, 0.45), (1.0, 1.0, 1.0)])
def test_a_share_of_the_weights_goes_back(rst, least, most):
    subject = learner(CoTTA(rst=rst), view=None, optimizer=PLAIN)
    told(subject, count=1)
    shake(subject.model)
    told(subject, count=1)
    w0 = subject.method.source
    same = torch.cat([(now == w0[name]).flatten() for name, now in subject.model.named_parameters()]).float().mean()
    assert least <= float(same) <= most


def test_which_go_back_is_a_function_of_seed_and_step():
    ends = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(ends))
        subject = learner(CoTTA(rst=0.3, seed=seed), view=None)
        told(subject, count=3)
        ends.append(snapshot(subject.model))
    same = [all(torch.equal(ends[0][name], end[name]) for name in end) for end in ends]
    assert same == [True, True, False]


def test_the_teacher_answers_with_its_own_statistics():
    subject = learner(CoTTA(mt=0.5), view=None)
    told(subject, count=3)
    teacher = copy.deepcopy(subject.model)
    teacher.load_state_dict(subject.method.teacher)
    x = everything(rows(9, seed=5))["x"]
    assert torch.equal(subject.predict({"x": x}), teacher.eval()(x))
    assert not torch.equal(subject.predict({"x": x}), subject.model.eval()(x))


def test_labels_teach_the_student_and_the_next_teacher_is_taken_from_it():
    subject = learner(CoTTA())
    told(subject, count=2)
    subject.observe(everything(rows(8)))
    assert not subject.method.teacher
    subject.learn(source())
    x = unlabeled(everything(rows(5, seed=5)))
    assert torch.equal(subject.predict(x), subject.model.eval()(x["x"]))
    subject.learn(target(1))
    assert subject.method.teacher


def test_a_view_that_does_not_augment_has_no_other_views():
    assert len(passes(CoTTA(N=6, ap=1.1), view=view("unit"))) == 2
