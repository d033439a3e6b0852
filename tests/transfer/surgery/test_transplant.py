"""Weights come over by name and shape, each by a policy that is named, or all of it is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn.models import MLP, Net, ResNet18, snapshot
from everlearn.transfer.surgery import SurgeryError, transplant


class Patches(nn.Module):
    def __init__(self, tokens, patch, width=6, classes=2):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width))
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.head = nn.Linear(width, classes)


def kinds(report):
    return {row.target: row.policy for row in report.rows}


def test_the_same_architecture_comes_over_exactly_whatever_stands_before_its_names():
    source, target = ResNet18(4, width=4), ResNet18(4, width=4)
    report = transplant({f"module._orig_mod.{name}": value for name, value in source.state_dict().items()}, target)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())
    assert set(kinds(report).values()) == {"exact"}
    assert report.coverage == 1
    assert report.unused == ()


def test_parameters_stay_the_same_objects_with_their_flags_modes_and_layout():
    target = ResNet18(4, width=8).to(memory_format=torch.channels_last).to(torch.bfloat16).eval()
    target.head.requires_grad_(False)
    before = dict(target.named_parameters())
    transplant(ResNet18(4, width=4), target)
    assert all(weight is before[name] for name, weight in target.named_parameters())
    assert not target.head.weight.requires_grad
    assert not target.training
    assert target.features[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_smaller_tensor_becomes_the_corner_and_the_rest_stays():
    source, target = MLP(4, (3, 3), 2), MLP(4, (5, 3), 2)
    before = snapshot(target)
    report = transplant(source, target)
    assert kinds(report)["features.1.weight"] == "pad"
    assert torch.equal(target.features[1].weight[:3], source.features[1].weight)
    assert torch.equal(target.features[1].weight[3:], before["features.1.weight"][3:])
    assert torch.equal(target.features[3].weight[:, :3], source.features[3].weight)
    assert torch.equal(target.features[3].weight[:, 3:], before["features.3.weight"][:, 3:])
    taken = 3 * 4 + 3 + 3 * 3 + 3 + 2 * 3 + 2
    assert report.coverage == pytest.approx(taken / sum(w.numel() for w in target.parameters()))


def test_a_larger_tensor_gives_its_leading_part_and_both_can_meet():
    source, target = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 9)), nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 9))
    report = transplant(source, target)
    assert kinds(report) == {"0.weight": "slice, pad", "0.bias": "pad", "1.weight": "skip", "1.bias": "exact"}
    assert torch.equal(target[0].weight[:3], source[0].weight[:, :2])
    assert kinds(transplant(source, target, adapt=("slice",)))["0.weight"] == "skip"


def test_a_head_of_other_classes_is_left_alone_unless_asked_for():
    source, target = MLP(4, (3,), 5), MLP(4, (3,), 2)
    before = target.head.weight.detach().clone()
    report = transplant(source, target)
    assert torch.equal(target.head.weight, before)
    assert "see reclass" in next(row.why for row in report.rows if row.target == "head.weight")
    transplant(source, target, policies={"head.*": "slice"})
    assert torch.equal(target.head.weight, source.head.weight[:2])


def test_position_embeddings_are_a_grid_behind_their_first_tokens():
    source, target = Patches(1 + 4 * 4, 4), Patches(1 + 8 * 8, 4)
    assert kinds(transplant(source, target))["pos_embed"] == "interpolate"
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    grid = source.pos_embed[0, 1:].detach().view(4, 4, 6).permute(2, 0, 1)[None]
    wide = F.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False, antialias=True)
    torch.testing.assert_close(target.pos_embed[0, 1:].detach(), wide[0].permute(1, 2, 0).reshape(64, 6))
    with torch.no_grad():
        source.pos_embed[:, 1:] = torch.arange(6.0)
    transplant(source, target)
    torch.testing.assert_close(target.pos_embed[0, 1:].detach(), torch.arange(6.0).expand(64, 6))


def test_position_embeddings_in_a_row_are_interpolated_along_it():
    source, target = nn.Module(), nn.Module()
    source.pos = nn.Parameter(torch.arange(10.0)[:, None].expand(10, 3).clone())
    target.pos = nn.Parameter(torch.zeros(20, 3))
    assert kinds(transplant(source, target)) == {"pos": "interpolate"}
    assert (target.pos.diff(dim=0) >= 0).all()
    assert target.pos.mean().item() == pytest.approx(4.5)


def test_a_kernel_of_another_size_keeps_its_sum():
    """So that an even image is answered as before."""
    source, target = Patches(17, 4), Patches(17, 8)
    with torch.no_grad():
        source.patch.weight.copy_(torch.rand(6, 3, 1, 1).expand(6, 3, 4, 4))
    assert kinds(transplant(source, target))["patch.weight"] == "interpolate"
    even = torch.ones(1, 3, 8, 8)
    torch.testing.assert_close(target.patch(even)[0, :, 0, 0], source.patch(even)[0, :, 0, 0])


def test_what_has_another_name_is_matched_by_order_and_shape_if_asked():
    source = Net(4, 3, 12)
    target = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1))
    assert set(kinds(transplant(source, target)).values()) == {"skip"}
    report = transplant(source, target, order=True)
    assert set(kinds(report).values()) == {"exact"}
    assert torch.equal(target[2].weight, source.features[3].weight)
    assert report.unused == ("head.weight", "head.bias")


def test_a_policy_that_cannot_be_met_and_a_nan_write_nothing():
    source, target = MLP(4, (3, 3), 2), MLP(4, (5, 3), 2)
    before = snapshot(target)
    with pytest.raises(SurgeryError, match=r"'features.1.weight' 5x4 cannot be made from .* 3x4 by 'slice'"):
        transplant(source, target, policies={"features.*": "slice"})
    with torch.no_grad():
        source.head.bias[1] = torch.nan
    with pytest.raises(SurgeryError, match=r"'head\.bias', for 'head\.bias', holds NaN"):
        transplant(source, target)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_pattern_can_leave_tensors_out_and_tied_ones_are_filled_once():
    source, target = MLP(4, (4, 4), 2), MLP(4, (4, 4), 2)
    target.features[3].weight = target.features[1].weight
    report = transplant(source, target, policies={"head.*": "skip"})
    rows = {row.target: row for row in report.rows}
    assert rows["head.weight"].why == "as asked"
    assert rows["features.3.weight"].why == "tied to features.1.weight"
    assert torch.equal(target.features[3].weight, source.features[1].weight)


def test_the_report_is_a_table():
    lines = str(transplant(MLP(4, (3,), 5), MLP(4, (6,), 2))).splitlines()
    assert lines[0].split() == ["target", "source", "policy", "shape", "source's"]
    assert "features.1.weight  features.1.weight  pad     6x4    3x4" in lines[1]
    assert lines[-1].endswith("filled: 2 pad, 2 skip; 2 unused")
