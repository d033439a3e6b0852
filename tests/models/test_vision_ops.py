"""torchvision with and without its compiled operators."""

import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch

from everlearn.models import vision_ops
from everlearn.models.vision_ops import nms, roi_align, torchvision

needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")


def some_boxes(count, size=40.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * size
    return torch.cat([corners.min(1).values, corners.max(1).values], 1)


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


def suppressed_by_hand(boxes, scores, threshold):
    order = sorted(range(len(boxes)), key=lambda row: (-scores[row], row))
    kept = []
    for row in order:
        if all(overlap(boxes[row], boxes[other]) <= threshold for other in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_nms_keeps_what_brute_force_keeps(count, threshold):
    boxes = some_boxes(count).double()
    scores = torch.rand(count, generator=torch.Generator().manual_seed(1)).round(decimals=1)  # with ties
    assert nms(boxes, scores, threshold).tolist() == suppressed_by_hand(boxes.tolist(), scores.tolist(), threshold)


def test_boxes_without_an_area_suppress_nothing():
    boxes = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2]])
    assert nms(boxes, torch.tensor([3.0, 2.0, 1.0]), 0.5).tolist() == [0, 1, 2]


def read(image, y, x):
    """What an image (height, width) is at a point, as the compiled operator defines it."""
    height, width = len(image), len(image[0])
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    low, left = int(y), int(x)
    high, right = min(low + 1, height - 1), min(left + 1, width - 1)
    v, h = y - low, x - left
    top = image[low][left] * (1 - h) + image[low][right] * h
    return top * (1 - v) + (image[high][left] * (1 - h) + image[high][right] * h) * v


def aligned_by_hand(image, box, size, scale, ratio, aligned):  # noqa: PLR0917
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (each * scale - offset for each in box)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    down, across = (ratio, ratio) if ratio > 0 else (-int(-height / size[0] // 1), -int(-width / size[1] // 1))
    bins = torch.zeros(size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            values = [
                read(
                    image,
                    y1 + (i + (a + 0.5) / down) * height / size[0],
                    x1 + (j + (b + 0.5) / across) * width / size[1],
                )
                for a in range(down)
                for b in range(across)
            ]
            bins[i, j] = sum(values) / max(1, len(values))
    return bins


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [2, -1])
def test_roi_align_is_the_mean_of_bilinear_readings(ratio, aligned):
    features = torch.randn(2, 1, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = some_boxes(6, 26.0) - 4  # some of them reach out of the image
    boxes[0, 2:] = boxes[0, :2]
    rois = torch.cat([torch.tensor([[0.0], [1], [1], [0], [1], [0]]), boxes], 1).double()
    made = roi_align(features, rois, (3, 2), 0.5, ratio, aligned)
    for roi, bins in zip(rois, made, strict=True):
        image = features[int(roi[0]), 0].tolist()
        assert torch.allclose(bins[0], aligned_by_hand(image, roi[1:].tolist(), (3, 2), 0.5, ratio, aligned), atol=1e-9)


@needs_torchvision
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [2, -1])
def test_roi_align_and_its_gradient_are_those_of_torchvision_slow_way(ratio, aligned):
    torchvision()
    slow = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__
    boxes = some_boxes(30, 18.0) + torch.tensor([0.0, 0, 1, 1])  # inside: the slow way reads on beyond the border
    rois = torch.cat([torch.arange(30.0).view(-1, 1) % 2, boxes], 1)
    features = torch.randn(2, 4, 20, 22, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours, theirs = (
        roi_align(features, rois, (5, 4), 1.0, ratio, aligned),
        slow(features, rois, 1.0, 5, 4, ratio, aligned),
    )
    assert torch.allclose(ours, theirs, atol=1e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((made * weight).sum(), features)[0] for made in (ours, theirs)]
    assert torch.allclose(*gradients, atol=5e-5)


def test_roi_align_takes_a_list_of_boxes_none_and_half_precision():
    features = torch.randn(2, 3, 8, 8)
    boxes = [torch.tensor([[0.0, 0, 4, 4]]), torch.zeros(0, 4)]
    one = roi_align(features, boxes, 2, sampling_ratio=2)
    assert torch.equal(one, roi_align(features, torch.tensor([[0.0, 0, 0, 4, 4]]), (2, 2), sampling_ratio=2))
    assert roi_align(features, [torch.zeros(0, 4)] * 2, 2).shape == (0, 3, 2, 2)
    assert roi_align(features.bfloat16(), [each.bfloat16() for each in boxes], 2).dtype == torch.bfloat16


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "side"), [("ssdlite320_mobilenet_v3_large", 96), ("fasterrcnn_mobilenet_v3_large_320_fpn", 64)]
)
def test_a_detector_trains_a_step_and_infers(name, side):
    torch.manual_seed(0)
    small = {"min_size": side, "max_size": side} if "rcnn" in name else {}
    net = torchvision().models.get_model(name, weights=None, weights_backbone=None, num_classes=3, **small)
    images = [torch.rand(3, side, side), torch.rand(3, side, side)]
    targets = [{"boxes": torch.tensor([[10.0, 10, 50, 60]]), "labels": torch.tensor([1])}] * 2
    before = {key: value.clone() for key, value in net.named_parameters()}
    loss = sum(net(images, targets).values())
    loss.backward()
    torch.optim.SGD(net.parameters(), lr=1e-3).step()
    assert loss.isfinite()
    assert any(not torch.equal(value, before[key]) for key, value in net.named_parameters())
    net.eval()
    with torch.no_grad():
        found = net(images)
    assert all(each["boxes"].shape[1] == 4 and each["boxes"].isfinite().all() for each in found)


def fake(*, has_ops):
    """A torchvision that notes what is put into it."""
    module = ModuleType("torchvision")
    module.extension = SimpleNamespace(_has_ops=lambda: has_ops)
    module.ops = SimpleNamespace(roi_align="theirs")
    return module


def test_an_installation_that_has_its_operators_is_left_as_it_is(monkeypatch):
    healthy = fake(has_ops=True)
    monkeypatch.setitem(sys.modules, "torchvision", healthy)
    monkeypatch.setattr(vision_ops, "_declare", lambda: pytest.fail("operators were declared"))
    monkeypatch.setattr(vision_ops, "_mend", lambda _vision: pytest.fail("operators were replaced"))
    assert torchvision() is healthy
    assert healthy.ops.roi_align == "theirs"


def test_without_torchvision_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"pip install 'everlearn\[vision\]'"):
        torchvision()


@needs_torchvision
def test_asking_again_registers_nothing_twice():
    torchvision()
    libraries = list(vision_ops._LIBRARIES)
    torchvision()
    assert libraries == vision_ops._LIBRARIES


def test_hosts_can_be_imported_beside_a_torchvision_without_operators():
    for host in ("huggingface", "lightning"):
        done = subprocess.run(
            [sys.executable, "-c", f"import everlearn.hosts.{host}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
