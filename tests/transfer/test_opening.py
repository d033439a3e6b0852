"""Bases are opened by name, by file or by code, with what their makers say of their input and classes."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transfer.opened import alike, needs_timm, needs_torchvision, needs_transformers, rows, weights_of

from everlearn.models import LoadError, load_weights, save_weights
from everlearn.models.vision_ops import torchvision
from everlearn.transfer import ImagePreprocessing, open_base

DATA = os.environ.get("EVERLEARN_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="EVERLEARN_DATA names no folder with the data for measuring")


# -- by name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "cannot read the base 'resnet18'; expected torchvision:NAME, timm:NAME, hf:NAME, FILE.py:NAME"),
        ("torchvison:resnet18", "did you mean torchvision:resnet18?"),
        ("torchvision:", "expected torchvision:NAME"),
        ("timm:resnet18(in_chans=", "cannot read the base 'timm:resnet18.in_chans='; expected timm:NAME"),
        ("nowhere.py:Net", "there is no file nowhere.py"),
    ],
)
def test_a_base_that_there_is_not_is_refused(name, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        open_base(name)


@needs_torchvision
def test_an_unknown_model_or_setting_is_answered_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"torchvision has no model 'resnet19' .did you mean 'resnet18'"):
        open_base("torchvision:resnet19")
    with pytest.raises(ValueError, match="no weights 'V3' of resnet50; it has IMAGENET1K_V1, IMAGENET1K_V2"):
        open_base("torchvision:resnet50.V3")
    with pytest.raises(ValueError, match=r"cannot be made with \{'widht': 3\}"):
        open_base("torchvision:squeezenet1_1(widht=3)")
    with pytest.raises(ValueError, match="'weights' is no setting of a base: use weights= and classes="):
        open_base("torchvision:squeezenet1_1(weights='DEFAULT')")


@needs_timm
def test_an_unknown_model_of_timm_is_answered_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"timm has no model 'resnet19' .did you mean"):
        open_base("timm:resnet19")
    with pytest.raises(ValueError, match="no weights 'a9' of resnet18; it has a1_in1k"):
        open_base("timm:resnet18.a9")
    with pytest.raises(ValueError, match="'pretrained' is no setting of a base"):
        open_base("timm:resnet18(pretrained=True)")


@needs_transformers
def test_an_unknown_model_of_transformers_is_answered_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"no folder 'bertt' and no type of model of that name .did you mean 'bert'"):
        open_base("hf:bertt")
    with pytest.raises(ValueError, match="is a type of model and has no weights"):
        open_base("hf:bert", "default")


@needs_torchvision
def test_preprocessing_is_that_of_the_weights_that_are_named():
    """Checklist 16: 232 and 256 pixels, of one model, are two preprocessings."""
    newer, older = open_base("torchvision:mobilenet_v2"), open_base("torchvision:mobilenet_v2.IMAGENET1K_V1")
    assert (newer.preprocessing.resize, older.preprocessing.resize) == (232, 256)
    assert newer.input_size == older.input_size == (3, 224, 224)
    assert newer.preprocessing.mean == (0.485, 0.456, 0.406)
    assert (newer.head, newer.classes, newer.weights, newer.licence, newer.report) == ("classifier.1", *[None] * 4)


@needs_timm
def test_preprocessing_of_timm_follows_the_size_and_the_channels_asked_for():
    base = open_base("timm:vit_tiny_patch16_224(img_size=96, in_chans=1, depth=1)")
    assert base.preprocessing == ImagePreprocessing(106, (96, 96), "bicubic", (0.5,), (0.5,), 1)
    assert base.input_size == (1, 96, 96)
    assert base.logits({"x": torch.zeros(2, 1, 100, 100, dtype=torch.uint8)}).shape == (2, 1000)


def test_random_weights_are_a_function_of_the_seed_alone(net):
    one = weights_of(open_base(net, seed=1).module)
    torch.rand(3)
    state = torch.get_rng_state()
    assert alike(open_base(net, seed=1).module, one)
    assert torch.equal(torch.get_rng_state(), state)
    assert not alike(open_base(net, seed=2).module, one)


@needs_transformers
def test_no_setting_and_no_file_makes_transformers_run_code_of_others(tmp_path):
    with pytest.raises(ValueError, match="would run code of others"):
        open_base("hf:nobody/nothing(trust_remote_code=True)")
    path = tmp_path / "evil.safetensors"
    save_file({"w": torch.zeros(1)}, path, {"everlearn.base": json.dumps({"source": "hf:nobody/nothing"})})
    with pytest.raises(LoadError, match="not with which config"):
        open_base(str(path))


def test_no_library_is_imported_before_a_base_asks_for_it():
    program = (
        "import sys, everlearn.transfer as t; [vars(t)[name] for name in t.__all__]; "
        "libraries = {'torchvision', 'timm', 'transformers', 'peft', 'sklearn', 'PIL', 'rich', 'tokenizers'}; "
        "print(sorted(libraries & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- without a network


@needs_torchvision
def test_a_failed_download_of_torchvision_is_one_error_that_says_to_give_a_file(monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("Name or service not known")

    torchvision()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(ValueError, match=r"could not be downloaded .*fetch https://.*and give the file: weights=PATH"):
        open_base("torchvision:squeezenet1_1", "default")


@needs_timm
def test_a_failed_download_of_timm_is_one_error_that_says_to_give_a_file(monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("Name or service not known")

    open_base("timm:test_resnet")
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fail)
    with pytest.raises(ValueError, match=r"could not be downloaded .*fetch model.safetensors of .*weights=PATH"):
        open_base("timm:test_resnet", "default")


@needs_transformers
def test_a_failed_download_of_transformers_is_one_error_that_says_to_give_a_folder(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"could not be downloaded .*save_pretrained\(FOLDER\), then hf:FOLDER"):
        open_base("hf:nobody/nothing")


@needs_torchvision
def test_what_torchvision_downloads_comes_with_its_classes_licence_and_a_report(monkeypatch):
    torch.manual_seed(0)
    entry = torchvision().models.get_model_weights("squeezenet1_1").DEFAULT
    state = open_base("torchvision:squeezenet1_1", seed=9).module.state_dict()
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_args, **_kwargs: state)
    base = open_base("torchvision:squeezenet1_1", "default")
    assert alike(base.module, state)
    assert base.report.coverage == 1
    assert base.weights == "SqueezeNet1_1_Weights.IMAGENET1K_V1 of torchvision"
    assert len(set(base.classes)) == 1000
    own = open_base("torchvision:squeezenet1_1", "default", classes=["goldfish", "newt"])
    assert torch.equal(own.module.classifier[1].weight[0], state["classifier.1.weight"][1])
    torchvision_zoo = import_module("everlearn.transfer.torchvision_zoo")
    assert torchvision_zoo._distinct(["crane", "ant", "crane"]) == ("crane [0]", "ant", "crane [2]")  # bird, machine
    with pytest.raises(ValueError, match="use weights= and classes="):  # B19: torchvision raises something else here
        open_base("torchvision:squeezenet1_1(num_classes=3)", "default")


# -- weights from a file


def test_weights_of_a_file_with_another_number_of_classes_bring_their_head(net, tmp_path):
    saved = open_base(f"{net}(outputs=7)", seed=5).module
    save_weights(saved, tmp_path / "seven.pth")
    base = open_base(net, tmp_path / "seven.pth")
    assert alike(base.module, saved.state_dict())
    assert base.module.head.out_features == 7
    assert base.report.coverage == 1
    assert base.report.head == "'head', loaded"
    assert base.weights == str(tmp_path / "seven.pth")


def test_names_of_classes_come_from_the_file(net, tmp_path):
    save_weights(open_base(net).module, tmp_path / "named.safetensors", ["a", "b", "c", "d"])
    base = open_base(net, tmp_path / "named.safetensors")
    assert base.classes == ("a", "b", "c", "d")
    head = base.module.head.weight.detach().clone()
    assert base.replace_head(["d", "new", "a"]) == ("d", "a")
    assert torch.equal(base.module.head.weight[[0, 2]], head[[3, 0]])


def test_a_checkpoint_of_another_architecture_is_refused_with_a_report_and_nothing_moves(net, tmp_path):
    """Checklist 11, and a head that was resized for the file has its old rows again."""
    save_file({"head.weight": torch.zeros(9, 5), "body.weight": torch.zeros(50, 50)}, tmp_path / "other.safetensors")
    module = open_base(net).module
    before, parameters = weights_of(module), list(module.parameters())
    with pytest.raises(LoadError, match="another architecture") as caught:
        open_base(module, tmp_path / "other.safetensors")
    assert caught.value.report.unexpected == ("body.weight",)
    assert alike(module, before)
    assert all(one is other for one, other in zip(parameters, module.parameters(), strict=True))
    assert module.head.out_features == 4


def test_a_body_without_a_head_asks_for_a_decision(net, tmp_path):
    state = {
        f"module.backbone.{n}": v for n, v in open_base(net, seed=3).module.state_dict().items() if "head" not in n
    }
    torch.save({"state_dict": state}, tmp_path / "body.pth")
    with pytest.raises(LoadError, match='head="skip"'):
        open_base(net, tmp_path / "body.pth")
    base = open_base(net, tmp_path / "body.pth", head="skip", classes=["x", "y"])
    assert torch.equal(base.module.conv.weight, state["module.backbone.conv.weight"])
    assert base.report.prefix == "module.backbone."
    assert base.classes == ("x", "y")


@pytest.mark.parametrize("channels", [1, 4])
def test_input_channels_are_adapted_and_the_report_says_so(net, tmp_path, channels):
    save_weights(open_base(net).module, tmp_path / "w.pth")
    base = open_base(f"{net}(channels={channels})", tmp_path / "w.pth")
    assert [each.how for each in base.report.adapted] == [f"input channels from 3 to {channels}"]
    with pytest.raises(LoadError):
        open_base(f"{net}(channels={channels})", tmp_path / "w.pth", adapt=())


@needs_timm
def test_positions_of_a_vision_transformer_are_those_that_timm_makes(tmp_path):
    small, large = "timm:vit_tiny_patch16_224(img_size=64, depth=1)", "timm:vit_tiny_patch16_224(img_size=96, depth=1)"
    saved = open_base(small, seed=1)
    save_weights(saved.module, tmp_path / "w.pth")
    base = open_base(large, tmp_path / "w.pth")
    import timm

    theirs = timm.create_model("vit_tiny_patch16_224", img_size=96, depth=1)
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(saved.module.state_dict(), theirs))
    x = torch.rand(1, 3, 96, 96)
    assert torch.allclose(base.module.eval()(x), theirs.eval()(x), atol=1e-5)
    assert [each.name for each in base.report.adapted] == ["pos_embed"]
    assert base.report.coverage == 1


@needs_data
@needs_torchvision
def test_the_imagenet_weights_of_mobilenet_load_with_their_own_normalisation():
    path = Path(DATA) / "weights" / "mobilenet_v2_imagenet_fp16.pth"
    base = open_base("torchvision:mobilenet_v2", path, preprocessing={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    assert base.report.coverage == 1
    assert (base.report.missing, base.report.mismatched, base.report.unexpected) == ((), (), ())
    seen = base.view()({"x": torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)})["x"]
    assert (seen.shape, seen.min(), seen.max()) == ((2, 3, 224, 224), -1, 1)


CIFAR_RESNET = """
import torch
from torch import nn
from torch.nn import functional as F
class Block(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.pad, self.stride = (width - before) // 2, stride
    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))).relu()
class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for number, (before, width, stride) in enumerate([(16, 16, 1), (16, 32, 2), (32, 64, 2)], 1):
            blocks = [Block(before, width, stride), Block(width, width, 1), Block(width, width, 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)
    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.linear(x.mean((2, 3)))
"""


@needs_data
def test_the_cifar_resnet_loads_into_a_module_of_the_user(tmp_path):
    (tmp_path / "cifar.py").write_text(CIFAR_RESNET)
    base = open_base(f"{tmp_path}/cifar.py:ResNet20", Path(DATA) / "weights" / "resnet20-12fca82f.th")
    assert (base.report.coverage, base.report.prefix, base.head) == (1, "module.", "linear")
    assert base.report.missing == base.report.unexpected == ()


def test_loading_by_a_base_is_loading(net, tmp_path):
    save_weights(open_base(net, seed=4).module, tmp_path / "w.pth")
    module = open_base(net).module
    report = load_weights(module, tmp_path / "w.pth")
    assert open_base(net, tmp_path / "w.pth").report == report


@pytest.mark.parametrize("code", ["raise RuntimeError('boom')", "def f(:", "import sys; sys.exit(0)"])
def test_code_that_fails_is_an_error_that_says_where_and_leaves_no_module_behind(tmp_path, code):
    (tmp_path / "failing.py").write_text(code)
    with pytest.raises(ValueError, match=r"cannot import .*failing.py for the base: "):
        open_base(f"{tmp_path}/failing.py:Net")
    assert not [name for name in sys.modules if name.startswith("everlearn_model_failing")]


# -- a base is saved whole


@needs_timm
def test_what_is_saved_is_opened_with_all_that_was_known(tmp_path):
    """Checklist 12 and 16: one file with weights, classes and preprocessing; no other settings are asked for."""
    base = open_base("timm:test_vit(img_size=32)", classes=["ant", "bee"], preprocessing={"mean": (0.1, 0.2, 0.3)})
    base.save(tmp_path / "base.safetensors")
    again = open_base(str(tmp_path / "base.safetensors"))
    assert alike(again.module, base.module.state_dict())
    assert (again.source, again.classes, again.head) == (base.source, ("ant", "bee"), "head")
    assert again.preprocessing == base.preprocessing
    assert again.report.coverage == 1
    batch = rows().take(torch.arange(3))
    assert torch.equal(again.logits(batch), base.logits(batch))
    assert again.replace_head(["bee"]) == ("bee",)


def test_a_base_of_the_users_own_code_is_opened_by_naming_the_code(net, tmp_path):
    """A file of weights must not choose which code runs."""
    told = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    base = open_base(net, classes=["a", "b"], preprocessing=told)
    path = tmp_path / "base.safetensors"
    base.save(path)
    with pytest.raises(LoadError, match=r"is made by code, .*open_base"):
        open_base(str(path))
    again = open_base(net, path)
    assert (again.classes, again.preprocessing) == (("a", "b"), base.preprocessing)
    assert alike(again.module, base.module.state_dict())
    into = open_base(type(base.module)(), path)
    assert (into.classes, into.preprocessing) == (("a", "b"), base.preprocessing)


def test_a_file_that_says_nothing_or_nonsense_is_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(LoadError, match="does not say what its weights are of"):
        open_base(str(tmp_path / "plain.safetensors"))
    for number, text in enumerate(["{", "[3]", "7"]):
        path = tmp_path / f"{number}.safetensors"
        save_file({"weight": torch.zeros(1)}, path, {"everlearn.base": text})
        with pytest.raises(LoadError, match=r"what .* says of its model is damaged"):
            open_base(str(path))
    save_file(
        {"w": torch.zeros(1)},
        tmp_path / "p.safetensors",
        {"everlearn.base": json.dumps({"source": "os:system(command='x')"})},
    )
    with pytest.raises(LoadError, match="is made by code"):
        open_base(str(tmp_path / "p.safetensors"))
    with pytest.raises(ValueError, match="holds its own weights"):
        open_base(str(tmp_path / "p.safetensors"), "default")


@needs_torchvision
def test_what_was_not_known_of_a_saved_base_is_not_made_up_when_it_is_opened(tmp_path):
    base = open_base("torchvision:squeezenet1_1")
    base.preprocessing, base.head = None, None
    base.save(tmp_path / "base.safetensors")
    again = open_base(str(tmp_path / "base.safetensors"))
    assert (again.preprocessing, again.head) == (None, None)
    assert again.source == base.source
    beside = open_base("torchvision:squeezenet1_1", tmp_path / "base.safetensors")
    assert beside.preprocessing is not None


def test_a_preprocessing_that_is_damaged_is_told_of_the_file(tmp_path):
    told = {"source": "torchvision:resnet18", "preprocessing": {"kind": "image", "crop": [0, 3]}}
    save_file({"w": torch.zeros(1)}, tmp_path / "d.safetensors", {"everlearn.base": json.dumps(told)})
    with pytest.raises(LoadError, match=r"what .*d.safetensors says of its model is damaged: crop must be"):
        open_base(str(tmp_path / "d.safetensors"))
