"""The documentation: what it shows runs, what it names is there, and its pages need nothing from outside."""

import csv
import re
import shlex
import subprocess
import sys
from functools import cache, partial
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
import zoo
from PIL import Image
from sklearn.datasets import load_digits

from everlearn import Learner
from everlearn.bench.published import ROWS as PUBLISHED
from everlearn.cli import main
from everlearn.data import load, view
from everlearn.methods import METHODS
from everlearn.methods.composition import parameters
from everlearn.models import MLP, save_weights
from everlearn.spec import parse_chain
from everlearn.streams import Experience

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
pytestmark = [
    # Lightning flattens what it is given with a part of torch that torch has moved.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, outputs=5):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.ReLU())
        self.head = nn.Linear(32, outputs)

    def forward(self, x):
        return self.head(self.features(x))
"""
ROWS = {"old_data": (0, 5, 0, 30), "new_data": (5, 7, 0, 30), "newer_data": (7, 8, 0, 30), "test_data": (0, 7, 30, 40)}
"""The digits from and to, and which images of each."""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """What the pages take as given: a net, its weights, images of the digits it knows and of new ones, tables."""
    folder = tmp_path_factory.mktemp("deployed")
    digits = load_digits()
    for name, (start, end, first, last) in ROWS.items():
        for label in range(start, end):
            (folder / name / str(label)).mkdir(parents=True)
            for place, image in enumerate(digits.images[digits.target == label][first:last]):
                path = folder / name / str(label) / f"{place}.png"
                Image.fromarray((image * 15.9).astype("uint8")).save(path)
    (folder / "net.py").write_text(NET)
    space = {}
    exec(NET, space)  # noqa: S102 (what a user would have written)
    torch.manual_seed(0)
    net, source = space["Net"](), load(folder / "old_data")
    learner = Learner(net, optimizer=partial(torch.optim.Adam, lr=0.01), epochs=3, view=view())
    learner.learn(Experience(0, source.rows, source.rows, tuple(range(5))))
    save_weights(net, folder / "model.pth")
    save_weights(MLP(3, (16,), 1), folder / "price.pth")
    with (folder / "prices.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["size", "rooms", "age", "price"])
        rows.writerows([i % 7, i % 3, i % 11, i % 7 + i % 3] for i in range(60))
    with (folder / "sensors.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "time", "load", "label"])
        rows.writerows([f"m{i}", 3600 * i, i % 7, "hot" if i % 7 > 3 else "fine"] for i in range(60))
    return folder


@pytest.fixture
def at_work(deployed, tmp_path, monkeypatch):
    """The working folder of a reader."""
    for path in deployed.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name == "net"]:
        monkeypatch.delitem(sys.modules, name)
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield tmp_path
    torch.set_num_threads(threads)


def executed(page):
    """The namespace after all code of a page: Python is run, commands are given, files are written."""
    text, space = page.read_text(), {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        kind, code = block.groups()
        line = text[: block.start()].count("\n") + 1
        if kind == "python":
            exec(compile("\n" * line + code, page, "exec"), space)  # noqa: S102 (our own pages)
        elif kind == "bash":
            for command in code.replace("\\\n", " ").splitlines():
                given(command)
        elif kind == "toml":
            name, _, content = code.partition("\n")
            Path(name.removeprefix("# ")).write_text(content)
    return space


def given(command):
    """Runs `everlearn ...` in this process."""
    program, *arguments = shlex.split(command)
    assert program == "everlearn"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit) as left:
            main()
    assert left.value.code in (0, None), f"{command} ended with {left.value.code}"


@every_page
def test_the_code_of_each_page_runs(page, at_work):
    executed(page)


@every_page
def test_code_fits_the_page(page):
    assert not [line for _, code in BLOCK.findall(page.read_text()) for line in code.splitlines() if len(line) > 100]


def test_the_readme_begins_with_two_commands_that_there_are():
    first, second = (line.partition("#")[0].split() for line in (ROOT / "README.md").read_text().splitlines()[:2])
    assert (first, second) == (["make", "demo"], ["make", "test"])


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_tests_and_commands_that_a_page_names_are_there(page):
    text = page.read_text()
    for path, _, test in re.findall(r"`((?:tests|benchmarks|examples|everlearn|docs)/[\w/.-]*)(::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        assert f"def {test}(" in (ROOT / path).read_text() if test else True, test
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`", text)) <= set(targets)
    for link in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_a_page_with_its_hyperparameters_and_their_defaults(name):
    text = (DOCS / "methods" / f"{name}.md").read_text()
    shown = re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE)
    assert shown == [(each.name, _shown(each.default)) for each in parameters(METHODS[name])]


def _shown(value):
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_quotes_its_rows_from_the_page_of_all(name):
    text, rows = (DOCS / "methods" / f"{name}.md").read_text(), (DOCS / "published.md").read_text().splitlines()
    quoted = re.search(rf"<!-- published: {name} -->(.*?)<!-- end -->", text, re.DOTALL)
    rows_there = [row for row in PUBLISHED.values() if row.page == "published" and row.method]
    own = [row for row in rows_there if name in {spec.name for spec in parse_chain(row.method)}]
    assert bool(own) == (quoted is not None)
    for row in own:
        lines = [line for line in rows if line.startswith(f"| {row.name} |")]
        assert lines
        assert lines == [line for line in quoted[1].splitlines() if line.startswith(f"| {row.name} |")]


def test_the_table_of_methods_is_what_the_code_says():
    spec = spec_from_file_location("pages", ROOT / "benchmarks" / "pages.py")
    pages = module_from_spec(spec)
    spec.loader.exec_module(pages)
    page = pages.PAGE.read_text()
    assert pages.written(page) == page, "python benchmarks/pages.py writes it anew"


ELSEWHERE = {"tuning": "transfer-results.md", "adaptation": "transfer-results.md", "test time": "testtime.md"}
"""Where the numbers of methods are that have no use for arrivals with labels and without pretrained weights."""


def test_the_numbers_on_the_page_of_a_method_are_those_of_the_one_table():
    def lines(page):
        found = re.findall(r"<!-- digits:.*?<!-- end -->", page.read_text(), re.DOTALL)
        return [line for table in found for line in table.splitlines() if line.startswith("| ")]

    whole = lines(DOCS / "methods" / "index.md")
    assert len(whole) > sum(cls.card.family not in ELSEWHERE for cls in METHODS.values())
    for name in METHODS:
        mine = lines(DOCS / "methods" / f"{name}.md")
        elsewhere = "online-results.md" if name in zoo.EXITS else ELSEWHERE.get(METHODS[name].card.family)
        if elsewhere:
            assert f"(../{elsewhere}" in (DOCS / "methods" / f"{name}.md").read_text()
        else:
            assert mine or name == "grow" or name in zoo.TOKENS  # their table is of a transformer
        assert set(mine) <= set(whole)


@cache
def contract():
    spec = spec_from_file_location("contract", ROOT / "tests" / "contract" / "test_contract.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("growing", [False, True])
def test_the_method_of_the_page_is_short_and_keeps_the_contract(growing, at_work, monkeypatch):
    page = DOCS / "your-own-method.md"
    agem, memory = map(executed(page).get, ("AGEM", "Memory"))
    source = next(code for _, code in BLOCK.findall(page.read_text()) if "class AGEM" in code)
    assert len(source[source.index("@dataclass") :].splitlines()) < 40
    monkeypatch.setitem(zoo.METHODS, "agem", lambda: agem(memory(100), count=16))
    kind = {"model": "mlp", "growing": growing}
    contract().test_resume_is_exact("agem", kind, at_work)
    contract().test_predict_is_pure("agem", kind)
    contract().test_the_model_trains_in_train_mode_estimates_in_eval_mode_with_clean_gradients("agem", kind)
    contract().test_the_users_data_are_untouched("agem", kind)
    contract().test_learns("agem")


class Loaded(HTMLParser):
    """What a browser fetches for a page, other than by a click."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.found += [given[name] for name in ("src", "srcset") if given.get(name)]
        elif tag == "link":
            self.found.append(given["href"])


def test_the_site_is_built_without_a_warning_and_needs_nothing_from_outside(tmp_path):
    pytest.importorskip("mkdocs", reason="building the site needs mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES) - 1
    for page in pages:
        outside = [place for place in Loaded(page.read_text()).found if re.match(r"(https?:)?//", place)]
        assert not outside, f"{page.name} fetches {outside}"
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style.name
    # Pictures ask their page whether it is dark: one that does not say lets the reader's system answer.
    assert "color-scheme: light" in (tmp_path / "style.css").read_text()
