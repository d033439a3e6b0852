"""A check, what it finds, and the run through all of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import cleandoc
from pathlib import Path
from traceback import extract_tb
from typing import Any, Literal

import torch

from everlearn.conformance.nets import Net
from everlearn.conformance.subject import TRAITS, Adapter, NotOfferedError, Setup, Subject
from everlearn.conformance.watch import MakeOptimizer, Watch
from everlearn.randomness import seeded

Verdict = Literal["PASS", "FAIL", "NOT APPLICABLE"]
SGD: MakeOptimizer = partial(torch.optim.SGD, lr=0.05)


class FoundError(Exception):
    """Raised by a check that found the fault. Its message is the evidence."""


@dataclass(frozen=True)
class Finding:
    """What a check found out about a method."""

    check: str
    method: str
    """Empty where no method was asked."""
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Trial:
    """One method of one library, before one check."""

    adapter: Adapter
    method: str

    experiences: int = 1000
    """How many experiences are many."""

    @property
    def traits(self) -> frozenset[str]:
        """Those of the method."""
        return self.adapter.methods[self.method]

    def make(self, net: Net, method: str = "", **settings: Any) -> Subject:
        """A learner with `net` and this method, or the one named; the settings are those of a `Setup`."""
        return self.adapter.subject(method or self.method, Setup(net, **({"optimizer": SGD} | settings)))

    def watched(self, net: Net, **settings: Any) -> tuple[Subject, Watch]:
        """The same, and what is seen of it."""
        seen = Watch(net)
        return self.make(net, **settings | {"optimizer": seen.making(settings.get("optimizer", SGD))}), seen


@dataclass(frozen=True)
class Check:
    """What must hold, the fault that breaks it, how one comes by that fault, and how it is found."""

    id: str
    trait: str | None
    """The trait of the methods that it is about; None for all methods, "" for the library as a whole."""
    holds: str
    fault: str
    pitfall: str
    run: Callable[[Trial], str]
    """Gives the evidence, or raises `FoundError`."""


CHECKS: dict[str, Check] = {}
"""All checks, by their ids."""


def check(id_: str, trait: str | None = None) -> Callable[[Callable[[Trial], str]], Callable[[Trial], str]]:
    """Enters a function among the checks. Its docstring has three paragraphs: what holds, the fault, the pitfall."""

    def enter(run: Callable[[Trial], str]) -> Callable[[Trial], str]:
        holds, fault, pitfall = (" ".join(part.split()) for part in cleandoc(run.__doc__ or "").split("\n\n"))
        CHECKS[id_] = Check(id_, trait, holds, fault, pitfall, run)
        return run

    return enter


def examine(
    adapter: Adapter,
    *,
    checks: Iterable[str] | None = None,
    methods: Iterable[str] | None = None,
    experiences: int = 1000,
) -> Iterator[Finding]:
    """Puts an adapter through the checks: all, or those named; with all its methods, or those named.

    `experiences` is how many the check of endurance takes.
    """
    for name in CHECKS if checks is None else checks:
        asked = CHECKS[name]
        if asked.trait == "":
            yield _tried(asked, Trial(adapter, "", experiences))
            continue
        chosen = _chosen(adapter.methods, asked.trait, methods)
        if not chosen:
            reason = f"no method {'is there' if asked.trait is None else TRAITS[asked.trait]}"
            yield Finding(name, "", "NOT APPLICABLE", reason)
        for method in chosen:
            yield _tried(asked, Trial(adapter, method, experiences))


def _chosen(offered: Mapping[str, frozenset[str]], trait: str | None, methods: Iterable[str] | None) -> list[str]:
    wanted = None if methods is None else set(methods)
    return [
        name
        for name, traits in offered.items()
        if (trait is None or trait in traits) and (wanted is None or name in wanted)
    ]


def _tried(asked: Check, trial: Trial) -> Finding:
    try:
        with seeded(0):
            return Finding(asked.id, trial.method, "PASS", asked.run(trial))
    except NotOfferedError as reason:
        return Finding(asked.id, trial.method, "NOT APPLICABLE", str(reason))
    except FoundError as evidence:
        return Finding(asked.id, trial.method, "FAIL", str(evidence))
    except Exception as error:  # noqa: BLE001 (whatever else a learner on trial raises is a finding, too)
        last = extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.lineno}"
        text = (str(error).splitlines() or [""])[0]
        return Finding(asked.id, trial.method, "FAIL", f"raised {type(error).__name__} in {place}: {text}")
