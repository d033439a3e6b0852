# ruff: noqa: N806 (R is what the field calls the matrix)

import json
import math

import pytest
import torch

from everlearn.metrics import Result, Scores, read


def filled():
    scores = Scores(names=["cats", "dogs"])
    scores.add(Result(1, 10), after=-1, on=0, step=0)
    scores.add(Result(2, 20), after=-1, on=1, step=0)
    scores.add(Result(5, 10, {"cat": (5, 10)}), after=0, on=0, step=5, final=False)
    scores.add(Result(9, 10, {"cat": (9, 10)}, 0.3), after=0, on=0, step=10)
    scores.add(Result(3, 20), after=0, on=1, step=10)
    scores.add(Result(7, 10, {"cat": (7, 10)}), after=1, on=0, step=20)
    scores.add(Result(15, 20, {"dog": (15, 20)}), after=1, on=1, step=20)
    scores.note(0, seconds=1.5, memory_bytes=1000, memory_rows=10)
    scores.note(1, seconds=2.5)
    return scores


def same(first, second):
    return torch.equal(first.nan_to_num(-1), second.nan_to_num(-1))


def test_the_matrix_holds_the_final_score_of_each_pair_and_nan_where_nothing_was_measured():
    scores = filled()
    assert scores.matrix().tolist() == [[0.9, 0.15], [0.7, 0.75]]
    assert scores.matrix().dtype == torch.float64
    assert scores.counts().tolist() == [[10, 20], [10, 20]]
    assert scores.baseline.tolist() == [0.1, 0.1]
    partial = Scores()
    partial.add(Result(1, 2), after=1, on=0, step=1)
    assert same(partial.matrix(), torch.tensor([[math.nan, math.nan], [0.5, math.nan]]).double())
    assert partial.counts().tolist() == [[0, 0], [1 * 2, 0]]


def test_the_same_moment_measured_again_is_one_measurement_and_a_later_one_is_another():
    scores = filled()
    count = len(scores)
    scores.add(Result(8, 10), after=1, on=0, step=20)
    assert len(scores) == count
    assert scores.matrix()[1, 0] == 0.8
    scores.add(Result(6, 10), after=1, on=0, step=30)
    assert len(scores) == count + 1
    assert scores.matrix()[1, 0] == 0.6
    assert scores.at(1, 0).step == 30


def test_experiences_that_are_yet_to_come_do_not_widen_the_matrix():
    scores = Scores()
    for on in range(20):
        scores.add(Result(1, 10), after=0, on=on, step=1)
    assert scores.matrix().shape == (1, 1)
    assert scores.anytime().values.shape == (1, 1)


def test_an_evaluation_without_rows_is_no_measurement():
    scores = Scores()
    scores.add(Result(0, 0), after=0, on=0, step=1)
    assert scores.matrix().isnan().all()
    assert len(scores.anytime().after) == 0


def test_moments_stand_in_the_order_of_time_whatever_the_order_of_arrival():
    forwards, backwards = Scores(), Scores()
    entries = [(0, 0, 5, False), (0, 0, 10, True), (1, 0, 15, False), (1, 1, 15, False), (1, 0, 20, True)]
    for position, (after, on, step, final) in enumerate(entries):
        forwards.add(Result(position, 10), after=after, on=on, step=step, final=final)
    for position, (after, on, step, final) in reversed(list(enumerate(entries))):
        backwards.add(Result(position, 10), after=after, on=on, step=step, final=final)
    for first, second in zip(forwards.anytime(), backwards.anytime(), strict=True):
        assert same(first, second)
    assert forwards.anytime().step.tolist() == [5, 10, 15, 20]
    assert forwards.anytime().after.tolist() == [0, 0, 1, 1]
    assert forwards.anytime().final.tolist() == [False, True, False, True]


def test_a_final_and_a_running_measurement_of_one_step_are_one_moment():
    scores = Scores()
    scores.add(Result(9, 10), after=0, on=0, step=10, final=True)
    scores.add(Result(8, 10), after=0, on=0, step=10, final=False)
    moments = scores.anytime()
    assert moments.values.tolist() == [[0.9]]
    assert moments.final.tolist() == [True]


def test_scores_come_back_from_json_as_they_were():
    scores, other = filled(), Scores(kind="error")
    text = json.dumps(scores.state_dict(), allow_nan=False)
    other.load_state_dict(json.loads(text))
    assert other.state_dict() == scores.state_dict()
    assert list(other) == list(scores)
    assert read(other) == read(scores)
    assert other.kind == "accuracy"
    assert other.name(1) == "dogs"
    assert other.name(7) == "experience 7"


def test_a_run_that_was_interrupted_ends_with_the_scores_of_one_that_was_not():
    whole = filled()
    first, second = Scores(names=["cats", "dogs"]), Scores()
    for position, score in enumerate(whole):
        if position == 4:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        scores = first if position < 4 else second
        found = Result(score.correct, score.count, score.by_class, score.loss)
        scores.add(found, after=score.after, on=score.on, step=score.step, final=score.final)
    second.note(0, seconds=1.5, memory_bytes=1000, memory_rows=10)
    second.note(1, seconds=2.5)
    assert second.state_dict() == whole.state_dict()


def test_a_state_is_a_copy():
    scores = filled()
    state = scores.state_dict()
    state["names"].append("x")
    state["scores"][3]["by_class"]["cat"][0] = 0
    state["notes"]["0"]["seconds"] = 9.0
    assert scores.state_dict() == filled().state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after": -2, "on": 0, "step": 0}, "after=-2"),
        ({"after": 0, "on": -1, "step": 0}, "on=-1"),
        ({"after": 0, "on": 0, "step": -1}, "step=-1"),
    ],
)
def test_a_place_that_cannot_be_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scores().add(Result(1, 2), **arguments)


def test_a_count_that_cannot_be_is_an_error():
    for result in (Result(math.nan, 2), Result(-1, 2), Result(1, -2), Result(3, 2)):
        with pytest.raises(ValueError, match=r"correct|right answers"):
            Scores().add(result, after=0, on=0, step=0)
    Scores(kind="error").add(Result(3.5, 2), after=0, on=0, step=0)
    with pytest.raises(ValueError, match="seconds"):
        Scores().note(0, seconds=-1.0)
    with pytest.raises(ValueError, match="'loss'"):
        Scores(kind="loss")


def test_a_published_matrix_becomes_scores_and_back():
    R = torch.tensor([[0.9, math.nan], [0.45, 0.8]], dtype=torch.float64)
    scores = Scores.of(R, [20, 10])
    assert torch.allclose(scores.matrix(), R, equal_nan=True, atol=1e-15)
    assert scores.counts().tolist() == [[20, 0], [20, 10]]
    with pytest.raises(ValueError, match="square"):
        Scores.of(torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match="3 counts"):
        Scores.of(R, [1, 2, 3])
