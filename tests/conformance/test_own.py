"""everlearn keeps what it asks of others, with every method, and no check passes for want of somebody to ask."""

import os
from collections import Counter
from pathlib import Path

import pytest

from everlearn.conformance import CHECKS, examine
from everlearn.conformance.own import Everlearn, registered
from everlearn.methods import METHODS

KNOWN: dict[tuple[str, str], str] = {}
"""What fails, and why it still does: a line goes when its fault goes."""


ALL = os.environ.get("EVERLEARN_CONTRACT") == "all"


def tried(check):
    """The methods that are put through a check: where it is about all of them every second one, in turn.

    So each method comes before half of those checks. All come before all in `make contract` and `make conformance`.
    """
    return None if ALL or CHECKS[check].trait is not None else list(METHODS)[list(CHECKS).index(check) % 2 :: 2]


@pytest.mark.parametrize("check", CHECKS)
def test_no_method_fails(check):
    findings = list(examine(Everlearn(), checks=[check], methods=tried(check), experiences=30))
    failed = {(each.check, each.method): each.evidence for each in findings if each.verdict == "FAIL"}
    assert failed.keys() == {key for key in KNOWN if key[0] == check and key[1] in METHODS}, failed
    assert Counter(each.verdict for each in findings)["PASS"]


@pytest.mark.parametrize("method", ["agem", "er"])
def test_many_experiences_need_no_more_memory_than_a_fifth_of_them(method):
    count = 1000 if os.environ.get("EVERLEARN_THOUSAND") == "all" else 200
    (finding,) = examine(Everlearn(), checks=["many-experiences"], methods=[method], experiences=count)
    assert finding.verdict == "PASS", finding.evidence


def test_every_registered_method_is_on_trial_or_says_why_not():
    entries = registered()
    assert entries.keys() == METHODS.keys()
    declined = {name for name, entry in entries.items() if entry.declined}
    wanted = {"task labels", "a transformer", "batch normalisations", "a pretrained head", "exits"}
    assert declined == {name for name, cls in METHODS.items() if wanted & {*cls.card.needs}}


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.id)
def test_each_check_says_what_holds_what_the_fault_is_and_how_one_comes_by_it(check):
    for text in (check.holds, check.fault, check.pitfall):
        assert text.endswith("."), text
    assert len({check.holds, check.fault, check.pitfall}) == 3


def test_the_page_lists_each_check_with_what_holds_and_its_fault():
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    assert lines == [f"| `{each.id}` | {each.holds} | {each.fault} |" for each in CHECKS.values()]
