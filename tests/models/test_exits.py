"""Exits answer at several depths of any body, grow in classes and inputs, and are weighed by a buffer of the model."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn import Learner
from everlearn.batch import UNLABELED
from everlearn.models import load_weights, save_weights, tap
from everlearn.models.exits import Exits, OnlineMLP, losses_of, vectors
from everlearn.models.heads import grow, resize_like
from everlearn.models.widening import grow_inputs, resize_inputs_like
from everlearn.objective import Output, classify, regress


def online(inputs=5, outputs=3, layers=4, width=7, **options):
    torch.manual_seed(0)
    return OnlineMLP(inputs, outputs, layers, width, **options)


def uneven(outputs=3, **options):
    """Layers of three widths."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh())
    return Exits(body, ["1", "3", "5"], outputs, example=torch.zeros(2, 5), **options)


def parts(model):
    """The weight and the bias of each exit, from the input on."""
    weight, count, start = model.head.weight, len(model.taps), len(model.taps)
    found = [] if model.first is None else [(model.first.weight, model.first.bias)]
    for place, width in enumerate(model.head.widths):
        found.append((weight[:, start : start + width], weight[:, place]))
        start += width
    assert start == weight.shape[1]
    assert count == len(model.head.widths)
    return found


def rows(count=6, inputs=5, seed=0):
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", [online, uneven, partial(uneven, at_input=True), partial(online, at_input=False)])
def test_each_exit_is_a_linear_classifier_of_what_its_layer_gives(make):
    model, x = make(), rows()
    layers = dict(model.body.named_children())
    with tap(layers[model.taps[0]]) as first, tap(layers[model.taps[-1]]) as last:
        answers = model.answers(x)
    read = {model.names[0]: x if model.first is not None else first[0], model.names[-1]: last[0]}
    for place in (0, -1):
        weight, bias = parts(model)[place]
        torch.testing.assert_close(answers[place], F.linear(read[model.names[place]], weight, bias).log_softmax(1))


@pytest.mark.parametrize("make", [online, uneven])
def test_the_answer_is_the_mixture_of_the_probabilities_of_the_exits(make):
    model, x = make(), rows()
    model.alpha.copy_(F.normalize(torch.arange(1.0, 1 + len(model.alpha)), p=1, dim=0))
    expected = sum(a * each.exp() for a, each in zip(model.alpha, model.answers(x), strict=True))
    torch.testing.assert_close(model(x).exp(), expected)
    torch.testing.assert_close(model(x).exp().sum(1), torch.ones(6))
    y = torch.tensor([0, 1, 2, 0, 1, UNLABELED])
    torch.testing.assert_close(
        classify(model, {"x": x, "y": y}).loss, F.nll_loss(expected.log(), y, ignore_index=UNLABELED)
    )


def test_of_numbers_it_is_the_mean():
    model, x = online(outputs=1, task="regression"), rows()
    model.alpha.copy_(torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1]))
    expected = sum(a * each for a, each in zip(model.alpha, model.answers(x), strict=True))
    torch.testing.assert_close(model(x), expected)
    assert model(x).shape == (6, 1)


def test_an_answer_that_all_exits_rule_out_is_finite():
    model = online()
    with torch.no_grad():
        model.head.weight[1, : len(model.taps)] = -1e4
        model.first.bias[1] = -1e4
    assert model(rows()).isfinite().all()


class Branched(nn.Module):
    """Convolutions and tokens, in no row."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.tokens = nn.TransformerEncoderLayer(3, 1, 4, dropout=0.5, batch_first=True)

    def forward(self, x):
        maps = self.norm(self.conv(x.view(-1, 1, 2, 4))).relu()
        return self.tokens(maps.flatten(2).transpose(1, 2))


def test_any_body_has_exits_and_making_them_leaves_no_trace():
    torch.manual_seed(0)
    body, x = Branched(), rows(inputs=8)
    before, generator = copy.deepcopy(body.state_dict()), torch.get_rng_state()
    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    model = Exits(body, ["norm", "tokens"], 3, example=x)
    for name, value in body.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert body.training
    assert not torch.equal(generator, drawn)
    assert model.head.widths == (3, 3)
    body.eval()
    maps = body.norm(body.conv(x.view(-1, 1, 2, 4)))
    weight, bias = parts(model)[0]
    torch.testing.assert_close(model.answers(x)[0], F.linear(maps.mean((2, 3)), weight, bias).log_softmax(1))
    assert not body.norm._forward_hooks
    assert not body.tokens._forward_hooks


def test_tokens_are_averaged_and_so_are_places():
    assert torch.equal(vectors(torch.arange(12.0).view(1, 3, 4)), torch.tensor([[4.0, 5.0, 6.0, 7.0]]))
    assert torch.equal(vectors(torch.arange(8.0).view(1, 2, 2, 2)), torch.tensor([[1.5, 5.5]]))


def test_another_reading_of_a_tap_may_be_given():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 3), nn.ReLU())
    assert Exits(body, ["2"], 2, example=torch.zeros(1, 8), read=partial(torch.flatten, start_dim=1)).head.widths == (
        12,
    )


@pytest.mark.parametrize(
    ("taps", "said"),
    [
        (["1", "7"], "no layer '7'"),
        (["1", "1"], "each named once"),
        ([], "each named once"),
        (["0"], "'0' gives is changed in place"),
    ],
)
def test_taps_that_cannot_be_are_refused(taps, said):
    body = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=said):
        Exits(body, taps if taps != ["0"] else ["0", "1"], 2, example=torch.zeros(1, 5))


def test_a_layer_that_is_called_twice_or_never_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.never = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            return self.twice(self.twice(x))

    for name, said in (("twice", "more than once"), ("never", "not called")):
        with pytest.raises(ValueError, match=said):
            Exits(Odd(), [name], 2, example=torch.zeros(1, 5))


def test_what_is_no_vector_is_refused():
    with pytest.raises(ValueError, match=r"gives is torch.int64 .* say with read="):
        Exits(nn.Sequential(nn.Flatten()), ["0"], 2, example=torch.zeros(1, 5, dtype=torch.int64))


@pytest.mark.parametrize("make", [online, uneven, partial(uneven, at_input=True)])
def test_new_classes_leave_the_rows_of_old_ones_as_they_were(make):
    model, x = make(), rows()
    before = [tuple(part.detach().clone() for part in pair) for pair in parts(model)]
    answers = model.answers(x)
    assert grow(model, 5) is model.head
    for (weight, bias), (old, offset) in zip(parts(model), before, strict=True):
        assert torch.equal(weight[:3], old)
        assert torch.equal(bias[:3], offset)
    assert model(x).shape == (6, 5)
    torch.testing.assert_close(model.answers(x)[:, :, :3].log_softmax(2), answers)


def test_new_rows_are_drawn_as_those_of_a_layer_for_each_exit_and_by_the_seed_alone():
    first, second = uneven(2), uneven(2)
    grow(first, 400, seed=3)
    torch.rand(10)
    grow(second, 400, seed=3)
    assert torch.equal(first.head.weight, second.head.weight)
    for weight, bias in parts(first):
        bound = weight.shape[1] ** -0.5
        assert 0.98 * bound < weight[2:].abs().max() <= bound * (1 + 1e-6)
        assert 0.9 * bound < bias[2:].abs().max() <= bound * (1 + 1e-6)


def test_the_first_rows_are_drawn_as_those_of_a_layer_for_each_exit():
    for weight, _ in parts(uneven(400)):
        bound = weight.shape[1] ** -0.5
        assert 0.98 * bound < weight.abs().max() <= bound * (1 + 1e-6)


def test_it_may_begin_with_nothing_and_a_state_of_any_size_loads():
    grown = online(0, 0)
    assert grown(torch.zeros(2, 0)).shape == (2, 0)
    assert sorted(grow_inputs(grown, 0, 5)) == ["body.linear1", "first"]
    grow(grown, 3)
    grow_inputs(grown, 5, 6)
    grow(grown, 4)
    state, again = grown.state_dict(), online(0, 0)
    resize_inputs_like(again, state, 0, 6)
    resize_like(again, state)
    again.load_state_dict(state)
    x = rows(inputs=6)
    assert torch.equal(again(x), grown(x))
    smaller = online(6, 5)
    resize_like(smaller, state)
    smaller.load_state_dict(state)
    assert torch.equal(smaller(x), grown(x))


def test_new_inputs_change_no_answer_and_are_read_by_the_first_layer_and_by_the_input_exit():
    model, x = online(), rows()
    before = model(x)
    assert sorted(grow_inputs(model, 5, 8)) == ["body.linear1", "first"]
    torch.testing.assert_close(model(torch.cat([x, torch.rand(6, 3)], 1)), before)


@pytest.mark.parametrize("make", [partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(torch.optim.Adam, lr=0.01)])
def test_an_optimizer_goes_on_where_classes_come(make):
    model = online()
    learner = Learner(model, optimizer=make)
    for step in range(3):
        learner.observe({"x": rows(seed=step), "y": torch.tensor([0, 1, 2, 0, 1, 2])})
    name = "momentum_buffer" if make.func is torch.optim.SGD else "exp_avg"
    before = {layer: learner.optimizer.state[weight][name].clone() for layer, weight in model.named_parameters()}
    with learner.changing() as lent:
        grow(lent, 5)
    for layer, weight in model.named_parameters():
        now = learner.optimizer.state[weight][name]
        assert now.shape == weight.shape
        assert torch.equal(now[: len(before[layer])], before[layer])
        assert not now[len(before[layer]) :].any()
    learner.observe({"x": rows(), "y": torch.tensor([0, 1, 2, 3, 4, 4])})
    assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_weights_in_files_bring_the_mixture_along(ending, tmp_path):
    model, other = online(), online(seed := 5)
    assert seed == 5
    model.alpha.copy_(torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1]))
    save_weights(model, tmp_path / f"w{ending}")
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    load_weights(other, tmp_path / f"w{ending}")
    assert torch.equal(other(rows()), model(rows()))
    assert not torch.equal(other.alpha, online().alpha)


def test_a_copy_is_on_its_own():
    model = uneven(at_input=True)
    other = copy.deepcopy(model)
    grow(other, 9)
    assert (model.first.out_features, other.first.out_features) == (3, 9)
    assert torch.equal(model(rows()), uneven(at_input=True)(rows()))


def test_it_answers_in_inference_mode_and_in_float64():
    model = online().double()
    with torch.inference_mode():
        assert model(rows().double()).dtype == torch.float64


def test_losses_at_once_are_those_of_each_exit():
    model = online()
    batch = {"x": rows(), "y": torch.tensor([0, 1, UNLABELED, 0, 1, 2])}
    answers = model.answers(batch["x"])

    def another(model, batch):
        return Output(*classify(model, batch))

    torch.testing.assert_close(losses_of(answers, batch, classify), losses_of(answers, batch, another))
    numbers = {"x": batch["x"], "y": torch.randn(6)}
    answers = online(outputs=1, task="regression").answers(batch["x"])
    expected = torch.stack([F.mse_loss(each.flatten(), numbers["y"]) for each in answers])
    torch.testing.assert_close(losses_of(answers, numbers, regress), expected)
