"""Teachers: what a model is told by the one that it was."""

import torch
from torch.nn import functional as F

from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.nets import PAIRS, normal, numbers, stream
from everlearn.conformance.surplus import alike, at, surplus


@check("teacher-stays", "teacher")
def teacher_stays(trial: Trial) -> str:
    """A teacher answers about each row as the model did when the last experience had ended, from first step to last.

    A teacher whose answers drift while the student learns, or hang on the batch in which a row comes.

    A copied model is in train mode: its running statistics move with every batch it is asked about, and each answer is
    one under dropout.
    """
    net, still = normal(), normal()
    subject, watch = trial.watched(net, epochs=2)
    first, second = stream(*PAIRS[:2])
    watch.learn(subject, first)
    still.load_state_dict(net.state_dict())
    with torch.no_grad():
        answers = still.eval()(torch.cat([first[0], second[0]]))
    watch.learn(subject, second)
    lessons = [p for p in watch.passes if p.experience == 1 and p.at < watch.ends[1] and not (p.own and p.graded)]
    if not lessons:
        raise FoundError("no teacher was asked")
    away = max(float((lesson.logits - answers[lesson.rows]).abs().max()) for lesson in lessons)
    if not away <= 1e-4:
        raise FoundError(f"answers are up to {away:.2g} away from those at the end of the last experience")
    return f"{len(lessons)} batches of answers, all within {away:.0e}"


@check("teacher-agrees-with-itself", "strength")
def teacher_agrees_with_itself(trial: Trial) -> str:
    """At the first step of an experience, where the model is still what it was, holding on to that changes nothing.

    A distillation whose gradient is not 0 where student and teacher are one.

    Probabilities that are normalised over the rows of a batch instead of over the classes, a temperature that only one
    of the two has, a teacher with dropout: each keeps the loss looking like one.
    """
    found = surplus(trial, 1.0)
    size, there = float(found.first.abs().max()), float(found.run.gradient(0).abs().max())
    if not size <= 1e-4 * there:
        raise FoundError(f"it adds {size:.2g} to a gradient of {there:.2g} before the first step")
    return f"adds {size:.0e} to a gradient of {there:.2g}"


@check("distillation-of-the-paper", "kl")
def distillation_of_the_paper(trial: Trial) -> str:
    """What distillation adds is the gradient of KL(teacher || student) at temperature 2, over the classes of each row.

    A softmax over the wrong dimension, a temperature that is ignored, classes that are left out.

    A divergence of the wrong things is still a number that falls in training.
    """
    found = surplus(trial, 1.0)
    run = found.run
    place = run.steps + 1
    seen = next(each for each in run.watch.passes if each.at == place and each.own and each.descended)
    x, _ = stream(*PAIRS[:2])[1]
    asked = x[[numbers(x).index(number) for number in seen.rows]]
    student, teacher = at(run.watch.steps[place].before), at(run.anchor)
    expected = {}
    for name, classes in (("the lesson about old classes", [0, 1]), ("the lesson about all classes", list(range(6)))):
        with torch.no_grad():
            before = (teacher(asked)[:, classes] / 2).softmax(1)
        now = (student(asked)[:, classes] / 2).log_softmax(1)
        grads = torch.autograd.grad(F.kl_div(now, before, reduction="batchmean"), list(student.parameters()))
        expected[name] = torch.cat([grad.double().flatten() for grad in grads])
    return alike(found.second, expected, "by distillation")
