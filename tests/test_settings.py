"""Settings by name are checked before anything is done."""

import pytest

from everlearn.settings import by_name, in_toml

TYPES = {"batch_size": int, "rate": float, "scale": bool, "classes": tuple[str, ...]}


def test_values_become_what_their_names_ask_for():
    given = {"batch-size": 3, "rate": 1, "scale": False, "classes": "rain"}
    values = by_name(given, TYPES)
    assert values == {"batch_size": 3, "rate": 1.0, "scale": False, "classes": ("rain",)}
    assert [type(value) for value in values.values()] == [int, float, bool, tuple]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"batch_sizes": 1}, "F: there is no setting 'batch_sizes'.*batch_size"),
        ({"batch_size": True}, "F: batch_size must be of type int, but is True"),
        ({"batch_size": 1.0}, "batch_size must be of type int"),
        ({"rate": "fast"}, "rate must be of type float"),
        ({"rate": True}, "rate must be of type float"),
        ({"classes": [1]}, "classes must be a list of texts"),
    ],
)
def test_what_is_unknown_or_of_the_wrong_type_is_refused(given, why):
    with pytest.raises(ValueError, match=why):
        by_name(given, TYPES, "F: ")


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        in_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff = 1")
    with pytest.raises(ValueError, match="is not TOML"):
        in_toml(tmp_path / "bad.toml")
    (tmp_path / "good.toml").write_text("rate = 2\n", encoding="utf-8")
    assert in_toml(tmp_path / "good.toml") == {"rate": 2}
