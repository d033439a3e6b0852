"""Hedge learns at all depths in one pass, as the paper does exit by exit, and weighs the exits by what they said."""

import copy
from functools import partial

import pytest
import torch
from methods.small import assert_resume_is_exact, everything, experience, learner, net, rows
from torch import nn
from torch.nn import functional as F

from everlearn import Learner, checkpoint
from everlearn.batch import UNLABELED, take
from everlearn.data import Columns
from everlearn.data.transforms import view
from everlearn.memory import Memory
from everlearn.method import Chain, attached
from everlearn.methods import DER, EWC, GrowHead, Hedge, LwF, Naive, Replay
from everlearn.methods.composition import build
from everlearn.models.exits import Exits, OnlineMLP
from everlearn.models.views import snapshot
from everlearn.objective import Output, classify, regress
from everlearn.streams import Experience

RULES = ("paper", "authors")
SGD = partial(torch.optim.SGD, lr=0.1)
every_rule = pytest.mark.parametrize("rule", RULES)


def online(outputs=4, layers=3, width=6, inputs=5, **options):
    torch.manual_seed(0)
    return OnlineMLP(inputs, outputs, layers, width, **options)


def batch(count=6, seed=0):
    return everything(rows(count, seed))


def observing(method, model=None, **options):
    return Learner(model or online(), method, **{"optimizer": SGD} | options)


def weigh(alpha, losses, rule, depth):
    """The rule, as it is written."""
    if rule == "paper":
        costs, floor = [1 - torch.tensor(-loss).exp().item() for loss in losses], 0.2 / depth
    else:
        scaled = [loss / sum(losses) for loss in losses]
        low, high = min(scaled), max(scaled)
        costs, floor = [0.0 if high == low else (each - low) / (high - low) for each in scaled], 0.01
    alpha = [max(floor, a * 0.99**cost) for a, cost in zip(alpha, costs, strict=True)]
    return [a / sum(alpha) for a in alpha]


def test_the_gradient_is_that_of_the_weighted_sum_with_constant_weights():
    model, data = online().double(), batch()
    data["x"] = data["x"].double()
    model.alpha.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    named = dict(model.named_parameters())
    losses = [F.cross_entropy(each, data["y"]) for each in model.answers(data["x"])]
    expected = torch.autograd.grad(
        sum(a * loss for a, loss in zip(model.alpha, losses, strict=True)), [*named.values()]
    )
    output = Hedge()(model, data, classify)
    output.loss.backward()
    for (name, weight), gradient in zip(named.items(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=1e-12, rtol=1e-9, msg=name)
    assert torch.equal(output.logits, model(data["x"]))


def test_a_step_is_that_of_the_loop_of_the_paper_exit_by_exit():
    """Theta_l moves by eta alpha_l dL_l, W_l by eta times the sum over the exits behind it: a pass for each exit."""
    model, data = online().double(), batch(1)
    data["x"] = data["x"].double()
    hand = copy.deepcopy(model)
    learner = observing(Hedge(), model)
    eta, depth = 0.1, len(hand.taps)
    for _ in range(5):
        losses = [F.cross_entropy(each, data["y"]) for each in hand.answers(data["x"])]
        moves = {name: torch.zeros_like(weight) for name, weight in hand.named_parameters()}
        for a, loss in zip(hand.alpha, losses, strict=True):
            own = torch.autograd.grad(loss, [*hand.parameters()], retain_graph=True, allow_unused=True)
            for name, gradient in zip(moves, own, strict=True):
                if gradient is not None:
                    moves[name] -= eta * a * gradient
        with torch.no_grad():
            for name, weight in hand.named_parameters():
                weight.add_(moves[name])
        hand.alpha.copy_(torch.tensor(weigh(hand.alpha.tolist(), [one.item() for one in losses], "paper", depth)))
        learner.observe(data)
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight, hand.get_parameter(name), atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(model.alpha, hand.alpha, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_there_is_one_pass_forward_and_one_backward(task, monkeypatch):
    calls = {"forward": 0, "backward": 0}
    backward = torch.Tensor.backward

    def counted(self, *args, **kwargs):
        calls["backward"] += 1
        return backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", counted)
    model = online(1 if task == "regression" else 4, task=task)
    model.body[0].register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    data = batch()
    objective = regress if task == "regression" else classify
    data["y"] = data["y"].float() if task == "regression" else data["y"]
    observing(Hedge(), model, objective=objective).observe(data)
    assert calls == {"forward": 1, "backward": 1}


@every_rule
def test_two_exits_by_hand(rule):
    """Losses 0.2 and 1.0: the paper's costs are 1 - exp(-loss), the authors' 0 and 1."""
    method, model = Hedge(beta=0.5, s=0.1, rule=rule), online(layers=1)
    method.costs, method.rows = torch.tensor([0.2, 1.0]) * 3, 3
    model.alpha.copy_(torch.tensor([0.25, 0.75]))
    method.after_step(model)
    if rule == "paper":
        left, right = 0.25 * 0.5 ** (1 - 0.8187308), 0.75 * 0.5 ** (1 - 0.3678794)
    else:
        left, right = 0.25, 0.75 * 0.5
    torch.testing.assert_close(model.alpha, torch.tensor([left, right]) / (left + right))
    assert method.rows == 0


@every_rule
@pytest.mark.parametrize("losses", [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
def test_exits_that_tie_keep_their_weights(rule, losses):
    method, model = Hedge(rule=rule), online()
    model.alpha.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    method.costs, method.rows = torch.tensor(losses), 1
    method.after_step(model)
    torch.testing.assert_close(model.alpha, torch.tensor([0.4, 0.3, 0.2, 0.1]))


@every_rule
@pytest.mark.parametrize("worst", [torch.inf, torch.nan])
def test_a_loss_that_is_no_number_is_the_whole_cost_and_no_more(rule, worst):
    """A learner refuses such a step; in a loop of one's own there is nobody who would."""
    method, model = Hedge(rule=rule), online()
    method.costs, method.rows = torch.tensor([1.0, worst, 0.5, 2.0]), 1
    method.after_step(model)
    assert model.alpha.isfinite().all()
    torch.testing.assert_close(model.alpha.sum(), torch.tensor(1.0))


@every_rule
def test_for_thousands_of_steps_weights_add_up_to_1_and_keep_their_floor(rule):
    method, model = Hedge(beta=0.9, rule=rule), online(layers=5)
    random, floor = torch.Generator().manual_seed(0), (0.2 / 5 if rule == "paper" else 0.01)
    least = floor / (1 + floor * 6)
    for step in range(4000):
        losses = torch.rand(6, generator=random) * torch.linspace(0.1, 4, 6)
        method.costs, method.rows = losses if step % 7 else torch.ones(6), 1
        method.after_step(model)
        assert abs(model.alpha.sum().item() - 1) < 1e-5
        assert model.alpha.min().item() >= least - 1e-6
    assert model.alpha.argmax() == 0
    largest = 1 - 5 * floor
    assert largest - 0.02 < model.alpha.max().item() < 1 - 5 * least + 1e-5


@every_rule
def test_the_weights_follow_the_rule_over_a_stream(rule):
    model = online()
    learner, alpha = observing(Hedge(rule=rule), model), [0.25] * 4
    for step in range(60):
        data = batch(1 + step % 3, step)
        losses = [F.nll_loss(each, data["y"]).item() for each in model.answers(data["x"])]
        alpha = weigh(alpha, losses, rule, 3)
        learner.observe(data)
        torch.testing.assert_close(model.alpha, torch.tensor(alpha), atol=1e-5, rtol=1e-5)


def test_what_observe_gives_is_the_answer_before_the_step():
    learner = observing(Hedge())
    for step in range(5):
        data = batch(1, step)
        before = learner.predict(data)
        torch.testing.assert_close(learner.observe(data).logits, before)


def test_predictions_are_mixtures_of_probabilities():
    model = online()
    learner = observing(Hedge(), model)
    for step in range(30):
        learner.observe(batch(seed=step))
    x = batch(seed=99)["x"]
    expected = sum(a * each.exp() for a, each in zip(model.alpha, model.answers(x), strict=True))
    torch.testing.assert_close(learner.predict({"x": x}).softmax(1), expected)
    assert model.alpha.std() > 0


def test_without_a_floor_and_with_beta_1_it_is_a_net_with_fixed_weights():
    model, plain = online(), online()
    learner = observing(Hedge(beta=1.0, s=0.0), model)
    optimizer = SGD(plain.parameters())
    for step in range(10):
        data = batch(seed=step)
        learner.observe(data)
        optimizer.zero_grad()
        (0.25 * sum(F.nll_loss(each, data["y"]) for each in plain.answers(data["x"]))).backward()
        optimizer.step()
    assert torch.equal(model.alpha, torch.full((4,), 0.25))
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, plain.get_parameter(name))


@every_rule
def test_rows_without_labels_change_nothing(rule):
    model = online()
    learner = observing(Hedge(rule=rule), model)
    learner.observe(batch())
    before = snapshot(model)
    for data in ({"x": batch()["x"]}, batch() | {"y": torch.full((6,), UNLABELED)}):
        assert learner.observe(data).loss is None
    assert checkpoint.same(before, snapshot(model))
    labelled = take(batch(), slice(0, 3))
    mixed = {"x": batch()["x"], "y": torch.cat([labelled["y"], torch.full((3,), UNLABELED)])}
    other = copy.deepcopy(learner)
    learner.observe(mixed)
    other.observe(labelled)
    torch.testing.assert_close(snapshot(learner.model), snapshot(other.model))


def test_pieces_of_a_batch_are_the_batch():
    whole, pieces = (observing(Hedge(), accumulate=count) for count in (1, 3))
    for step in range(5):
        for each in (whole, pieces):
            each.observe(batch(6, step))
    torch.testing.assert_close(snapshot(whole.model), snapshot(pieces.model))


def test_a_step_that_was_refused_leaves_nothing_behind():
    bad = batch() | {"y": torch.tensor([0, 1, 2, 3, 0, 9])}
    clean, other = observing(Hedge(), accumulate=2), observing(Hedge(), accumulate=2)
    for each in (clean, other):
        each.observe(batch())
    with pytest.raises(ValueError, match="labels go from"):
        other.observe(bad)
    for each in (clean, other):
        each.observe(batch(seed=3))
    assert torch.equal(clean.model.alpha, other.model.alpha)


def test_a_step_that_overflowed_is_no_step():
    def steep(model, data):
        output = classify(model, data)
        return Output(output.loss * 1e30, output.logits)

    learner = observing(Hedge(), objective=steep, precision="fp16")
    before = learner.model.alpha.clone()
    learner.observe(batch())
    assert torch.equal(learner.model.alpha, before)


def test_replay_around_it_gives_it_old_rows_too():
    seen = []

    def watching(model, data):
        seen.append(len(data["y"]))
        return classify(model, data)

    learner = observing(build("er:memory=50,count=4+hedge"), objective=watching)
    for step in range(3):
        learner.observe(batch(6, step))
    assert seen[0] == 6
    assert 10 in seen
    assert learner.model.alpha.std() > 0


@pytest.mark.parametrize("outer", [lambda: EWC(lambda_=5.0), LwF, lambda: DER(Memory(20), count=4)])
def test_what_stands_around_it_adds_to_its_loss(outer):
    found = []
    for method in (Hedge(), Chain(outer(), Hedge())):
        subject = learner(method, online())
        for index in range(2):
            subject.learn(experience(index))
        found.append(snapshot(subject.model))
    assert not checkpoint.same(*found)
    assert all(value.isfinite().all() for value in found[1].values())


def test_rows_are_seen_through_a_view():
    data = {"x": torch.randint(0, 256, (6, 5), dtype=torch.uint8), "y": batch()["y"]}
    seen, plain = observing(Hedge(), view=view("unit")), observing(Hedge())
    seen.observe(data)
    plain.observe(data | {"x": data["x"].float() / 255})
    torch.testing.assert_close(snapshot(seen.model), snapshot(plain.model))


@every_rule
def test_an_objective_of_ones_own_is_asked_about_each_exit(rule):
    def own(model, data):
        logits = model(data["x"])
        return Output(F.cross_entropy(logits, data["y"]) if "y" in data else None, logits)

    mine, plain = observing(Hedge(rule=rule), objective=own), observing(Hedge(rule=rule))
    for step in range(5):
        mine.observe(batch(seed=step))
        plain.observe(batch(seed=step))
    torch.testing.assert_close(snapshot(mine.model), snapshot(plain.model))


def test_numbers_are_learned_too():
    model = online(1, task="regression")
    learner = observing(Hedge(), model, objective=regress, optimizer=partial(torch.optim.SGD, lr=0.05))
    losses = []
    for step in range(300):
        x = batch(8, step)["x"]
        losses.append(learner.observe({"x": x, "y": x[:, 0]}).loss.item())
    assert sum(losses[-50:]) < 0.3 * sum(losses[:50])
    assert model.alpha.max() > 0.3


@every_rule
def test_resume_is_exact(rule, tmp_path):
    fresh = lambda: learner(Chain(GrowHead(), Hedge(rule=rule)), online(2))  # noqa: E731
    stream = [experience(0, classes=(0, 1)), experience(1)]
    assert_resume_is_exact(fresh, stream, (1, 4, 8), tmp_path)


def test_new_classes_keep_the_weights_of_the_exits():
    model = online(2)
    learner = observing(Chain(GrowHead(), Hedge()), model)
    for _ in learner.steps(experience(0, classes=(0, 1))):
        pass
    alpha = model.alpha.clone()
    next(learner.steps(experience(1)))
    assert model.head.out_features == model.first.out_features == 4
    assert (model.alpha - alpha).abs().max() < 0.01


def test_in_a_loop_of_ones_own_it_is_the_same():
    model, subject = online(), observing(Hedge())
    method, optimizer = Hedge(), SGD(model.parameters())
    with attached(method, model, optimizer):
        for step in range(5):
            optimizer.zero_grad()
            method(model, batch(seed=step), classify).loss.backward()
            optimizer.step()
            subject.observe(batch(seed=step))
    assert checkpoint.same(snapshot(model), snapshot(subject.model))


def test_rows_that_are_only_remembered_weigh_nothing():
    subject = observing(Chain(Replay(Memory(10)), Hedge()))
    before = snapshot(subject.model)
    subject.remember(experience())
    assert checkpoint.same(before, snapshot(subject.model))
    assert subject.method.methods[1].rows == 0


def test_the_best_exit_is_found_and_the_rest_goes_on_learning():
    """Of a linear concept, the exit at the input learns most; deep ones keep their floor."""
    model = online(2, layers=8, width=10)
    subject = observing(Hedge(rule="authors"), model, optimizer=partial(torch.optim.SGD, lr=0.05))
    for step in range(600):
        x = torch.randn(1, 5, generator=torch.Generator().manual_seed(step))
        subject.observe({"x": x, "y": (x[:, 0] > 0).long()})
    assert model.alpha[0] > 0.7
    assert model.alpha[-1] < 0.1


def test_a_model_with_one_exit_is_refused():
    with pytest.raises(ValueError, match=r"exits are weighed, but a Sequential has one; put some on it"):
        learner(Hedge(), net()).learn(experience())
    with pytest.raises(ValueError, match="OnlineMLP"):
        observing(Hedge(), net()).observe(batch())


def test_methods_behind_it_are_refused():
    with pytest.raises(ValueError, match="put it last"):
        observing(Chain(Hedge(), Naive())).observe(batch())
    with pytest.raises(ValueError, match=r"ewc must come first: ewc\+hedge"):
        build("hedge+ewc")
    with pytest.raises(ValueError, match="erace has a loss of its own"):
        build("erace+hedge")


@pytest.mark.parametrize("wrong", [{"beta": 1.5}, {"s": -0.1}, {"rule": "paper,authors"}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Hedge(**wrong)


def test_an_objective_that_asks_twice_is_refused():
    def twice(model, data):
        model(data["x"])
        return classify(model, data)

    with pytest.raises(ValueError, match="asked the model 2 times"):
        observing(Hedge(), objective=twice).observe(batch())


def test_exits_may_be_a_part_of_the_model_behind_what_scales_its_rows():
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    inner, plain = online(), online()
    whole, other = observing(Hedge(), nn.Sequential(Half(), inner)), observing(Hedge(), plain)
    for step in range(5):
        data = batch(seed=step)
        whole.observe(data)
        other.observe(data | {"x": data["x"] / 2})
    assert checkpoint.same(snapshot(inner), snapshot(plain))


def test_any_body_learns_with_exits():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU())
    model = Exits(body, ["1", "3"], 4, example=torch.zeros(2, 5), read=partial(torch.flatten, start_dim=1))
    subject = learner(Hedge(), model, epochs=30)
    data = Columns(x=batch(40)["x"], y=(batch(40)["x"][:, 0] > 0).long())
    subject.learn(Experience(0, data, data, (0, 1)))
    assert subject.evaluate(data).value > 0.9
