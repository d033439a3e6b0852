"""Validators against what a person computes by hand, and a choice that says what it looked at."""

import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch.nn import functional as F

from everlearn.transfer.selection import (
    VALIDATORS,
    Outputs,
    accuracy,
    controlled,
    dev,
    entropy,
    importance,
    information,
    select,
    snd,
)


def logits_of(*rows):
    """Logits whose softmax these are."""
    return torch.tensor(rows, dtype=torch.float64).log()


def test_accuracy_counts_the_largest_logit():
    logits = torch.tensor([[1.0, 2.0, 0.0], [5.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert accuracy(logits, torch.tensor([1, 0, 2, 0])) == 0.75


def test_entropy_and_information_are_those_computed_by_hand():
    p = [[0.5, 0.5], [0.9, 0.1], [0.25, 0.75]]

    def h(row):
        return -sum(x * math.log(x) for x in row)

    mean = [sum(row[c] for row in p) / 3 for c in range(2)]
    expected = sum(map(h, p)) / 3
    assert entropy(logits_of(*p)) == pytest.approx(-expected, abs=1e-12)
    assert information(logits_of(*p)) == pytest.approx(h(mean) - expected, abs=1e-12)


def test_information_tells_a_collapsed_model_from_a_sure_one_and_entropy_does_not():
    sure, collapsed = 50 * torch.eye(4), torch.tensor([[50.0, 0, 0, 0]] * 4)
    assert entropy(sure) == pytest.approx(entropy(collapsed), abs=1e-12)
    assert information(sure) == pytest.approx(math.log(4), abs=1e-9)
    assert information(collapsed) == pytest.approx(0, abs=1e-9)


def test_a_probability_of_zero_adds_nothing():
    assert entropy(torch.tensor([[0.0, -math.inf], [0.0, -math.inf]])) == 0
    assert entropy(torch.tensor([[2000.0, 0.0]])) == 0


def test_snd_is_the_entropy_over_neighbours_row_by_row():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    p = [torch.softmax(row, 0) for row in logits]
    total = 0.0
    for i in range(7):
        near = [math.exp(float(F.cosine_similarity(p[i], p[j], dim=0)) / 0.05) for j in range(7) if j != i]
        total -= sum(n / sum(near) * math.log(n / sum(near)) for n in near)
    assert snd(logits) == pytest.approx(total / 7, abs=1e-9)


def test_snd_is_the_same_when_its_matrix_is_made_in_pieces():
    logits = torch.randn(1500, 4, generator=torch.Generator().manual_seed(0))
    z = F.normalize(logits.double().softmax(1))
    near = (z @ z.T / 0.05).fill_diagonal_(-math.inf).softmax(1)
    assert snd(logits) == pytest.approx(float(torch.special.entr(near).sum(1).mean()), abs=1e-9)


def test_snd_prefers_predictions_that_form_clusters():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    clusters = 6 * F.one_hot(y, 3) + 0.1 * torch.randn(60, 3, generator=generator)
    scattered = 2 * torch.randn(60, 3, generator=generator)
    assert snd(clusters) > snd(scattered)


def test_the_control_variate_is_that_of_the_paper():
    w, loss = torch.tensor([0.5, 1.0, 2.0, 1.5]), torch.tensor([1.0, 0.2, 0.4, 3.0])
    weighted = [a * b for a, b in zip(w.tolist(), loss.tolist(), strict=True)]
    mean_l, mean_w = sum(weighted) / 4, sum(w.tolist()) / 4
    cov = sum((a - mean_l) * (b - mean_w) for a, b in zip(weighted, w.tolist(), strict=True)) / 3
    eta = -cov / (sum((b - mean_w) ** 2 for b in w.tolist()) / 3)
    assert controlled(w, loss) == pytest.approx(mean_l + eta * mean_w - eta, abs=1e-6)


def test_importances_are_the_ratio_of_densities():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(4000, 2, generator=generator)
    target = torch.randn(2000, 2, generator=generator) + torch.tensor([0.8, 0.0])
    at = torch.tensor([[0.0, 0.0], [0.4, 1.0], [1.0, -1.0], [-1.0, 0.0]])
    exact = torch.exp(0.8 * at[:, 0] - 0.32).double()  # of N(0.8, 1) to N(0, 1)
    assert torch.allclose(importance(source, target, at), exact, rtol=0.12)


def test_importances_do_not_depend_on_the_scale_of_features_nor_on_a_dead_one():
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(50, 3, generator=generator), torch.randn(40, 3, generator=generator) + 0.5
    scale = torch.tensor([1.0, 1000.0, 0.001])
    dead = F.pad(source * scale + 7, (0, 1)), F.pad(target * scale + 7, (0, 1))
    torch.testing.assert_close(
        importance(source, target, source), importance(*dead, dead[0]), rtol=1e-4, atol=1e-4, check_dtype=False
    )


def shifted():
    """Held-out source rows of which those of the right half are answered wrong, and a target that is the right half."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(3000, 1, generator=generator)
    target = torch.randn(3000, 1, generator=generator) + 1
    y = torch.zeros(3000, dtype=torch.int64)
    right = torch.stack([1 - 2 * source[:, 0], 2 * source[:, 0] - 1], 1)
    return right, y, source, target


def test_dev_estimates_the_risk_on_the_target_and_the_plain_mean_does_not():
    logits, y, source, target = shifted()
    there = torch.stack([1 - 2 * target[:, 0], 2 * target[:, 0] - 1], 1)
    true = float(F.cross_entropy(there, y))
    naive = float(F.cross_entropy(logits, y))
    risk = -dev(logits, y, source, target)
    assert abs(risk - true) < 0.1 * true
    assert abs(naive - true) > 0.3 * true


def test_dev_without_a_shift_is_the_plain_risk():
    logits, y, source, _ = shifted()
    assert -dev(logits, y, source, source) == pytest.approx(float(F.cross_entropy(logits, y)), rel=0.01)


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


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    select({"a": some(0, 1.0)}, by="dev")
    assert torch.equal(torch.get_rng_state(), before)
