"""Settings: from Python, TOML and JSON, the same names, the same types, the same answers."""

import json

import pytest

from everlearn.workspace.config import HELP, TYPES, Config, make, read_toml, settled

GIVEN = {"model": "net.py:Net", "weights": "w.pth", "data": ["new"], "out": "run"}


def test_a_config_survives_json():
    config = make(GIVEN | {"clip": 1, "classes": ["a", "b"], "compare": True, "method": "er+ewc"})
    assert make(json.loads(json.dumps(config.to_json()))) == config
    assert isinstance(config.clip, float)


def test_every_setting_has_a_type_and_a_sentence():
    assert TYPES.keys() == HELP.keys() == Config.__dataclass_fields__.keys()
    assert all(sentence.rstrip().endswith((".", ")")) for sentence in HELP.values())


def test_dashes_and_underscores_are_one_name():
    assert make(GIVEN | {"batch-size": 3}) == make(GIVEN | {"batch_size": 3})


def test_one_text_is_a_list_of_one():
    assert make(GIVEN | {"data": "new"}).data == ("new",)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", True),
        ("epochs", 1.5),
        ("clip", True),
        ("compare", "yes"),
        ("data", [1]),
        ("model", 3),
        ("seed", None),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be"):
        make(GIVEN | {setting: value})


def test_an_unknown_setting_is_refused_with_the_nearest_and_the_file():
    with pytest.raises(ValueError, match=r"job.toml: there is no setting 'bach-size' \(did you mean 'batch_size'\?\)"):
        make(GIVEN | {"bach-size": 3}, "job.toml")


@pytest.mark.parametrize("name", GIVEN)
def test_what_must_be_given_is_named(name):
    with pytest.raises(ValueError, match=f"--{name} must be given"):
        make({other: value for other, value in GIVEN.items() if other != name})


def test_paths_in_toml_are_beside_the_file_and_other_texts_are_not_paths(tmp_path):
    (tmp_path / "job.toml").write_text(
        'model = "net.py:Net(outputs=3)"\nweights = "w.pth"\ndata = ["a", "/b"]\ntest = "t"\n'
        'memory = "m"\nout = "run"\nmethod = "er"\n'
    )
    read = read_toml(tmp_path / "job.toml")
    assert read["model"] == f"{tmp_path / 'net.py'}:Net(outputs=3)"
    assert read["data"] == [str(tmp_path / "a"), "/b"]
    assert [read[name] for name in ("weights", "memory", "out")] == [str(tmp_path / n) for n in ("w.pth", "m", "run")]
    assert read["test"] == [str(tmp_path / "t")]
    assert read["method"] == "er"


def test_a_model_in_a_module_is_no_path(tmp_path):
    (tmp_path / "job.toml").write_text('model = "torchvision.models:resnet18"\n')
    assert read_toml(tmp_path / "job.toml")["model"] == "torchvision.models:resnet18"


def test_a_settled_config_means_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settled(make(GIVEN | {"old": "old", "test": ["t"], "model": "sub/net.py:Net(outputs=3)"}))
    assert config.model == f"{tmp_path / 'sub/net.py'}:Net(outputs=3)"
    assert config.data == (str(tmp_path / "new"),)
    assert config.memory == ""
    monkeypatch.chdir("/")
    assert settled(config) == config
