"""The diagonal Fisher information is what one backward pass for each row gives, on every kind of model."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.models import MLP, MultiHead, ResNet18
from everlearn.models import fisher as subject
from everlearn.models.fisher import fisher, sensitivity
from everlearn.objective import Output, ask, classify, classify_by_task, regress

ROWS, CLASSES = 7, 3


def by_hand(model, batch, objective=classify, labels="exact"):
    """One backward pass for each row and label, written down naively."""
    model = copy.deepcopy(model).eval()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    rows = len(next(iter(batch.values())))
    for i in range(rows):
        row = {name: column[i : i + 1] for name, column in batch.items()}
        if labels == "empirical":
            losses = [(objective(model, row).loss, 1.0)]
        else:
            logits = objective(model, row | {"y": torch.zeros(1, dtype=torch.long)}).logits
            log_p = logits.log_softmax(1)[0]
            chosen = range(len(log_p)) if labels == "exact" else [row["y"][0]]
            losses = [(-log_p[label], log_p[label].detach().exp()) for label in chosen]
        for loss, p in losses:
            model.zero_grad()
            loss.backward(retain_graph=True)
            for name, weight in weights.items():
                if weight.grad is not None:
                    total[name] += p * weight.grad**2 / rows
    return total


def assert_fisher(model, batch, objective=classify, *, sizes=(4, 3), kinds=("exact", "empirical", "weighted")):
    for labels in kinds:
        expected = by_hand(model, batch, objective, labels)
        batches = [
            dict(zip(batch, part, strict=True))
            for part in zip(*(c.split(list(sizes)) for c in batch.values()), strict=True)
        ]
        found = fisher(model, batches, objective, labels)
        assert found.keys() == expected.keys()
        for name in expected:
            top = float(expected[name].max())
            torch.testing.assert_close(
                found[name],
                expected[name],
                rtol=1e-4,
                atol=1e-6 * top + 1e-12,
                msg=f"{labels} information of {name}",
            )
        assert any(float(value.max()) > 0 for value in found.values())


def labelled(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(ROWS, *shape, generator=random),
        "y": torch.randint(CLASSES, (ROWS,), generator=random),
    }


def conv(**options):
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, **options), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES)
    )


class Tokens(nn.Module):
    """A linear layer over sequences, rows first."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.embed(x))).mean(1))


def normed(norm):
    return nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(96, CLASSES))


def trained(model, *shape):
    """The model after some batches in train mode, so that running statistics are not trivial."""
    model.train()
    for seed in range(3):
        model(labelled(*shape, seed=seed)["x"] * 2 + 1)
    return model


CLOSED = {
    "mlp": (lambda: MLP(6, (8, 5), CLASSES, dropout=0.5), (6,)),
    "no-bias": (lambda: nn.Linear(6, CLASSES, bias=False), (6,)),
    "conv": (conv, (4, 8, 8)),
    "conv-stride-padding": (lambda: conv(stride=2, padding=1), (4, 9, 8)),
    "conv-dilation": (lambda: conv(dilation=2, padding=(2, 1)), (4, 8, 8)),
    "conv-groups": (lambda: conv(groups=2, bias=False), (4, 8, 8)),
    "conv-same": (lambda: conv(padding="same"), (4, 8, 8)),
    "conv-circular": (lambda: conv(padding=1, padding_mode="circular"), (4, 8, 8)),
    "conv-reflect": (lambda: conv(padding=(2, 1), padding_mode="reflect"), (4, 8, 8)),
    "conv-replicate": (lambda: conv(padding=1, padding_mode="replicate"), (4, 8, 8)),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(4, 6, 3, 2, padding=1, dilation=2), nn.Flatten(), nn.Linear(24, CLASSES)),
        (4, 9),
    ),
    "conv1d-circular": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(48, CLASSES)
        ),
        (4, 8),
    ),
    "batch-norm": (lambda: trained(normed(nn.BatchNorm2d(6)), 4, 6, 6), (4, 6, 6)),
    "batch-norm-1d": (
        lambda: trained(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)), 6),
        (6,),
    ),
    "layer-norm": (lambda: normed(nn.LayerNorm([6, 4, 4])), (4, 6, 6)),
    "group-norm": (lambda: normed(nn.GroupNorm(3, 6)), (4, 6, 6)),
    "tokens": (Tokens, (4, 5)),
    "in-place": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, CLASSES)), (6,)),
}


@pytest.fixture
def ways(monkeypatch):
    """The ways that were taken, in order."""
    taken = []

    def spy(way):
        def spied(*arguments):
            taken.append(way.__name__)
            return way(*arguments)

        return spied

    for name in ("_closed", "_row_by_row", "_one_at_a_time"):
        monkeypatch.setattr(subject, name, spy(vars(subject)[name]))
    return taken


@pytest.mark.parametrize("kind", CLOSED)
def test_the_closed_form_is_the_sum_over_rows(kind, ways):
    torch.manual_seed(0)
    make, shape = CLOSED[kind]
    assert_fisher(make(), labelled(*shape))
    assert ways[-1] == "_closed"


def sensitivity_by_hand(model, batch, objective=classify):
    """The mean over rows of the absolute gradient of the squared norm of the logits, one backward pass a row."""
    model = copy.deepcopy(model).eval()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    rows = len(next(iter(batch.values())))
    for i in range(rows):
        logits = objective(model, {name: column[i : i + 1] for name, column in batch.items()}).logits
        grads = torch.autograd.grad((logits**2).sum(), list(weights.values()), materialize_grads=True)
        for name, grad in zip(weights, grads, strict=True):
            total[name] += grad.abs() / rows
    return total


def assert_sensitivity(model, batch, objective=classify, sizes=(4, 3)):
    expected = sensitivity_by_hand(model, batch, objective)
    columns = {name: column.split(list(sizes)) for name, column in batch.items()}
    parts = [{name: column[i] for name, column in columns.items()} for i in range(len(sizes))]
    found = sensitivity(model, parts, objective)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6 * float(value.max()) + 1e-12)
    assert any(float(value.max()) > 0 for value in found.values())


@pytest.mark.parametrize("kind", CLOSED)
def test_the_closed_form_of_the_sensitivity_is_the_sum_over_rows(kind, ways):
    torch.manual_seed(0)
    make, shape = CLOSED[kind]
    assert_sensitivity(make(), labelled(*shape))
    assert ways[-1] == "_closed"


@pytest.mark.parametrize("sizes", [(7,), (1, 1, 5), (3, 4)])
def test_the_sensitivity_does_not_depend_on_how_the_rows_are_batched(sizes):
    torch.manual_seed(0)
    assert_sensitivity(MLP(6, (8, 5), CLASSES, dropout=0.5), labelled(6), sizes=sizes)


def test_the_sensitivity_looks_at_no_label():
    torch.manual_seed(0)
    model, batch = MLP(6, (5,), CLASSES), labelled(6)
    expected = sensitivity(model, [batch], classify)
    for other in (
        {"x": batch["x"]},
        batch | {"y": batch["y"].flip(0)},
        batch | {"y": torch.full_like(batch["y"], -100)},
    ):
        assert checkpoint.same(sensitivity(model, [other], classify), expected)


def test_opposite_gradients_of_two_rows_do_not_cancel_in_the_sensitivity():
    model = nn.Linear(6, CLASSES)
    nn.init.zeros_(model.bias)  # so that x and -x have opposite answers, and opposite gradients for the bias
    x = labelled(6)["x"]
    found = sensitivity(model, [{"x": torch.cat([x, -x])}], classify)
    torch.testing.assert_close(found["bias"], 2 * model(x).detach().abs().mean(0))


def test_a_resnet_has_a_closed_form(ways):
    torch.manual_seed(0)
    model = trained(ResNet18(CLASSES, width=8), 3, 8, 8)
    assert_fisher(model, labelled(3, 8, 8), kinds=["empirical"])
    assert ways[-1] == "_closed"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.body(torch.tanh(self.body(x)))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Raw(nn.Module):
    """A parameter that is of no layer."""

    def __init__(self):
        super().__init__()
        self.place, self.head = nn.Parameter(torch.randn(6)), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(x + self.place))


class Bypassed(nn.Module):
    """A layer whose weight is used without calling the layer."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(F.linear(x, self.body.weight)) + self.body(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


@pytest.mark.parametrize(
    ("make", "shape"), [(Twice, (6,)), (Tied, (6,)), (Raw, (6,)), (Bypassed, (6,)), (Attention, (4, 5))]
)
def test_where_the_closed_form_does_not_hold_rows_are_differentiated_several_at_once(make, shape, ways):
    torch.manual_seed(0)
    assert_fisher(make(), labelled(*shape))
    assert_sensitivity(make(), labelled(*shape))
    assert ways[-1] == "_row_by_row"


class Deciding(nn.Module):
    """Looks at values to decide what to do, which torch.func cannot follow; its raw parameter rules out the layers."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(1)), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(x * self.scale if bool((x > -100).all()) else x)


def test_a_model_that_looks_at_values_gets_one_backward_pass_for_each_row(ways):
    torch.manual_seed(0)
    assert_fisher(Deciding(), labelled(6))
    assert_sensitivity(Deciding(), labelled(6))
    assert ways[-1] == "_one_at_a_time"


@pytest.mark.parametrize("tasks", [[0] * ROWS, [0, 0, 0, 0, 1, 0, 1]])
def test_a_head_for_each_task_sees_only_its_rows(tasks):
    torch.manual_seed(0)
    model = MultiHead(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), 5, CLASSES, tasks=2)
    assert_fisher(model, labelled(6) | {"task": torch.tensor(tasks)}, classify_by_task)
    assert_sensitivity(model, labelled(6) | {"task": torch.tensor(tasks)}, classify_by_task)


@pytest.mark.parametrize("sizes", [(4, 3), (1, 6), (1, 1, 5)])
def test_a_loss_that_is_no_mean_over_rows_is_found_out(sizes):
    def total(model, batch):
        logits = model(batch["x"])
        return Output(F.cross_entropy(logits, batch["y"], reduction="sum"), logits)

    torch.manual_seed(0)
    assert_fisher(nn.Linear(6, CLASSES), labelled(6), total, sizes=sizes, kinds=["empirical"])


def test_texts_and_other_lists_are_columns_too():
    def spell(model, batch):
        x = torch.tensor([[float(len(text)), 1.0] for text in batch["x"]])
        return classify(model, {**batch, "x": x})

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    batch = {"x": ["a", "bcd", "ef", "ghij"], "y": torch.tensor([0, 1, 2, 1])}
    found = fisher(model, [batch], spell, "empirical")
    expected = by_hand(model, batch, spell, "empirical")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_rows_without_a_label_have_no_part_in_the_empirical_information():
    torch.manual_seed(0)
    model, batch = MLP(6, (5,), CLASSES), labelled(6)
    some = batch["y"].clone()
    some[[4, 6]] = -100
    known = (some != -100).nonzero().flatten()
    expected = fisher(model, [{name: column[known] for name, column in batch.items()}], classify, "empirical")
    found = fisher(model, [{"x": batch["x"], "y": some}], classify, "empirical")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_the_weighted_information_is_the_term_of_the_exact_one_that_belongs_to_the_label():
    torch.manual_seed(0)
    model, x = MLP(6, (5,), CLASSES), labelled(6)["x"]
    terms = [fisher(model, [{"x": x, "y": torch.full((ROWS,), y)}], classify, "weighted") for y in range(CLASSES)]
    for name, value in fisher(model, [{"x": x}], classify, "exact").items():
        torch.testing.assert_close(sum(term[name] for term in terms), value)


def test_rows_without_a_label_have_no_part_in_the_weighted_information():
    torch.manual_seed(0)
    model, batch = MLP(6, (5,), CLASSES), labelled(6)
    some = batch["y"].clone()
    some[[4, 6]] = -100
    known = some != -100
    expected = fisher(model, [{name: column[known] for name, column in batch.items()}], classify, "weighted")
    for name, value in fisher(model, [{"x": batch["x"], "y": some}], classify, "weighted").items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("labels", ["exact", "weighted"])
def test_the_exact_information_of_a_regression_is_refused_and_not_0(labels):
    batch = {"x": torch.randn(4, 3), "y": torch.randn(4)}
    with pytest.raises(ValueError, match=r'labels here are numbers.*fisher="empirical"'):
        fisher(nn.Linear(3, 1), [batch], regress, labels)
    assert fisher(nn.Linear(3, 1), [batch], regress, "empirical")["weight"].gt(0).all()


def test_rows_with_different_numbers_of_labels_count_alike():
    def tag(model, batch):
        logits = model(batch["x"])
        return Output(F.cross_entropy(logits.flatten(0, 1), batch["y"].flatten()), logits)

    torch.manual_seed(0)
    model = nn.Linear(5, CLASSES)
    y = torch.randint(CLASSES, (ROWS, 4))
    y[4, 1:] = y[5, :2] = -100
    assert_fisher(model, {"x": torch.randn(ROWS, 4, 5), "y": y}, tag, kinds=["empirical"])


@pytest.mark.parametrize("kind", ["mlp", "conv-groups", "conv1d", "tokens", "batch-norm"])
@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_holding_few_numbers_at_once_changes_nothing(kind, labels, monkeypatch, ways):
    torch.manual_seed(0)
    make, shape = CLOSED[kind]
    model, batch = make(), labelled(*shape)
    whole = fisher(model, [batch], classify, labels)
    monkeypatch.setattr(subject, "_MOST", 1000)
    pieces = fisher(model, [batch], classify, labels)
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name])
    assert ways[-1] == "_closed"  # and not another way, because this one went wrong


def test_holding_few_numbers_at_once_changes_nothing_row_by_row(monkeypatch):
    torch.manual_seed(0)
    model, batch = Attention(), labelled(4, 5)
    whole = fisher(model, [batch], classify)
    monkeypatch.setattr(subject, "_MOST", 2 * sum(weight.numel() for weight in model.parameters()))
    pieces = fisher(model, [batch], classify)
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name])


def test_no_more_numbers_than_allowed_are_held_for_a_convolution(monkeypatch):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, CLASSES))
    held, plain = [], subject._convolution

    def watched(layer, a, d):
        held.append(len(a) * max(layer.weight.numel(), 4 * 9 * 64))
        return plain(layer, a, d)

    monkeypatch.setattr(subject, "_convolution", watched)
    monkeypatch.setattr(subject, "_MOST", 3 * 4 * 9 * 64)
    fisher(model, [labelled(4, 8, 8)], classify, "empirical")
    assert max(held) == 3 * 4 * 9 * 64


@pytest.mark.parametrize("kind", ["mlp", "batch-norm", "tokens"])
def test_the_result_does_not_depend_on_how_the_rows_are_batched(kind):
    torch.manual_seed(0)
    make, shape = CLOSED[kind]
    model, batch = make(), labelled(*shape)
    for labels in ("exact", "empirical"):
        whole = fisher(model, [batch], classify, labels)
        for size in (1, 2, 5):
            parts = [{name: column[i : i + size] for name, column in batch.items()} for i in range(0, ROWS, size)]
            for name, value in fisher(model, parts, classify, labels).items():
                torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-8)


def test_frozen_parameters_have_no_entry():
    model = MLP(6, (5,), CLASSES)
    model.features[1].weight.requires_grad_(requires_grad=False)
    found = fisher(model, [labelled(6)], classify)
    assert found.keys() == {"features.1.bias", "head.weight", "head.bias"}


def test_a_layer_that_the_answers_do_not_depend_on_has_zero():
    model = nn.Sequential(nn.Linear(6, CLASSES))
    model.register_module("unused", None)
    model.unused = nn.Linear(2, 2)
    model.forward = model[0].forward
    found = fisher(model, [labelled(6)], classify)
    assert float(found["0.weight"].max()) > 0
    assert not found["unused.weight"].any()


@pytest.mark.parametrize("batches", [[], [{"x": torch.zeros(0, 6), "y": torch.zeros(0, dtype=torch.long)}]])
def test_no_rows_are_an_error(batches):
    with pytest.raises(ValueError, match="there are none"):
        fisher(MLP(6, (5,), CLASSES), batches, classify)


def test_the_exact_information_of_anything_but_a_classifier_is_an_error():
    with pytest.raises(ValueError, match=r'logits of shape \(rows, classes\).*use fisher="empirical"'):
        fisher(nn.Linear(5, CLASSES), [labelled(4, 5)], lambda m, b: Output(None, m(b["x"])), "exact")


@pytest.mark.parametrize("frozen", [False, True])
def test_model_gradients_modes_and_generators_are_left_as_they_were(frozen):
    torch.manual_seed(0)
    model = trained(normed(nn.BatchNorm2d(6)), 4, 6, 6)
    model[1].train(not frozen)
    model.append(nn.Dropout(0.5))
    batch = labelled(4, 6, 6)
    classify(model, batch).loss.backward()
    weights, gradients = (
        copy.deepcopy(model.state_dict()),
        [w.grad.clone() for w in model.parameters() if w.grad is not None],
    )
    modes, generator = [m.training for m in model.modules()], torch.get_rng_state()
    fisher(model, [batch], classify)
    assert checkpoint.same(dict(weights), dict(model.state_dict()))
    assert checkpoint.same(gradients, [w.grad for w in model.parameters() if w.grad is not None])
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(generator, torch.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())


def test_language_models_answer_by_their_own_loss():
    class Answer:
        def __init__(self, loss, logits):
            self.loss, self.logits = loss, logits

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

        def forward(self, input_ids, labels=None):
            logits = self.head(self.embed(input_ids))
            loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
            return Answer(loss, logits)

    torch.manual_seed(0)
    ids = torch.randint(9, (ROWS, 5))
    assert_fisher(Model(), {"input_ids": ids, "labels": ids.roll(1, 1)}, ask, kinds=["empirical"])


def test_half_precision_weights_are_summed_in_full():
    model = MLP(6, (5,), CLASSES).to(torch.bfloat16)
    batch = labelled(6)
    found = fisher(model, [batch | {"x": batch["x"].bfloat16()}], partial(classify))
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_weights_in_double_precision_beside_batch_statistics_are_as_those_in_single():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES))
    batch = labelled(6)
    single = fisher(model, [batch], classify)
    found = fisher(model.double(), [batch | {"x": batch["x"].double()}], classify)
    for name, value in single.items():
        torch.testing.assert_close(found[name].float(), value)


@pytest.mark.parametrize("labels", ["empirical", "weighted"])
def test_what_is_of_labels_says_so_where_there_are_none(labels):
    with pytest.raises(ValueError, match=r"have no labels.*take the exact one"):
        fisher(MLP(6, (5,), CLASSES), [{"x": labelled(6)["x"]}], classify, labels)
