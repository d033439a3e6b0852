"""What a model's config says about its input: done as torchvision, timm and transformers do it, and kept in JSON."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from everlearn.data.transforms import Normalize
from everlearn.models.vision_ops import torchvision
from everlearn.transfer.preprocessing import (
    ImagePreprocessing,
    TextPreprocessing,
    changed,
    from_plain,
    to_plain,
)

needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def picture(height, width, channels=3):
    """Bytes with slow and quick changes, as photographs have them."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.rand(1, channels, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 200
    return (smooth + 55 * torch.rand(1, channels, height, width, generator=generator)).to(torch.uint8)


def as_pil(image):
    return Image.fromarray(image[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(60, 90), (90, 60), (41, 97), (20, 30), (48, 48)])
def test_resizing_is_that_of_pil_to_one_level_of_a_byte(size, interpolation):
    image = picture(*size)
    made = ImagePreprocessing((32, 40), None, interpolation).fitted(image)
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    theirs = torch.from_numpy(np.array(as_pil(image).resize((40, 32), kind))).permute(2, 0, 1)[None]
    assert made.dtype == torch.uint8
    assert (made.int() - theirs.int()).abs().max() <= 1


@needs_torchvision
@pytest.mark.parametrize("size", [(60, 90), (91, 60), (41, 97), (300, 301), (16, 20)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_view_is_the_transform_of_torchvision(size, interpolation):
    torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    theirs = ImageClassification(crop_size=32, resize_size=37, interpolation=InterpolationMode(interpolation))
    image = picture(*size)
    made = ImagePreprocessing(37, (32, 32), interpolation, *IMAGENET).view()({"x": image})["x"]
    level = 1 / 255 / min(IMAGENET[1])
    assert made.shape == (1, 3, 32, 32)
    assert (made - theirs(as_pil(image))).abs().max() <= level + 1e-5


@needs_torchvision
def test_a_cut_larger_than_the_image_has_black_borders_as_in_torchvision():
    torchvision()
    from torchvision.transforms.functional import center_crop

    for size in ((10, 13), (9, 20), (14, 8)):
        image = picture(*size)
        assert torch.equal(ImagePreprocessing(None, (12, 12)).fitted(image), center_crop(image, [12, 12]))


@needs_timm
@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_tiny_patch16_224", "convnext_tiny.fb_in22k_ft_in1k_384"])
def test_a_view_is_the_transform_of_timm(name):
    torchvision()
    from timm import get_pretrained_cfg
    from timm.data import create_transform, resolve_data_config

    from everlearn.transfer.timm_zoo import _input

    told = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name).to_dict())
    image = picture(260, 300)
    made = _input(told).view()({"x": image})["x"]
    theirs = create_transform(**told)(as_pil(image))
    assert (made - theirs).abs().max() <= 1 / 255 / min(told["std"]) + 1e-5


PROCESSORS = {
    "ViT": {},
    "ConvNext": {"size": {"shortest_edge": 48}},
    "CLIP": {"size": {"shortest_edge": 50}, "crop_size": {"height": 46, "width": 46}},
    "MobileViT": {"size": {"shortest_edge": 50}, "crop_size": {"height": 46, "width": 46}},
    "EfficientNet": {"size": {"height": 40, "width": 44}, "rescale_offset": True, "rescale_factor": 1 / 127.5},
}


@needs_transformers
@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_view_is_the_image_processor_of_transformers(kind):
    torchvision()
    import transformers

    from everlearn.transfer.huggingface_zoo import image_preprocessing

    theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**PROCESSORS[kind])
    told = theirs.to_dict()
    if told.get("resample") == 0:
        told["resample"] = 2
        theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**PROCESSORS[kind], resample=2)
    image = picture(64, 96)
    made = image_preprocessing(told).view()({"x": image})["x"]
    pixels = torch.as_tensor(np.array(theirs(as_pil(image), return_tensors="np")["pixel_values"]))
    std = min(told["image_std"]) if told.get("do_normalize") else 1.0
    assert made.shape == pixels.shape
    assert (made - pixels).abs().max() <= 2.1 * told["rescale_factor"] / std**2


@needs_transformers
def test_a_step_of_a_processor_that_is_not_known_is_named_and_refused():
    from everlearn.transfer.huggingface_zoo import image_preprocessing

    told = {
        "image_processor_type": "Odd",
        "do_resize": True,
        "size": {"longest_edge": 9},
        "do_pad": True,
        "resample": 1,
    }
    with pytest.raises(ValueError, match=r"Odd asks for do_pad, resample=1, size=.*give preprocessing= instead"):
        image_preprocessing(told)


def test_a_view_normalises_after_the_cut_and_leaves_the_batch_alone():
    image = picture(40, 50)
    batch = {"x": image, "y": torch.tensor([1])}
    seen = ImagePreprocessing(None, (8, 8), mean=(0.5,) * 3, std=(0.5,) * 3).view()(batch)
    assert torch.allclose(seen["x"], image[:, :, 16:24, 21:29] / 127.5 - 1, atol=1e-6)
    assert batch["x"] is image
    assert seen["y"] is batch["y"]


def test_rows_of_a_batch_are_seen_as_if_alone():
    images = torch.cat([picture(40, 50), picture(40, 50).flip(-1)])
    view = ImagePreprocessing(20, (16, 16), "bicubic", *IMAGENET).view(["flip", "crop:2"])
    ids = torch.tensor([7, 9])
    both = view({"x": images, "id": ids}, 3)["x"]
    alone = torch.cat([view({"x": images[row : row + 1], "id": ids[row : row + 1]}, 3)["x"] for row in range(2)])
    assert torch.equal(both, alone)
    assert not torch.equal(both, view({"x": images, "id": ids})["x"])  # augmented, so the test can fail


def test_images_of_different_sizes_come_as_a_list():
    view = ImagePreprocessing(20, (16, 16)).view()
    images = [picture(40, 50)[0], picture(30, 21)[0]]
    made = view({"x": images})["x"]
    assert torch.equal(made, torch.cat([view({"x": image[None]})["x"] for image in images]))
    with pytest.raises(ValueError, match=r"images of different sizes need .* crop"):
        ImagePreprocessing(20).view()({"x": images})


def test_grey_images_are_seen_in_all_channels_and_too_many_channels_are_refused():
    grey = picture(8, 8, 1)
    assert torch.equal(ImagePreprocessing().fitted(grey), grey.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="takes images of 1 channels, but these have 3"):
        ImagePreprocessing(channels=1).fitted(picture(8, 8))
    with pytest.raises(ValueError, match=r"shape \(n, channels, height, width\)"):
        ImagePreprocessing().fitted(torch.zeros(3, 8, 8))


def test_floats_are_pixels_in_0_to_1_and_stay_in_it():
    image = (picture(40, 50) > 128).float()
    made = ImagePreprocessing((24, 31), None, "bicubic").fitted(image)
    assert made.dtype == torch.float32
    assert 0 <= made.min() < made.max() <= 1


@pytest.mark.parametrize(
    "preprocessing",
    [
        ImagePreprocessing(256, (224, 224), "bicubic", *IMAGENET),
        ImagePreprocessing((32, 40), order="bgr", channels=3),
        TextPreprocessing('{"a": 1}', 128, 3),
    ],
)
def test_it_survives_json(preprocessing):
    assert from_plain(json.loads(json.dumps(to_plain(preprocessing)))) == preprocessing


def test_what_a_file_may_say_is_checked():
    with pytest.raises(ValueError, match="of the kind image or text, but this one of 'sound'"):
        from_plain({"kind": "sound"})
    with pytest.raises(ValueError, match="has no 'rotate'"):
        from_plain({"kind": "image", "rotate": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": 0}, "resize must be one length"),
        ({"resize": (1, 2, 3)}, "resize must be one length"),
        ({"crop": 224}, r"crop must be \(height, width\)"),
        ({"interpolation": "lanczos"}, "must be one of nearest, bilinear, bicubic, but is 'lanczos'"),
        ({"mean": (0.5,) * 3}, "mean and std go together"),
        ({"mean": (0.5,) * 2, "std": (0.5,) * 2}, "2 means for 3 channels"),
        ({"mean": (0.5,) * 3, "std": (0.0,) * 3}, "std be positive"),
        ({"order": "gbr"}, "must be one of rgb, bgr"),
    ],
)
def test_a_setting_without_a_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImagePreprocessing(**settings)


def test_some_fields_or_all_can_be_replaced():
    own = ImagePreprocessing(256, (224, 224), "bicubic", *IMAGENET)
    half = changed(own, {"mean": [0.5] * 3, "std": [0.5] * 3})
    assert (half.resize, half.mean) == (256, (0.5,) * 3)
    assert half.view().normalize == Normalize((0.5,) * 3, (0.5,) * 3)
    assert changed(own, ImagePreprocessing(8)) == ImagePreprocessing(8)
    assert changed(own, None) is own
    with pytest.raises(ValueError, match="has no 'means'; it has resize, crop"):
        changed(own, {"means": 3})


def test_sizes_are_known_before_any_image_is_seen():
    assert ImagePreprocessing(256, (224, 224)).size == (224, 224)
    assert ImagePreprocessing(256, (224, 224)).load_size == (256, 256)
    assert ImagePreprocessing((30, 40)).size == ImagePreprocessing((30, 40)).load_size == (30, 40)
    assert ImagePreprocessing(256).size is None
    assert ImagePreprocessing().load_size is None


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"kind": "text"}, "needs tokenizer, max_length"),
        ({"kind": "text", "tokenizer": "", "max_length": True}, "max_length must be"),
        ({"kind": "image", "channels": 0}, "channels must be a whole number of at least 1, but is 0"),
        ({"kind": "image", "channels": "3"}, "channels must be"),
        ({"kind": "image", "resize": True}, "resize must be one length"),
    ],
)
def test_what_a_file_leaves_out_or_gets_wrong_is_named(plain, said):
    with pytest.raises(ValueError, match=said):
        from_plain(plain)
