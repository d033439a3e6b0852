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

from everlearn.models import MLP, read_classes


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


@pytest.fixture
def in_the_shop(shop, monkeypatch):
    monkeypatch.chdir(shop.folder)


def scores(folder, run):
    return json.loads((folder / "report.json").read_text())["runs"][run]["matrix"]


def test_a_base_gets_a_head_for_the_classes_of_the_data_and_learns_them(transfer, shop, tmp_path):
    said = transfer(strategy="finetune", holdout=0.25)
    assert (said.code, said.err) == (0, "")
    assert re.search(r"new-photos +\d+ rows, classes: ant, zebra", said.out)
    assert "old data" not in said.out
    made = tmp_path / "made" / "tuned"
    assert read_classes(made / "tuned.safetensors") == ("ant", "zebra")
    assert scores(made, "finetune") == [[1]]
    page = (made / "report.html").read_text()
    assert "an average accuracy of 100.0 %" in page
    assert "before" not in page.partition("<h2>Settings")[0]
    assert "Forgetting" not in page.partition("<h2>Settings")[0]
    assert load_file(made / "tuned.safetensors")["head.weight"].shape == (2, 32)


def test_what_came_out_says_what_it_is_and_learning_goes_on_from_it(transfer, everlearn, shop, tmp_path):
    assert transfer(strategy="finetune").code == 0
    tuned = tmp_path / "made" / "tuned" / "tuned.safetensors"
    base = {"base": shop.model("Photo"), "weights": tuned}
    said = everlearn("evaluate", *words(base | {"data": shop / "new-photos", "threads": 1}))
    assert said.code == 0, said.err
    assert re.search(r"all +100\.0 +16 +16", said.out)
    more = base | {"data": shop / "photos", "old": shop / "new-photos", "epochs": 25, "threads": 1}
    said = everlearn("learn", *words(more | {"batch_size": 8, "out": tmp_path / "more.pth"}))
    assert said.code == 0, said.err
    assert "new classes: cat, dog" in said.out
    assert read_classes(tmp_path / "more" / "more.safetensors") == ("ant", "zebra", "cat", "dog")
    assert all(score == 1 for score in scores(tmp_path / "more", "er")[-1])


@pytest.mark.parametrize("strategy", ["probe", "lpft", "l2sp", "gradual", "surgical", "bss", "delta", "lora"])
def test_each_strategy_tunes_and_what_it_leaves_is_the_model_alone(strategy, transfer, everlearn, shop, tmp_path):
    said = transfer(strategy=strategy, optimizer=None, test=[shop / "new-photos"], epochs=30)
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
    said = transfer(strategy="mcc", unlabelled=dusk / "loose", test=tests)
    assert said.code == 0, said.err
    table = json.loads((tmp_path / "made" / "tuned" / "report.json").read_text())
    assert set(table["runs"]) == {"mcc", "control"}
    assert len(scores(tmp_path / "made" / "tuned", "mcc")) == 2
    assert re.search(r"test rows +before +after +control", said.out)
    assert re.search(r"1: new-photos +16", said.out)
    assert re.search(r"2: loose +16 rows without labels, beside 16 with labels", said.out)
    assert re.search(r"2: loose +16 +[\d.]+ +[\d.]+ +[\d.]+", said.out)


def test_labels_of_rows_that_are_given_as_unlabelled_are_not_looked_at(transfer, shop, dusk, tmp_path):
    weights = []
    for place, folder in enumerate(("loose", "made")):
        out = tmp_path / f"{place}.pth"
        assert transfer(strategy="coral:trade_off=10", unlabelled=dusk / folder, out=out).code == 0
        weights.append(torch.load(out, weights_only=True))
    assert all(weights[0][name].shape == weights[1][name].shape for name in weights[0])
    report = json.loads((tmp_path / "1" / "report.json").read_text())
    assert report["runs"]["coral"]["matrix"][-1][-1] is None  # there is nothing to be tested on
    assert re.search(r"In the end, coral has an accuracy of [\d.]+ % on 1: new-photos; there", report["summary"])


def test_a_part_that_is_frozen_is_the_same_afterwards_bit_for_bit(transfer, shop, tmp_path):
    assert transfer(strategy="finetune", freeze="body").code == 0
    before, after = load_file(shop / "photo.safetensors"), load_file(tmp_path / "made" / "tuned" / "tuned.safetensors")
    assert torch.equal(before["body.0.weight"], after["body.0.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_killed_and_resumed_it_ends_with_the_same_weights(asked, shop, dusk, tmp_path, everlearn):
    job = asked | {"strategy": "dann", "unlabelled": dusk / "loose", "epochs": 40, "checkpoint_steps": 3}
    job["no_compare"] = True
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
        ({"strategy": "finetune:rate=1"}, "the strategy finetune has no settings"),
        ({"base": None}, "--base must be given"),
        ({"norm": "adapt"}, "none is; say which by --freeze"),
        ({"freeze": "body", "norm": "recompute"}, "has no batch normalisation whose statistics"),
        ({"strategy": "dann", "method": "dann", "unlabelled": "new-photos"}, "give dann twice"),
        ({"method": "dann"}, "rows without labels, and there are none"),
        ({"strategy": "tent"}, r"no strategy 'tent'"),
        ({"test": ["new-photos"] * 2}, "2 sets of test data were given; expected 1, one for each of --data"),
        ({"data": "nowhere"}, "there is nothing at .*nowhere"),
        ({"classes": "ant,bee"}, "classes that --classes does not name: 'zebra'"),
    ],
)
@pytest.mark.usefixtures("in_the_shop")
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
    assert re.search(r"classes that --data has not: 'cat', 'dog'", said.err.replace("\n", " "))


def test_of_many_classes_that_are_not_known_some_are_named(everlearn, tables, tmp_path):
    many = table(tmp_path / "many.csv", ("area", "rooms", "age", "label"), [(1, 2, 3, f"k{i}") for i in range(300)])
    job = tables | {"base": "everlearn.models:MLP(inputs=3,hidden=(8,),outputs=2)", "out": tmp_path / "made"}
    said = everlearn("transfer", *words({name: job[name] for name in ("base", "data", "out")} | {"test": [many]}))
    assert said.code == 2
    assert re.search(r"'k0', 'k1', 'k2', 'k3', 'k4' and 295 more", said.err.replace("\n", " "))


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


def test_statistics_of_frozen_normalisation_are_computed_anew_at_the_end(everlearn, shop, tmp_path):
    job = {"base": shop.model("Normed"), "data": shop / "old.npz", "freeze": "body", "epochs": 1, "threads": 1}
    asked = {"strategy": "finetune", "test": [shop / "old.npz"]}
    made = {}
    for norm in ("frozen", "recompute"):
        said = everlearn("transfer", *words(job | asked | {"norm": norm, "out": tmp_path / norm}))
        assert said.code == 0, said.err
        assert re.search(r"frozen +240 of 291 parameters", said.out), said.out
        made[norm] = load_file(tmp_path / norm / "model.safetensors")
    x = torch.from_numpy(np.load(shop / "old.npz")["x"])
    seen = x @ made["recompute"]["body.0.weight"].T + made["recompute"]["body.0.bias"]
    assert torch.allclose(made["recompute"]["body.1.running_mean"], seen.mean(0), atol=1e-5)
    assert torch.equal(made["frozen"]["body.1.running_mean"], torch.zeros(16))


def test_what_freezes_is_held_by_a_model_that_learns_on_too(everlearn, shop, tmp_path):
    job = {"model": shop.model(), "weights": shop / "deployed.pth", "old": shop / "old.npz", "data": shop / "first.npz"}
    said = everlearn("learn", *words(job | {"freeze": "body", "epochs": 2, "threads": 1, "out": tmp_path / "on.pth"}))
    assert said.code == 0, said.err
    before, after = (torch.load(path, weights_only=True) for path in (shop / "deployed.pth", tmp_path / "on.pth"))
    assert torch.equal(before["body.0.weight"], after["body.0.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"][:3])


def table(path, columns, rows):
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def points(shift, labels):
    random = np.random.default_rng(7)
    for place in range(40):
        group = place % 2
        values = (random.normal(size=3) + 3 * group + shift).round(3)
        yield [*values, *(["low", "high"][group : group + 1] if labels else ())]


@pytest.fixture
def tables(tmp_path):
    columns = ("area", "rooms", "age")
    return {
        "data": table(tmp_path / "near.csv", (*columns, "label"), points(0, labels=True)),
        "unlabelled": table(tmp_path / "far.csv", columns, points(1, labels=False)),
        "test": [table(tmp_path / name, (*columns, "label"), points(shift, labels=True)) for name, shift in
                 (("near-test.csv", 0), ("far-test.csv", 1))],
    }  # fmt: skip


def test_a_table_without_a_column_of_answers_is_adapted_to(everlearn, tables, tmp_path):
    job = {"base": "everlearn.models:MLP(inputs=3,hidden=(8,),outputs=2)", "strategy": "coral", "threads": 1}
    said = everlearn("transfer", *words(job | tables | {"out": tmp_path / "made"}))
    assert said.code == 0, said.err
    assert re.search(r"2: far +40 rows without labels, beside 40 with labels", said.out)
    report = json.loads((tmp_path / "made" / "report.json").read_text())
    assert len(report["runs"]["coral"]["matrix"]) == 2


def test_without_weights_nothing_is_taken_for_pretrained(everlearn, tables, tmp_path):
    job = {"base": "everlearn.models:MLP(inputs=3,hidden=(8,),outputs=2)", "data": tables["data"], "epochs": 1}
    said = everlearn("transfer", *words(job | {"out": tmp_path / "made", "threads": 1}))
    assert said.code == 0, said.err
    assert re.search(r"strategy +scratch: there are no pretrained weights", said.out)


def test_a_class_of_one_row_is_learned_with_the_others_though_what_is_tried_first_is_odd(everlearn, tables, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))\n"
    )
    rare = tmp_path / "rare.csv"
    rare.write_text(tables["data"].read_text().rstrip() + "\n9.0,9.0,9.0,rare\n")
    job = {"base": f"{tmp_path / 'net.py'}:net", "data": rare, "test": [rare], "epochs": 1, "strategy": "finetune"}
    said = everlearn("transfer", *words(job | {"out": tmp_path / "made", "threads": 1}))
    assert said.code == 0, said.err
    assert "low, high, rare" in said.out or "high, low, rare" in said.out


def test_numbers_are_tuned_to_without_a_strategy_and_a_probe_says_that_they_are_no_classes(everlearn, tmp_path):
    rows = [(*values, sum(values)) for values in points(0, labels=False)]
    prices = table(tmp_path / "prices.csv", ("area", "rooms", "age", "price"), rows)
    torch.save(MLP(3, (8,), 1).state_dict(), tmp_path / "net.pth")
    job = {"base": "everlearn.models:MLP(inputs=3,hidden=(8,),outputs=1)", "weights": tmp_path / "net.pth"}
    job |= {"data": prices, "task": "regression", "target": "price", "epochs": 1, "threads": 1}
    said = everlearn("transfer", *words(job | {"out": tmp_path / "made"}))
    assert said.code == 0, said.err
    assert re.search(r"strategy +finetune: a probe solves for classes, and there are none", said.out)
    for strategy in ("probe", "lpft"):
        said = everlearn("transfer", *words(job | {"strategy": strategy, "out": tmp_path / strategy}))
        assert said.code == 2
        assert f"{strategy} is about classes, and here numbers are predicted" in said.err.replace("\n", " ")


def test_a_file_of_settings_says_the_strategy(everlearn, asked, tmp_path):
    lines = [f'{name} = "{asked[name]}"' for name in ("base", "weights", "data", "optimizer")]
    (tmp_path / "job.toml").write_text("\n".join([*lines, 'strategy = "l2sp"', "epochs = 1", 'out = "tuned"']))
    said = everlearn("transfer", "--config", tmp_path / "job.toml")
    assert said.code == 0, said.err
    assert re.search(r"strategy +l2sp", said.out)


def test_rows_without_labels_are_for_transfer_alone(everlearn, shop, tmp_path):
    (tmp_path / "job.toml").write_text(f'unlabelled = "{shop / "photos"}"')
    job = {"base": shop.model("Photo"), "data": shop / "photos", "out": tmp_path / "made"}
    said = everlearn("learn", "--config", tmp_path / "job.toml", *words(job))
    assert said.code == 2
    assert "everlearn transfer" in said.err


def test_images_of_several_sizes_are_refused_with_the_way_out(transfer, tmp_path):
    random = np.random.default_rng(0)
    for place, animal in enumerate(("ant", "zebra")):
        photos(tmp_path / "zoo" / animal, random, colour=COLOURS[animal], size=8 + place)
    said = transfer(data=tmp_path / "zoo")
    assert said.code == 2
    assert "(--size on the command line)" in said.err
    assert transfer(data=tmp_path / "zoo", size="8", strategy="finetune", epochs=1).code == 0


def test_what_came_out_is_not_to_be_had_without_its_weights(everlearn, shop, tmp_path):
    said = everlearn("evaluate", "--base", shop / "photo.safetensors", "--data", shop / "photos")
    assert said.code == 2
    assert "does not say what its weights are of" in said.err


def test_the_control_of_an_adaptation_says_what_it_is(transfer, dusk):
    said = transfer(strategy="finetune", unlabelled=dusk / "loose", epochs=1)
    assert said.code == 0, said.err
    assert "learns nothing from rows without labels: the control of an adaptation" in said.out


def test_help_does_not_import_torch():
    program = "import sys; sys.argv = ['everlearn', 'transfer', '--help']; from everlearn.cli import main\n"
    program += "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "--unlabelled" in done.stdout
    assert "--old" not in done.stdout
    assert done.stdout.endswith("False\n")


WORDS = {"good": ("great", "lovely", "fine"), "bad": ("awful", "poor", "sad"), "odd": ("strange", "weird", "curious")}


@pytest.fixture
def bert(tmp_path):
    """A folder of a tiny model of texts, and a function that writes tables of them."""
    tokenizers, library = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))  # noqa: S106
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"])
    made.train_from_iterator([f"this film is {word}" for words in WORDS.values() for word in words], trainer)
    fast = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 16}
    library.PreTrainedTokenizerFast(tokenizer_object=made, **fast).save_pretrained(tmp_path / "bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = library.BertConfig(vocab_size=24, max_position_embeddings=16, **sizes)
        library.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "bert")

    def written(name, *labels):
        texts = [(f"this film is {word}", label) for label in labels for word in WORDS[label] for _ in range(6)]
        return table(tmp_path / name, ("text", "label"), texts)

    return written


def test_texts_are_tuned_and_learning_goes_on_from_them(bert, everlearn, tmp_path):
    job = {"epochs": 10, "threads": 1, "optimizer": "adamw:lr=0.01"}
    asked = {"base": f"hf:{tmp_path / 'bert'}", "data": bert("films.csv", "good", "bad"), "strategy": "finetune"}
    said = everlearn("transfer", *words(job | asked | {"out": tmp_path / "tuned"}))
    assert said.code == 0, said.err
    assert scores(tmp_path / "tuned", "finetune") == [[1]]
    more = {"base": tmp_path / "tuned" / "model.safetensors", "data": bert("odd.csv", "odd"), "old": asked["data"]}
    said = everlearn("learn", *words(job | more | {"epochs": 25, "out": tmp_path / "more"}))
    assert said.code == 0, said.err
    assert read_classes(tmp_path / "more" / "model.safetensors") == ("bad", "good", "odd")
    assert min(scores(tmp_path / "more", "er")[-1]) > 0.7
    said = everlearn("evaluate", "--base", tmp_path / "more" / "model.safetensors", "--data", tmp_path / "odd.csv")
    assert re.search(r"all +100\.0 +18 +18", said.out)


def test_texts_are_refused_by_a_model_that_takes_none_and_numbers_by_one_of_texts(bert, everlearn, tables, tmp_path):
    job = {"data": bert("films.csv", "good", "bad"), "features": "text", "out": tmp_path / "made"}
    said = everlearn("transfer", *words(job | {"base": "everlearn.models:MLP(inputs=3,hidden=(8,),outputs=2)"}))
    assert said.code == 2
    assert "texts need a model that takes them, as in --base hf:FOLDER" in said.err
    numbers = {"data": tables["data"], "base": f"hf:{tmp_path / 'bert'}", "out": tmp_path / "made"}
    said = everlearn("transfer", *words(numbers))
    assert said.code == 2
    assert "no column 'text'" in said.err
    for file in (tmp_path / "bert").glob("tokenizer*"):
        file.unlink()
    said = everlearn("transfer", *words(job | {"base": f"hf:{tmp_path / 'bert'}"}))
    assert said.code == 2
    assert "has no tokenizer" in said.err
