"""Weights in files: what is refused, what is loaded, and that the report tells."""

import io
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from everlearn.models import LoadError, load_weights, read_classes, read_weights, save_weights
from everlearn.models.reading import NESTS


class Small(nn.Module):
    """A net with a convolution, batch norm, and a head."""

    def __init__(self, outputs=3, seed=0):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, outputs)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.state_dict().values():
                if value.is_floating_point():
                    value.copy_(torch.rand(value.shape, generator=generator))

    def forward(self, x):
        return self.head(F.relu(self.bn(self.conv(x))).mean((2, 3)))


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    """A function that writes any content with torch.save, and gives the path."""

    def save(content, name="weights.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


# -- reading


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.th", "w.ckpt", "w.bin", "w.safetensors"])
def test_what_was_saved_is_read_bit_for_bit(tmp_path, name):
    model = Small()
    save_weights(model, tmp_path / name)
    weights = read_weights(tmp_path / name)
    assert weights.keys() == model.state_dict().keys()
    assert same(model, weights)
    assert not any(value.requires_grad for value in weights.values())


@pytest.mark.parametrize("nest", NESTS)
def test_the_state_dict_is_found_inside_a_checkpoint(saved, nest):
    state = Small().state_dict()
    assert same(Small(), read_weights(saved({nest: state, "epoch": 3, "optimizer": {"lr": 0.1}})))
    assert same(Small(), read_weights(saved({"model": {nest: state}})))


def test_of_several_state_dicts_the_first_of_the_documented_order_is_taken(saved):
    first, second = Small(seed=1), Small(seed=2)
    path = saved({"ema": second.state_dict(), "model": first.state_dict()})
    assert same(first, read_weights(path))
    path = saved({"model": {"config": 3}, "ema": second.state_dict()})
    assert same(second, read_weights(path))


def test_a_state_dict_under_an_unknown_name_is_pointed_at(saved):
    with pytest.raises(LoadError, match=r"no tensors.*pass the mapping under 'teacher' itself"):
        read_weights(saved({"teacher": Small().state_dict(), "step": 1}))


def test_the_legacy_format_of_torch_is_read(tmp_path):
    torch.save({"state_dict": Small().state_dict()}, tmp_path / "w.th", _use_new_zipfile_serialization=False)
    assert same(Small(), read_weights(tmp_path / "w.th"))


def test_parameters_are_read_as_plain_tensors(saved):
    weights = read_weights(saved(dict(Small().named_parameters())))
    assert {type(value) for value in weights.values()} == {torch.Tensor}


def test_weights_read_from_safetensors_do_not_change_with_the_file(tmp_path):
    save_file({"a": torch.ones(1000)}, tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    with (tmp_path / "w.safetensors").open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(b"\0" * 4000)
    assert torch.equal(weights["a"], torch.ones(1000))


# -- files that are something else


def test_a_missing_file_is_named_with_the_one_beside_it_that_was_meant(tmp_path, saved):
    saved({"a": torch.ones(1)}, "resnet20.th")
    with pytest.raises(LoadError, match=r"no file .*resnet2O\.th; did you mean 'resnet20.th'"):
        read_weights(tmp_path / "resnet2O.th")
    with pytest.raises(LoadError, match="no file"):
        read_weights(tmp_path / "nowhere" / "w.pth")
    with pytest.raises(LoadError, match="is a folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (os.urandom(2000), "damaged|no weights|no safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (bytes(4096), "damaged|no weights|no safetensors"),
        (b"PK\x03\x04" + bytes(100), "damaged|torch.save"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=reason):
        read_weights(tmp_path / name)


def test_the_error_never_advises_to_load_the_file_unsafely(saved):
    with pytest.raises(LoadError) as caught:
        read_weights(saved(Small()))
    assert "weights_only" not in str(caught.value)
    assert "torch.save(model.state_dict(), path)" in str(caught.value)


def test_a_whole_pickled_model_is_refused_with_the_names_of_its_classes(saved):
    with pytest.raises(LoadError, match=r"Python objects, which would have to run.*'torch.nn.modules"):
        read_weights(saved(nn.Sequential(nn.Linear(2, 2))))


def test_a_number_of_numpy_in_a_checkpoint_is_named(saved):
    import numpy as np

    with pytest.raises(LoadError, match="numpy"):
        read_weights(saved({"state_dict": Small().state_dict(), "accuracy": np.float64(0.9)}))


def test_a_torchscript_archive_is_refused_by_name(tmp_path):
    names = {"w/data.pkl": b"x", "w/constants.pkl": b"x", "w/code/w.py": b"x"}
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    with pytest.raises(LoadError, match="TorchScript"):
        read_weights(tmp_path / "w.pt")


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("word/document.xml", "text")
    with pytest.raises(LoadError, match=r"not one that torch.save writes"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], 3, {}, {"a": 1}, {1: torch.ones(1)}])
def test_content_without_tensors_by_name_is_refused(saved, content):
    with pytest.raises(LoadError, match=r"not tensors by name|has no tensors"):
        read_weights(saved(content))


# -- files made to harm


class Command:
    """An object whose unpickling runs a command of the shell."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_nothing_in_a_file_is_run(tmp_path, name, legacy):
    trap = Command(f"touch {tmp_path}/harm")
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "x": trap},
        tmp_path / name,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(LoadError):
        read_weights(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(trap, protocol=2 if legacy else None))
    with pytest.raises(LoadError):
        read_weights(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_a_tensor_that_repeats_one_number_a_trillion_times_is_refused(saved):
    path = saved({"a": torch.ones(1).expand(10**6, 10**6)})
    assert path.stat().st_size < 2000
    with pytest.raises(LoadError, match=r"'a' .* claims 4000000000000 bytes, but holds 4"):
        read_weights(path)


def test_many_tensors_over_the_same_bytes_are_refused(saved):
    shared = torch.ones(100_000)
    with pytest.raises(LoadError, match="tensors claim"):
        read_weights(saved({str(name): shared for name in range(2000)}))


def test_weights_that_are_tied_a_few_times_are_read(saved):
    shared = torch.ones(1000)
    assert len(read_weights(saved({str(name): shared for name in range(24)}))) == 24


def test_a_meta_tensor_of_petabytes_is_refused(saved):
    with pytest.raises(LoadError, match="without data"):
        read_weights(saved({"a": torch.empty(10**6, 10**9, device="meta")}))


def test_a_sparse_tensor_is_refused(saved):
    with pytest.raises(LoadError, match="sparse"):
        read_weights(saved({"a": torch.eye(3).to_sparse()}))


def rewritten(path, change, **settings):
    """The archive at `path`, with its data.pkl changed."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", **settings) as archive:
        for name, content in entries:
            archive.writestr(name, change(content) if name.endswith("/data.pkl") else content)
    return path


def test_a_file_that_asks_for_a_gigabyte_of_zeros_is_refused_before_it_gets_it(saved):
    asks = b"\x80\x02}X\x01\x00\x00\x00ac__builtin__\nbytearray\n" + b"\x8a\x05" + (10**10).to_bytes(5, "little")
    path = rewritten(saved({"a": torch.ones(1)}), lambda _content: asks + b"\x85Rs.")
    with pytest.raises(LoadError, match="byte arrays"):
        read_weights(path)


@pytest.mark.parametrize("numbers", [torch.zeros(10**6), torch.rand(10**4)])
def test_an_archive_that_inflates_is_refused_whether_it_grows_much_or_not(saved, numbers):
    path = rewritten(saved({"a": numbers}), bytes, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 50_000
    with pytest.raises(LoadError, match="unpacks to more"):
        read_weights(path)


def test_an_archive_whose_entries_overlap_is_refused(saved):
    path = saved({"a": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # the last entry of the directory: claim as much as the tensor has, often
    content[at + 20 : at + 28] = struct.pack("<II", 10**6, 10**6)
    path.write_bytes(content)
    with pytest.raises(LoadError, match=r"unpacks to more|damaged"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["weights/data.pkl", "other/data.pkl", "weights/data/0"])
def test_an_archive_that_two_readers_would_read_differently_is_refused(saved, name):
    path = saved({"a": torch.ones(1)})
    with zipfile.ZipFile(path, "a") as archive:
        assert "weights/data.pkl" in archive.namelist()
        archive.writestr(name, b"N.")
    with pytest.raises(LoadError, match=r"not one that torch\.save writes"):
        read_weights(path)


def test_a_mapping_that_holds_itself_and_nested_lists_end(saved):
    bottom = [0]
    for _ in range(200):
        bottom = [bottom, bottom]
    loop = {"model": {}, "deep": bottom}
    loop["model"]["model"] = loop
    with pytest.raises(LoadError):
        read_weights(saved(loop))


def test_too_many_tensors_are_refused_before_they_are_read(tmp_path):
    header = json.dumps({str(name): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in range(100_001)})
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(LoadError, match="holds 100001 tensors"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".th", ".safetensors"])
def test_a_truncated_file_is_refused_at_any_length(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".th":
        torch.save(Small().state_dict(), path, _use_new_zipfile_serialization=False)
    else:
        save_weights(Small(), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(LoadError):
            read_weights(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pth", ".th", ".safetensors"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    torch.save({"a": torch.ones(3), "b": [1, "x"]}, path, _use_new_zipfile_serialization=suffix == ".pth")
    if suffix == ".safetensors":
        save_weights(nn.Linear(2, 2), path)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in torch.randint(len(whole), (3,), generator=generator).tolist():
            damaged[at] = int(torch.randint(256, (), generator=generator))
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except LoadError:
            refused += 1
    assert refused > 50


def test_importing_the_loader_needs_no_safetensors():
    program = "import sys; sys.modules['safetensors'] = None; import everlearn.models"
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


# -- loading


def test_a_file_of_the_same_model_is_loaded_whole(saved):
    source, model = Small(seed=1), Small(seed=2)
    report = load_weights(model, saved(source.state_dict()))
    assert same(model, source.state_dict())
    assert report.coverage == 1.0
    assert set(report.loaded) == set(source.state_dict())
    assert (report.missing, report.unexpected, report.mismatched, report.converted) == ((), (), (), ())


def test_a_mapping_is_loaded_as_the_file_of_it():
    source, model = Small(seed=1), Small(seed=2)
    report = load_weights(model, {"state_dict": source.state_dict(), "epoch": 3})
    assert same(model, source.state_dict())
    assert report.ignored == ("epoch",)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "module.model.", "module.module.", "model.backbone.", "net.encoder."],
)
def test_prefixes_of_wrappers_are_stripped_in_any_order_and_repeated(prefix):
    source, model = Small(seed=1), Small(seed=2)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    report = load_weights(model, {**state, "loss.weight": torch.ones(3)})
    assert report.prefix == prefix
    assert report.unexpected == ("loss.weight",)
    assert same(model, source.state_dict())


def test_a_prefix_on_a_part_of_the_names_is_stripped_there():
    source, model = Small(seed=1), Small(seed=2)
    state = {name if "head" in name else f"backbone.{name}": value for name, value in source.state_dict().items()}
    assert load_weights(model, state).coverage == 1.0
    assert same(model, source.state_dict())


def test_a_prefix_that_the_model_has_too_is_kept():
    source, model = nn.ModuleDict({"backbone": Small(seed=1)}), nn.ModuleDict({"backbone": Small(seed=2)})
    assert load_weights(model, source.state_dict()).prefix == ""
    assert same(model, source.state_dict())


def test_an_exact_name_goes_before_one_that_loses_its_prefix():
    state = {
        **Small(seed=1).state_dict(),
        **{f"model.{name}": value for name, value in Small(seed=2).state_dict().items()},
    }
    model = Small()
    report = load_weights(model, state)
    assert same(model, Small(seed=1).state_dict())
    assert len(report.unexpected) == 9
    both = {f"module.{name}": value for name, value in Small(seed=1).state_dict().items()} | {
        "conv.bias": torch.zeros(4)
    }
    assert load_weights(model, both).unexpected == ("module.conv.bias",)
    assert torch.equal(model.conv.bias, torch.zeros(4))


def test_a_compiled_model_is_loaded_under_its_bare_names(tmp_path):
    source, model = Small(seed=1), Small(seed=2)
    save_weights(torch.compile(source, backend="eager"), tmp_path / "w.pth")
    assert "conv.weight" in read_weights(tmp_path / "w.pth")
    assert load_weights(torch.compile(model, backend="eager"), tmp_path / "w.pth").prefix == ""
    assert same(model, source.state_dict())


def test_half_precision_becomes_the_precision_of_the_model_and_is_noted():
    source, model = Small(seed=1).half(), Small(seed=2)
    report = load_weights(model, source.state_dict())
    assert model.conv.weight.dtype == torch.float32
    assert torch.equal(model.conv.weight, source.conv.weight.float())
    assert ("conv.weight", torch.float16, torch.float32) in report.converted
    assert "converted: float16 to float32" in str(report)


def test_numbers_of_another_kind_are_refused():
    state = Small().state_dict()
    for wrong in (state["conv.weight"].to(torch.int8), state["conv.weight"].to(torch.complex64)):
        with pytest.raises(LoadError, match=r"'conv.weight' is .* in the file and float32 in the model"):
            load_weights(Small(), {**state, "conv.weight": wrong})


# -- what is refused leaves the model as it was


@pytest.mark.parametrize("head", ["strict", "skip", "grow"])
def test_too_little_coverage_is_refused_with_a_report_and_writes_nothing(head):
    model = Small(seed=2)
    before = copied(model)
    state = {**Small(seed=1).state_dict(), "conv.weight": torch.ones(4, 3, 3, 3)}
    with pytest.raises(LoadError, match=r"nothing was loaded.*\n.*at least 90%") as caught:
        load_weights(model, state, head=head)
    assert caught.value.report.mismatched == (("conv.weight", (4, 3, 3, 3), (4, 1, 3, 3)),)
    assert "conv.weight (saved 4x3x3x3, model 4x1x3x3)" in str(caught.value)
    assert same(model, before)
    assert load_weights(model, state, head=head, coverage=0.2).coverage < 0.5
    assert torch.equal(model.conv.weight, before["conv.weight"])
    assert not torch.equal(model.bn.weight, before["bn.weight"])


def test_a_file_of_which_nothing_fits_is_refused_at_any_coverage():
    with pytest.raises(LoadError, match=r"fills 0.0%"):
        load_weights(Small(), {"other": torch.ones(3)}, coverage=0.0, head="skip")


def test_coverage_counts_numbers_and_not_tensors():
    model = nn.Sequential(nn.Linear(100, 10), nn.Linear(10, 1))
    report = load_weights(model, {"0.weight": torch.ones(10, 100)}, head="skip")
    assert report.coverage == pytest.approx(1000 / 1010)
    assert report.missing == ("0.bias",)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["conv.weight", "bn.running_var", "head.bias"])
def test_a_number_that_is_not_finite_is_refused_by_name(name, value):
    state, model = copied(Small(seed=1)), Small(seed=2)
    before = copied(model)
    state[name].view(-1)[2] = value
    if name == "bn.running_var" and value < 0:
        load_weights(model, state)  # a buffer may be a mask
        return
    with pytest.raises(LoadError, match=rf"'{name}' holds NaN or infinity"):
        load_weights(model, state)
    assert same(model, before)


def test_a_number_that_overflows_the_dtype_of_the_model_is_refused():
    state = copied(Small())
    state["conv.weight"][0] = 1e6
    with pytest.raises(LoadError, match=r"'conv.weight' overflows float16"):
        load_weights(Small().half(), state)


def test_a_model_without_memory_is_refused():
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="to_empty"):
        load_weights(model, {"weight": torch.ones(2, 3), "bias": torch.ones(2)})
    with pytest.raises(ValueError, match="run one batch"):
        load_weights(nn.LazyLinear(2), {"weight": torch.ones(2, 3), "bias": torch.ones(2)})


@pytest.mark.parametrize("settings", [{"head": "shrink"}, {"coverage": 90}])
def test_a_setting_that_means_nothing_is_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        load_weights(Small(), Small().state_dict(), **settings)


# -- what may be missing


def test_counters_of_batches_may_be_missing_but_statistics_are_reported():
    state = copied(Small(seed=1))
    del state["bn.num_batches_tracked"]
    assert load_weights(Small(), state).missing == ()
    del state["bn.running_mean"]
    assert load_weights(Small(), state).missing == ("bn.running_mean",)


def test_tied_weights_may_be_saved_under_one_of_their_names():
    def tied():
        model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
        model["head"].weight = model["embedding"].weight
        return model

    model = tied()
    report = load_weights(model, {"embedding.weight": torch.ones(5, 4)})
    assert report.missing == ()
    assert report.coverage == 1.0
    assert (model["head"].weight == 1).all()
    assert model["head"].weight is model["embedding"].weight


# -- the head


@pytest.mark.parametrize("outputs", [2, 5])
def test_a_head_of_another_size_is_refused_and_the_error_says_how(outputs):
    model = Small(3, seed=2)
    before = copied(model)
    with pytest.raises(LoadError, match=r'does not fill its head \'head\': head="skip".*head="grow"'):
        load_weights(model, Small(outputs, seed=1).state_dict(), coverage=0.0)
    assert same(model, before)


def test_a_file_without_the_head_is_refused_unless_the_head_is_left_as_it_is():
    model, state = Small(seed=2), copied(Small(seed=1))
    state["fc.weight"], state["fc.bias"] = state.pop("head.weight"), state.pop("head.bias")
    for rule in ("strict", "grow"):
        with pytest.raises(LoadError, match="does not fill its head"):
            load_weights(model, state, head=rule, coverage=0.5)
    report = load_weights(model, state, head="skip")
    assert report.unexpected == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("outputs", [2, 3, 5])
def test_skip_leaves_the_head_as_it_is_whatever_the_file_holds(outputs):
    model, source = Small(3, seed=2), Small(outputs, seed=1)
    before = copied(model)
    report = load_weights(model, source.state_dict(), head="skip")
    assert torch.equal(model.head.weight, before["head.weight"])
    assert torch.equal(model.conv.weight, source.conv.weight)
    assert report.coverage == 1.0
    assert report.head == "'head', left as it is"
    assert report.unexpected == ()


def test_grow_gives_the_model_as_many_outputs_as_the_file():
    model, source = Small(3, seed=2), Small(5, seed=1)
    report = load_weights(model, source.state_dict(), head="grow")
    assert model.head.out_features == 5
    assert same(model, source.state_dict())
    assert report.head == "'head', grown from 3 to 5 outputs"
    assert report.coverage == 1.0


def test_grow_keeps_the_rows_that_the_file_does_not_have():
    model, source = Small(5, seed=2), Small(3, seed=1)
    before = copied(model)
    weight = model.head.weight
    report = load_weights(model, source.state_dict(), head="grow")
    assert model.head.weight is weight
    assert torch.equal(weight[:3], source.head.weight)
    assert torch.equal(weight[3:], before["head.weight"][3:])
    assert torch.equal(model.head.bias[:3], source.head.bias)
    assert report.head == "'head', the first 3 of 5 rows loaded"
    assert report.coverage == 1.0


def test_grow_loads_a_head_of_the_same_size_as_it_is():
    model = Small(3, seed=2)
    assert load_weights(model, Small(3, seed=1).state_dict(), head="grow").head == "'head', loaded"
    assert same(model, Small(3, seed=1).state_dict())


@pytest.mark.parametrize(
    "wrong",
    [{"head.weight": torch.ones(5, 7)}, {"head.weight": torch.ones(5, 4), "head.bias": torch.ones(4)}],
)
def test_a_head_that_differs_in_more_than_its_rows_does_not_grow(wrong):
    model = Small(seed=2)
    before = copied(model)
    with pytest.raises(LoadError, match="does not fill its head"):
        load_weights(model, {**Small().state_dict(), **wrong}, head="grow", coverage=0.5)
    assert same(model, before)
    assert model.head.out_features == 3


def test_a_head_that_cannot_grow_leaves_the_model_as_it_was():
    model = nn.ModuleDict(
        {"body": nn.Linear(4, 4), "embedding": nn.Embedding(3, 4), "head": nn.Linear(4, 3, bias=False)}
    )
    model["head"].weight = model["embedding"].weight
    before = copied(model)
    state = {**before, "body.weight": torch.zeros(4, 4), "head.weight": torch.ones(5, 4)}
    with pytest.raises(ValueError, match="shares its weights"):
        load_weights(model, state, head="grow")
    assert same(model, before)


def test_the_head_is_the_layer_that_is_named():
    model = nn.ModuleDict({"head": nn.Linear(4, 3), "projection": nn.Linear(4, 2)})
    state = {**model.state_dict(), "head.weight": torch.ones(6, 4), "head.bias": torch.ones(6)}
    load_weights(model, state, head="grow", head_name="head", coverage=0.0)
    assert model["head"].out_features == 6
    with pytest.raises(ValueError, match="nearest"):
        load_weights(model, state, head_name="haed")


def test_a_model_without_linear_layers_has_no_head_to_miss():
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    report = load_weights(model, {"0.weight": torch.ones(2, 1, 3, 3), "0.bias": torch.ones(2)})
    assert report.head == "the model has none"
    with pytest.raises(ValueError, match=r"no nn.Linear"):
        load_weights(model, model.state_dict(), head="skip")


def test_a_frozen_model_stays_frozen_and_keeps_its_parameters():
    model = Small(seed=2).eval()
    model.requires_grad_(requires_grad=False)
    before = dict(model.named_parameters())
    load_weights(model, Small(seed=1).state_dict())
    assert all(weight is before[name] for name, weight in model.named_parameters())
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not model.training


# -- the report


def test_the_report_says_in_a_few_lines_what_happened_to_everything():
    state = {f"module.{name}": value for name, value in Small(seed=1).half().state_dict().items()}
    del state["module.bn.running_mean"]
    state["module.extra"] = torch.ones(2)
    state["module.bn.bias"] = torch.ones(5)
    report = load_weights(Small(), {"state_dict": state, "best": 0.9, 3: None}, coverage=0.5)
    text = str(report)
    assert len(text.splitlines()) == 8
    for part in (
        "93.7% of the parameters loaded, in 7 tensors",
        "head: 'head', loaded",
        "prefix stripped: 'module.'",
        "converted: float16 to float32",
        "missing (1): 'bn.running_mean'",
        "mismatched (1): 'bn.bias (saved 5, model 4)'",
        "unexpected (1): 'module.extra'",
        "ignored (2): 'best', 'a int'",
    ):
        assert part in text
    rows = report.table()
    assert len(rows) == 7 + 1 + 1 + 1 + 2
    assert ("conv.weight", "loaded", "float16 to float32") in rows
    assert ("bn.bias", "mismatched", "saved 5, model 4") in rows


# -- saving


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    save_weights(Small(seed=1), path)

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_weights(Small(seed=2), path)
    assert [file.name for file in tmp_path.iterdir()] == ["w.pth"]
    assert same(Small(seed=1), read_weights(path))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_name_is_too(tmp_path, monkeypatch, name):
    calls, flush, rename = [], os.fsync, Path.replace

    def watched_flush(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        flush(handle)

    def watched_rename(self, target):
        calls.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watched_flush)
    monkeypatch.setattr(Path, "replace", watched_rename)
    save_weights(Small(), tmp_path / name)
    assert calls == ["file", "rename", "folder"]
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_file_can_be_read_by_others_as_the_mask_of_the_process_allows(tmp_path):
    before = os.umask(0o022)
    try:
        for name in ("w.pth", "w.safetensors"):
            save_weights(Small(), tmp_path / name)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_classes_and_metadata_travel_in_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    names = ("dog", "猫", 'a "b"', "\n")
    save_weights(Small(4), path, classes=names, metadata={"size": "32"})
    assert read_classes(path) == names
    assert "head.weight" in load_file(path)
    save_weights(Small(), path)
    assert read_classes(path) is None


def test_a_file_of_torch_has_no_classes_and_is_not_given_any(tmp_path):
    save_weights(Small(), tmp_path / "w.pth")
    assert read_classes(tmp_path / "w.pth") is None
    with pytest.raises(ValueError, match=r"classes and metadata need \.safetensors"):
        save_weights(Small(), tmp_path / "other.pth", classes=["a"])
    with pytest.raises(LoadError, match="no file"):
        read_classes(tmp_path / "other.pth")


@pytest.mark.parametrize("text", ["{", "[1]", '["a", "a"]', '"ab"', "3", "[" * 100_000])
def test_class_names_that_are_none_are_refused(tmp_path, text):
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata={"classes": text})
    with pytest.raises(LoadError, match="no list of different names"):
        read_classes(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(LoadError, match=r"name it \.pth"):
        read_classes(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_tied_and_channels_last_weights_are_saved_under_each_name(tmp_path, name):
    model = nn.ModuleDict({"a": nn.Conv2d(2, 3, 3), "b": nn.Conv2d(2, 3, 3)}).to(memory_format=torch.channels_last)
    model["b"].weight = model["a"].weight
    save_weights(model, tmp_path / name)
    assert same(model, read_weights(tmp_path / name))
    other = nn.ModuleDict({"a": nn.Conv2d(2, 3, 3), "b": nn.Conv2d(2, 3, 3)})
    load_weights(other, tmp_path / name)
    assert torch.equal(other["b"].weight, model["b"].weight)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    class Stateful(nn.Linear):
        def get_extra_state(self):
            return {"seen": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match="'_extra_state'"):
        save_weights(Stateful(2, 2), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"'w.npz' names no format.*\.safetensors, \.pth"):
        save_weights(Small(), tmp_path / "w.npz")
    with pytest.raises(FileNotFoundError, match="no folder"):
        save_weights(Small(), tmp_path / "no" / "w.pth")
    assert list(tmp_path.iterdir()) == []
    model = Stateful(2, 2)
    load_weights(model, nn.Linear(2, 2).state_dict())  # but it does not stand in the way of loading


# -- files of others


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.more = stride, (after - before) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more)))


class ResNet20(nn.Module):
    """The net of He et al. for CIFAR-10, with shortcuts without parameters."""

    def __init__(self, outputs=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, outputs)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def weights_folder():
    if "EVERLEARN_DATA" not in os.environ:
        pytest.skip("EVERLEARN_DATA names no folder with the data for measuring")
    return Path(os.environ["EVERLEARN_DATA"]) / "weights"


def test_a_published_resnet20_loads_whole(weights_folder):
    model = ResNet20()
    report = load_weights(model, weights_folder / "resnet20-12fca82f.th")
    assert sum(weight.numel() for weight in model.parameters()) == 269_722
    assert report.coverage == 1.0
    assert report.prefix == "module."
    assert report.ignored == ("best_prec1",)
    assert report.missing == report.unexpected == report.mismatched == ()
    grown = ResNet20(100)
    load_weights(grown, weights_folder / "resnet20-12fca82f.th", head="grow")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grown.eval()(x)[:, :10], model.eval()(x))


def test_a_published_mobilenet_in_half_precision_is_read(weights_folder):
    weights = read_weights(weights_folder / "mobilenet_v2_imagenet_fp16.pth")
    assert len(weights) == 314
    assert weights["features.0.0.weight"].dtype == torch.float16
    head = nn.Sequential(OrderedDict(classifier=nn.Sequential(nn.Dropout(), nn.Linear(1280, 1000))))
    report = load_weights(head, weights)
    assert report.coverage == 1.0
    assert len(report.unexpected) == 312
    assert len(report.converted) == 2 or head.classifier[1].bias.dtype == weights["classifier.1.bias"].dtype


def test_a_file_of_another_architecture_is_refused_with_what_it_holds(weights_folder):
    model = ResNet20()
    before = copied(model)
    with pytest.raises(LoadError, match="another architecture"):
        load_weights(model, weights_folder / "fastestdet_coco.pth")
    assert same(model, before)


def test_a_buffer_in_memory_is_not_taken_for_a_path():
    with pytest.raises(TypeError):
        load_weights(Small(), io.BytesIO())
