"""Weights for another input: positions, patches and channels, and that the report tells."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn.models import LoadError, load_weights
from everlearn.models.adapting import adapted
from everlearn.models.vision_ops import torchvision

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


class Patched(nn.Module):
    """What is of a vision transformer in it: patches, a class token, positions, a head."""

    def __init__(self, grid=4, patch=4, channels=3, before=1, width=6):
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, width, patch, patch)
        self.pos_embed = nn.Parameter(torch.randn(1, before + grid * grid, width))
        self.head = nn.Linear(width, 3)


def positions(saved, own, name="pos_embed"):
    return adapted(name, saved, own, ("positions",), first=False)


def ramp(side, before=0):
    """Positions that say where they are: x and y of a grid from -1 to 1, measured at the middle of each patch."""
    at = (torch.arange(side) * 2 + 1) / side - 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).reshape(1, side * side, 2)
    return torch.cat([torch.full((1, before, 2), 7.0), grid], 1)


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("side", [5, 12, 16])
def test_positions_mean_the_same_place_in_another_grid(before, side):
    value, how = positions(ramp(8, before), torch.zeros(1, before + side * side, 2))
    lead = f"{before}+" if before else ""
    assert how == f"positions from {lead}8x8 to {lead}{side}x{side}"
    assert torch.equal(value[:, :before], ramp(8, before)[:, :before])  # the class token has no place
    inner = (ramp(side, before)[0] - value[0])[before:].reshape(side, side, 2)[2:-2, 2:-2]
    assert inner.abs().max() < 0.04  # bicubic interpolation bends at the border only


def test_positions_that_all_say_the_same_still_do():
    value, _ = positions(torch.full((1, 16, 3), 0.3), torch.zeros(1, 49, 3))
    assert torch.allclose(value, torch.full((1, 49, 3), 0.3), atol=1e-6)


@needs_timm
def test_positions_are_those_that_timm_makes():
    torchvision()
    from timm.layers import resample_abs_pos_embed

    saved = torch.randn(1, 1 + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    value, _ = positions(saved, torch.zeros(1, 1 + 6 * 6, 8))
    assert torch.allclose(value, resample_abs_pos_embed(saved, [6, 6], num_prefix_tokens=1), atol=1e-6)


@needs_timm
def test_patches_are_those_that_timm_makes():
    torchvision()
    from timm.layers.patch_embed import resample_patch_embed

    saved = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for side in (5, 16):
        value, _ = adapted("patch_embed.weight", saved, torch.zeros(5, 3, side, side), ("positions",), first=True)
        assert torch.allclose(value, resample_patch_embed(saved, [side, side]), atol=1e-4)


def test_a_grid_of_two_dimensions_is_interpolated_whichever_side_its_features_are_on():
    saved = torch.randn(1, 5, 4, 4)
    value, how = positions(saved, torch.zeros(1, 5, 6, 8))
    assert (value.shape, how) == ((1, 5, 6, 8), "positions from 4x4 to 6x8")
    other, _ = positions(saved.movedim(1, -1), torch.zeros(1, 6, 8, 5))
    assert torch.equal(other.movedim(-1, 1), value)


def test_a_model_with_a_class_token_takes_positions_without_one_and_keeps_its_own_for_it():
    own = torch.randn(1, 1 + 9, 2)
    value, _ = positions(ramp(3), own)
    assert torch.equal(value, torch.cat([own[:, :1], ramp(3)], 1))
    value, _ = positions(ramp(3, 1), torch.zeros(1, 9, 2))
    assert torch.equal(value, ramp(3))


def test_positions_of_a_text_have_a_length_and_are_never_interpolated():
    saved = torch.randn(1024, 4)  # which is a square number
    value, how = positions(saved, torch.zeros(256, 4), "embeddings.position_embeddings.weight")
    assert torch.equal(value, saved[:256])
    assert how == "the first 256 of 1024 positions"
    assert positions(saved[:256], torch.zeros(1024, 4), "embeddings.position_embeddings.weight") is None
    assert positions(torch.zeros(1, 300, 4), torch.zeros(1, 512, 4)) is None  # no square: positions in time


def test_relative_positions_are_interpolated_where_their_table_is_a_square():
    name = "layers.0.attn.relative_position_bias_table"
    at = torch.linspace(-1, 1, 13)
    saved = torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).reshape(169, 2)
    value, how = positions(saved, torch.zeros(15 * 15, 2), name)
    assert how == "positions from 13x13 to 15x15"
    assert torch.allclose(value.reshape(15, 15, 2).flip(0, 1), -value.reshape(15, 15, 2), atol=1e-6)
    assert positions(torch.zeros(169 + 3, 2), torch.zeros(225 + 3, 2), name) is None  # three of class tokens, behind


@pytest.mark.parametrize("side", [6, 8, 12])
def test_larger_patches_answer_to_a_resized_patch_as_before(side):
    kernels, patch = torch.randn(5, 3, 4, 4), torch.rand(2, 3, 4, 4)
    value, how = adapted("patch_embed.proj.weight", kernels, torch.zeros(5, 3, side, side), ("positions",), first=True)
    larger = F.interpolate(patch, (side, side), mode="bicubic", antialias=True)
    assert torch.allclose(F.conv2d(larger, value), F.conv2d(patch, kernels), atol=1e-4)
    assert how == f"patches from 4x4 to {side}x{side}"


@pytest.mark.parametrize("before", [1, 3, 4])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6, 13])
def test_the_response_to_a_grey_image_is_kept_with_any_number_of_channels(before, after):
    if before == after:
        return
    kernels, grey = torch.randn(8, before, 3, 3), torch.rand(2, 1, 5, 5)
    value, how = adapted("conv1.weight", kernels, torch.zeros(8, after, 3, 3), ("channels",), first=True)
    then = F.conv2d(grey.expand(-1, before, -1, -1), kernels)
    assert torch.allclose(F.conv2d(grey.expand(-1, after, -1, -1), value), then, atol=1e-5)
    assert how == f"input channels from {before} to {after}"


def test_three_channels_to_one_is_their_sum():
    kernels = torch.randn(8, 3, 3, 3)
    value, _ = adapted("conv1.weight", kernels, torch.zeros(8, 1, 3, 3), ("channels",), first=True)
    assert torch.allclose(value, kernels.sum(1, keepdim=True), atol=1e-6)


def test_only_the_first_layer_is_given_other_channels():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3))
    wide = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3))
    with pytest.raises(LoadError, match="another architecture"):
        load_weights(wide, net.state_dict(), adapt=("channels",))


def test_nothing_is_adapted_unasked():
    with pytest.raises(LoadError, match="saved 1x17x6, model 1x37x6"):
        load_weights(Patched(6), Patched(4).state_dict())


def test_every_adaptation_is_named_in_the_report():
    torch.manual_seed(0)
    saved, model = Patched(4, patch=4), Patched(6, patch=8, channels=1)
    report = load_weights(model, saved.state_dict(), adapt=("positions", "channels"))
    told = {each.name: (each.saved, each.own, each.how) for each in report.adapted}
    assert told == {
        "patch_embed.weight": ((6, 3, 4, 4), (6, 1, 8, 8), "input channels from 3 to 1, patches from 4x4 to 8x8"),
        "pos_embed": ((1, 17, 6), (1, 37, 6), "positions from 1+4x4 to 1+6x6"),
    }
    assert report.coverage == 1
    assert report.mismatched == ()
    assert "adapted (2): 'pos_embed (positions from 1+4x4 to 1+6x6)', 'patch_embed.weight (input channels" in str(
        report
    )
    assert ("pos_embed", "adapted", "positions from 1+4x4 to 1+6x6") in report.table()


def test_what_was_not_asked_for_is_not_adapted():
    saved = Patched(4)
    report = load_weights(Patched(6, channels=3), saved.state_dict(), adapt=("positions",))
    assert [each.name for each in report.adapted] == ["pos_embed"]
    with pytest.raises(LoadError, match=r"patch_embed.weight"):
        load_weights(Patched(4, channels=1), saved.state_dict(), adapt=("positions",))
    with pytest.raises(ValueError, match="adapt takes positions and channels, but not 'colour'"):
        load_weights(Patched(), saved.state_dict(), adapt=("colour",))


@pytest.mark.parametrize("count", [4 * 8, 1 + 4 * 8, 300])
def test_positions_without_a_rule_are_refused_and_not_left_untrained_in_silence(count):
    model, saved = Patched(6, width=40), Patched(4, width=40)
    model.pos_embed = nn.Parameter(torch.zeros(1, count, 40))
    with pytest.raises(LoadError, match="has positions 'pos_embed' for which there is no rule"):
        load_weights(model, saved.state_dict(), coverage=0, adapt=("positions",))
    report = load_weights(model, saved.state_dict(), coverage=0, adapt=("channels",))
    assert [each.name for each in report.mismatched] == ["pos_embed"]


def test_a_refused_file_leaves_the_model_as_it_was():
    model = Patched(6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = Patched(4).state_dict() | {"head.weight": torch.zeros(3, 9)}
    with pytest.raises(LoadError, match="does not fill its head"):
        load_weights(model, state, adapt=("positions", "channels"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["student.", "base_model.", "module.encoder_q.", "trunk."])
def test_what_self_supervision_puts_before_names_is_stripped(prefix):
    model, saved = Patched(), Patched()
    report = load_weights(model, {prefix + name: value for name, value in saved.state_dict().items()})
    assert (report.prefix, report.coverage) == (prefix, 1)
    assert torch.equal(model.head.weight, saved.head.weight)
