"""Rates by part and schedules that a user types, from the first step of a run to its resume."""

import pytest

from everlearn.workspace.config import make
from everlearn.workspace.opening import begin, resume


@pytest.fixture
def config(settings):
    plain = {name: value if isinstance(value, int) else str(value) for name, value in settings.items()}
    words = {"optimizer": "sgd:lr=0.01,momentum=0.9,head=10,decay=0.5", "scheduler": "inverse:alpha=10"}
    return lambda **changes: make(plain | words | changes)


def rates(run):
    return {group["name"]: group["lr"] for group in run._learner.optimizer.param_groups}


def test_a_run_has_a_rate_for_each_part_and_goes_on_with_it(config):
    run = begin(config(checkpoint_steps=2))
    steps = run.steps()
    while next(steps).place < 5:
        pass
    found = rates(run)
    *_, last, head = found
    assert head == "head"
    assert found[head] / found[last] == pytest.approx(20)
    assert found[head] < 0.1  # on its way down
    run.save()
    steps.close()
    again = resume(run.folder, print)
    first = next(moment for moment in again.steps() if moment.of)
    assert first.place == 6
    assert rates(again)["head"] < found["head"]


def test_words_that_mean_no_rates_are_refused_before_anything_is_learned(config):
    with pytest.raises(ValueError, match="decay one above 0 and up to 1"):
        begin(config(optimizer="sgd:lr=0.01,decay=3"))
    with pytest.raises(ValueError, match=r"sgd has no setting 'heads' \(did you mean 'head'"):
        begin(config(optimizer="sgd:lr=0.01,heads=10"))
    with pytest.raises(ValueError, match="inverse has no setting 'alfa'"):
        begin(config(scheduler="inverse:alfa=3"))
