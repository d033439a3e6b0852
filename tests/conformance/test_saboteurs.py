"""Each check finds the fault that it is there for."""

import pytest
from conformance.saboteurs import SABOTEURS, Bent

from everlearn.conformance import CHECKS, NotOfferedError, Setup, examine
from everlearn.conformance.nets import plain
from everlearn.conformance.own import OwnSubject


def test_there_is_a_saboteur_for_each_check():
    assert SABOTEURS.keys() == CHECKS.keys()


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_fails_a_learner_that_has_its_fault(check):
    found = next(examine(SABOTEURS[check], checks=[check], experiences=30))
    assert found.verdict == "FAIL", found.evidence
    assert found.evidence


class Declines(OwnSubject):
    def predict(self, x):
        raise NotOfferedError("it answers nobody")


def test_what_is_declined_is_not_applicable_and_says_why():
    (found,) = examine(Bent(Declines), checks=["answers-repeat"], methods=["naive"])
    assert (found.verdict, found.evidence) == ("NOT APPLICABLE", "it answers nobody")


def test_a_check_that_is_about_no_method_there_is_not_applicable():
    (found,) = examine(Bent(OwnSubject), checks=["herding-is-greedy"])
    assert found.verdict == "NOT APPLICABLE"
    assert found.evidence == "no method keeps the rows whose mean feature is nearest to that of their class"


def test_a_setup_has_a_model_with_a_head():
    assert Setup(plain(3), lambda weights: None).model.head.out_features == 3
