"""Which base to begin with, asked in a terminal."""

import json
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from workspace.inputs import COLOURS, contents, photos

pytest.importorskip("sklearn")


@pytest.fixture
def asked(everlearn, shop):
    """`everlearn choose` between a trained net and one with a batch norm, whose weights are of chance."""

    def run(*more, data="old.npz", bases=("Net", "Normed"), weights=("Net",)):
        named = ",".join(map(shop.model, bases))
        given = [word for name in weights for word in ("--weights", f"{shop.model(name)}={shop / 'deployed.pth'}")]
        return everlearn("choose", "--data", shop / data, "--bases", named, *given, *more)

    return run


def test_bases_are_shown_with_scores_costs_and_a_strategy(asked, shop):
    before = contents(shop.folder)
    said = asked(bases=("Net", "Net(dropout=0.1)"), weights=("Net", "Net(dropout=0.1)"))
    assert (said.code, said.err) == (0, "")
    for word in ("rank", "logme", "h-score", "n-leep", "knn", "ms/row", "parameters", "licence"):
        assert word in said.out
    assert "On 60 of 60 rows of 3 classes" in said.out
    assert f"Begin with {shop.model()}, by lpft with l2sp" in said.out
    assert contents(shop.folder) == before


def test_a_base_sees_rows_as_it_was_trained_on_them(everlearn, shop, tmp_path):
    random = np.random.default_rng(0)
    for animal in ("cat", "dog"):
        photos(tmp_path / "zoo" / animal, random, colour=COLOURS[animal], count=12)
    base, scores = shop.model("Photo"), []
    for more in ((), ("--normalize", f"{base}=0.9,0.9,0.9:0.01,0.02,0.04")):
        given = ("--data", tmp_path / "zoo", "--bases", base, "--weights", f"{base}={shop / 'photo.safetensors'}")
        said = everlearn("choose", *given, *more, "--score", "logme", "--out", tmp_path / f"{len(more)}.json")
        assert (said.code, said.err) == (0, "")
        scores.append(json.loads((tmp_path / f"{len(more)}.json").read_text())["candidates"][0]["scores"]["logme"])
    assert scores[0] != scores[1]
    assert "--normalize" in said.out  # what comes next says it, too


def test_help_does_not_import_torch():
    program = "import sys; sys.argv = ['everlearn', 'choose', '--help']; from everlearn.cli import main\n"
    program += "try: main()\nexcept SystemExit: print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "--bases" in done.stdout
    assert done.stdout.endswith("False False\n")


@pytest.mark.parametrize("suffix", ["json", "svg", "html"])
def test_what_is_written_is_what_its_name_says(asked, tmp_path, suffix):
    out = tmp_path / f"choice.{suffix}"
    said = asked("--out", out, "--rows", "30", "--score", "logme,ridge", bases=("Net",))
    assert (said.code, said.err) == (0, "")
    text = out.read_text()
    if suffix == "json":
        told = json.loads(text)
        assert (told["rows"], told["of"], told["scores"]) == (30, 60, ["logme", "ridge"])
        assert told["candidates"][0]["parameters"] > 0
    elif suffix == "svg":
        assert ET.fromstring(text).tag.endswith("svg")  # noqa: S314 (our own)
    else:
        assert text.startswith("<!doctype html>")
        assert "<svg" in text


def test_images_are_read_at_the_size_that_is_asked_for(everlearn, shop, tmp_path):
    random = np.random.default_rng(0)
    for place, (animal, colour) in enumerate(COLOURS.items()):
        photos(tmp_path / "zoo" / animal, random, colour=colour, size=8 + place)
    base = shop.model("Photo")
    given = ("--data", tmp_path / "zoo", "--bases", base, "--weights", f"{base}={shop / 'photo.safetensors'}")
    unsized = everlearn("choose", *given)
    assert unsized.code == 2
    assert "all images must have one size" in unsized.err
    said = everlearn("choose", *given, "--size", "8", "--ood")
    assert (said.code, said.err) == (0, "")
    assert "On 32 of 32 rows of 4 classes" in said.out
    following = shlex.split(said.out.partition("Next: everlearn ")[2].partition("\n")[0])
    done = everlearn(*following[:-1], tmp_path / "tuned", "--epochs", "1", "--threads", "1")
    assert done.code == 0, done.err


def test_a_file_that_does_not_decode_is_named(everlearn, shop, tmp_path):
    random = np.random.default_rng(0)
    for animal in ("cat", "dog"):
        photos(tmp_path / animal, random, colour=COLOURS[animal], count=60)
    (tmp_path / "cat" / "7.png").write_bytes(b"no image")
    base = shop.model("Photo")
    said = everlearn("choose", "--data", tmp_path, "--bases", base, "--weights", f"{base}={shop / 'photo.safetensors'}")
    assert said.code == 0
    assert re.search(r"left out, because it does not decode: .*7\.png", said.out)


def npz(path, y):
    np.savez(path, x=np.random.default_rng(0).normal(size=(len(y), 12)).astype(np.float32), y=np.array(y))
    return path


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 6, "the 6 labelled rows are of one class"),
        (["a", "a", "b", "c", "c"], "class b has 1 row, but a score needs at least 2 rows of each class"),
    ],
)
def test_rows_that_nothing_can_be_chosen_by_are_refused(asked, tmp_path, labels, message):
    said = asked(data=npz(tmp_path / "rows.npz", labels), bases=("Net",))
    assert said.code == 2
    assert message in said.err


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({}, (), "net.py:Normed has no weights, so its features would be those of chance; give a file: --weights"),
        ({"bases": ("Nett",), "weights": ()}, (), r"has no 'Nett' (did you mean 'Net'?)"),
        ({"bases": ("Net", "Net")}, (), "twice; name each base once"),
        ({"bases": ("Net",), "weights": ("Nett",)}, (), "there is no base"),
        ({"bases": ("Net",)}, ("--weights", "deployed.pth"), "expected BASE=FILE"),
        ({"bases": ("Net",)}, ("--score", "logmee"), "there is no score 'logmee' (did you mean 'logme'?)"),
        ({"bases": ("Net",)}, ("--rows", "5"), "5 rows are fewer than 2 for each of the 3 classes; look at 6 or more"),
        ({"bases": ("Net",)}, ("--out", "choice.txt"), "must end in one of .html, .json, .svg"),
        ({"bases": ("Net",)}, ("--device", "gpu"), "cannot use --device gpu"),
        ({"bases": ("Net",), "data": "photos"}, (), "net.py:Net: "),
        ({"bases": ("Net",), "data": "nowhere"}, (), "there is nothing at"),
    ],
)
def test_bad_input_is_one_message(asked, changes, more, message):
    said = asked(*more, **changes)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert message in said.err.replace("\n", " ")
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvison:resnet18", "did you mean torchvision:resnet18?"),
        ("torchvision:resnet19", "resnet18"),
        ("a,,b", "expected names joined by commas"),
    ],
)
def test_a_base_that_is_not_known_is_refused_with_the_nearest_names(everlearn, shop, name, message):
    if name.startswith("torchvision:"):
        assert find_spec("torchvision") or pytest.skip("torchvision is not installed")
    said = everlearn("choose", "--data", shop / "photos", "--bases", name)
    assert said.code == 2
    assert message in said.err
