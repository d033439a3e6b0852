"""Train mode, eval mode, gradients: the state in which each pass through a model is found."""

from functools import partial
from itertools import pairwise

import torch
from torch import nn

from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.nets import PAIRS, normal, stream
from everlearn.conformance.subject import TRAITS, NotOfferedError
from everlearn.conformance.watch import Watch


def _through(trial: Trial) -> Watch:
    """What was seen of three experiences with batch normalisation and dropout."""
    subject, watch = trial.watched(normal())
    watch.learn(subject, *stream(*PAIRS))
    return watch


@check("steps-in-train-mode")
def steps_in_train_mode(trial: Trial) -> str:
    """Each step of the optimizer follows from a pass in train mode.

    Training steps in eval mode: no dropout, and running statistics that stand still.

    Who switches to eval mode for an estimate has to switch back, to what was there before, before the next batch.
    """
    watch = _through(trial)
    if not watch.ends[-1]:
        raise NotOfferedError("it takes no step with the optimizer that it is given")
    taught = {each.at for each in watch.passes if each.trains and each.descended}
    steps = watch.ends[0] if "rests" in trial.traits else watch.ends[-1]
    missing = [step for step in range(steps) if step not in taught]
    if missing:
        raise FoundError(f"{len(missing)} of {steps} steps had no pass in train mode, first step {missing[0]}")
    return f"{steps} steps"


@check("estimates-in-eval-mode")
def estimates_in_eval_mode(trial: Trial) -> str:
    """A pass that no step can follow from, without gradients or after the last step, runs in eval mode.

    Teachers, importances and selections made under dropout, from the statistics of whatever batch came along.

    A model that is being trained is in train mode, and so is a copy of it; an estimate has to ask for the other.
    """
    if "restarts" in trial.traits:
        raise NotOfferedError(f"it {TRAITS['restarts']}: what passes through the old ones is of no consequence")
    watch = _through(trial)
    estimates = list(watch.estimates())
    wrong = [each for each in estimates if each.trains]
    if wrong:
        kinds = {(each.own, each.graded) for each in wrong}
        said = ", ".join(
            f"of {'the model' if own else 'a copy'} {'after the last step' if graded else 'without gradients'}"
            for own, graded in sorted(kinds)
        )
        raise FoundError(f"{len(wrong)} of {len(estimates)} such passes were in train mode: {said}")
    return f"{len(estimates)} such passes"


@check("estimates-leave-buffers")
def estimates_leave_buffers(trial: Trial) -> str:
    """After the last step of an experience no running statistic changes.

    An estimate at the end of an experience that moves the running mean and variance which predictions depend on.

    No gradient and no optimizer is needed for that: a forward pass in train mode does it.
    """
    net = normal()
    subject, watch = trial.watched(net)
    moved = 0.0
    for experience in stream(*PAIRS):
        watch.learn(subject, experience)
        if not watch.steps:
            raise NotOfferedError("it takes no step with the optimizer that it is given")
        last, now = watch.steps[-1].buffers, dict(net.named_buffers())
        moved = max(moved, *(float((now[name].double() - last[name].double()).abs().max()) for name in last))
    if moved != 0:
        raise FoundError(f"a running statistic moved by {moved:.2g} after the last step")
    return "no buffer moved"


@check("references-leave-statistics", "projects")
def references_leave_statistics(trial: Trial) -> str:
    """The gradient on old rows, which only corrects a step, leaves the running statistics to the step's own batch.

    Running statistics that count old rows as often as new ones, since a reference gradient is one more pass.

    A pass for a gradient is run in train mode like any other, and batch normalisation cannot know what it is for.
    """
    watch = _through(trial)
    counts = [step.buffers["body.1.num_batches_tracked"].item() for step in watch.steps]
    each = {after - before for before, after in pairwise(counts)}
    if each != {1}:
        raise FoundError(f"up to {max(each):.0f} batches entered the running statistics in one step")
    return f"one batch in each of {len(counts)} steps"


@check("clean-gradients")
def clean_gradients(trial: Trial) -> str:
    """No gradient lies in the weights when that of the loss arrives.

    Gradients of a selection or an estimate that are added to those of the loss.

    `backward` adds to what is there; the loop has cleared it before the forward pass, and not after.
    """
    watch = _through(trial)
    lessons = [each for each in watch.passes if each.own and each.descended and each.at < watch.ends[each.experience]]
    soiled = [each for each in lessons if each.soiled > 0]
    if soiled:
        most = max(each.soiled for each in soiled)
        raise FoundError(f"{len(soiled)} of {len(lessons)} backward passes found gradients of up to {most:.2g}")
    return f"{len(lessons)} backward passes"


@check("frozen-statistics-stay")
def frozen_statistics_stay(trial: Trial) -> str:
    """Batch normalisation that was in eval mode when the model was handed over stays so, and its statistics too.

    Frozen batch normalisation that thaws with the first `model.train()`.

    `train()` switches every module of a model on, whatever each had been before.
    """
    net = normal()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.eval().requires_grad_(requires_grad=False)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    subject = trial.make(net)
    for x, y in stream(*PAIRS):
        subject.learn(x, y)
    moved = max(float((buffer.double() - before[name].double()).abs().max()) for name, buffer in net.named_buffers())
    thawed = sum(norm.training for norm in norms)
    if moved or thawed:
        raise FoundError(f"{thawed} of {len(norms)} are in train mode, and a statistic moved by {moved:.2g}")
    return f"{len(norms)} layers, unmoved"


@check("frozen-weights-stay")
def frozen_weights_stay(trial: Trial) -> str:
    """Weights that need no gradient stay, bit for bit, under momentum and weight decay.

    Frozen weights that decay, or are moved by what a method adds.

    An optimizer moves whatever has a gradient, if it is all zeros; and a penalty or a projection makes gradients.
    """
    net = normal()
    frozen = [w for place in "01" for w in net.get_submodule(f"body.{place}").parameters()]
    for weight in frozen:
        weight.requires_grad = False
    before = [weight.detach().clone() for weight in frozen]
    subject = trial.make(net, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1))
    for x, y in stream(*PAIRS):
        subject.learn(x, y)
    if not all(map(torch.equal, before, frozen)):
        away = max(float((a - b).abs().max()) for a, b in zip(before, frozen, strict=True))
        raise FoundError(f"frozen weights moved by up to {away:.2g}")
    return f"{len(frozen)} tensors, unmoved"
