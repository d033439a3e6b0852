"""Bases ranked: the better features first, each base at its own size, and no base changed."""

import io
import itertools
import json
import time
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
import torch
from rich.console import Console
from torch import nn

from everlearn import UNLABELED
from everlearn.data import Columns, Subset
from everlearn.transfer.bases import Base
from everlearn.transfer.choice import Candidate, Choice
from everlearn.transfer.choosing import choose
from everlearn.transfer.costs import activations, latency
from everlearn.transfer.opening import open_base
from everlearn.transfer.preprocessing import ImagePreprocessing
from everlearn.transfer.sampling import stratified
from everlearn.transfer.scores import logme
from everlearn.transfer.strategy import Case, propose

pytest.importorskip("sklearn")


class Sees(nn.Module):
    """Features that show the first `sees` of four classes, and noise; a head that is not asked."""

    def __init__(self, sees, width=6):
        super().__init__()
        self.mix = nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 4)
        with torch.no_grad():
            self.mix.weight.copy_(torch.diag(torch.tensor([i < sees or i >= 4 for i in range(width)]).float()))

    def forward(self, x):
        return self.head(self.norm(self.mix(x)))


def vectors(count=120, classes=4, width=6):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % classes
    x = torch.randn(count, width, generator=generator)
    x[:, :classes] += 3 * nn.functional.one_hot(y, classes)
    return Columns(x=x, y=y)


def base(sees, name="", **more):
    made = open_base(Sees(sees))
    made.source, made.weights = name or f"sees {sees}", more.pop("weights", "made by hand")
    vars(made).update(more)
    return made


@pytest.fixture(scope="module")
def choice():
    return choose(vectors(), [base(0), base(4, licence="mit"), base(2)], scores=("logme", "h-score", "knn"))


def test_the_base_whose_features_tell_classes_apart_is_the_first(choice):
    assert [one.name for one in choice.candidates] == ["sees 4", "sees 2", "sees 0"]
    assert choice.best.rank == 1
    for score in choice.scores:
        assert choice.best.scores[score] == max(one.scores[score] for one in choice.candidates)


def test_scores_are_those_of_the_features_of_the_head_of_all_rows():
    rows, one = vectors(), base(4)
    features = one.features(rows)
    found = choose(rows, [one], scores=("logme",)).best
    assert found.scores == {"logme": logme(features.column("x"), features.column("y"))}
    assert found.width == 6


def test_of_many_rows_a_sample_is_looked_at():
    rows, one = vectors(), base(4)
    features = one.features(Subset(rows, stratified(rows.column("y"), 20, seed=3)))
    found = choose(rows, [one], scores=("logme",), most=20, seed=3)
    assert found.best.scores == {"logme": logme(features.column("x"), features.column("y"))}
    assert (found.rows, found.of) == (20, 120)


def test_costs_are_counted(choice):
    best = choice.best
    assert best.parameters == 36 + 12 + 24 + 4
    assert best.weight_bytes == 4 * (36 + 12 + 24 + 4) + 4 * 12 + 8  # running mean and variance, and a counter
    assert best.activation_bytes == 4 * (6 + 6 + 4)
    assert best.latency > 0


def test_latency_is_the_median_per_row_after_warming_up(monkeypatch):
    clock = [0.0]
    waits = iter([0.5, 0.5, 0.01, 0.02, 0.03, 0.04, 0.05])

    class Slow(Base):
        def logits(self, batch):
            clock[0] += next(waits)
            return torch.zeros(len(batch["x"]), 2)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    took = latency(Slow(nn.Identity(), "slow"), {"x": torch.zeros(4, 1)}, seconds=0)
    assert took == pytest.approx(30 / 4)  # the two slow ones would make it 40 / 4


def test_activations_are_of_layers_without_layers_inside_each_time_they_run():
    shared = nn.Linear(3, 3)
    module = nn.Sequential(shared, nn.Sequential(shared, nn.ReLU()), nn.Linear(3, 2))
    assert activations(open_base(module), {"x": torch.zeros(5, 3)}) == 4 * 5 * (3 + 3 + 3 + 2)


def test_no_base_is_changed_and_nothing_is_drawn():
    one = base(1).module.train()
    before = {name: value.clone() for name, value in one.state_dict().items()}
    random = torch.get_rng_state()
    hooked = sum(len(layer._forward_hooks) for layer in one.modules())
    made = open_base(one)
    made.weights = "made by hand"
    choose(vectors(), [made])
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert all(layer.training for layer in one.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert sum(len(layer._forward_hooks) for layer in one.modules()) == hooked


class Looks(nn.Module):
    """Writes down the size and the brightest pixel of the images that it is shown."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.sizes = set()
        self.brightest = 0.0

    def forward(self, x):
        self.sizes.add(tuple(x.shape[1:]))
        self.brightest = max(self.brightest, x.max().item())
        return self.head(x.mean((2, 3)))


def images(size=16):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(20) % 2
    x = torch.randint(0, 100, (20, 3, size, size), generator=generator) + 100 * y[:, None, None, None]
    return Columns(x=x.to(torch.uint8), y=y)


def test_each_base_is_shown_images_of_its_own_size():
    bases = []
    for size in (8, 12):
        one = open_base(Looks(), preprocessing=ImagePreprocessing(resize=(size, size)))
        one.weights, one.source = "made by hand", f"at {size}"
        bases.append(one)
    found = choose(images(), bases, scores=("logme",))
    assert [one.module.sizes for one in bases] == [{(3, 8, 8)}, {(3, 12, 12)}]
    assert {one.name: one.input_size for one in found.candidates} == {"at 8": (3, 8, 8), "at 12": (3, 12, 12)}


def test_rows_can_be_made_for_each_base_but_must_be_the_same_rows():
    first, second = base(4), base(1)
    asked = []

    def rows(one):
        asked.append(one)
        return vectors()

    choose(rows, [first, second], scores=("logme",))
    assert asked == [first, second]
    with pytest.raises(ValueError, match="other labels than those for sees 4"):
        choose(lambda one: vectors(60 if one is first else 80), [first, second], scores=("logme",))


def test_a_base_that_does_not_say_how_it_sees_images_sees_pixels_from_0_to_1():
    one = open_base(Looks())
    one.weights = "made by hand"
    assert choose(images(), [one], scores=("ridge",)).best.scores["ridge"] == 1.0
    assert one.preprocessing is None
    assert one.module.brightest == images().column("x").max() / 255


def test_a_mapping_names_the_bases_and_equal_names_are_told_apart():
    named = choose(vectors(), {"a": base(4, "x"), "b": base(1, "x")}, scores=("logme",))
    assert [one.name for one in named.candidates] == ["a", "b"]
    counted = choose(vectors(), [base(4, "x"), base(1, "x")], scores=("logme",))
    assert [one.name for one in counted.candidates] == ["x (1)", "x (2)"]


def test_bases_that_score_alike_share_a_place():
    found = choose(vectors(), [base(4, "a"), base(4, "b"), base(0, "c")], scores=("logme", "knn"))
    assert [one.rank for one in found.candidates] == [1.5, 1.5, 3]


# -- the sample -----------------------------------------------------------------------------------------------


def test_a_sample_has_each_class_by_its_share_and_twice_at_least():
    y = torch.cat([torch.full((count,), label) for label, count in enumerate((500, 300, 3, 197))])
    y = y[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    some = stratified(y, 100)
    assert len(some) == 100
    assert len(some.unique()) == 100
    counts = y[some].bincount().tolist()
    assert counts[2] == 2
    assert [abs(counts[i] - 0.1 * whole) <= 2 for i, whole in ((0, 500), (1, 300), (3, 197))] == [True] * 3
    assert torch.equal(some, stratified(y, 100))
    assert not torch.equal(some, stratified(y, 100, seed=1))


def test_rows_without_a_label_are_not_looked_at():
    y = torch.tensor([0, UNLABELED, 1, 0, UNLABELED, 1])
    assert stratified(y, 10).tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_has_as_many_rows_as_were_asked_for(seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 7, (400,), generator=generator) ** 2 // 9
    for most in (2 * len(y.unique()), 23, 57, 399, 400):
        assert len(stratified(y, most)) == most


@pytest.mark.parametrize(
    ("rows", "bases", "options", "said"),
    [
        (Columns(x=torch.randn(4, 6), y=[0, 0, 0, 0]), [base(4)], {}, "4 labelled rows are of one class"),
        (Columns(x=torch.randn(4, 6), y=[-100] * 4), [base(4)], {}, "0 labelled rows are of no class"),
        (Columns(x=torch.randn(4, 6), y=[0, 0, 1, 2]), [base(4)], {"names": "abc"}, "class b has 1 row"),
        (vectors(), [base(4)], {"most": 7}, "7 rows are fewer than 2 for each of the 4 classes"),
        (vectors(), [base(4)], {"most": 0}, "most must be"),
        (vectors(), [], {}, "no base to choose from"),
        (vectors(), [base(4)], {"scores": ("logm",)}, "no score 'logm' .did you mean 'logme'"),
        (vectors(), [base(4)], {"scores": ()}, "none was asked for"),
        (Columns(x=torch.randn(0, 6), y=torch.zeros(0, dtype=torch.int64)), [base(4)], {}, "there are no rows"),
        (vectors(), [base(0, "dead", module=nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)))], {}, "dead"),
    ],
)
def test_what_cannot_be_ranked_is_an_error_that_says_why(rows, bases, options, said):
    if said == "dead":
        with torch.no_grad():
            bases[0].module[0].bias.fill_(-1e6)
        bases[0].head = "2"
    with pytest.raises(ValueError, match=said):
        choose(rows, bases, **options)


def test_numbers_to_be_predicted_have_no_ranking():
    with pytest.raises(TypeError, match="ranked by classes"):
        choose(Columns(x=torch.randn(4, 6), y=torch.randn(4)), [base(4)])


# -- the strategy, and what is shown --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "options", "weights", "strategy"),
    [
        (vectors(24), {}, "some", "probe"),
        (vectors(120), {}, "some", "lpft"),
        (vectors(120), {"out_of_distribution": True}, "some", "lpft"),
        (vectors(420), {"most": 40}, "some", "finetune"),  # by all rows, not by those that were looked at
        (vectors(120), {}, None, "scratch"),
    ],
)
def test_the_strategy_is_that_of_the_case(rows, options, weights, strategy):
    found = choose(rows, [base(4, weights=weights)], scores=("logme",), **options)
    assert found.proposal.strategy == strategy
    assert found.proposal.reason in found.summary()


def shown(count=5, latency=1.0):
    scores = ("logme", "h-score", "n-leep", "knn", "ridge")
    names = ["timm:<b>&co", *(f"net.py:a_long_name_of_a_net_{i}" for i in range(1, count))]
    ones = [
        Candidate(
            name, "w", None, dict.fromkeys(scores, 0.1 * i - 0.3), i + 1.0, latency * 3.0**i, 10**i, 9, 9, 4, (3, 8, 9)
        )
        for i, name in enumerate(names)
    ]
    return Choice(tuple(ones), propose(Case(50, 3, 10)), scores, 100, 200, 3, "a machine")


def test_json_holds_all_and_is_plain(choice):
    told = json.loads(json.dumps(choice.to_json(), allow_nan=False))
    assert told["best"] == "sees 4"
    assert told["strategy"]["strategy"] == "lpft"
    assert told["candidates"][0]["licence"] == "mit"
    assert told["candidates"][0]["scores"] == choice.best.scores
    assert (told["rows"], told["of"], told["classes"]) == (120, 120, 4)


def test_the_table_has_a_line_for_each_base(choice):
    console = Console(width=140, file=io.StringIO())
    console.print(choice.table())
    text = console.file.getvalue()
    assert [line.split()[1] for line in text.splitlines() if line.startswith(" sees")] == ["4", "2", "0"]
    assert "mit" in text
    assert "unknown" in text


@pytest.mark.parametrize("made", [shown(), shown(1), shown(2, 1e-3), shown(9, 0.02)])
def test_the_picture_is_xml_with_every_base_in_every_panel_inside_its_frame(made):
    tree = ET.fromstring(made.to_svg())  # noqa: S314 (our own)
    _, _, width, height = map(float, tree.get("viewBox").split())
    space = "{http://www.w3.org/2000/svg}"
    panels = tree.findall(f"{space}g")
    assert len(panels) == 5
    for panel in panels:
        circles, names = panel.findall(f"{space}circle"), panel.findall(f"{space}text[@class='name']")
        assert len(circles) == len(names) == len(made.candidates)
        for mark in circles:
            assert 60 <= float(mark.get("cx")) <= 480 - 130
            assert 30 <= float(mark.get("cy")) <= 300 - 40
        heights = sorted(float(name.get("y")) for name in names)
        assert all(b - a >= 14.9 for a, b in itertools.pairwise(heights))
    assert (width, height) == (960, 900)


def test_up_is_better_and_left_is_quicker():
    tree = ET.fromstring(shown().to_svg())  # noqa: S314 (our own)
    marks = tree.find("{http://www.w3.org/2000/svg}g").findall("{http://www.w3.org/2000/svg}circle")
    across = {mark[0].text.split(":")[0]: float(mark.get("cx")) for mark in marks}
    assert len(across) == 2  # timm, and net.py
    places = sorted((float(mark.get("cx")), -float(mark.get("cy"))) for mark in marks)
    assert places == sorted(places, key=lambda place: place[1])  # here, what scores more is slower


def test_the_page_escapes_names_and_needs_nothing_from_outside():
    class Tags(HTMLParser):
        found: list = []  # noqa: RUF012 (of one test)

        def handle_starttag(self, tag, attrs):
            self.found.append((tag, dict(attrs)))

    page = shown().to_html()
    parser = Tags()
    parser.feed(page)
    assert "<b>&co" not in page
    assert not {tag for tag, _ in parser.found} & {"script", "img", "iframe"}
    links = [attrs["href"] for _, attrs in parser.found if "href" in attrs]
    assert links == ["data:,"]
    assert page.count("circle") >= 25
    assert ".glance thead th{overflow-wrap:normal}" in page  # else a header of one word breaks within it: ra-n-k


def test_one_base_is_a_choice_too_but_must_stand_in_a_sequence():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    data, base = Columns(x=torch.rand(20, 3, 2, 2), y=torch.arange(20) % 2), open_base(model)
    found = choose(data, [base], scores=["logme"])
    assert (found.best.rank, len(found.candidates)) == (1, 1)
    assert found.to_svg() in found.to_html() or "<circle" in found.to_html()
    with pytest.raises(TypeError, match="a sequence or a mapping of them"):
        choose(data, base)
