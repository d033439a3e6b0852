"""The rules: each can be met, the first that holds counts, and each says why."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.transfer.strategy import FEW, LARGE, MANY, RULES, Case, propose

PLAIN = Case(rows_per_class=50, classes=10, parameters=1_000_000)
UNLABELLED = Case(rows_per_class=0, classes=10, parameters=1_000_000, labelled=False)
CASES = [
    (replace(PLAIN, pretrained=False), "scratch", ""),
    (replace(UNLABELLED, source=True, styles_differ=True), "cdan", "cdan"),
    (replace(UNLABELLED, source=True), "mcc", "mcc"),
    (replace(UNLABELLED, source=True, pretrained=False), "mcc", "mcc"),
    (UNLABELLED, "adabn", "adabn"),
    (replace(PLAIN, parameters=LARGE + 1), "lora", "lora"),
    (replace(PLAIN, parameters=LARGE), "lpft", "l2sp"),
    (replace(PLAIN, rows_per_class=FEW), "probe", ""),
    (Case(rows_per_class=5, classes=0, parameters=1_000_000, regression=True), "finetune", ""),
    (replace(PLAIN, rows_per_class=FEW, out_of_distribution=True), "probe", ""),
    (replace(PLAIN, rows_per_class=5000, out_of_distribution=True), "lpft", ""),
    (replace(PLAIN, rows_per_class=MANY), "lpft", "l2sp"),
    (replace(PLAIN, rows_per_class=MANY + 0.5), "finetune", ""),
]


@pytest.mark.parametrize(("case", "strategy", "method"), CASES)
def test_a_case_gets_the_strategy_of_its_first_rule(case, strategy, method):
    proposal = propose(case)
    assert (proposal.strategy, proposal.method) == (strategy, method)


def test_every_rule_is_the_first_for_some_case():
    assert {propose(case) for case, *_ in CASES} == {rule.proposal for rule in RULES}


def test_every_rule_says_why_and_where_that_comes_from():
    for rule in RULES:
        assert len(rule.proposal.reason) > 30
        assert rule.proposal.source
        assert rule.proposal.to_json()["reason"] == rule.proposal.reason


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (replace(PLAIN, classes=1), "at least 2 classes"),
        (replace(UNLABELLED, pretrained=False), "nothing to learn from"),
    ],
)
def test_what_has_no_strategy_is_an_error(case, said):
    with pytest.raises(ValueError, match=said):
        propose(case)


def test_the_page_shows_the_rules_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text()
    shown = re.findall(r"^\| (.+?) \| `(\w+)` \|(?: `(\w+)`)? \|$", page, re.MULTILINE)
    assert shown == [(rule.when, rule.proposal.strategy, rule.proposal.method) for rule in RULES]
