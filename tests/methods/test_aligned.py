"""Rows without labels beside labelled ones: what is source, what is target, and what the control is."""

from dataclasses import dataclass, field, replace

import adaptation
import pytest
import torch
from adaptation import learner, stream
from torch import nn

from everlearn.batch import UNLABELED, take
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import LwF, Naive
from everlearn.methods.aligned import Aligned, Side
from everlearn.objective import classify, regress


@dataclass
class Diary(Aligned):
    """Notes what it is given, and adds nothing."""

    seen: list = field(default_factory=list, init=False)
    prepared: list = field(default_factory=list, init=False)

    def prepare(self, width, classes, device):
        self.prepared.append((width, classes))

    def gap(self, model, source, target):
        self.seen.append((source, target))
        return source.features.sum() * 0


def test_labelled_rows_are_the_source_and_rows_without_a_label_the_target_wherever_they_stand():
    model, made = learner(Naive()).model.eval(), Diary()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    mixed = adaptation.batch(order=order)
    output = made(model, mixed, classify)
    ((source, target),) = made.seen
    known = mixed["y"] != UNLABELED
    features = model[:-1](mixed["x"])
    for side, rows in ((source, known), (target, ~known)):
        torch.testing.assert_close(side.features, features[rows])
        torch.testing.assert_close(side.logits, output.logits[rows])
        assert torch.equal(side.y, mixed["y"][rows])
    assert torch.equal(output.loss, classify(model, mixed).loss)


def test_it_is_told_how_wide_features_are_by_a_row_that_leaves_no_trace():
    subject = learner(Diary(), "conv")
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    subject.method.begin(subject.model, stream()[1], classify)
    assert subject.method.prepared == [(144, 10)]
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    made = Diary(tap="features.3")
    made.begin(subject.model, stream()[1], classify)
    assert made.prepared == [(144, 10)]


@pytest.mark.parametrize(
    "batch",
    [
        {"x": torch.zeros(4, 64)},
        {"x": torch.zeros(4, 64), "y": torch.zeros(4, dtype=torch.int64)},
        {"x": torch.zeros(4, 64), "y": torch.full((4,), UNLABELED)},
    ],
)
def test_where_one_side_is_missing_there_is_no_gap(batch):
    made = Diary()
    made(learner(Naive()).model, batch, classify)
    assert not made.seen


def test_numbers_to_predict_are_labels_all_of_them():
    made = Diary()
    made(nn.Linear(3, 1), {"x": torch.zeros(4, 3), "y": torch.full((4,), float(UNLABELED))}, regress)
    assert not made.seen


def test_the_features_are_those_of_the_pass_that_learns_though_a_teacher_has_passed():
    subject = learner(Chain(Diary(), LwF()))
    for experience in stream():
        subject.learn(experience)
    seen = subject.method.methods[0].seen
    assert len(seen) == 10
    assert all(side.features.requires_grad for pair in seen for side in pair)


def test_a_head_that_takes_no_part_is_refused_with_the_way_out():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(64, 10), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="tap="):
        learner(Diary()).method.begin(Odd(), stream()[1], classify)
    made = Diary(tap="used")
    made.begin(Odd(), stream()[1], classify)
    assert made.prepared == [(10, 10)]


def test_a_layer_that_gives_no_tensor_is_refused():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), None

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = Pair(64, 8), nn.Linear(8, 10)

        def forward(self, x):
            return self.head(self.first(x)[0])

    with pytest.raises(ValueError, match="gives a tuple"):
        Diary(tap="first").begin(Net(), stream()[1], classify)


class Tokens(nn.Module):
    """Rows as sequences, of as many tokens as `long` says."""

    def __init__(self, long, *, rows_first=True):
        super().__init__()
        self.long, self.rows_first = long, rows_first
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x):
        x = x.unsqueeze(1).expand(-1, self.long, -1)
        return self.head(self.body(x if self.rows_first else x.transpose(0, 1)).mean(int(self.rows_first)))


@pytest.mark.parametrize("name", ["dann", "cdan", "adda", "mdd", "wdgrl"])
def test_sequences_of_other_lengths_than_at_the_beginning_are_refused_where_a_net_reads_them(name):
    model, made = Tokens(3), adaptation.method(name, tap="body")
    made.begin(model, replace(stream()[1], steps=9), classify)
    assert made(model, adaptation.batch(), classify).loss.isfinite()
    model.long = 4
    with pytest.raises(ValueError, match="tap a layer that gives one size"):
        made(model, adaptation.batch(), classify)


def test_a_layer_that_counts_something_else_than_rows_first_is_refused():
    made = Diary(tap="body")
    with pytest.raises(ValueError, match="name a layer that sees rows"):
        made(Tokens(30, rows_first=False), adaptation.batch(), classify)


@pytest.mark.parametrize("name", ["dann", "cdan", "adda", "mdd", "wdgrl"])
def test_a_net_is_in_float32_as_features_are_whatever_the_default_is(name):
    made, y = adaptation.method(name), torch.arange(5)
    made.planned = 9
    sides = [Side(torch.randn(5, 1000), torch.randn(5, 10), y) for _ in ("source", "target")]
    torch.set_default_dtype(torch.float64)
    try:
        made.prepare(1000, 10, torch.device("cpu"))  # so wide that cdan draws maps
        gap = made.gap(nn.Identity(), *sides)
    finally:
        torch.set_default_dtype(torch.float32)
    assert gap.dtype == torch.float32
    assert bool(gap.isfinite())


def test_apart_the_source_is_normalised_as_in_a_batch_of_its_own():
    mixed = adaptation.batch(order=torch.randperm(12, generator=torch.Generator().manual_seed(1)))
    known = (mixed["y"] != UNLABELED).nonzero().flatten()
    model, made = learner(Naive(), "conv").model, Diary(together=False)
    output = made(model, mixed, classify)
    alone = classify(learner(Naive(), "conv").model, take(mixed, known))
    torch.testing.assert_close(output.logits[known], alone.logits)
    torch.testing.assert_close(output.loss, alone.loss)


def test_the_control_learns_from_labelled_rows_while_all_rows_pass_the_normalisations():
    experience = stream()[1]
    subject = learner(Naive(), "conv", epochs=1, batch_size=40, reference_size=240)
    by_hand = learner(Naive(), "conv").model
    subject.learn(experience)
    rows = [each.take(torch.arange(len(each)))["x"] for each in (experience.train, experience.reference)]
    logits = by_hand(torch.cat(rows))
    nn.functional.cross_entropy(logits[40:], experience.reference.column("y")).backward()
    for mine, theirs in zip(subject.model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - 0.02 * theirs.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dict(subject.model.named_buffers()), dict(by_hand.named_buffers()))


def test_without_normalisations_the_control_is_training_on_the_source():
    experience = stream()[1]
    one = learner(Naive(), "mlp", epochs=1, batch_size=40, reference_size=240)
    adaptation.still(one.model)
    by_hand = adaptation.still(learner(Naive()).model)
    one.learn(experience)
    classify(by_hand, experience.reference.take(torch.arange(240))).loss.backward()
    for mine, theirs in zip(one.model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - 0.02 * theirs.grad, atol=1e-6, rtol=1e-4)


def test_a_stream_without_borders_says_that_an_adversary_needs_an_experience():
    subject = Learner(learner(Naive()).model, adaptation.method("dann"), optimizer=adaptation.zoo.SGD)
    with pytest.raises(ValueError, match=r"how many steps|no layers yet"):
        subject.observe(adaptation.batch())
