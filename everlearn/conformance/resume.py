"""Going on: a run that was interrupted ends where one that was not would have."""

from functools import partial

import torch

from everlearn.checkpoint import same
from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.nets import PAIRS, Rows, normal, plain, rows, stream
from everlearn.conformance.subject import NotOfferedError, Subject
from everlearn.models.views import snapshot
from everlearn.randomness import seed_globals

ASKED = rows(12, range(6), first=90)[0]


def _compared(whole: Subject, resumed: Subject, when: str) -> None:
    one, other = snapshot(whole.model), snapshot(resumed.model)
    if one.keys() != other.keys():
        raise FoundError(f"{when}, the model has other parts")
    away = max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
    if not same(one, other):
        raise FoundError(f"{when}, the final weights differ by up to {away:.2g}")
    if not torch.equal(whole.predict(ASKED), resumed.predict(ASKED)):
        raise FoundError(f"{when}, the weights are the same, but not the answers")


def _whole(trial: Trial, *, growing: bool) -> tuple[Subject, list[Rows]]:
    experiences = stream(*PAIRS)
    subject = _made(trial, growing=growing)
    for x, y in experiences:
        subject.learn(x, y)
    return subject, experiences


def _made(trial: Trial, process: int = 0, *, growing: bool) -> Subject:
    """A learner, in a process in which nothing else, or something else, has been drawn before."""
    seed_globals(process)
    net = plain(2) if growing else normal()
    # A memory of 40 is half full after the first experience: what is not there yet must not come back from a save.
    return trial.make(net, growing=growing, epochs=2, memory=40, optimizer=partial(torch.optim.Adam, lr=0.01))


@check("resume-between-experiences")
def resume_between_experiences(trial: Trial) -> str:
    """Saved after an experience and loaded in a new process, a run ends with the same weights, bit for bit.

    Importances, teachers, memories, moments or generators that a checkpoint leaves out.

    What lies in a plain attribute is in no `state_dict`, and nothing says that it is missing.
    """
    whole, (now, *later) = _whole(trial, growing=False)
    first = _made(trial, growing=False)
    first.learn(*now)
    saved = first.save()
    second = _made(trial, 999, growing=False)
    second.load(saved)
    for x, y in later:
        second.learn(x, y)
    _compared(whole, second, "saved after the first of 3 experiences")
    return "saved after the first of 3 experiences"


@check("resume-at-any-step")
def resume_at_any_step(trial: Trial) -> str:
    """Saved at any step and loaded in a new process, a run ends with the same weights, bit for bit.

    A memory that restarts with the sizes it should have, an order of rows that is drawn anew.

    The place reached in an epoch, and the number of rows ever offered to a memory, are state like the weights.
    """
    whole, experiences = _whole(trial, growing=True)
    pauses = ((0, 1), (1, 5), (2, 3))
    for place, steps in pauses:
        first = _made(trial, growing=True)
        for x, y in experiences[:place]:
            first.learn(x, y)
        first.learn(*experiences[place], steps=steps)
        saved = first.save()
        second = _made(trial, 999, growing=True)
        second.load(saved)
        for x, y in experiences[place:]:
            second.learn(x, y)
        _compared(whole, second, f"saved at step {steps} of 6 of experience {place}")
    return f"saved at {len(pauses)} places"


@check("seeds-decide")
def seeds_decide(trial: Trial) -> str:
    """The seed that is set decides the run: the same seed repeats it, bit for bit, and another one gives another.

    A seed that is set and not used, or a run that depends on what was drawn before it.

    Five runs under one seed have no spread, and look like a very stable method.
    """
    ends = []
    for seed in (0, 0, 1):
        subject = trial.make(plain(), seed=seed)
        for x, y in stream(*PAIRS[:2]):
            subject.learn(x, y)
        ends.append(snapshot(subject.model) | {"answers": subject.predict(ASKED)})
        seed_globals(999)
    if not same(ends[0], ends[1]):
        away = max(float((ends[0][n] - ends[1][n]).nan_to_num().abs().max()) for n in ends[0])
        raise FoundError(f"seed 0 twice gives weights or answers that differ by up to {away:.2g}")
    if "exact" in trial.traits:
        return "seed 0 repeats; it has nothing that seed 1 could change"
    if same(ends[0], ends[2]):
        raise FoundError("seeds 0 and 1 give the same weights and answers")
    return "seed 0 repeats, seed 1 differs"


@check("strength-0-is-fine-tuning", "strength")
def strength_0_is_fine_tuning(trial: Trial) -> str:
    """With a strength of 0 a method is plain fine-tuning, bit for bit.

    A method that changes the training in other ways than the one it is about.

    One more forward pass moves running statistics and draws dropout masks, whatever its loss is multiplied with.
    """
    if "naive" not in trial.adapter.methods:
        raise NotOfferedError("there is no plain fine-tuning to compare with")
    ends = []
    for method in ("naive", trial.method):
        seed_globals(0)
        subject = trial.make(normal(), method, strength=0.0)
        for x, y in stream(*PAIRS):
            subject.learn(x, y)
        ends.append(snapshot(subject.model))
    if not same(*ends):
        away = max(float((ends[0][n].double() - ends[1][n].double()).abs().max()) for n in ends[0])
        raise FoundError(f"the final weights differ by up to {away:.2g}")
    return "bit for bit"
