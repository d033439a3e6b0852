"""What is imported when, and that no file loads anything that could run code."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import everlearn

ROOT = Path(everlearn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def modules_after(program):
    """The top-level modules that a fresh interpreter has loaded after running `program`."""
    say = "\nimport json, sys\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", program + say], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


OPTIONAL = {"rich", "typer", "pyarrow", "datasets", "transformers", "lightning", "sklearn", "PIL", "safetensors"}
OPTIONAL |= {"torchvision", "timm", "peft", "scipy", "matplotlib"}


def test_importing_everlearn_imports_nothing_large():
    loaded = modules_after("import everlearn; dir(everlearn)")
    assert "everlearn" in loaded
    assert not loaded & {"torch", "numpy", "scipy", "pandas", "rich", "typer", "PIL", "pyarrow", "safetensors"}


def test_a_learner_needs_torch_and_numpy_only():
    loaded = modules_after("import everlearn; everlearn.Learner, everlearn.Memory, everlearn.classify")
    assert {"torch", "numpy"} <= loaded
    assert not loaded & OPTIONAL


def test_learning_and_evaluating_need_no_more():
    loaded = modules_after("""
from functools import partial
import torch, everlearn
from everlearn.data import Columns
from everlearn.methods import EWC
rows = Columns(x=torch.randn(8, 3), y=torch.arange(8) % 2)
learner = everlearn.Learner(torch.nn.Linear(3, 2), EWC(), optimizer=partial(torch.optim.SGD, lr=0.1))
learner.learn(everlearn.Experience(0, rows, rows, (0, 1)))
learner.evaluate(rows)
learner.load_state_dict(learner.state_dict())
""")
    assert not loaded & OPTIONAL


@pytest.mark.parametrize("arguments", [["--help"], ["learn", "--help"], ["transfer", "--help"], ["--version"]])
def test_help_does_not_import_torch(arguments):
    program = f"""
import sys
sys.argv = ["everlearn", *{arguments!r}]
from everlearn.cli import main
try:
    main()
except SystemExit as exit:
    assert exit.code == 0, exit.code
"""
    loaded = modules_after(program)
    assert "everlearn" in loaded
    assert not loaded & {"torch", "numpy"}


def test_every_public_name_is_there_and_has_a_home():
    for name in everlearn.__all__:
        assert getattr(everlearn, name) is not None
        assert name in dir(everlearn)
    with pytest.raises(AttributeError, match=r"module 'everlearn' has no attribute 'Lerner'"):
        _ = everlearn.Lerner


def test_a_method_is_one_file_of_at_most_100_lines():
    files = set((ROOT / "methods").glob("*.py")) - {ROOT / "methods" / "__init__.py"}  # which grows with their number
    long = {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 100}
    assert long == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_says_what_a_file_is_for(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text
    assert text.splitlines()[0].rstrip().endswith((".", ":", "!", "?", ","))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_loads_what_could_run_code(path):
    assert list(_dangers(ast.parse(path.read_text()))) == []


UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NEEDED = {
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "numpy.load": ("allow_pickle", "False"),
}


def _dangers(tree):
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (f"import {n.name}" for n in names if n.name.split(".")[0] in UNSAFE)
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in UNSAFE:
                # The name of an error is no way to load anything.
                yield from (f"from {module} import {n.name}" for n in names if n.name != "UnpicklingError")
            case ast.Call(func=function, keywords=keywords):
                called, options = ast.unparse(function), {k.arg: ast.unparse(k.value) for k in keywords}
                if called in NEEDED and NEEDED[called] not in options.items():
                    yield f"{called} without {NEEDED[called]}"
                if called in {"eval", "exec", "__import__", "os.system", "yaml.load"} or options.get("shell") == "True":
                    yield ast.unparse(node)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from pickle import loads", "torch.load(f)", "torch.load(f, weights_only=False)",
        "np.load(f)", "np.load(f, allow_pickle=True)", "eval(x)", "subprocess.run(x, shell=True)",
    ],
)  # fmt: skip
def test_the_check_itself_finds_what_it_should(text):
    assert list(_dangers(ast.parse(text)))
