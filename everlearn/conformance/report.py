"""Findings as a table."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from importlib import import_module

from everlearn.conformance.check import CHECKS, Finding, examine
from everlearn.conformance.subject import Adapter

OWN = "everlearn.conformance.own:Everlearn"


def main(arguments: Sequence[str]) -> None:
    """Prints the table of an adapter, and leaves with 1 if anything failed."""
    parser = ArgumentParser("python -m everlearn.conformance", description="A library, put through the checks.")
    parser.add_argument("adapter", nargs="?", default=OWN, help="MODULE:NAME; without one, everlearn itself")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, metavar="CHECK", help="only these: " + ", ".join(CHECKS))
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these")
    parser.add_argument("--experiences", type=int, default=1000, help="how many are many")
    asked = parser.parse_args(arguments)
    found = list(
        examine(adapter(asked.adapter), checks=asked.checks, methods=asked.methods, experiences=asked.experiences)
    )
    sys.stdout.write(markdown(found) + "\n")
    sys.exit(any(finding.verdict == "FAIL" for finding in found))


def adapter(path: str) -> Adapter:
    """What `MODULE:NAME` makes."""
    module, _, name = path.partition(":")
    there = vars(import_module(module))
    if name not in there:
        raise ValueError(f"the module {module} has no {name!r}; an adapter is named as MODULE:NAME")
    made: Adapter = there[name]()
    return made


def counted(findings: Iterable[Finding]) -> str:
    """How many there are of each verdict."""
    verdicts = [finding.verdict for finding in findings]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("PASS", "FAIL", "NOT APPLICABLE"))


def markdown(findings: Iterable[Finding]) -> str:
    """A line for each check and outcome, failures first; findings with the same evidence share a line."""
    found = list(findings)
    lines = ["| check | verdict | methods | evidence |", "| --- | --- | --- | --- |"]
    for name in CHECKS:
        mine = [finding for finding in found if finding.check == name]
        for verdict in ("FAIL", "NOT APPLICABLE"):
            for evidence in dict.fromkeys(finding.evidence for finding in mine if finding.verdict == verdict):
                methods = [f.method for f in mine if f.verdict == verdict and f.evidence == evidence]
                lines.append(f"| {name} | {verdict} | {', '.join(methods)} | {evidence.replace('|', ' ')} |")
        passed = [finding.method for finding in mine if finding.verdict == "PASS"]
        if passed:
            lines.append(f"| {name} | PASS | {', '.join(passed)} | |")
    return "\n".join([*lines, "", counted(found)])
