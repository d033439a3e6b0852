"""everlearn learn: what goes in, what comes out, and what it says."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from workspace.inputs import contents, photos

from everlearn import checkpoint
from everlearn.models import MLP, read_classes, read_weights, save_weights


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def values(said):
    """The rows of the table at the end, by the name of the experience."""
    rows = re.findall(r"^ (\S.*?) {2,}([\d,–]+) +([\d.–]+) +([\d.–]+)(?: +([\d.–]+))? *$", said.out, re.MULTILINE)  # noqa: RUF001
    return {name: [cell for cell in cells if cell] for name, *cells in rows}


def test_a_run_leaves_the_weights_and_one_folder_with_all_the_rest(learn, tmp_path):
    said = learn()
    assert (said.code, said.err) == (0, "")
    made = tmp_path / "made"
    assert sorted(path.name for path in made.iterdir()) == ["updated", "updated.pth"]
    assert sorted(path.name for path in (made / "updated").iterdir()) == [
        *("checkpoints", "config.json", "lock", "memory.checkpoint", "report.html", "report.json"),
        *("updated.pth", "updated.safetensors"),
    ]
    assert not list(made.rglob(".*"))  # no unfinished files


def test_without_a_suffix_out_is_the_folder_itself(learn, tmp_path):
    assert learn(out=tmp_path / "run").code == 0
    assert {"model.pth", "model.safetensors", "report.html"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_what_it_prints_says_what_went_in_what_came_out_and_where_it_is(learn, tmp_path):
    folder = tmp_path / ("a-very-long-name-" * 8)
    said = learn(out=folder, compare=True, method="er:memory=30,count=16+lwf")
    assert "new classes: 3, 4" in said.out
    report = report_of(folder)
    table = values(said)
    assert set(table) == {"old", "new"}
    for on, (name, (rows, before, after, plain)) in enumerate(table.items()):
        scores = [report["runs"][run]["matrix"] for run in ("er+lwf", "fine-tuning")]
        assert [before, after] == [f"{100 * scores[0][when][on]:.1f}" for when in (0, 1)]
        assert plain == f"{100 * scores[1][1][on]:.1f}"
        assert int(rows) == {"old": 60, "new": 40}[name]
    assert re.search(r"On old data, er\+lwf (lost|gained) .*; fine-tuning lost [\d.]+ points\.", said.out)
    for name in ("model.pth", "model.safetensors", "memory.checkpoint", "report.html"):
        assert f"{folder / name}" in said.out  # in one piece, however long it is


def test_replay_keeps_what_plain_fine_tuning_loses(learn, tmp_path):
    learn(compare=True, epochs=10)
    runs = report_of(tmp_path / "made/updated")["runs"]
    assert list(runs) == ["fine-tuning", "er"]
    assert runs["er"]["average_accuracy"] > 0.85
    assert runs["er"]["forgetting"] < 0.2
    assert runs["fine-tuning"]["forgetting"] > runs["er"]["forgetting"] + 0.3


def test_new_classes_come_behind_the_old_ones_whose_rows_stay_in_place(learn, shop, tmp_path):
    said = learn(
        model=shop.model("Photo"),
        weights=shop / "photo.safetensors",
        data=shop / "new-photos",
        old=shop / "photos",
        test=shop / "test-photos",
        optimizer="sgd:lr=0",  # nothing is learned, so only the growing is seen
    )
    assert said.code == 0
    assert read_classes(tmp_path / "made/updated/updated.safetensors") == ("cat", "dog", "ant", "zebra")
    before, after = read_weights(shop / "photo.safetensors"), read_weights(tmp_path / "made/updated.pth")
    assert after["head.weight"].shape == (4, 32)
    for name, weight in before.items():
        assert torch.equal(after[name][: len(weight)], weight), name


def test_photos_of_new_animals_are_learned_by_their_names(learn, everlearn, shop, tmp_path):
    photo = {"model": shop.model("Photo"), "data": shop / "new-photos", "old": shop / "photos"}
    said = learn(
        **photo, weights=shop / "photo.safetensors", test=shop / "test-photos", augment="flip,crop:1", epochs=15
    )
    assert said.code == 0
    classes = report_of(tmp_path / "made/updated")["runs"]["er"]["scores"]["scores"][-1]["by_class"]
    assert set(classes) == {"ant", "zebra"}
    words = ("--model", shop.model("Photo"), "--weights", tmp_path / "made/updated.pth", "--data", shop / "test-photos")
    asked = everlearn("evaluate", *words)
    assert asked.code == 0  # the names are in the run's folder, beside the .pth
    for animal in ("cat", "dog", "ant", "zebra"):
        assert re.search(rf"^ {animal} +100\.0 +8 +8", asked.out, re.MULTILINE), asked.out


def test_the_same_rows_in_any_format_end_in_the_same_weights(learn, shop, tmp_path):
    with np.load(shop / "first.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    names = [f"f{number}" for number in range(12)]
    rows = [
        dict(zip([*names, "label"], [*map(float, row), int(label)], strict=True))
        for row, label in zip(x, y, strict=True)
    ]
    (tmp_path / "new.csv").write_text(
        "\n".join(",".join(map(str, line)) for line in [rows[0], *(r.values() for r in rows)])
    )
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    weights = []
    for data in (shop / "first.npz", tmp_path / "new.csv", tmp_path / "new.jsonl", tmp_path / "new.parquet"):
        out = tmp_path / f"run-{data.suffix[1:]}"
        assert learn(data=data, method="naive", out=out).code == 0
        weights.append(load_file(out / "model.safetensors"))
    for other in weights[1:]:
        assert checkpoint.same(weights[0], other)


def test_new_samples_of_old_classes_leave_the_head_as_it_is(learn, shop, tmp_path):
    said = learn(data=shop / "more.npz", test=shop / "old.npz")
    assert said.code == 0
    assert "no new classes" in said.out
    assert read_weights(tmp_path / "made/updated.pth")["head.weight"].shape == (3, 16)
    assert values(said)["new"][0] == "40"  # tested on the classes it brings: 0 and 2


def test_several_arrivals_are_learned_one_after_another(learn, shop, tmp_path):
    said = learn(data=[shop / "first.npz", shop / "second.npz"], test=shop / "test-all.npz", compare=True)
    runs = report_of(tmp_path / "made/updated")["runs"]
    for run in runs.values():
        assert run["experiences"] == ["old", "1: first", "2: second"]
        assert [len(row) for row in run["matrix"]] == [3, 3, 3]
        assert run["matrix"][1][2] == 0  # a class that has not come yet
    assert set(values(said)) == {"old", "1: first", "2: second"}
    assert read_classes(tmp_path / "made/updated/updated.safetensors") == tuple("0123456")


def test_one_set_of_tests_is_split_by_class_and_several_are_taken_as_they_come(learn, shop, tmp_path):
    arrivals = [shop / "first.npz", shop / "second.npz"]
    split = learn(data=arrivals, test=shop / "test-all.npz", out=tmp_path / "split")
    assert {name: row[0] for name, row in values(split).items()} == {"old": "60", "1: first": "40", "2: second": "40"}
    several = learn(
        data=arrivals, test=[shop / "more.npz", shop / "first.npz", shop / "test-all.npz"], out=tmp_path / "several"
    )
    assert {name: row[0] for name, row in values(several).items()} == {
        "old": "40",
        "1: first": "40",
        "2: second": "140",
    }


def test_without_test_data_rows_are_held_out_and_never_learned(learn, shop, tmp_path):
    said = learn(test=None, holdout=0.4, method="er:memory=1000")
    assert "held out" in said.out
    report = report_of(tmp_path / "made/updated")
    assert report["facts"]["tests"] == "rows held out of the data"
    tested = sum(int(row[0]) for row in values(said).values())
    kept = report["runs"]["er"]["scores"]["notes"]["1"]["memory_rows"]
    assert tested + kept == 60 + 40  # of old and new, each row is in one or the other
    assert 20 < tested < 60


def test_what_is_held_out_is_the_same_in_every_run(learn, shop, tmp_path):
    for name, seed in {"one": 1, "two": 2}.items():
        learn(test=None, seed=seed, epochs=1, out=tmp_path / name)
    one, two = (report_of(tmp_path / name)["runs"]["er"] for name in ("one", "two"))
    assert one["counts"] == two["counts"]
    assert one["matrix"][0][0] == two["matrix"][0][0]


def test_without_old_data_the_new_is_learned_and_nothing_is_said_of_the_old(learn, tmp_path):
    said = learn(old=None, test=None, method="naive")
    assert said.code == 0
    assert "Nothing was measured on old data" in said.out
    assert report_of(tmp_path / "made/updated")["runs"]["naive"]["matrix"][1][0] is None


def test_the_weights_load_into_a_plain_module_of_torch(learn, shop, tmp_path):
    learn()
    body = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.2))
    plain = nn.ModuleDict({"body": body, "head": nn.Linear(16, 5)})
    state = torch.load(tmp_path / "made/updated.pth", weights_only=True)
    plain.load_state_dict(state)
    assert checkpoint.same(dict(state), load_file(tmp_path / "made/updated/updated.safetensors"))
    assert checkpoint.same(dict(state), read_weights(tmp_path / "made/updated/updated.pth"))


def test_the_next_run_knows_the_classes_from_the_weights(learn, shop, tmp_path):
    photo = {"model": shop.model("Photo"), "test": None, "epochs": 1}
    first = learn(
        **photo, weights=shop / "photo.safetensors", data=shop / "new-photos", old=shop / "photos", out=tmp_path / "one"
    )
    assert first.code == 0
    random = np.random.default_rng(1)
    for animal in ("bee", "dog"):
        photos(tmp_path / "later" / animal, random)
    weights = tmp_path / "one/model.safetensors"
    second = learn(**photo, weights=weights, data=tmp_path / "later", old=None, out=tmp_path / "two")
    assert second.code == 0
    assert read_classes(tmp_path / "two/model.safetensors") == ("cat", "dog", "ant", "zebra", "bee")


def test_the_report_is_one_page_that_needs_nothing_from_outside(learn, tmp_path):
    learn(compare=True)
    page = (tmp_path / "made/updated/report.html").read_text()
    assert "fine-tuning" in page
    links = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            links.extend((tag, value) for name, value in attrs if name in ("src", "href") and not value.startswith("#"))
            assert tag != "script"

    Links().feed(page)
    assert not [link for link in links if link[0] != "a" and not link[1].startswith("data:")]


def test_the_report_has_each_method_with_its_average_its_forgetting_and_the_settings(learn, tmp_path):
    learn(compare=True, method="ewc:lambda=10,rows=30")
    report = report_of(tmp_path / "made/updated")
    for run in report["runs"].values():
        last, first = run["matrix"][1], run["matrix"][0]
        assert run["average_accuracy"] == pytest.approx(sum(last) / 2)
        assert run["forgetting"] == pytest.approx(first[0] - last[0])
        assert run["counts"][1] == [60, 40]
    assert report["facts"]["settings"]["method"] == "ewc:lambda=10,rows=30"
    assert report["facts"]["classes"] == list("01234")
    assert report["facts"]["torch"] == torch.__version__


def test_the_same_command_twice_ends_in_the_same_bits(learn, tmp_path):
    for name in ("one", "two"):
        learn(out=tmp_path / name, method="er:memory=30,count=16+ewc:rows=20+lwf")
    one, two = (checkpoint.load(tmp_path / name / "memory.checkpoint")["state"] for name in ("one", "two"))
    assert checkpoint.same(one, two)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert checkpoint.same(one, two)


def test_files_of_one_name_from_two_days_are_different_rows(learn, shop, tmp_path):
    for day, source in {"monday": "first", "tuesday": "second"}.items():
        (tmp_path / day).mkdir()
        shutil.copy(shop / f"{source}.npz", tmp_path / day / "new.npz")
    test = shop / "test-all.npz"
    learn(data=[tmp_path / "monday/new.npz", tmp_path / "tuesday/new.npz"], test=test, method="er:memory=1000")
    notes = report_of(tmp_path / "made/updated")["runs"]["er"]["scores"]["notes"]
    assert notes["2"]["memory_rows"] == 60 + 40 + 40


def test_rows_with_ids_of_their_own_are_the_same_rows_in_every_file(learn, shop, tmp_path):
    with np.load(shop / "first.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    header = ",".join([*(f"f{n}" for n in range(12)), "label", "id"])
    for name, keep in {"a.csv": slice(0, 40), "b.csv": slice(10, 40)}.items():
        lines = [",".join(map(str, [*map(float, x[n]), y[n], n])) for n in range(40)[keep]]
        (tmp_path / name).write_text("\n".join([header, *lines]))
    learn(data=[tmp_path / "a.csv", tmp_path / "b.csv"], method="er:memory=1000")
    notes = report_of(tmp_path / "made/updated")["runs"]["er"]["scores"]["notes"]
    assert [notes[after]["memory_rows"] for after in ("1", "2")] == [100, 100]


def test_where_nothing_is_tested_nothing_is_claimed(learn, tmp_path):
    said = learn(test=None, holdout=0)
    assert said.code == 0
    assert "before" not in said.out
    assert "Nothing was measured" in said.out
    assert report_of(tmp_path / "made/updated")["runs"]["er"]["average_accuracy"] is None


# -- what an earlier run remembered ----------------------------------------------------------------------------


@pytest.fixture
def handed(learn, shop, tmp_path):
    """A first run, and what a second one is given of it."""
    method = "er:memory=30,count=16+ewc:lambda=1,rows=30"
    assert learn(method=method, out=tmp_path / "one").code == 0
    weights, memory = tmp_path / "one/model.safetensors", tmp_path / "one/memory.checkpoint"
    later = {"data": shop / "second.npz", "old": None, "test": shop / "test-all.npz"}
    return {"weights": weights, "memory": memory, "method": method, **later}


def inherited(folder):
    """The state of the method before the first step: a growing head stands before it."""
    first = min(folder.glob("checkpoints/*/*.checkpoint"))
    return checkpoint.load(first)["learner"]["method"]


def test_the_same_method_takes_over_all_that_it_knew(learn, handed, tmp_path):
    assert learn(**handed, out=tmp_path / "two", checkpoint_steps=0).code == 0
    before = checkpoint.load(handed["memory"])["state"]
    after = inherited(tmp_path / "two")
    assert checkpoint.same(before, {"0": after["1"], "1": after["2"]})
    old = report_of(tmp_path / "two")["runs"]["er+ewc"]["matrix"]
    assert old[1][0] > 0.6  # it replays rows that no one gave it again


@pytest.mark.parametrize("change", [{"method": "er:memory=40,count=16"}, {"seed": 5}, {"memory_on_disk": True}])
def test_another_method_takes_over_the_rows(learn, handed, change, tmp_path):
    assert learn(**(handed | change), out=tmp_path / "two", checkpoint_steps=0).code == 0
    notes = report_of(tmp_path / "two")["runs"]
    state = checkpoint.load(tmp_path / "two/memory.checkpoint")
    memory = state["state"]["0"]["memory"] if "+" in state["method"] else state["state"]["memory"]
    assert memory["seen"] > 30 + 40  # the rows that were kept, and the new ones once for each epoch
    (run,) = notes.values()
    assert run["matrix"][1][0] > 0.6


def test_a_memory_on_disk_is_handed_on_and_left_as_it_is(learn, shop, tmp_path):
    on_disk = {"method": "er:memory=30,count=16", "memory_on_disk": True}
    assert learn(**on_disk, out=tmp_path / "one").code == 0
    before = contents(tmp_path / "one")
    assert [name for name in before if name.startswith("memory/")]
    handed = {"weights": tmp_path / "one/model.safetensors", "memory": tmp_path / "one/memory.checkpoint"}
    handed |= {"data": shop / "second.npz", "old": None, "test": shop / "test-all.npz"}
    for name, disk in {"two": True, "three": False}.items():
        more = {"memory_on_disk": True} if disk else {}
        said = learn(**handed, method="er:memory=30,count=16", out=tmp_path / name, **more)
        assert said.code == 0, said.err
        assert report_of(tmp_path / name)["runs"]["er"]["matrix"][1][0] > 0.6
    assert contents(tmp_path / "one") == before


def test_a_memory_on_disk_and_one_in_ram_keep_the_same_rows_and_end_in_the_same_weights(learn, tmp_path):
    learn(out=tmp_path / "ram")
    learn(out=tmp_path / "disk", memory_on_disk=True)
    ram, disk = (load_file(tmp_path / name / "model.safetensors") for name in ("ram", "disk"))
    assert checkpoint.same(ram, disk)


# -- regression ------------------------------------------------------------------------------------------------


def test_regression_learns_numbers_and_reports_errors(learn, everlearn, shop, tmp_path):
    prices = {"task": "regression", "target": "price", "model": shop.model("Price"), "weights": shop / "price.pth"}
    said = learn(**prices, data=shop / "new-prices.csv", old=shop / "prices.csv", test=None, compare=True, epochs=40)
    assert (said.code, said.err) == (0, "")
    runs = report_of(tmp_path / "made/updated")["runs"]
    before, after = (runs["fine-tuning"]["matrix"][when] for when in (0, 1))
    assert before[1] > 1  # of age times three it knew nothing
    assert after[1] < 0.1 * before[1]
    assert runs["er"]["average_error"] == pytest.approx(sum(runs["er"]["matrix"][1]) / 2)
    assert "mean squared error" in said.out
    weights = ("--weights", tmp_path / "made/updated.pth", "--data", shop / "prices.csv")
    asked = everlearn("evaluate", *weights, "--model", shop.model("Price"), "--task", "regression", "--target", "price")
    assert re.search(r"mean squared error [\d.]+ on 60 rows", asked.out)


# -- settings --------------------------------------------------------------------------------------------------


def test_a_toml_file_holds_all_settings_beside_itself_and_flags_win(everlearn, shop, tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    for name in ("net.py", "deployed.pth", "first.npz", "old.npz", "test.npz"):
        shutil.copy(shop / name, folder)
    (folder / "job.toml").write_text(
        'model = "net.py:Net"\nweights = "deployed.pth"\ndata = "first.npz"\nold = "old.npz"\ntest = ["test.npz"]\n'
        'out = "run"\nmethod = "er:memory=30"\nepochs = 7\nbatch-size = 16\nclip = 1\ncompare = true\n'
    )
    said = everlearn(
        "learn", "--config", folder / "job.toml", "--epochs", 2, "--no-compare", "--out", tmp_path / "mine"
    )
    assert said.code == 0, said.err
    settings = report_of(tmp_path / "mine")["facts"]["settings"]
    assert [settings[name] for name in ("epochs", "batch_size", "clip", "compare")] == [2, 16, 1.0, False]
    assert settings["weights"] == str(folder / "deployed.pth")
    assert not (folder / "run").exists()


def test_modules_beside_the_file_of_the_model_can_be_imported(learn, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "beside_the_model.py").write_text("WIDTH = 16\n")
    (tmp_path / "uses.py").write_text(
        "from torch import nn\nfrom beside_the_model import WIDTH\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Linear(12, WIDTH), nn.ReLU())\n"
        "        self.head = nn.Linear(WIDTH, 3)\n\n"
        "    def forward(self, x):\n        return self.head(self.body(x))\n"
    )
    assert learn(model=f"{tmp_path / 'uses.py'}:Net").code == 0


def test_a_model_of_an_installed_package_is_named_by_its_module(learn, shop, tmp_path):
    model = "everlearn.models:MLP(inputs=12, hidden=(16,), outputs=3)"
    torch.manual_seed(0)
    save_weights(MLP(inputs=12, hidden=(16,), outputs=3), tmp_path / "mlp.pth")
    assert learn(model=model, weights=tmp_path / "mlp.pth").code == 0


def test_every_way_to_train_runs(learn, tmp_path):
    changes = [
        {"optimizer": "adamw:lr=0.003,betas=(0.8,0.99)", "scheduler": "cosine", "clip": 1},
        {"optimizer": "rmsprop", "scheduler": "step:step_size=3,gamma=0.5", "accumulate": 2},
        {"optimizer": "nadam", "scheduler": "onecycle:max_lr=0.01", "precision": "bf16", "drop_last": True},
        {"scheduler": "linear:start_factor=0.5", "memory_on_disk": True, "method": "derpp:memory=4kB"},
        {"method": "lwf+si+er:keep=reservoir,memory=20", "checkpoint_steps": 1},
        {"method": "grow+der++:memory=20", "workers": 1, "checkpoint_seconds": 0},
    ]
    for number, change in enumerate(changes):
        said = learn(**change, epochs=1, out=tmp_path / str(number))
        assert said.code == 0, (change, said.err)


def test_a_file_that_does_not_decode_is_left_out_said_and_reported(learn, shop, tmp_path):
    random = np.random.default_rng(0)
    for animal in ("ant", "zebra"):
        photos(tmp_path / "new" / animal, random, count=100)
    broken = tmp_path / "new/ant/7.png"
    broken.write_bytes(broken.read_bytes()[:60])
    photo = {"model": shop.model("Photo"), "weights": shop / "photo.safetensors", "old": shop / "photos"}
    said = learn(**photo, data=tmp_path / "new", test=shop / "test-photos", epochs=1)
    assert said.code == 0
    assert str(broken) in said.out
    assert report_of(tmp_path / "made/updated")["facts"]["quarantined files"] == [str(broken)]
    assert str(broken) in (tmp_path / "made/updated/report.html").read_text()


def test_a_second_run_on_the_same_out_is_refused_and_changes_nothing(learn, tmp_path):
    learn()
    before = contents(tmp_path / "made")
    said = learn(epochs=1)
    assert said.code == 2
    assert f"everlearn resume {tmp_path / 'made/updated'}" in said.err
    assert contents(tmp_path / "made") == before
