"""Between weights of one start there are good ones; what has no meaning between them is refused or counted anew."""

import copy
from functools import partial

import pytest
import torch
import zoo
from methods.small import everything, net, norm_net, rows, shake
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns, Subset
from everlearn.learner import Learner
from everlearn.models import snapshot
from everlearn.transfer.freezing import freeze
from everlearn.transfer.merging import GRID, greedy_soup, uniform_soup, validated, wise_ft
from everlearn.transfer.statistics import recompute_statistics


def ends(make=net, seeds=(1,), size=0.1):
    """A model, the weights it starts with, and where it goes from there, each time another way."""
    model = make()
    for seed in range(3):
        model(everything(rows(seed=seed))["x"])
    found = [snapshot(model)]
    for seed in seeds:
        model.load_state_dict(found[0])
        shake(model, seed, size)
        model(everything(rows(seed=seed))["x"] + seed)
        found.append(snapshot(model))
    return model, *found


@pytest.mark.parametrize("make", [net, norm_net])
def test_at_0_it_is_the_model_before_and_at_1_the_model_after_bit_for_bit(make):
    model, before, after = ends(make)
    for alpha, expected in ((0, before), (1, after)):
        found = wise_ft(model, before, after, alpha=alpha)
        assert checkpoint.same(snapshot(model), expected)
        assert checkpoint.same(found.weights, expected)
        assert (found.alpha, found.score, found.curve) == (alpha, None, ())


def test_between_them_each_weight_is_on_the_line():
    model, before, after = ends()
    found = wise_ft(model, before, after, alpha=0.3)
    for name, value in found.weights.items():
        torch.testing.assert_close(value, 0.7 * before[name] + 0.3 * after[name])


def test_alpha_is_chosen_by_the_score_and_the_curve_is_told():
    model, before, after = ends()

    def score(model):
        far = (model[0].weight.detach() - before["0.weight"]).norm() / (after["0.weight"] - before["0.weight"]).norm()
        return -abs(float(far) - 0.4)

    found = wise_ft(model, before, after, score=score)
    assert found.alpha == 0.4
    assert [place for place, _ in found.curve] == list(GRID)
    assert dict(found.curve)[0.4] == max(value for _, value in found.curve) == found.score
    assert checkpoint.same(snapshot(model), found.weights)
    assert checkpoint.same(found.weights, wise_ft(model, before, after, alpha=0.4).weights)


def test_of_equal_scores_the_one_nearest_to_before_is_taken():
    model, before, after = ends()
    assert wise_ft(model, before, after, score=lambda _: 1.0, grid=(1, 0.5, 0.2)).alpha == 0.2


def test_after_each_mix_statistics_are_those_of_the_mixed_weights():
    model, before, after = ends(norm_net)
    training = rows(40, seed=5)
    found = wise_ft(model, before, after, alpha=0.5, rows=training)
    other = norm_net()
    mix = {name: (before[name] + after[name]) / 2 for name, _ in other.named_parameters()}
    other.load_state_dict({**after, **mix})
    recompute_statistics(other, training)
    assert checkpoint.same(found.weights, snapshot(other))
    mean = (before["2.running_mean"] + after["2.running_mean"]) / 2
    assert not torch.allclose(found.weights["2.running_mean"], mean, atol=1e-3)
    assert all(module.training for module in model.modules())


def test_the_uniform_soup_is_the_mean_of_all():
    model, *members = ends(seeds=(1, 2, 3))
    found = uniform_soup(model, members)
    assert found.members == (0, 1, 2, 3)
    for name, value in snapshot(model).items():
        torch.testing.assert_close(value, torch.stack([member[name] for member in members]).mean(0))


def test_the_greedy_soup_takes_in_what_does_no_harm_from_the_best_on():
    model, _, *members = ends(seeds=(1, 2, 3))
    aim = (members[0]["0.weight"] + members[2]["0.weight"]) / 2

    def score(model):
        return -float((model[0].weight.detach() - aim).norm())

    found = greedy_soup(model, members, score)
    assert sorted(found.members) == [0, 2]
    assert [chosen for chosen, _ in found.tried[:3]] == [(0,), (1,), (2,)]
    assert found.score == max(value for _, value in found.tried) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(model[0].weight.detach(), aim)


def test_the_greedy_soup_is_never_worse_than_the_best_alone():
    for seed in range(5):
        model, *members = ends(seeds=(1, 2, 3))
        random = torch.Generator().manual_seed(seed)
        found = greedy_soup(model, members, lambda _, random=random: float(torch.rand((), generator=random)))
        assert found.score >= max(value for _, value in found.tried[:4])


def test_of_one_model_a_soup_is_that_model():
    model, before, after = ends(norm_net)
    assert checkpoint.same(uniform_soup(model, [after]).weights, after)
    assert checkpoint.same(greedy_soup(model, [before], lambda _: 0.0).weights, before)


def test_the_score_of_rows_is_their_accuracy_and_changes_nothing():
    model, before, _ = ends(norm_net)
    model.load_state_dict(before)
    data = rows(30, seed=3)
    value = validated(data)(model)
    answers = copy.deepcopy(model).eval()(everything(data)["x"]).argmax(1)
    assert value == pytest.approx(float((answers == everything(data)["y"]).float().mean()))
    assert checkpoint.same(snapshot(model), before)
    assert all(module.training for module in model.modules())


def test_what_was_given_is_not_changed():
    model, before, after = ends()
    copies = copy.deepcopy((before, after))
    wise_ft(model, before, after, score=lambda _: 1.0)
    shake(model)
    assert checkpoint.same((before, after), copies)


def test_where_it_fails_the_model_is_as_it_was():
    model, before, after = ends(norm_net)
    now = snapshot(model)
    with pytest.raises(ValueError, match=r"the statistics of BatchNorm1d '2' are of other weights.*rows=\.\.\."):
        wise_ft(model, before, after, alpha=0.5)
    with pytest.raises(ZeroDivisionError):
        greedy_soup(model, [before, after], lambda _: 1 / 0)
    assert checkpoint.same(snapshot(model), now)


def test_heads_of_different_classes_are_refused():
    model, before, after = ends()
    with pytest.raises(ValueError, match=r"head of the weights number 1 has the shape \(3, 6\).* different classes"):
        uniform_soup(model, [before, snapshot(net(3))])
    names = ["cat", "dog", "cow", "hen"]
    with pytest.raises(ValueError, match="the same classes in the same order"):
        wise_ft(model, before, after, alpha=0.5, classes=[names, names[::-1]])
    wise_ft(model, before, after, alpha=0.5, classes=[names, names])


def test_weights_of_another_model_and_of_another_start_are_refused():
    model, before, _ = ends()
    with pytest.raises(ValueError, match=r"number 1 are not of this Sequential: '0\.weight' is None there"):
        uniform_soup(model, [before, snapshot(norm_net())])
    torch.manual_seed(7)
    other = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(0), nn.Linear(6, 4))
    with pytest.raises(ValueError, match="so they hardly share a start"):
        uniform_soup(model, [before, snapshot(other)])
    uniform_soup(model, [before, snapshot(other)], related=-1)


def test_an_alpha_that_there_is_not_is_refused():
    model, before, after = ends()
    with pytest.raises(ValueError, match=r"between 0, .*, but is \[1\.5\]"):
        wise_ft(model, before, after, alpha=1.5)
    for both in ({}, {"alpha": 0.5, "score": lambda _: 0.0}):
        with pytest.raises(ValueError, match="either which alpha, or by which score"):
            wise_ft(model, before, after, **both)
    with pytest.raises(ValueError, match="nothing to mix"):
        uniform_soup(model, [])


def test_on_digits_the_line_between_two_experiences_knows_both_better_than_its_ends():
    """Fine-tuned to (2, 3), a model of (0, 1) has forgotten; on the way there, it knows some of each."""
    train, test = zoo.digits()
    torch.manual_seed(0)
    model = zoo.Conv(10)
    stream = zoo.stream()[:2]
    learner = Learner(model, optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9), epochs=4)
    learner.learn(stream[0])
    before = snapshot(model)
    learner.learn(stream[1])
    after = snapshot(model)
    y = everything(train)["y"]
    known = Subset(train, (y < 4).nonzero().flatten())
    held = Subset(test, (everything(test)["y"] < 4).nonzero().flatten())
    data = everything(known)
    half = Columns(x=data["x"][:200], y=data["y"][:200])
    found = wise_ft(model, before, after, score=validated(held), rows=half)
    assert 0 < found.alpha < 1
    assert found.score > max(found.curve[0][1], found.curve[-1][1]) + 0.05


def test_what_is_the_same_in_all_stays_bit_for_bit():
    """Frozen weights, and the statistics of normalisations that are frozen with them."""
    model = norm_net()
    freeze(model)
    before = snapshot(model)
    after = before | {name: value + 0.1 for name, value in before.items() if name.startswith("6.")}
    assert any(name.endswith("running_var") for name in before)
    for mixed in (wise_ft(model, before, after, alpha=0.3), uniform_soup(model, [before, after, after])):
        moved = {name for name, value in mixed.weights.items() if not torch.equal(value, before[name])}
        assert moved == {"6.weight", "6.bias"}


def test_whole_numbers_are_those_of_the_last_and_complex_ones_are_mixed():
    model = nn.Linear(3, 2)
    for name, value in {
        "count": torch.tensor(3),
        "mask": torch.tensor([True]),
        "phase": torch.tensor([1 + 2j]),
    }.items():
        model.register_buffer(name, value)
    before = snapshot(model)
    after = before | {"count": torch.tensor(5), "mask": torch.tensor([False]), "phase": torch.tensor([3 + 6j])}
    found = wise_ft(model, before, after, alpha=0.5).weights
    assert (int(found["count"]), bool(found["mask"]), complex(found["phase"])) == (5, False, 2 + 4j)


def test_a_score_that_is_no_number_chooses_nothing():
    model, before, after = ends()
    now = snapshot(model)
    for mix in (
        lambda score: wise_ft(model, before, after, score=score),
        lambda score: greedy_soup(model, [before, after], score),
    ):
        with pytest.raises(ValueError, match="is NaN, which is neither better nor worse"):
            mix(lambda _: float("nan"))
        assert checkpoint.same(snapshot(model), now)


def test_weights_that_are_zero_are_of_one_start_with_themselves_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    nn.init.zeros_(model[0].weight)
    before = snapshot(model)
    assert checkpoint.same(wise_ft(model, before, before, alpha=0.5).weights, before)
    after = before | {"0.weight": torch.ones(3, 3)}
    with pytest.raises(ValueError, match=r"cosine of 0\.00"):
        wise_ft(model, before, after, alpha=0.5)
    assert wise_ft(model, before, after, alpha=0.5, related=-1).weights["0.weight"][0, 0] == 0.5
