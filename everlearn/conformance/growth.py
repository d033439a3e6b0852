"""Growth: new classes come, some come back, and nothing of what is there is lost on the way."""

from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.nets import PAIRS, Net, plain, rows, stream
from everlearn.conformance.subject import TRAITS, NotOfferedError


def _answers(logits: Tensor, least: int) -> None:
    if logits.shape[1] < least:
        raise FoundError(f"{logits.shape[1]} outputs, where {least} classes are known")
    if not bool(logits.amax(1).isfinite().all()):  # a class of which nothing is known may have the score -inf
        raise FoundError("a row has no finite answer")


def _carries_on(trial: Trial) -> None:
    if "restarts" in trial.traits:
        raise NotOfferedError(f"it {TRAITS['restarts']}: nothing is carried over that growth could lose")


@check("head-grows")
def head_grows(trial: Trial) -> str:
    """A head that gets outputs as classes come does not stop the method, and answers for all classes so far.

    A method that compares the logits of today with those of yesterday, and finds that they have another length.

    What was stored when there were fewer classes stays as it was: logits, importances, teachers, gradients.
    """
    subject = trial.make(plain(2), growing=True)
    for place, (x, y) in enumerate(stream(*PAIRS)):
        subject.learn(x, y)
        _answers(subject.predict(x), 2 * place + 2)
    return "2, 4, 6 outputs"


@check("classes-come-back")
def classes_come_back(trial: Trial) -> str:
    """A class may come again in a later experience, beside a new one, from a stream that has no task labels.

    A method for which each experience has to be a task with classes of its own.

    Benchmarks cut data sets by class, so that nothing else is ever tried.
    """
    subject = trial.make(plain(2), growing=True)
    for x, y in stream((0, 1), (2, 3), (0, 2, 4), (1,)):
        subject.learn(x, y)
        _answers(subject.predict(x), 2)
    return "4 experiences"


@check("growth-keeps-answers")
def growth_keeps_answers(trial: Trial) -> str:
    """The first pass after growth gives for the old classes what was given before.

    Old outputs that change places, or lose what they have learned, when a class is added.

    Outputs in the order of the names of the classes, or a new layer in place of the old.
    """
    _carries_on(trial)
    net = plain(2)
    subject, watch = trial.watched(net, growing=True)
    first, second = stream(*PAIRS[:2])
    watch.learn(subject, first)
    still = _still(net)
    watch.learn(subject, second)
    passes = [p for p in watch.passes if p.experience == 1 and p.own and p.at == watch.ends[0] < watch.ends[1]]
    if not passes:
        raise NotOfferedError("it takes no step with the optimizer that it is given")
    seen = next(each for each in passes if each.graded)
    with torch.no_grad():
        before = still(seen.x)[:, :2]
    away = float((seen.logits[:, :2] - before).abs().max())
    if not away <= 1e-5:
        raise FoundError(f"growth changed the logits of old classes by up to {away:.2g}")
    return f"{len(before)} rows, logits within {away:.0e}"


def _still(net: Net) -> Net:
    """A copy of the model that no watch sees."""
    copy = deepcopy(net)
    copy._forward_hooks.clear()  # noqa: SLF001 (a hook is only removed by who made it)
    return copy.eval()


@check("growth-keeps-kind")
def growth_keeps_kind(trial: Trial) -> str:
    """What grows has the dtype and the parts of what was there: a model in bfloat16 learns new classes in bfloat16.

    New outputs in float32, whatever the model is in.

    A layer that is made anew is made in the default dtype, on the default device, and with the default bias.
    """
    net = plain(2).to(torch.bfloat16)
    subject = trial.make(net, growing=True)
    before = {name: weight.dtype for name, weight in subject.model.named_parameters()}
    for x, y in stream(*PAIRS[:2]):
        subject.learn(x.to(torch.bfloat16), y)
    after = {name: weight.dtype for name, weight in subject.model.named_parameters()}
    if before != after:
        raise FoundError(f"parameters were {before}, and are {after}")
    _answers(subject.predict(x.to(torch.bfloat16)), 4)
    return f"{len(after)} tensors in bfloat16"


@check("growth-keeps-moments")
def growth_keeps_moments(trial: Trial) -> str:
    """When the head grows, the optimizer keeps the moments of all weights that were there.

    Moments that begin at 0 again, for the head or for all.

    A grown layer is a new tensor, and an optimizer knows tensors by identity.
    """
    _carries_on(trial)
    net = plain(2)
    subject, watch = trial.watched(net, growing=True, optimizer=partial(torch.optim.Adam, lr=0.01), epochs=2)
    first, second = stream(*PAIRS[:2])
    watch.learn(subject, first)
    weights = dict(net.named_parameters())
    if not watch.steps:
        raise NotOfferedError("it takes no step with the optimizer that it is given")
    optimizer = watch.optimizers[-1]
    state = {n: optimizer.state[w]["exp_avg"].clone() for n, w in weights.items() if w in optimizer.state}
    makes = len(watch.optimizers)
    watch.learn(subject, second)
    if len(watch.optimizers) > makes:
        raise NotOfferedError("each experience has a new optimizer: no moments are carried over")
    later = watch.steps[watch.ends[0]].moments
    lost = []
    for name, old in state.items():
        if name not in later or "exp_avg" not in later[name]:
            lost.append(f"{name} has none")
        elif not torch.equal(later[name]["exp_avg"][: len(old)], old):
            rest = later[name]["exp_avg"][: len(old)]
            lost.append(f"{name} has {float(rest.norm() / old.norm()):.0%} of its size")
    if lost:
        raise FoundError(f"moments at the first step after growth: {', '.join(lost)}")
    return f"{len(state)} tensors, bit for bit"


@check("optimizer-keeps-its-members")
def optimizer_keeps_its_members(trial: Trial) -> str:
    """An optimizer that was made for the head alone moves the head alone.

    An optimizer that is given all weights of the model when training starts: what was frozen by being left out moves.

    To take in the weights of a grown head, it is easiest to take in all that are not there.
    """
    _carries_on(trial)
    net = plain(6)
    body = [weight.detach().clone() for weight in net.body.parameters()]

    def head_only(_: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.head.parameters(), lr=0.05)

    subject, watch = trial.watched(net, optimizer=head_only)
    watch.learn(subject, *stream(*PAIRS))
    moved = max(float((now.detach() - old).abs().max()) for now, old in zip(net.body.parameters(), body, strict=True))
    members = [sum(len(group["params"]) for group in each.param_groups) for each in watch.optimizers]
    if moved:
        raise FoundError(f"2 tensors were given, {max(members)} are in the optimizer, the others moved by {moved:.2g}")
    return "the body stayed as it was, bit for bit"


@check("small-experience")
def small_experience(trial: Trial) -> str:
    """An experience of fewer rows than a batch is learned like any other.

    A number of batches that is rounded down to 0, and divided by.

    No benchmark has such an experience; a stream of real arrivals does.
    """
    subject = trial.make(plain())
    sizes = ((24, (0, 1)), (3, (2, 3)), (1, (4,)), (24, (0, 5)))
    for place, (count, classes) in enumerate(sizes):
        experience = rows(count, classes, first=24 * place)
        subject.learn(*experience)
    _answers(subject.predict(experience[0]), 6)
    return "experiences of 24, 3, 1 and 24 rows in batches of 8"
