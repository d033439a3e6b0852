"""A choice between adapted models says what it looked at."""

import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch.nn import functional as F

from everlearn.transfer.selection import Outputs, select
from everlearn.transfer.validators import VALIDATORS


def some(seed, sharp, **more):
    """A candidate with everything that a validator may look at."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(30) % 3
    given = {
        "target_logits": sharp * F.one_hot(y, 3) + torch.randn(30, 3, generator=generator),
        "source_logits": sharp * F.one_hot(y, 3) + torch.randn(30, 3, generator=generator),
        "source_labels": y,
        "source_features": torch.randn(30, 2, generator=generator),
        "target_features": torch.randn(20, 2, generator=generator),
        "target_labels": y,
    }
    return Outputs(**(given | more))


@pytest.mark.parametrize("by", VALIDATORS)
def test_each_validator_chooses_the_better_of_two(by):
    choice = select({"poor": some(0, 0.5), "good": some(1, 6.0)}, by=by)
    # a density of neighbours is high for predictions that are all alike, sure or not
    assert choice.chosen == ("poor" if by == "snd" else "good")
    assert choice.scores[choice.chosen].value == max(score.value for score in choice.scores.values())


@pytest.mark.parametrize("by", VALIDATORS)
def test_only_the_oracle_reads_target_labels_and_it_says_so_everywhere(by):
    choice = select({"a": some(0, 1.0), "b": some(1, 2.0)}, by=by)
    console = Console(width=100, file=io.StringIO())
    console.print(choice.table())
    shown = [str(choice), json.dumps(choice.to_json()), console.file.getvalue(), *map(str, choice.scores.values())]
    assert [("ORACLE" in text) for text in shown] == [by == "oracle"] * len(shown)
    assert choice.oracle is (by == "oracle")
    assert all(("stamp" in score) == (by == "oracle") for score in choice.to_json()["scores"].values())
    if by != "oracle":
        without = {name: some(seed, sharp, target_labels=None) for name, seed, sharp in (("a", 0, 1.0), ("b", 1, 2.0))}
        assert select(without, by=by) == choice


def test_a_score_below_the_control_is_a_warning_of_negative_transfer():
    choice = select({"source only": some(0, 2.0), "dann": some(1, 0.2), "mcc": some(2, 6.0)}, control="source only")
    assert choice.chosen == "mcc"
    assert choice.harmed == ("dann",)
    assert "negative transfer" in str(choice)
    assert "dann" in choice.to_json()["warnings"][0]


def test_where_nothing_is_better_the_control_is_kept_with_a_warning():
    choice = select({"dann": some(0, 1.0), "source only": some(0, 1.0)}, control="source only")
    assert choice.chosen == "source only"
    assert choice.harmed == ()
    assert "adaptation did not help" in choice.warnings[0]
    assert select({"dann": some(0, 1.0)}).warnings == ()


@pytest.mark.parametrize(
    ("candidates", "options", "said"),
    [
        ({"a": some(0, 1.0)}, {"by": "sdn"}, "there is no validator 'sdn' .did you mean 'snd'"),
        ({}, {}, "nothing to choose from"),
        ({"a": some(0, 1.0)}, {"control": "b"}, "there is no candidate 'b'"),
        ({"a": some(0, 1.0, source_labels=None)}, {"by": "source"}, "needs source_labels, which the candidate 'a' has"),
        ({"a": some(0, 1.0, target_logits=torch.full((2, 2), math.nan))}, {}, "'a': the logits of row 0"),
        ({"a": some(0, 1.0, target_logits=torch.zeros(3))}, {}, r"shape .rows, classes."),
        ({"a": some(0, 1.0, target_logits=torch.zeros(3, 1))}, {"by": "snd"}, "'a': .*at least 2 classes"),
        ({"a": some(0, 1.0, source_logits=torch.zeros(30, 1))}, {"by": "dev"}, "'a': .*at least 2 classes"),
        ({"a": some(0, 1.0, source_labels=torch.zeros(3))}, {"by": "source"}, "labels must be int64"),
        ({"a": some(0, 1.0, source_labels=torch.full((30,), -100))}, {"by": "source"}, "labels go from -100"),
        ({"a": some(0, 1.0, target_features=torch.zeros(20, 3))}, {"by": "dev"}, "features of one width"),
        ({"a": some(0, 1.0, target_logits=torch.zeros(1, 3))}, {"by": "snd"}, "at least 2 target rows"),
        (
            {"a": some(0, 1.0, source_logits=torch.tensor([[0.0, -math.inf, 0.0]] * 30))},
            {"by": "dev"},
            "'dev' gives -?(inf|nan)",
        ),
    ],
)
def test_what_cannot_be_validated_is_an_error_that_names_it(candidates, options, said):
    with pytest.raises(ValueError, match=said):
        select(candidates, **options)


def test_of_equals_the_control_is_chosen_and_else_the_first():
    same = Outputs(torch.eye(3))
    assert select({"a": same, "b": same}).chosen == "a"
    assert select({"a": same, "b": same}, control="b").chosen == "b"
    assert str(select({"a": same}, control="a")).splitlines()[0] == "chosen by im: a"


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    select({"a": some(0, 1.0)}, by="dev")
    assert torch.equal(torch.get_rng_state(), before)
