"""Purity: to ask is not to teach, and what was lent comes back."""

from copy import deepcopy
from typing import Any

import torch

from everlearn.checkpoint import same
from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.nets import PAIRS, normal, plain, rows, stream
from everlearn.conformance.subject import NotOfferedError, Subject
from everlearn.conformance.watch import Watch
from everlearn.randomness import global_state


def _everything(subject: Subject, watch: Watch) -> dict[str, Any]:
    """What must not change, each by its name."""
    model = subject.model
    optimizers = watch.optimizers
    return {
        "a weight or a running statistic": deepcopy(model.state_dict()),
        "which tensors are the parameters": [id(weight) for weight in model.parameters()],
        "a mode": [module.training for module in model.modules()],
        "a gradient": [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()],
        "what the optimizer moves": [id(w) for each in optimizers for g in each.param_groups for w in g["params"]],
        "the state of the optimizer": [deepcopy(each.state_dict()["state"]) for each in optimizers],
    }


def _compared(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = [name for name, value in before.items() if not same(_plain(value), _plain(after[name]))]
    if changed:
        sizes = [f"{len(v)} before, {len(after[n])} after" for n, v in before.items() if len(v) != len(after[n])]
        raise FoundError(f"changed: {', '.join(changed)}" + (f" ({sizes[0]})" if sizes else ""))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


@check("prediction-changes-nothing")
def prediction_changes_nothing(trial: Trial) -> str:
    """A prediction leaves weights, running statistics, modes, gradients and the optimizer as they were.

    A model that is another one after it was asked.

    A forward pass in train mode is enough, or a helper that makes room for what it is asked about.
    """
    subject, watch = trial.watched(normal())
    watch.learn(subject, *stream(*PAIRS[:2]))
    before = _everything(subject, watch)
    subject.predict(rows(24, (0, 1, 2, 3), first=90)[0])
    _compared(before, _everything(subject, watch))
    return "24 rows asked"


@check("evaluation-changes-nothing")
def evaluation_changes_nothing(trial: Trial) -> str:
    """To evaluate on classes that were never learned is to find them unknown: nothing changes.

    An evaluation that gives the model outputs for classes that it has only been examined on.

    One routine prepares a model for data, and both training and evaluation call it.
    """
    subject, watch = trial.watched(normal(2), growing=True)
    watch.learn(subject, *stream(*PAIRS[:2]))
    before = _everything(subject, watch)
    x, y = rows(24, (0, 4, 5), first=90)
    value = subject.evaluate(x, y)
    _compared(before, _everything(subject, watch))
    return f"accuracy {value:.2f} on rows of which two thirds are of unknown classes"


@check("prediction-draws-nothing")
def prediction_draws_nothing(trial: Trial) -> str:
    """A prediction leaves the global random generators of torch, numpy and Python where they were.

    A run that goes another way because it was looked at.

    A data loader draws a seed from the global generator each time it starts, if nothing is shuffled at all.
    """
    subject = trial.make(normal())
    subject.learn(*stream(PAIRS[0])[0])
    before = global_state(torch.device("cpu"))
    subject.predict(rows(24, (0, 1), first=90)[0])
    after = global_state(torch.device("cpu"))
    moved = [name for name in before if not same(before[name], after[name])]
    if moved:
        raise FoundError(f"moved on: the generator of {', '.join(moved)}")
    return "torch, numpy, Python"


@check("rows-are-answered-alone")
def rows_are_answered_alone(trial: Trial) -> str:
    """The answer about a row does not depend on the other rows of its batch.

    Statistics of the batch, or a vote among its rows, in an answer: a batch of one class then gives its class away.

    Test sets are stored by class, so that a leak between the rows of a batch looks like skill.
    """
    subject = trial.make(normal())
    for x, y in stream(*PAIRS[:2]):
        subject.learn(x, y)
    x = rows(12, (0, 1, 2, 3), first=90)[0]
    together = subject.predict(x)
    alone = torch.cat([subject.predict(row) for row in torch.split(x, 1)])
    finite = together.isfinite()
    away = float((together - alone)[finite].abs().max())
    if not away <= 1e-4 * float(together[finite].abs().max()) or not torch.equal(finite, alone.isfinite()):
        raise FoundError(f"alone, rows are answered up to {away:.2g} differently")
    return f"12 rows, within {away:.0e}"


@check("answers-repeat")
def answers_repeat(trial: Trial) -> str:
    """The same question gets the same answer.

    Scores that hang on a draw: dropout, or an answer sampled at some temperature.

    Whoever evaluates once does not see it.
    """
    subject = trial.make(normal())
    subject.learn(*stream(PAIRS[0])[0])
    x, y = rows(24, (0, 1), first=90)
    first, second = subject.predict(x), subject.predict(x)
    if not torch.equal(first, second):
        raise FoundError(f"asked twice, answers differ by up to {float((first - second).nan_to_num().abs().max()):.2g}")
    if subject.evaluate(x, y) != subject.evaluate(x, y):
        raise FoundError("asked twice, the accuracy is another one")
    return "bit for bit"


@check("data-stay")
def data_stay(trial: Trial) -> str:
    """The user's tensors are what they were.

    Rows or labels that are changed in place: scaled, renumbered, cut.

    A tensor that was passed on is the same tensor.
    """
    subject, given = trial.make(plain()), stream(*PAIRS)
    before = [(x.clone(), y.clone()) for x, y in given]
    for x, y in given:
        subject.learn(x, y)
        subject.predict(x)
    if not same(given, before):
        raise FoundError("rows or labels have changed")
    return f"{len(given)} experiences"


@check("arguments-stay")
def arguments_stay(trial: Trial) -> str:
    """Lists and dicts that were handed over have in them what they had.

    A list of the caller's that gets longer, so that what is made from it next is made of more.

    `+=` on an argument is an assignment to look at, and a change of the caller's list.
    """
    lent: list[tuple[Any, Any]] = []

    def lend(given: Any) -> Any:
        lent.append((given, given.copy()))
        return given

    subject = trial.make(plain(), lend=lend)
    for x, y in stream(*PAIRS[:2]):
        subject.learn(x, y)
        subject.predict(x)
    if not lent:
        raise NotOfferedError("no list or dict is handed over")
    for now, before in lent:
        if len(now) != len(before) or any(a is not b for a, b in zip(_items(now), _items(before), strict=True)):
            kinds = ", ".join(type(each).__name__ for each in _items(now))
            raise FoundError(f"of {len(before)} entries that were handed over, there are {len(now)}: {kinds}")
    return f"{len(lent)} lists and dicts"


def _items(given: Any) -> list[Any]:
    return [*given.keys(), *given.values()] if isinstance(given, dict) else list(given)
