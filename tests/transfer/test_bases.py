"""A base has a head for other classes, features and answers, and is changed by none of them but the first."""

import pytest
import torch
from torch import nn
from transfer.opened import alike, needs_timm, needs_torchvision, rows, sgd, weights_of

from everlearn import Learner, classify
from everlearn.methods import Naive
from everlearn.streams import Experience
from everlearn.transfer import ImagePreprocessing, open_base

# -- heads


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "width"), [("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("vit_b_32(image_size=32)", 768)]
)
def test_any_classifier_has_features_and_takes_other_classes(name, width):
    base = open_base(f"torchvision:{name}", preprocessing={"resize": 32, "crop": (32, 32)})
    features = base.features(rows())
    assert features.column("x").shape == (6, width)
    assert torch.equal(features.column("y"), rows().column("y"))
    assert base.replace_head(["ant", "bee", "wasp"]) == ()
    logits = base.logits(rows().take(torch.arange(2)))
    assert logits.shape == (2, 3)
    assert not logits.requires_grad
    base.classes = ("ant", "bee", "wasp")
    assert base.replace_head(["wasp", "fly", "ant", "moth"]) == ("wasp", "ant")
    again = base.logits(rows().take(torch.arange(2)))
    assert torch.allclose(again[:, [0, 2]], logits[:, [2, 0]], atol=1e-6)


@needs_timm
def test_a_head_of_convolutions_is_replaced_in_place():
    base = open_base("timm:test_resnet", classes=["a", "b"])
    assert base.module.num_classes == 2
    assert base.logits({"x": torch.zeros(1, 3, 40, 40, dtype=torch.uint8)}).shape == (1, 2)


def test_rows_of_a_head_depend_on_the_seed_alone_and_kept_ones_stay_bit_for_bit(net):
    base, other = open_base(net, classes=["a", "b"]), open_base(net, classes=["a", "b"])
    assert torch.equal(base.module.head.weight, other.module.head.weight)
    assert not torch.equal(base.module.head.weight, open_base(net, classes=["a", "b"], seed=1).module.head.weight)
    base.module.head.weight.requires_grad_(requires_grad=False)
    before = base.module.head.weight.clone()
    assert base.replace_head(["b", "c"]) == ("b",)
    assert torch.equal(base.module.head.weight[0], before[1])
    assert not base.module.head.weight.requires_grad
    assert (base.module.head.out_features, base.classes) == (2, ("b", "c"))
    with pytest.raises(ValueError, match="comes twice"):
        base.replace_head(["a", "a"])
    with pytest.raises(ValueError, match="at least one class"):
        base.replace_head([])


@needs_torchvision
def test_a_detector_says_where_its_head_is_replaced():
    base = open_base("torchvision:ssdlite320_mobilenet_v3_large(num_classes=3)")
    assert (base.kind, base.head, base.input_size) == ("detection", None, None)
    with pytest.raises(ValueError, match=r"everlearn.transfer.surgery"):
        base.replace_head(["a"])
    with pytest.raises(ValueError, match="no one layer that gives an output for each class"):
        base.features(rows())


def test_a_head_is_named_or_refused_with_the_nearest_names(net):
    assert open_base(net, head_name="conv").head == "conv"
    with pytest.raises(ValueError, match=r"no layer 'heat'; the nearest are 'head'"):
        open_base(net, head_name="heat")
    with pytest.raises(ValueError, match=r"is a Sequential; its rows can be replaced in an nn.Linear"):
        open_base(net, head_name="pool").replace_head(["a"])


@needs_timm
def test_two_heads_of_distillation_are_not_taken_for_one():
    base = open_base("timm:deit_tiny_distilled_patch16_224(depth=1)")
    assert base.head is None
    with pytest.raises(ValueError, match="open it with head_name="):
        base.replace_head(["a"])


# -- learning


def test_a_module_is_a_base_and_learns_from_raw_images(net):
    module = open_base(net).module
    base = open_base(
        module, classes=["a", "b"], preprocessing=ImagePreprocessing(12, (8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    )
    assert base.module is module
    assert base.objective is classify
    learner = Learner(module, Naive(), optimizer=sgd, view=base.view(["flip"]), batch_size=3)
    learner.learn(Experience(0, rows(), rows(), (0, 1)))
    assert torch.equal(learner.predict(rows().take(torch.arange(6))), base.logits(rows().take(torch.arange(6))))


def test_asking_changes_nothing(net):
    base = open_base(net)
    base.module.train()
    before = weights_of(base.module)
    base.preprocessing = ImagePreprocessing()
    base.features(rows(), batch_size=4)
    base.logits(rows().take(torch.arange(2)))
    assert base.module.training
    assert alike(base.module, before)
    with pytest.raises(ValueError, match="no rows"):
        base.features(rows(0))


def test_features_are_what_goes_into_the_head(net):
    base = open_base(net, preprocessing=ImagePreprocessing())
    x = base.features(rows(), batch_size=4).column("x")
    logits = base.logits(rows().take(torch.arange(6)))
    assert torch.allclose(nn.functional.linear(x, base.module.head.weight, base.module.head.bias), logits, atol=1e-6)


def test_opening_and_asking_leave_the_modes_and_layout_of_a_module(net):
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    module = module.to(memory_format=torch.channels_last).eval()
    before = weights_of(module)
    base = open_base(module, preprocessing={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    base.features(rows())
    base.logits(rows().take(torch.arange(2)))
    assert not any(part.training for part in module.modules())
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert alike(module, before)
