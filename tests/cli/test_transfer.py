"""everlearn transfer: a base, data, rows without labels; and learning on from what came out."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from cli.test_resume import ENVIRONMENT
from PIL import Image
from safetensors.torch import load_file
from workspace.inputs import COLOURS, photos, words

from everlearn.models import read_classes


@pytest.fixture(scope="module")
def dusk(shop, tmp_path_factory):
    """The animals of `test-photos` in another light: without labels in one folder, and with labels to be tested on."""
    folder, random = tmp_path_factory.mktemp("dusk"), np.random.default_rng(1)
    for animal in ("ant", "zebra"):
        colour = tuple(channel // 2 + 30 for channel in COLOURS[animal])
        photos(folder / "test" / animal, random, colour=colour)
        photos(folder / "made" / animal, random, colour=colour)
    (folder / "loose").mkdir()
    for place, path in enumerate(sorted((folder / "made").rglob("*.png"))):
        Image.open(path).save(folder / "loose" / f"{place}.png")
    return folder


@pytest.fixture
def asked(shop, tmp_path):
    return {
        "base": shop.model("Photo"),
        "weights": shop / "photo.safetensors",
        "data": shop / "new-photos",
        "epochs": 6,
        "batch_size": 8,
        "optimizer": "sgd:lr=0.05,momentum=0.9",
        "threads": 1,
        "out": tmp_path / "made" / "tuned.pth",
    }


@pytest.fixture
def transfer(everlearn, asked):
    def run(**changes):
        return everlearn("transfer", *words(asked | changes))

    return run


def scores(folder, run):
    return json.loads((folder / "report.json").read_text())["runs"][run]["matrix"]


def test_a_base_gets_a_head_for_the_classes_of_the_data_and_learns_them(transfer, shop, tmp_path):
    said = transfer(strategy="finetune", holdout=0.25)
    assert (said.code, said.err) == (0, "")
    assert "new classes: ant, zebra" in said.out
    assert "old data" not in said.out
    made = tmp_path / "made" / "tuned"
    assert read_classes(made / "tuned.safetensors") == ("ant", "zebra")
    assert scores(made, "naive")[-1][-1] == 1
    assert load_file(made / "tuned.safetensors")["head.weight"].shape == (2, 32)


def test_what_came_out_says_what_it_is_and_learning_goes_on_from_it(transfer, everlearn, shop, tmp_path):
    assert transfer(strategy="finetune").code == 0
    tuned = tmp_path / "made" / "tuned" / "tuned.safetensors"
    base = {"base": shop.model("Photo"), "weights": tuned}
    said = everlearn("evaluate", *words(base | {"data": shop / "new-photos", "threads": 1}))
    assert said.code == 0, said.err
    assert re.search(r"all +100\.0 +16 +16", said.out)
    more = base | {"data": shop / "photos", "old": shop / "new-photos", "epochs": 6, "threads": 1}
    said = everlearn("learn", *words(more | {"batch_size": 8, "out": tmp_path / "more.pth"}))
    assert said.code == 0, said.err
    assert "new classes: cat, dog" in said.out
    assert read_classes(tmp_path / "more" / "more.safetensors") == ("ant", "zebra", "cat", "dog")
    assert all(score == 1 for score in scores(tmp_path / "more", "er")[-1])


@pytest.mark.parametrize("strategy", ["probe", "lpft", "l2sp", "gradual", "surgical", "bss", "delta", "lora"])
def test_each_strategy_tunes_and_what_it_leaves_is_the_model_alone(strategy, transfer, everlearn, shop, tmp_path):
    said = transfer(strategy=strategy, optimizer=None, test=[shop / "new-photos"], epochs=60)
    assert said.code == 0, said.err
    tuned = tmp_path / "made" / "tuned" / "tuned.safetensors"
    base = {"base": shop.model("Photo"), "weights": tuned, "data": shop / "new-photos", "threads": 1}
    said = everlearn("evaluate", *words(base))
    report = json.loads((tmp_path / "made" / "tuned" / "report.json").read_text())
    (kept,) = report["runs"].values()
    right = re.search(r"all +[\d.]+ +(\d+) +16", said.out)
    assert int(right[1]) == round(16 * kept["matrix"][-1][-1]) > 8


def test_without_a_strategy_the_amount_of_data_speaks_and_says_why(transfer):
    said = transfer(strategy=None)
    assert said.code == 0, said.err
    assert re.search(r"strategy +probe: so few rows", said.out)


def test_rows_without_labels_are_adapted_to_beside_the_labelled_ones_and_the_control_is_shown(
    transfer, shop, dusk, tmp_path
):
    tests = [shop / "new-photos", dusk / "test"]
    said = transfer(strategy="mcc", unlabelled=dusk / "loose", test=tests, compare=True)
    assert said.code == 0, said.err
    table = json.loads((tmp_path / "made" / "tuned" / "report.json").read_text())
    assert set(table["runs"]) == {"mcc", "fine-tuning"}
    assert len(scores(tmp_path / "made" / "tuned", "mcc")) == 3
    assert re.search(r"1: new-photos +16", said.out)
    assert re.search(r"2: loose +16", said.out)


def test_labels_of_rows_that_are_given_as_unlabelled_are_not_looked_at(transfer, shop, dusk, tmp_path):
    weights = []
    for place, folder in enumerate(("loose", "made")):
        out = tmp_path / f"{place}.pth"
        assert transfer(strategy="coral:trade_off=10", unlabelled=dusk / folder, out=out).code == 0
        weights.append(torch.load(out, weights_only=True))
    assert all(weights[0][name].shape == weights[1][name].shape for name in weights[0])
    report = json.loads((tmp_path / "1" / "report.json").read_text())
    assert report["runs"]["coral"]["matrix"][-1][-1] is None  # there is nothing to be tested on


def test_a_part_that_is_frozen_is_the_same_afterwards_bit_for_bit(transfer, shop, tmp_path):
    assert transfer(strategy="finetune", freeze="body").code == 0
    before, after = load_file(shop / "photo.safetensors"), load_file(tmp_path / "made" / "tuned" / "tuned.safetensors")
    assert torch.equal(before["body.0.weight"], after["body.0.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_killed_and_resumed_it_ends_with_the_same_weights(asked, shop, dusk, tmp_path, everlearn):
    job = asked | {"strategy": "dann", "unlabelled": dusk / "loose", "epochs": 40, "checkpoint_steps": 3}
    assert everlearn("transfer", *words(job | {"out": tmp_path / "whole.pth"})).code == 0
    broken = job | {"out": tmp_path / "broken.pth"}
    program = subprocess.Popen(
        [sys.executable, "-m", "everlearn", "transfer", *words(broken)], env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    folder = tmp_path / "broken" / "checkpoints" / "dann"
    deadline = time.monotonic() + 100
    while not any(folder.glob("*")) and program.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.4)
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    assert everlearn("resume", tmp_path / "broken").code == 0
    ends = [torch.load(tmp_path / name, weights_only=True) for name in ("whole.pth", "broken.pth")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "finetun"}, r"no strategy 'finetun' \(did you mean 'finetune'\?\)"),
        ({"base": "torchvision:mobilnet_v2", "weights": "none"}, "mobilenet_v2"),
        ({"base": "nowhere.py:Net"}, r"no file .*nowhere.py"),
        ({"freeze": "bodi.*"}, "bodi"),
        ({"freeze": "body,head"}, "nothing"),
        ({"base": None}, "--base must be given"),
        ({"classes": "ant,bee"}, "classes that --classes does not name: zebra"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(changes, message, transfer, tmp_path):
    said = transfer(**changes)
    assert said.code == 2
    assert re.search(message, said.err.replace("\n", " ")), said.err
    assert not (tmp_path / "made").exists()


def test_one_class_is_nothing_to_learn(transfer, shop, tmp_path):
    photos(tmp_path / "one" / "ant", np.random.default_rng(0))
    said = transfer(data=tmp_path / "one")
    assert said.code == 2
    assert "one class, ant" in said.err


def test_classes_of_the_tests_that_no_labelled_row_has_are_refused(transfer, shop):
    said = transfer(test=[shop / "test-photos"])
    assert said.code == 2
    assert re.search(r"classes that --data has not: cat, dog", said.err.replace("\n", " "))


def test_weights_of_another_architecture_are_refused_with_a_report(transfer, shop):
    said = transfer(weights=shop / "deployed.pth")
    assert said.code == 2
    assert "architecture" in said.err


def test_a_domain_that_is_missing_is_named(transfer, tmp_path):
    said = transfer(strategy="dann", unlabelled=tmp_path / "nowhere")
    assert said.code == 2
    assert "nowhere" in said.err


def test_adaptation_without_rows_to_adapt_to_is_refused(transfer):
    said = transfer(strategy="dann")
    assert said.code == 2
    assert "--unlabelled" in said.err
