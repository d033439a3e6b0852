"""Settings by name, from flags, from TOML or from Python: what is unknown or of the wrong type is refused, with why."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from everlearn.spec import nearest


def by_name(given: Mapping[str, Any], types: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The values that were given, by their names in `types`: a text is a list of one, a whole number a float.

    An unknown name and a wrong type are ValueErrors, which begin with `where`.

    >>> by_name({"batch-size": 8, "classes": "rain"}, {"batch_size": int, "classes": tuple[str, ...]})
    {'batch_size': 8, 'classes': ('rain',)}
    """
    values = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in types:
            raise ValueError(f"{where}there is no setting {key!r}{nearest(name, types)}")
        values[name] = _typed(name, value, types[name], where)
    return values


def _typed(name: str, value: Any, kind: Any, where: str) -> Any:
    if get_origin(kind) is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, get_args(kind)[0]) for item in items):
            raise ValueError(f"{where}{name} must be a list of texts, but is {value!r}")
        return tuple(items)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where}{name} must be of type {kind.__name__}, but is {value!r}")
    return value


def in_toml(path: Path) -> dict[str, Any]:
    """What stands in a TOML file; a ValueError if there is none, or it is something else."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; --config takes a TOML file of settings")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
