"""The model that a user names: made by code of theirs, with weights from a file, and asked whether it can answer."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from torch import nn

import everlearn
from everlearn import border
from everlearn.batch import Rows
from everlearn.data import Subset
from everlearn.learner import Learner
from everlearn.models import head_of, load_weights
from everlearn.models.report import Report
from everlearn.randomness import mix, seeded
from everlearn.spec import nearest
from everlearn.workspace.config import Config


def build_model(text: str) -> nn.Module:
    """The module that `FILE.py:NAME(settings)` or `MODULE:NAME(settings)` makes."""
    where, name, settings = _parsed(text)
    module = _import(where)
    if name not in vars(module):
        classes = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise ValueError(
            f"{where} has no {name!r}{nearest(name, classes)}; its modules are {', '.join(classes) or 'none'}"
        )
    with _foreign(f"{where}:{name} cannot be made with {settings or 'no settings'}"):
        model = vars(module)[name](**settings)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{text!r} is a {type(model).__name__}; expected a torch.nn.Module")  # noqa: TRY004
    return model


def _parsed(text: str) -> tuple[str, str, dict[str, Any]]:
    """Where the model stands, its name, and its settings."""
    head, bracket, rest = text.partition("(")
    where, _, name = head.rpartition(":")
    name, settings = _call_of(name + bracket + rest)
    if not where or not name:
        raise ValueError(
            f"cannot read --model {text!r}; expected FILE.py:NAME, as in net.py:Net or net.py:Net(outputs=5)"
        )
    return where, name, settings


def _call_of(what: str) -> tuple[str, dict[str, Any]]:
    if "(" not in what:
        return what, {}
    try:
        node = ast.parse(what, mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            return "", {}
        return node.func.id, {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read {what!r}; settings are keywords with plain values: Net(outputs=5)") from error


def _import(where: str) -> Any:
    """The module in a file or of a name; what lies beside the file, or in the working folder, can be imported too."""
    if not where.endswith(".py"):
        _findable(Path.cwd())
        with _foreign(f"cannot import {where!r} for --model"):
            return importlib.import_module(where)
    path = Path(where).absolute()
    if not path.is_file():
        raise ValueError(f"there is no file {where}; --model takes FILE.py:NAME")
    _findable(path.parent)
    name = f"everlearn_model_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 (a path that ends in .py has a loader)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _foreign(f"cannot import {where} for --model"):
        spec.loader.exec_module(module)
    return module


def _findable(folder: Path) -> None:
    """Lets modules in the folder be imported: last, so that they stand before nothing."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@contextmanager
def _foreign(failed: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around the user's own code: whatever it raises becomes a ValueError that says what `failed`, and where.

    Errors that are clear already pass through: `but`.
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        # Our own frames, torch's and the interpreter's say nothing to the user; a syntax error names its place itself.
        others = (*(str(Path(file).parent) for file in (everlearn.__file__, torch.__file__, importlib.__file__)), "<")
        frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
        known = frames and not isinstance(error, SyntaxError)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if known else ""
        raise ValueError(f"{failed}: {type(error).__name__}: {error}{place}") from error


def model_file(text: str) -> Path | None:
    """The file that `build_model` takes the model from, if it is one."""
    where, _, _ = _parsed(text)
    if where.endswith(".py"):
        return Path(where)
    _findable(Path.cwd())
    with _foreign(f"cannot import {where!r} for --model"):
        spec = importlib.util.find_spec(where)
    return None if spec is None or spec.origin is None else Path(spec.origin)


def load_model(config: Config) -> tuple[nn.Module, Report]:
    """The model with its weights, and what was loaded; its head has as many outputs as the weights have."""
    with seeded(mix(config.seed)):  # what the weights leave out is the same for each contender
        model = build_model(config.model)
    report = load_weights(model, config.weights, coverage=config.coverage, head="grow", head_name=config.head or None)
    return model, report


def outputs_of(model: nn.Module, config: Config) -> int:
    """How many outputs the head has."""
    return head_of(model, config.head or None)[1].out_features


def few(rows: Rows) -> Rows:
    """The first two rows: enough to try a model on."""
    return Subset(rows, torch.arange(min(2, len(rows))))


def check_answers(config: Config, learner: Learner, rows: Rows) -> None:
    """Raises a ValueError unless the model takes such rows, and answers as its task asks it to."""
    with _foreign(f"{config.model} cannot answer", but=(ValueError,)):
        border.fits(learner.model, rows, learner._seen(None), learner.device, labels=False)  # noqa: SLF001 (as it sees rows)
        logits: Any = learner.predict(rows.take(torch.arange(min(2, len(rows)))))
    if not isinstance(logits, torch.Tensor):
        raise ValueError(  # noqa: TRY004 (what is wrong is the model)
            f"{config.model} answers with a {type(logits).__name__}; expected one tensor, with a row for each row"
        )
    outputs = outputs_of(learner.model, config)
    if config.task == "classification" and logits.shape[1:] != (outputs,):
        name, _ = head_of(learner.model, config.head or None)
        raise ValueError(
            f"{config.model} answers with shape {tuple(logits.shape[1:])} for a row, but its head {name!r} has "
            f"{outputs} outputs; expected a logit for each output. If another layer is the head, name it: --head"
        )
