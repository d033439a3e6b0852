"""Bases: opened by name, file or module, with what their makers say of their input and classes."""

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from everlearn import Learner, classify
from everlearn.data import Columns
from everlearn.methods import Naive
from everlearn.models import LoadError, load_weights, save_weights
from everlearn.streams import Experience
from everlearn.transfer import ImagePreprocessing, TextPreprocessing, open_base
from everlearn.transfer.vision_ops import torchvision

needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
DATA = os.environ.get("EVERLEARN_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="EVERLEARN_DATA names no folder with the data for measuring")
TINY = "hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16"
VIT = f"hf:vit({TINY}, image_size=16, patch_size=8)"
BERT = f"hf:bert({TINY}, vocab_size=12)"

NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, outputs=4, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 5, 3, 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(5, outputs)
    def forward(self, x):
        return self.head(self.pool(self.conv(x).relu()))
"""


@pytest.fixture
def net(tmp_path):
    """The text that names a user's own net."""
    (tmp_path / "own.py").write_text(NET)
    return f"{tmp_path}/own.py:Net"


def rows(count=6, side=20, classes=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, 3, side, side + 4), dtype=torch.uint8, generator=generator)
    return Columns(x=x, y=torch.arange(count) % classes)


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def alike(module, state):
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


# -- by name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "cannot read the base 'resnet18'; expected torchvision:NAME, timm:NAME, hf:NAME, FILE.py:NAME"),
        ("torchvison:resnet18", "did you mean torchvision:resnet18?"),
        ("torchvision:", "expected torchvision:NAME"),
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
        "import sys, everlearn.transfer; print(sorted({'torchvision', 'timm', 'transformers', 'PIL'} & {*sys.modules}))"
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


# -- transformers


@needs_transformers
def test_an_image_model_of_transformers_learns_and_is_saved(tmp_path):
    base = open_base(VIT, classes=["ant", "bee"])
    assert base.preprocessing == ImagePreprocessing((16, 16), None, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert base.features(rows()).column("x").shape == (6, 16)
    learner = Learner(base.module, Naive(), objective=base.objective, optimizer=sgd, view=base.view(), batch_size=3)
    learner.learn(Experience(0, rows(), rows(), (0, 1)))
    assert base.module.config.id2label == {0: "ant", 1: "bee"}
    base.save(tmp_path / "vit.safetensors")
    again = open_base(str(tmp_path / "vit.safetensors"))
    batch = rows().take(torch.arange(3))
    assert torch.equal(again.logits(batch), base.logits(batch))
    assert (again.classes, again.preprocessing) == (base.classes, base.preprocessing)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a text model and its tokenizer, as `save_pretrained` writes it."""
    open_base(VIT)  # so that transformers is imported in the one right way
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = [padding := "[PAD]", unknown := "[UNK]", "good", "bad", "film", "book", "the"]
    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=padding, unk_token=unknown, model_max_length=5)
    base = open_base(BERT, classes=["negative", "positive"])
    folder = tmp_path_factory.mktemp("bert")
    base.module.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder, base.module.state_dict()


TEXTS = ["the good film", "bad", "the book the book the book", "unknown words"]


@needs_transformers
def test_a_text_model_of_transformers_comes_with_its_tokenizer_its_weights_and_its_labels(bert):
    folder, state = bert
    base = open_base(f"hf:{folder}")
    assert alike(base.module, state)
    assert (base.kind, base.classes, base.weights) == ("text", ("negative", "positive"), str(folder))
    assert (base.report.coverage, base.report.head) == (1, "'classifier', loaded")
    seen = base.view()({"text": TEXTS, "y": torch.tensor([1, 0, 0, 0])})
    assert seen["input_ids"].tolist() == [[6, 2, 4, 0, 0], [3, 0, 0, 0, 0], [6, 5, 6, 5, 6], [1, 1, 0, 0, 0]]
    assert seen["attention_mask"].sum(1).tolist() == [3, 1, 5, 2]
    assert "text" not in seen
    assert torch.equal(seen["y"], torch.tensor([1, 0, 0, 0]))


@needs_transformers
def test_a_text_learns_and_is_answered_alike_alone_and_in_company(bert, tmp_path):
    base = open_base(f"hf:{bert[0]}")
    texts = Columns(text=TEXTS, y=torch.tensor([1, 0, 0, 1]))
    learner = Learner(base.module, Naive(), objective=base.objective, optimizer=sgd, view=base.view(), batch_size=2)
    learner.learn(Experience(0, texts, texts, (0, 1)))
    together = base.logits({"text": TEXTS})
    alone = torch.cat([base.logits({"text": [text]}) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-5)
    features = base.features(texts)
    assert features.column("x").shape == (4, 16)
    base.save(tmp_path / "bert.safetensors")
    again = open_base(str(tmp_path / "bert.safetensors"))  # the folder is not needed any more
    assert torch.equal(again.logits({"text": TEXTS}), together)
    assert again.preprocessing == base.preprocessing


@needs_transformers
def test_a_folder_with_a_body_alone_has_a_new_head_and_the_report_says_so(bert, tmp_path):
    state = {name: value for name, value in bert[1].items() if not name.startswith("classifier")}
    for file in bert[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    base = open_base(f"hf:{tmp_path}")
    assert (base.report.head, base.report.coverage, base.classes) == ("'classifier', left as it is", 1, None)
    save_file({"other": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoadError, match="fills too little"):
        open_base(f"hf:{tmp_path}")


@needs_transformers
def test_texts_without_a_tokenizer_say_what_is_missing(bert):
    base = open_base(BERT)
    assert base.preprocessing is None
    with pytest.raises(ValueError, match="open it with preprocessing="):
        base.view()
    with pytest.raises(ValueError, match="cannot be read"):
        TextPreprocessing("{}", 8).view()({"text": ["a"]})
    with pytest.raises(ValueError, match="no list of texts 'text'; it has the columns"):
        open_base(f"hf:{bert[0]}").view()({"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="texts have no augmentations"):
        open_base(f"hf:{bert[0]}").view(["flip"])


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


def test_loading_by_a_base_is_loading(net, tmp_path):
    save_weights(open_base(net, seed=4).module, tmp_path / "w.pth")
    module = open_base(net).module
    report = load_weights(module, tmp_path / "w.pth")
    assert open_base(net, tmp_path / "w.pth").report == report
