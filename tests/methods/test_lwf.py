"""Learning without forgetting asks the model as it was, about the same views, and about old classes only."""

import copy
from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, norm_net, shake
from torch import nn

from everlearn.batch import unlabeled
from everlearn.data import Columns, view
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import GrowHead, LwF
from everlearn.methods.lwf import distill
from everlearn.models import MultiHead, Net, grow
from everlearn.objective import Viewed, classify, classify_by_task
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)


def taught(classes=(0, 1), outputs=4, **options):
    """A method whose teacher is the model as it stands."""
    model, method = net(outputs), LwF(**options)
    method.end(model, experience(0, classes=classes), classify)
    return model, method


def added(method, model, batch, objective=classify):
    return method(model, batch, objective).loss - objective(model, batch).loss


def test_the_lesson_is_the_definition_over_old_classes():
    model, method = taught(classes=(2, 0), lambda_o=3.0, T=1.5)
    teacher = copy.deepcopy(model)
    shake(model)
    batch = everything(experience(1).train)
    before, now = (m(batch["x"])[:, [0, 2]] / 1.5 for m in (teacher, model))
    p, q = before.softmax(1), now.softmax(1)
    expected = 3.0 * 1.5**2 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(added(method, model, batch), expected)
    assert expected > 0


def test_the_gradient_is_zero_where_the_student_is_the_teacher():
    model, method = taught()
    batch = everything(experience(1).train)
    lesson = added(method, model, batch)
    assert abs(lesson.item()) < 1e-6
    for g in torch.autograd.grad(lesson, list(model.parameters())):
        assert g.abs().max() < 1e-6


def test_the_gradient_is_that_of_the_cross_entropy_of_the_paper():
    model, method = taught(classes=(0, 1, 2, 3), T=2.0)
    teacher = copy.deepcopy(model)
    shake(model)
    batch = everything(experience(1).train)
    p = (teacher(batch["x"]) / 2).softmax(1).detach()
    paper = -4 * (p * (model(batch["x"]) / 2).log_softmax(1)).sum(1).mean()
    found = torch.autograd.grad(added(method, model, batch), list(model.parameters()))
    expected = torch.autograd.grad(paper, list(model.parameters()))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-6)


def test_new_classes_are_free():
    model, method = taught(classes=(0, 1))
    shake(model)
    batch = everything(experience(1).train)
    for g in torch.autograd.grad(added(method, model, batch), [model[3].weight, model[3].bias]):
        assert g[:2].abs().max() > 1e-4
        assert not g[2:].any()


def test_the_size_of_the_gradient_does_not_depend_on_the_temperature():
    torch.manual_seed(0)
    teacher = 0.01 * torch.randn(50, 5)
    sizes = []
    for temperature in (1.0, 2.0, 8.0):
        student = (0.01 * torch.randn(50, 5, generator=torch.Generator().manual_seed(1))).requires_grad_()
        sizes.append(torch.autograd.grad(distill(student, teacher, temperature), student)[0].norm().item())
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.02)


def test_rows_of_the_teacher_are_distributions_over_classes():
    """A teacher whose rows differ: were its softmax over rows, the lesson of equal logits would not be 0."""
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    assert distill(logits, logits + 7.0, 2.0).abs() < 1e-6


def test_without_names_of_classes_all_outputs_of_the_teacher_are_old():
    model, method = net(), LwF()
    e = experience()
    method.end(model, Experience(0, e.train, e.test), classify)
    shake(model)
    (g,) = torch.autograd.grad(added(method, model, everything(e.train)), [model[3].bias])
    assert g.abs().min() > 1e-5


def test_the_teacher_is_asked_in_eval_mode_and_stays_as_it_is():
    model = norm_net()
    model(everything(experience(3).train)["x"])
    method = LwF()
    method.end(model, experience(0), classify)
    before = copy.deepcopy(method.teacher)
    shake(model)
    modes = []

    def watching(model_, batch):
        modes.append(model.training)
        return classify(model_, batch)

    batch = everything(experience(1).train)
    lessons = []
    for _ in range(2):
        torch.manual_seed(0)  # the student's dropout
        running = copy.deepcopy(model.state_dict())
        lessons.append(added(method, model, batch, watching))
        model.load_state_dict(running)
    assert modes == [True, False, True] * 2
    assert torch.equal(*lessons)
    assert all(torch.equal(method.teacher[name], value) for name, value in before.items())
    assert model.training


@pytest.mark.parametrize("key", [3, None])
def test_teacher_and_student_see_the_same_views(key):
    random = torch.Generator().manual_seed(0)
    x = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=random)
    batch = {"x": x, "y": torch.zeros(6, dtype=torch.long), "id": torch.arange(6)}
    torch.manual_seed(0)
    model, method, seen = Net(4, channels=1, size=8), LwF(), []

    def watching(model, batch):
        seen.append(batch["x"])
        return classify(model, batch)

    objective = Viewed(watching, view(((0.5,), (0.25,)), ["crop:2", "flip"]), key)
    rows = Columns(batch)
    method.end(model, Experience(0, rows, rows, (0, 1)), objective)
    assert abs(added(method, model, batch, objective).item()) < 1e-6
    assert len(seen) == 3
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(batch["x"], x)


def test_the_teacher_is_asked_without_labels():
    model, method = taught()
    seen = []

    def watching(model, batch):
        seen.append(set(batch))
        return classify(model, batch)

    method(model, everything(experience(1).train), watching)
    assert seen == [{"x", "y"}, set(unlabeled({"x": 0, "y": 0}))]


def test_a_head_that_has_grown_is_taught_about_the_outputs_that_were_there():
    model, method = taught(classes=(0, 1), outputs=2)
    teacher = copy.deepcopy(model)
    grow(model, 5)
    batch = everything(experience(1).train)
    assert abs(added(method, model, batch).item()) < 1e-6
    shake(model)
    expected = distill(model(batch["x"])[:, :2], teacher(batch["x"]), 2.0)
    torch.testing.assert_close(added(method, model, batch), expected)


def test_it_learns_with_a_growing_head_and_classes_that_come_back():
    learner = Learner(net(2), Chain(GrowHead(), LwF()), optimizer=SGD, batch_size=10)
    for index, classes in enumerate([(0, 1), (2, 3), (1, 3, 4)]):
        learner.learn(experience(index, classes=classes))
    assert learner.method.methods[1].classes == [0, 1, 2, 3, 4]
    assert learner.method.methods[1].teacher["3.weight"].shape == (5, 6)


def test_with_task_labels_each_old_head_is_asked_about_the_new_rows():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    model, method = MultiHead(body, 6, 2, tasks=3), LwF()
    for task in (0, 1):
        e = experience(task, classes=(0, 1))
        method.end(model, Experience(task, e.train, e.test, (0, 1), task), classify_by_task)
    teacher = copy.deepcopy(model)
    shake(model)
    batch = everything(experience(2, classes=(0, 1)).train)
    batch["task"] = torch.full((20,), 2)
    x = batch["x"]
    expected = sum(distill(model(x, torch.full((20,), t)), teacher(x, torch.full((20,), t)), 2.0) for t in (0, 1))
    torch.testing.assert_close(added(method, model, batch, classify_by_task), expected)


def test_before_the_first_experience_ends_and_without_strength_nothing_is_added():
    model, batch = net(), everything(experience().train)
    assert added(LwF(), model, batch) == 0
    model, method = taught(lambda_o=0.0)
    shake(model)
    assert added(method, model, batch) == 0
