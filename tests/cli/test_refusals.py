"""Bad input: one message with the value, what was expected and the way out; exit code 2; and nothing is written."""

import os
import pickle
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from workspace.inputs import contents, photos, words

from everlearn import checkpoint

RANDOM = np.random.default_rng(0)
CLASSES = ",".join(map(str, range(16)))


def points(count=20, width=12):
    return RANDOM.normal(size=(count, width)).astype(np.float32)


@pytest.fixture
def refused(learn, shop, tmp_path):
    """Runs `everlearn learn` with a change that must be refused; gives the message."""

    def run(*said: str, **changes) -> str:
        before = contents(shop.folder), contents(tmp_path)
        ended = learn(**changes)
        message(ended, *said)
        assert (contents(shop.folder), contents(tmp_path)) == before
        assert not (tmp_path / "made").exists()
        return ended.err

    return run


def message(ended, *said):
    """The ending is one error that says all this, and no traceback."""
    assert ended.code == 2, ended
    assert ended.err.count("error: ") == 1
    assert "Traceback" not in ended.err + ended.out
    for phrase in said:
        assert re.search(phrase, ended.err), ended.err


@pytest.fixture
def npz(tmp_path):
    """Writes arrays."""

    def write(x, y, name="bad.npz"):
        np.savez(tmp_path / name, x=x, y=y)
        return tmp_path / name

    return write


# -- weights ---------------------------------------------------------------------------------------------------


def test_weights_of_another_architecture(refused, tmp_path):
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "other.pth")
    refused("nothing was loaded from .*other.pth into Net", "fills 0.0%", "coverage", weights=tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no checkpoint at all", "no weights at all"), (b"", "empty"), (b"<html>404</html>", "HTML")],
)
def test_a_file_that_is_no_checkpoint(refused, tmp_path, content, said):
    (tmp_path / "junk.pth").write_bytes(content)
    refused("junk.pth", said, r"torch.save\(model.state_dict\(\), path\)", weights=tmp_path / "junk.pth")


def test_weights_that_are_not_there(refused, shop):
    refused("there is no file .*deploied.pth", "did you mean 'deployed.pth'", weights=shop / "deploied.pth")


class Payload:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_a_hostile_pickle_is_refused_and_not_run(refused, tmp_path, write):
    write({"body.0.weight": Payload(tmp_path / "run")}, tmp_path / "hostile.pth")
    refused("hostile.pth holds Python objects, which would have to run", weights=tmp_path / "hostile.pth")
    assert not (tmp_path / "run").exists()


def test_a_hostile_array_is_refused_and_not_run(refused, tmp_path):
    objects = np.array([Payload(tmp_path / "run")] * 4, dtype=object)
    np.savez(tmp_path / "hostile.npz", x=points(4), y=objects)
    refused("hostile.npz", "pickles, which can run code", data=tmp_path / "hostile.npz")
    assert not (tmp_path / "run").exists()


def test_a_hostile_memory_is_refused_and_not_run(refused, tmp_path):
    (tmp_path / "memory.checkpoint").write_bytes(pickle.dumps(Payload(tmp_path / "run")))
    refused("memory.checkpoint is not a checkpoint of everlearn", memory=tmp_path / "memory.checkpoint")
    assert not (tmp_path / "run").exists()


# -- the model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nett", ["has no 'Nett'", "did you mean 'Net'", "Net, Normed, Photo"]),
        ("NoModule", ["is a NoModule", "expected a torch.nn.Module"]),
        ("Picky", ["cannot be made with no settings", "missing 1 required positional argument: 'width'"]),
        ("Picky(width=3)", ["cannot be made with {'width': 3}", "RuntimeError: no such width", r"net.py, line \d+"]),
        ("Net(ouputs=3)", ["unexpected keyword argument 'ouputs'"]),
        ("Net(3)", ["cannot read --model", r"Net\(outputs=5\)"]),
        ("Net(outputs=few)", ["cannot read", "keywords with plain values"]),
        ("Net(", ["cannot read"]),
    ],
)
def test_a_name_that_makes_no_model(refused, shop, name, said):
    refused(*said, model=shop.model(name))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("missing.py:Net", ["there is no file .*missing.py", "--model takes FILE.py:NAME"]),
        ("net.py", ["cannot read --model 'net.py'", "expected FILE.py:NAME"]),
        ("no_such_package:Net", ["cannot import 'no_such_package'"]),
        ("torch.nn:Flatten", ["Flatten has no nn.Linear"]),
    ],
)
def test_a_model_that_is_not_there(refused, model, said):
    refused(*said, model=model)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Pair", ["answers with a tuple; expected one tensor"]),
        ("Headless", [r"answers with shape \(16,\) for a row, but its head 'head' has 3 outputs", "--head"]),
        ("Buggy", ["cannot answer: AttributeError: .*haed", r"net.py, line \d+"]),
        ("Frozen", ["all weights of .*Frozen are frozen"]),
    ],
)
def test_a_model_that_answers_otherwise(refused, shop, name, said):
    refused(*said, model=shop.model(name))


@pytest.mark.parametrize(
    ("code", "said"),
    [("def net(:\n", "SyntaxError"), ("import no_such_package\n", "No module named"), ("x = 1\n1 / 0\n", "line 2")],
)
def test_a_file_of_a_model_that_does_not_import(refused, tmp_path, code, said):
    (tmp_path / "broken.py").write_text(code)
    refused("cannot import .*broken.py", said, model=f"{tmp_path / 'broken.py'}:Net")


def test_a_head_that_is_not_there(refused):
    refused("no nn.Linear named 'heda'", "the nearest are 'head'", head="heda")
    refused("its head 'body.0' has 16 outputs", "--head", head="body.0", old=None, test=None, classes=CLASSES)


def test_a_device_that_is_not_there(refused):
    refused("the device 'gpu' cannot be used", "expected cpu, cuda", device="gpu")


# -- data ------------------------------------------------------------------------------------------------------


def test_data_that_is_not_there_or_of_no_known_kind(refused, shop):
    refused("there is nothing at .*missing.npz", data=shop / "missing.npz")
    refused("is of no known kind", ".npz", data=shop / "net.py")


def test_empty_data(refused, npz, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("a,b,label\n")
    refused("has no folders", "put the images of each class into a folder", data=tmp_path / "folder")
    refused("empty.csv has no rows", data=tmp_path / "empty.csv")
    refused("header.csv has no rows", data=tmp_path / "header.csv")
    refused("bad.npz has no rows", data=npz(points(0), np.zeros(0, int)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("place", ["data", "old", "test"])
def test_a_feature_that_is_no_number_to_compute_with(refused, npz, value, place):
    x = points()
    x[3, 4] = value
    refused("bad.npz", "finite", "row 4|row 3", **{place: npz(x, np.full(20, 1))})


@pytest.mark.parametrize("value", ["nan", "inf", "", "dear"])
def test_a_target_that_is_no_number(refused, shop, tmp_path, value):
    lines = (shop / "prices.csv").read_text().splitlines()
    lines[7] = ",".join([*lines[7].split(",")[:3], value])
    (tmp_path / "bad.csv").write_text("\n".join(lines))
    prices = {"model": shop.model("Price"), "weights": shop / "price.pth", "task": "regression", "target": "price"}
    refused("bad.csv", "'price'", "row 7", **prices, data=tmp_path / "bad.csv", old=None, test=None)


def test_a_method_of_classes_where_numbers_are_predicted(refused, shop):
    prices = {"model": shop.model("Price"), "weights": shop / "price.pth", "task": "regression", "target": "price"}
    refused("lwf is about classes", **prices, data=shop / "prices.csv", old=None, test=None, method="er+lwf")


def test_labels_that_name_no_class(refused, npz):
    refused("y holds .* in row 1, which names no class", "regression", data=npz(points(), RANDOM.normal(size=20)))


def test_labels_that_no_one_has_named(refused, npz):
    named = npz(points(), np.array(["cat"] * 20))
    said = "the model answers for 3 classes, but nothing says which"
    refused(said, "--classes cat,dog", data=named, old=None, test=None)


def test_old_and_test_data_with_classes_that_no_one_knows(refused, npz):
    strange = npz(points(), np.arange(20))
    refused("test data .* has classes that the model does not know: 5, 6, 7, 8, 9 and 10 more", test=strange)
    refused("old data .* does not know: 9", "--data", old=npz(points(), np.arange(20) % 2 * 9), classes="0,1,2")


def test_test_data_without_rows_for_an_arrival(refused, shop):
    refused("has no rows for the classes of .*first.npz", "leave --test out", test=shop / "old.npz")
    refused("has no rows for the classes of old data", test=shop / "first.npz")
    refused("3 sets of test data were given; expected one, or 2", test=[shop / "old.npz"] * 3)


@pytest.mark.parametrize("place", ["data", "old", "test"])
def test_rows_of_another_width(refused, npz, place):
    narrow = npz(points(width=5), np.arange(20) % 2 * 3)
    refused("all data must be of one kind", r"float32 of shape \(5,\)", **{place: narrow})


def test_rows_of_a_width_that_the_model_cannot_take(refused, npz):
    narrow = npz(points(width=5), np.full(20, 3))
    refused("the model cannot take rows of these shapes", r"\(5,\)", data=narrow, old=None, test=None)


def test_rows_of_another_type(refused, npz):
    bytes_ = npz(np.ones((20, 12), np.uint8), np.full(20, 3))
    refused("all data must be of one kind", "uint8", data=bytes_)
    whole = npz(np.ones((20, 12), np.int64), np.full(20, 3))
    refused("the model cannot take rows", data=whole, old=None, test=None)


def test_tables_with_their_columns_in_another_order(refused, learn, shop, tmp_path):
    prices = {"model": shop.model("Price"), "weights": shop / "price.pth", "task": "regression", "target": "price"}
    header, *lines = (shop / "new-prices.csv").read_text().splitlines()
    swapped = [",".join([line.split(",")[at] for at in (1, 0, 2, 3)]) for line in (header, *lines)]
    (tmp_path / "swapped.csv").write_text("\n".join(swapped))
    asked = prices | {"data": tmp_path / "swapped.csv", "old": shop / "prices.csv", "test": None}
    refused("area, rooms, age, but those of .* rooms, area, age", "--features", **asked)
    assert learn(**asked, features="area,rooms,age", epochs=1).code == 0


def test_columns_that_are_not_there(refused, shop):
    table = {"data": shop / "prices.csv", "old": None, "test": None}
    refused("name the target", **table)
    refused("no column 'prise'", "did you mean 'price'", **table, target="prise")
    refused("no column 'ages'", "did you mean 'age'", **table, target="price", features="ages,rooms")


def test_texts(refused, tmp_path):
    (tmp_path / "texts.csv").write_text("words,label\ngood day,0\nbad day,1\n")
    refused("are texts", "expected numbers", data=tmp_path / "texts.csv", features="words", old=None, test=None)


def test_a_format_whose_library_is_not_installed(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "new.parquet").write_bytes(b"PAR1")
    refused(r"needs pyarrow: pip install 'everlearn\[tables\]'", data=tmp_path / "new.parquet")


def test_one_row_left_for_batch_normalisation(refused, npz, shop):
    seventeen = {"model": shop.model("Normed"), "coverage": 0.5, "data": npz(points(17), np.full(17, 3))}
    seventeen |= {"test": None, "holdout": 0}
    refused("batch of one row, which BatchNorm1d 'body.1' cannot normalise", "drop_last", **seventeen)
    refused("take batches of more rows", **(seventeen | {"batch_size": 1}))


def test_fewer_rows_than_a_batch(refused):
    refused("drop_last leaves nothing: 40 rows", drop_last=True, batch_size=64)


# -- images ----------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(refused, shop):
    """A refusal of a run on photos."""
    given = {"model": shop.model("Photo"), "weights": shop / "photo.safetensors", "old": shop / "photos"}
    given |= {"data": shop / "new-photos", "test": shop / "test-photos"}
    return lambda *said, **changes: refused(*said, **(given | changes))


def test_a_class_folder_without_images(photo, tmp_path):
    photos(tmp_path / "new/ant", RANDOM)
    (tmp_path / "new/bee").mkdir()
    photo(r"class folders without images: \['bee'\]", "remove them", data=tmp_path / "new")


def test_many_files_that_do_not_decode(photo, tmp_path):
    photos(tmp_path / "new/ant", RANDOM, count=20)
    for number in range(5):
        (tmp_path / f"new/ant/{number}.png").write_bytes(b"no image")
    photo("5 of the 20 images .* cannot be read", "repair or remove them", data=tmp_path / "new")


def test_grey_photos_for_a_net_that_takes_colours(photo):
    photo("the model cannot take rows", r"\(1, 8, 8\)", channels=1)
    photo("channels must be 1", channels=2)


def test_photos_of_another_size(photo, tmp_path):
    photos(tmp_path / "large/ant", RANDOM, size=16)
    photo("one kind", r"\(3, 8, 8\)", r"\(3, 16, 16\)", "--size", data=tmp_path / "large")
    photo("the model cannot take rows", r"\(3, 16, 16\)", size=16)


def test_photos_of_different_sizes(photo, tmp_path):
    photos(tmp_path / "mixed/ant", RANDOM, size=16)
    photos(tmp_path / "mixed/bee", RANDOM, size=8)
    photo("all images must have one size", "--size", data=tmp_path / "mixed")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": "big"}, "cannot read --size 'big'; expected pixels"),
        ({"size": "8x8x3"}, "HEIGHTxWIDTH"),
        ({"size": "0"}, "not 0"),
        ({"augment": "flop"}, "no augmentation 'flop' .did you mean 'flip'"),
        ({"augment": "crop:far"}, "'crop:far' is no augmentation"),
        ({"normalize": "imagent"}, "did you mean 'imagenet'"),
        ({"normalize": "1,2,3:x"}, "cannot read --normalize '1,2,3:x'"),
        ({"normalize": "0,0:1,1"}, "2 means for 3 channels"),
        ({"target": "y"}, "folder of images"),
    ],
)
def test_settings_of_images(photo, changes, said):
    photo(said, **changes)


def test_settings_of_images_for_data_that_are_none(refused, npz):
    refused("--augment is for images", augment="flip")
    whole = npz(np.ones((20, 12), np.int64), np.full(20, 3))
    refused("--normalize is for pixels", data=whole, old=None, test=None, normalize="mnist")


# -- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("err", "no method 'err'.*did you mean 'er'"),
        ("er:memry=3", "er has no setting 'memry'.*did you mean 'memory'"),
        ("er:memory", "cannot read 'memory' in 'er:memory'; expected key=value"),
        ("er:memory=10B", "capacity of '10B' is 10 bytes, but a row .* takes"),
        ("der:memory=90B", "a row of .*logits.* takes"),
        ("er:memory=lots", "capacity in bytes reads like '500kB'"),
        ("er:memory=0", "whole number of rows"),
        ("er:count=few", "count must be a whole number, but is 'few'"),
        ("er:count=-1", "count must not be negative"),
        ("er:keep=all", "no memory 'all'"),
        ("er+er", "names er twice"),
        ("naive+er", "naive is the absence of a method"),
        ("ewc:lambda=much", "lambda must be a number, but is 'much'"),
        ("ewc:mode=both", "mode must be one of separate, online"),
        ("der++:alpha=nan", "alpha must be a number"),
        ("er+", "no method ''"),
    ],
)
def test_methods(refused, method, said):
    refused(said, method=method)


def test_ewc_without_a_past(refused):
    refused("ewc measures on past data", "give --old", method="er+ewc", old=None, test=None)


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ("sdg:lr=1", "no optimizer 'sdg'.*did you mean 'sgd'"),
        ("sgd:momentun=0.9", "sgd has no setting 'momentun'.*did you mean 'momentum'"),
        ("sgd:lr", "cannot read 'lr'.*expected key=value"),
        ("sgd:lr=fast", "sgd cannot be made with lr=fast"),
        ("sgd:lr=-1", "sgd: Invalid learning rate: -1"),
        ("adam:lr=0.1,betas=3", "adam cannot be made with lr=0.1, betas=3"),
        ("lbfgs", "no optimizer 'lbfgs'"),
        ("muon", "2D"),
    ],
)
def test_optimizers(refused, optimizer, said):
    refused(said, optimizer=optimizer)


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        ("cosin", "no schedule 'cosin'.*did you mean 'cosine'"),
        ("cosine:etamin=0", "cosine has no setting 'etamin'.*did you mean 'eta_min'"),
        ("cosine:eta_min=low", "cosine cannot be made with eta_min=low"),
        ("step", "step cannot be made with no settings.*step_size"),
        ("linear:start_factor=7", "linear: Starting multiplicative factor"),
    ],
)
def test_schedules(refused, scheduler, said):
    refused(said, scheduler=scheduler)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": "a,b"}, "--classes names 2 classes, but the model has 3 outputs"),
        ({"classes": "a,b,b"}, "'b' comes twice"),
        ({"task": "regresion"}, "task must be one of classification, regression, but is 'regresion'"),
        ({"precision": "float16"}, "precision must be one of float32, bf16, fp16"),
        ({"epochs": 0}, "epochs must be at least 1, but is 0"),
        ({"batch_size": -8}, "batch_size must be at least 1"),
        ({"threads": -1}, "threads must be at least 0"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"clip": "nan"}, "clip must be at least 0, but is nan"),
        ({"holdout": 1.5, "test": None}, "holdout must be from 0 to 0.9"),
        ({"coverage": 2}, "coverage must be from 0 to 1"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds must be at least 0"),
    ],
)
def test_values(refused, changes, said):
    refused(said, **changes)


def test_flags_that_are_missing_or_none(everlearn, learn, tmp_path):
    message(everlearn("learn"), "--model, --weights, --data, --out must be given")
    message(learn(out=None), "--out must be given")
    for typed in (["learn", "--epoks", 3], ["learn", "--epochs", "many"], ["lern"], ["resume"]):
        ended = everlearn(*typed)
        assert ended.code == 2
        assert "Traceback" not in ended.err
    assert "--epochs" in everlearn("learn", "--epoks", 3).err
    assert "learn" in everlearn("lern").err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("epoch = 3", "job.toml: there is no setting 'epoch'.*did you mean 'epochs'"),
        ("[training]\nepochs = 3", "there is no setting 'training'"),
        ('epochs = "3"', "epochs must be of type int, but is '3'"),
        ("compare = 1", "compare must be of type bool"),
        ("data = [1]", r"data must be a list of texts, but is \[1\]"),
        ("data = 1", "data must be a list of texts, but is 1"),
        ("epochs = ", "is not TOML"),
        ("epochs = 0", "job.toml: epochs must be at least 1"),
    ],
)
def test_toml(everlearn, settings, tmp_path, toml, said):
    (tmp_path / "job.toml").write_text(toml)
    given = words({name: settings[name] for name in ("model", "weights", "out")})
    message(everlearn("learn", *given, "--config", tmp_path / "job.toml"), said)
    assert not (tmp_path / "made").exists()


def test_a_toml_file_that_is_not_there(everlearn, tmp_path):
    message(
        everlearn("learn", "--config", tmp_path / "job.toml"), "there is no file .*job.toml", "--config takes a TOML"
    )


# -- memories --------------------------------------------------------------------------------------------------


def test_a_memory_that_is_none(refused, learn, shop, tmp_path):
    refused("there is no file .*none.checkpoint", "--memory takes", memory=tmp_path / "none.checkpoint")
    refused("is not a checkpoint of everlearn", memory=shop / "deployed.pth")
    checkpoint.save({"learner": {}}, tmp_path / "other.checkpoint")
    refused("checkpoint of something else", "--memory takes", memory=tmp_path / "other.checkpoint")


def test_a_memory_of_another_model_or_task(learn, shop, tmp_path):
    assert learn(out=tmp_path / "one", epochs=1).code == 0
    memory = tmp_path / "one/memory.checkpoint"
    message(
        learn(memory=memory), "is of a model for 0, 1, 2, 3, 4, but this one answers for 0, 1, 2", "give the weights"
    )
    prices = {"model": shop.model("Price"), "weights": shop / "price.pth", "task": "regression", "target": "price"}
    prices |= {"data": shop / "prices.csv", "old": None, "test": None}
    message(learn(**prices, memory=memory), "is of classification, but this is regression")
    assert not (tmp_path / "made").exists()


# -- files -----------------------------------------------------------------------------------------------------


def test_an_out_that_is_taken(learn, shop, tmp_path):
    (tmp_path / "updated.pth").write_bytes(b"of another time")
    (tmp_path / "report.html").write_text("of another report")
    (tmp_path / "file").write_text("no folder")
    before = contents(tmp_path)
    message(learn(out=tmp_path / "updated.pth"), "updated.pth is there already, and nothing is overwritten", "--out")
    message(learn(out=tmp_path), "report.html is there already")
    message(learn(out=tmp_path / "file"), "cannot use .*file: ")
    message(learn(out=tmp_path / "file/run"), "cannot use .*file/run: Not a directory")
    assert contents(tmp_path) == before


def test_an_out_within_the_data_which_would_be_read_as_data(learn, tmp_path):
    for animal in ("ant", "bee"):
        photos(tmp_path / f"new/{animal}", np.random.default_rng(0))
    before = contents(tmp_path)
    for place in ({"data": tmp_path / "new"}, {"old": tmp_path / "new"}, {"test": tmp_path / "new"}):
        for out in ("new", "new/run", "new/run.pth"):
            message(learn(**place, out=tmp_path / out), "would lie in the data .*new", "choose another --out")
    assert contents(tmp_path) == before


def test_an_out_within_a_folder_of_arrays_of_which_nothing_else_is_read(learn, tmp_path):
    np.save(tmp_path / "x.npy", points())
    np.save(tmp_path / "y.npy", np.arange(20) % 3)
    assert learn(data=tmp_path, out=tmp_path / "run", old=None, test=None, epochs=1).code == 0


@pytest.fixture
def nobody(shop):
    """A folder that everybody may read, and a process that may no more than that."""
    folder = Path(tempfile.mkdtemp(prefix="everlearn-", dir="/tmp"))
    shutil.copytree(shop.folder, folder / "shop")
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    shutil.rmtree(folder)


def test_files_that_may_not_be_read_and_folders_that_may_not_be_written(everlearn, settings, shop, nobody):
    moved = {name: str(value).replace(str(shop.folder), str(nobody / "shop")) for name, value in settings.items()}
    moved["out"] = nobody / "made" / "run"
    ended = everlearn("learn", *words(moved))
    message(ended, f"cannot use {nobody}/made: Permission denied", "you may read and write it")
    user = os.geteuid()
    os.seteuid(os.getuid())
    (nobody / "shop/first.npz").chmod(0)
    os.seteuid(user)
    message(everlearn("learn", *words(moved)), "cannot use .*first.npz: Permission denied")


# -- evaluate --------------------------------------------------------------------------------------------------


def test_what_cannot_be_evaluated(everlearn, shop, npz):
    given = ["evaluate", "--model", shop.model(), "--weights", shop / "deployed.pth", "--data"]
    message(everlearn(*given[:-1]), "--data must be given")
    message(everlearn(*given, shop / "missing.npz"), "there is nothing at")
    message(everlearn(*given, npz(points(width=5), np.zeros(20, int))), "the model cannot take rows")
    message(everlearn(*given, shop / "old.npz", "--classes", "a,b"), "--classes names 2 classes")
    message(everlearn(*given, shop / "old.npz", "--device", "gpu"), "the device 'gpu'")


def test_what_is_no_method(everlearn):
    message(everlearn("methods", "ewcc"), "no method 'ewcc'", "did you mean 'ewc'")


def test_a_bug_keeps_its_traceback(learn, monkeypatch):
    def broken(*_):
        raise KeyError("a bug")

    monkeypatch.setattr("everlearn.workspace.run.make_optimizer", broken)
    with pytest.raises(KeyError, match="a bug"):
        learn()


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")]
)
def test_too_little_memory_is_no_bug(learn, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr("everlearn.workspace.run.make_optimizer", full)
    message(learn(), "there is not enough memory", "--accumulate, a smaller --batch-size")


def test_a_traceback_can_be_asked_for(learn, monkeypatch):
    monkeypatch.setenv("EVERLEARN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        learn(epochs=0)
