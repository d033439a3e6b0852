"""The model that a user names, made by code of theirs."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from torch import nn

from everlearn.spec import nearest


def build_model(text: str, asked: str = "--model") -> nn.Module:
    """The module that `FILE.py:NAME(settings)` or `MODULE:NAME(settings)` makes; errors name what `asked` for it."""
    where, name, settings = parsed(text, asked)
    module = _import(where, asked)
    if name not in vars(module):
        classes = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise ValueError(
            f"{where} has no {name!r}{nearest(name, classes)}; its modules are {', '.join(classes) or 'none'}"
        )
    with foreign(f"{where}:{name} cannot be made with {settings or 'no settings'}"):
        model = vars(module)[name](**settings)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{text!r} is a {type(model).__name__}; expected a torch.nn.Module")  # noqa: TRY004
    return model


def parsed(text: str, asked: str = "--model") -> tuple[str, str, dict[str, Any]]:
    """Where the model stands, its name, and its settings."""
    head, bracket, rest = text.partition("(")
    where, _, name = head.rpartition(":")
    name, settings = called(name + bracket + rest)
    if not where or not name:
        raise ValueError(
            f"cannot read {asked} {text!r}; expected FILE.py:NAME, as in net.py:Net or net.py:Net(outputs=5)"
        )
    return where, name, settings


def called(what: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings of `NAME(key=value, ...)`; the name is "" where it is no such call."""
    if "(" not in what:
        return what, {}
    try:
        node = ast.parse(what, mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            return "", {}
        return node.func.id, {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read {what!r}; settings are keywords with plain values: Net(outputs=5)") from error


def written(name: str, settings: Mapping[str, Any]) -> str:
    """`NAME(key=value, ...)`, which `called` reads; the name alone where there are no settings.

    >>> called(written("Net", {"outputs": 5}))
    ('Net', {'outputs': 5})
    """
    return name + (f"({', '.join(f'{key}={value!r}' for key, value in settings.items())})" if settings else "")


def _import(where: str, asked: str) -> Any:
    """The module in a file or of a name; what lies beside the file, or in the working folder, can be imported too."""
    if not where.endswith(".py"):
        _findable(Path.cwd())
        with foreign(f"cannot import {where!r} for {asked}"):
            return importlib.import_module(where)
    path = Path(where).absolute()
    if not path.is_file():
        raise ValueError(f"there is no file {where}; {asked} takes FILE.py:NAME")
    _findable(path.parent)
    name = f"everlearn_model_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 (a path that ends in .py has a loader)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with foreign(f"cannot import {where} for {asked}"):
            spec.loader.exec_module(module)
    except ValueError:
        del sys.modules[name]
        raise
    return module


def _findable(folder: Path) -> None:
    """Lets modules in the folder be imported: last, so that they stand before nothing."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@contextmanager
def foreign(failed: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around the user's own code: whatever it raises becomes a ValueError that says what `failed`, and where.

    Errors that are clear already pass through: `but`.
    """
    try:
        yield
    except but:
        raise
    except (Exception, SystemExit) as error:  # a script that ends by sys.exit() must not end this program
        # Our own frames, torch's and the interpreter's say nothing to the user; a syntax error names its place itself.
        others = (
            *(str(Path(file).parent) for file in (Path(__file__).parent, torch.__file__, importlib.__file__)),
            "<",
        )
        frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
        known = frames and not isinstance(error, SyntaxError)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if known else ""
        raise ValueError(f"{failed}: {type(error).__name__}: {error}{place}") from error


def model_file(text: str) -> Path | None:
    """The file that `build_model` takes the model from, if it is one."""
    where, _, _ = parsed(text)
    if where.endswith(".py"):
        return Path(where)
    _findable(Path.cwd())
    with foreign(f"cannot import {where!r} for --model"):
        spec = importlib.util.find_spec(where)
    return None if spec is None or spec.origin is None else Path(spec.origin)
