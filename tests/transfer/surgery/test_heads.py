"""A class keeps its rows by name, wherever it stands: in classifiers, and in detectors with their layouts of rows."""

from importlib.util import find_spec
from math import log

import pytest
import torch
from torch import nn
from transfer.surgery.operated import Watched, answer

from everlearn import Learner
from everlearn.data import Columns
from everlearn.models import MLP, grow, pad
from everlearn.models.vision_ops import torchvision
from everlearn.objective import Output
from everlearn.streams import Experience
from everlearn.transfer.surgery import Part, SurgeryError, class_parts, reclass


def inputs():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("before", "after"),
    [("ABC", "ADE"), ("ABC", "CBA"), ("ABC", "DCA"), ("ABC", "B"), ("ABC", "XYZ"), ("ABC", "ABCD"), ("ABC", "EDCBA")],
)
def test_a_class_keeps_its_answers_wherever_it_stands(before, after):
    model, x = MLP(4, (3,), 3), inputs()
    old, weight = answer(model, x), model.head.weight.detach().clone()
    head = model.head
    report = reclass(model, list(before), list(after), x)
    new = answer(model, x)
    assert model.head is head
    assert new.shape == (6, len(after))
    for place, name in enumerate(after):
        if name in before:
            assert torch.equal(head.weight[place], weight[before.index(name)])
            torch.testing.assert_close(new[:, place], old[:, before.index(name)])
    assert report.kept == tuple(name for name in after if name in before)
    assert set(report.new) == set(after) - set(before)
    assert set(report.dropped) == set(before) - set(after)
    assert not report.background


def test_appending_classes_is_to_grow():
    model, other = MLP(4, (3,), 3), MLP(4, (3,), 3)
    other.load_state_dict(model.state_dict())
    reclass(model, ["A", "B", "C"], ["A", "B", "C", "D", "E"], seed=5)
    grow(other, 5, seed=5)
    assert torch.equal(model.head.weight, other.head.weight)
    assert torch.equal(model.head.bias, other.head.bias)


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
        lambda weights: torch.optim.Adam(weights, lr=0.1, amsgrad=True),
        lambda weights: torch.optim.Adagrad(weights, lr=0.1, initial_accumulator_value=0.3),
        lambda weights: torch.optim.Adafactor(weights, lr=0.1),
    ],
    ids=["momentum", "adam", "adagrad", "adafactor"],
)
def test_the_state_of_the_optimizer_goes_with_the_rows(make):
    """The next step moves a kept row as it would have been moved where it stood."""
    model, x = MLP(4, (3,), 3), inputs()
    optimizer = make(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    state = {name: value for name, value in optimizer.state[model.head.weight].items() if value.dim() == 2}
    reclass(model, ["A", "B", "C"], ["D", "C", "E", "A"], optimizer=optimizer)
    assert any(weight is model.head.weight for weight in optimizer.param_groups[0]["params"])
    assert len(optimizer.state) == 4
    now = optimizer.state[model.head.weight]
    fresh = 0.3 if "sum" in state else 0
    assert state
    for name, value in state.items():
        if len(value) == 3:
            assert torch.equal(now[name][[1, 3]], value[[2, 0]])
            assert (now[name][[0, 2]] == fresh).all()
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


def test_momentum_alone_moves_a_kept_row_as_before():
    model = MLP(4, (3,), 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(inputs()).square().sum().backward()
    optimizer.step()
    velocity = optimizer.state[model.head.weight]["momentum_buffer"].clone()
    reclass(model, ["A", "B", "C"], ["C", "D", "A"], optimizer=optimizer)
    before = model.head.weight.detach().clone()
    model.head.weight.grad = torch.zeros_like(model.head.weight)
    model.head.bias.grad = None
    for weight in model.features.parameters():
        weight.grad = None
    optimizer.step()
    moved = (model.head.weight - before).detach()
    torch.testing.assert_close(moved[[0, 2]], -0.09 * velocity[[2, 0]])
    assert not moved[1].any()


def test_a_learner_goes_on_after_the_head_was_told_other_classes():
    def rows(labels):
        return Columns(x=torch.randn(24, 4), y=torch.arange(24) % labels)

    learner = Learner(MLP(4, (6,), 3), optimizer=lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9), batch_size=8)
    first = rows(3)
    learner.learn(Experience(0, first, first, (0, 1, 2)))
    reclass(learner.model, ["A", "B", "C"], ["B", "D", "A", "E"], optimizer=learner.optimizer)
    second = rows(4)
    learner.learn(Experience(1, second, second, (0, 1, 2, 3)))
    assert learner.predict({"x": torch.randn(2, 4)}).shape == (2, 4)


def test_a_frozen_head_in_bf16_in_eval_mode_stays_so():
    model = MLP(4, (3,), 3).to(torch.bfloat16)
    model.head.eval().requires_grad_(False)
    reclass(torch.compile(model, backend="eager"), ["A", "B", "C"], ["C", "D"], inputs().bfloat16())
    assert model.training
    assert not model.head.training
    assert not model.head.weight.requires_grad
    assert model.head.weight.dtype == torch.bfloat16
    assert model.head.out_features == 2


def test_a_head_with_rows_in_reserve_keeps_its_room():
    model, x = MLP(4, (3,), 3), inputs()
    old = answer(model, x)
    pad(model, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(x).sum().backward()
    optimizer.step()
    old = answer(model, x)
    reclass(model, ["A", "B", "C"], ["D", "C", "A", "E"], x, optimizer=optimizer)
    torch.testing.assert_close(answer(model, x)[:, [1, 2]], old[:, [2, 0]])
    assert model.head.capacity == 5
    assert model.head.weight.shape == (5, 3)
    assert not model.head.weight[4:].any()
    assert optimizer.state[model.head.weight]["momentum_buffer"].shape == (5, 3)
    reclass(model, ["D", "C", "A", "E"], list("ABCDEFG"), x, optimizer=optimizer)
    assert model.head.capacity == 7


def test_names_that_do_not_fit_are_refused_and_nothing_is_changed():
    model = MLP(4, (3,), 3)
    watch = Watched(model)
    for before, after, reason in (
        ("AB", "A", "has 3 outputs, but 2 classes are named"),
        ("ABB", "A", "'B' comes twice"),
        ("ABC", "AA", "'A' comes twice"),
        ("ABC", "", "at least one class"),
    ):
        with pytest.raises(ValueError, match=reason):
            reclass(model, list(before), list(after))
    with torch.random.fork_rng():
        model.other = nn.Linear(3, 3)
    model.other.weight = model.head.weight
    with pytest.raises(SurgeryError, match="share their weights"):
        reclass(model, list("ABC"), list("AB"), head="head")
    del model.other
    with pytest.raises(TypeError, match="LBFGS"):
        reclass(model, list("ABC"), list("AB"), optimizer=torch.optim.LBFGS(model.parameters()))
    assert watch.same()


def test_rows_that_would_not_answer_as_before_are_undone():
    model, x = MLP(4, (3,), 4), inputs()
    watch = Watched(model)
    with pytest.raises(SurgeryError, match="would move"):
        reclass(model, ["A", "B"], ["B", "A"], x, parts=[Part("head", 2, 2)], tol=-1.0)
    assert watch.same()


def test_a_model_of_transformers_is_told_its_labels():
    class Config:
        id2label = {0: "A", 1: "B"}  # noqa: RUF012 (as theirs)

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_labels, self.config, self.classifier = 2, Config(), nn.Linear(4, 2)

        def forward(self, x):
            return self.classifier(x)

    model = Tagger()
    old = model.classifier.weight.detach().clone()
    reclass(model, ["A", "B"], ["B", "C", "D"], torch.randn(2, 5, 4))
    assert model.num_labels == 3
    assert model.config.id2label == {0: "B", 1: "C", 2: "D"}
    assert model.config.label2id == {"B": 0, "C": 1, "D": 2}
    assert torch.equal(model.classifier.weight[0], old[1])


# -- detectors -------------------------------------------------------------------------------------------------


class Scores(nn.Module):
    """The layout of SSD's heads."""

    def __init__(self, anchors, columns):
        super().__init__()
        self.module_list = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Conv2d(3, a * columns, 1)) for a in anchors)
        self.num_columns = columns


class Logits(nn.Module):
    """The layout of RetinaNet's and FCOS's heads."""

    def __init__(self, anchors, classes):
        super().__init__()
        self.cls_logits = nn.Conv2d(3, anchors * classes, 3)
        self.num_anchors, self.num_classes = anchors, classes


class Head(nn.Module):
    def __init__(self, classification, regression):
        super().__init__()
        self.classification_head, self.regression_head = classification, regression


class Predictor(nn.Module):
    """The layout of Faster R-CNN's head."""

    def __init__(self, classes):
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(5, classes), nn.Linear(5, 4 * classes)


def by_hand(old, rows, anchors, per=1):
    """Row by row: (anchor, class, one of `per`) in its new place has the values of its old one."""
    names, named = "_ABC", "_DCEA"
    before, after = len(names), len(named)
    for anchor in range(anchors):
        for place, name in enumerate(named):
            for k in range(per):
                row = rows[(anchor * after + place) * per + k]
                if name in names:
                    assert torch.equal(row, old[(anchor * before + names.index(name)) * per + k])
                else:
                    assert not (old == row).flatten(1).all(1).any() if row.dim() else row not in old


def test_dense_heads_have_rows_for_each_anchor():
    model = Head(Logits(3, 4), Logits(3, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = reclass(model, ["A", "B", "C"], ["D", "C", "E", "A"])
    own = model.classification_head
    assert own.cls_logits.out_channels == 15
    assert own.num_classes == 5
    by_hand(before["classification_head.cls_logits.weight"], own.cls_logits.weight.detach(), 3)
    bias, old = own.cls_logits.bias.detach().view(3, 5), before["classification_head.cls_logits.bias"].view(3, 4)
    assert torch.equal(bias[:, [0, 2, 4]], old[:, [0, 3, 1]])
    torch.testing.assert_close(bias[:, [1, 3]], torch.full((3, 2), -log(0.99 / 0.01)))
    assert own.cls_logits.weight.view(3, 5, -1)[:, [1, 3]].std().item() == pytest.approx(0.01, rel=0.3)
    assert report.background
    assert report.layers == ("classification_head.cls_logits",)
    assert torch.equal(model.regression_head.cls_logits.weight, before["regression_head.cls_logits.weight"])
    assert model.regression_head.num_classes == 4


def test_the_heads_of_ssd_change_on_each_map_and_boxes_stay():
    model = Head(Scores((2, 3), 4), Scores((2, 3), 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reclass(model, ["A", "B", "C"], ["D", "C", "E", "A"])
    for place, anchors in enumerate((2, 3)):
        rows = model.classification_head.module_list[place][1].weight.detach()
        by_hand(before[f"classification_head.module_list.{place}.1.weight"], rows, anchors)
    assert (model.classification_head.num_columns, model.regression_head.num_columns) == (5, 4)
    assert model.regression_head.module_list[0][1].out_channels == 8


def test_faster_rcnn_keeps_the_background_and_four_rows_of_boxes_for_each_class():
    model = nn.ModuleDict({"box_predictor": Predictor(4)})
    old = (
        model["box_predictor"].cls_score.weight.detach().clone(),
        model["box_predictor"].bbox_pred.weight.detach().clone(),
    )
    report = reclass(model, ["A", "B", "C"], ["D", "C", "E", "A"])
    by_hand(old[0], model["box_predictor"].cls_score.weight.detach(), 1)
    by_hand(old[1], model["box_predictor"].bbox_pred.weight.detach(), 1, per=4)
    assert report.background
    assert "labels begin at 1" in str(report)


def test_names_that_cover_the_background_keep_it_in_front():
    model = nn.ModuleDict({"box_predictor": Predictor(4)})
    old = model["box_predictor"].cls_score.weight.detach().clone()
    with pytest.raises(SurgeryError, match=r"background and stays, but it was '_' and would be 'A'"):
        reclass(model, list("_ABC"), list("A_C"))
    assert not reclass(model, list("_ABC"), list("_CA")).background
    assert torch.equal(model["box_predictor"].cls_score.weight, old[[0, 3, 1]])
    with pytest.raises(SurgeryError, match="one row more for the background"):
        reclass(model, list("ABCDE"), list("A"))


def detect(model, batch):
    """What a detector answers is a list."""
    return Output(None, model(batch["x"]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ssdlite320_mobilenet_v3_large", {}),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", {"min_size": 64, "max_size": 96}),
        ("retinanet_resnet50_fpn", {"min_size": 64, "max_size": 96}),
        ("fcos_resnet50_fpn", {"min_size": 64, "max_size": 96}),
    ],
)
def test_detectors_of_torchvision_keep_the_scores_of_kept_classes_and_train_on(name, options):
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    detection = torchvision().models.detection
    model = vars(detection)[name](weights=None, weights_backbone=None, num_classes=4, **options)
    x = {"x": [torch.rand(3, 64, 64), torch.rand(3, 64, 80)]}
    parts = [(part.name, part.classes) for part in class_parts(model)]
    report = reclass(model, ["A", "B", "C"], ["D", "C", "E", "A"], x, objective=detect)
    assert report.moved < 1e-5
    assert [(part.name, part.classes) for part in class_parts(model)] == [(name, 5) for name, _ in parts]
    boxes = torch.tensor([[5.0, 5, 40, 40]])
    targets = [{"boxes": boxes, "labels": torch.tensor([4])} for _ in range(2)]
    losses = model.train()(x["x"], targets)
    assert all(loss.isfinite() for loss in losses.values())
