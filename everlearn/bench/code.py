"""What a number was made with: the sources behind it, and the machine that ran them."""

import ast
import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import everlearn

_ROOT = Path(everlearn.__file__).parent
_REGISTRY = "everlearn.methods"
"""Left out: it imports all methods, and a row depends on its own alone."""


def code(*modules: str) -> str:
    """A hash of the sources of these modules of this package, and of all in it that they import, directly or not.

    So a result is reused exactly as long as nothing has changed that it could have come from.
    """
    files = sorted({file for module in modules for file in _behind(module)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\n".encode() + (_ROOT.parent / file).read_bytes())
    return digest.hexdigest()[:16]


@cache
def _behind(module: str) -> frozenset[str]:
    """The files of `module` and of what it imports, relative to the folder that the package is in."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is not None and name not in found and name != _REGISTRY:
            found[name] = path
            waiting += _imported(path)
    return frozenset(path.relative_to(_ROOT.parent).as_posix() for path in found.values())


def _imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "everlearn"]


def _file(module: str) -> Path | None:
    stem = _ROOT.parent.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def versions() -> dict[str, str]:
    """Of this package and of those that make the numbers; of river only where it is installed."""
    found = {"everlearn": everlearn.__version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "river"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {"platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
