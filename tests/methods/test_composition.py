"""What a user types becomes the chain that it says, in that order, or an error that names the way out."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from everlearn.memory import Balanced, Memory, Ring
from everlearn.method import Card, Chain
from everlearn.methods import DER, EWC, METHODS, SI, DERpp, GrowHead, LwF, Naive, Replay
from everlearn.methods.composition import build, parameters
from everlearn.spec import literal, one_of, parse, parse_chain


def test_one_name_is_one_method():
    assert isinstance(build("naive"), Naive)
    assert build("lwf") == LwF()


def test_the_order_typed_is_the_order_of_wrapping():
    kinds = [type(method) for method in build("er+ewc+lwf").methods]
    assert kinds == [Replay, EWC, LwF]
    assert [type(method) for method in build("lwf+er").methods] == [LwF, Replay]


def test_settings_reach_their_fields():
    chain = build("er:memory=100,count=64+ewc:lambda=1e+3,mode=online,rows=none+lwf:lambda_o=2,T=4")
    replay, ewc, lwf = chain.methods
    assert (replay.memory.capacity, replay.count) == (100, 64)
    assert (ewc.lambda_, ewc.mode, ewc.rows) == (1000.0, "online", None)
    assert (lwf.lambda_o, lwf.T) == (2, 4)


def test_what_is_not_set_has_the_default_of_the_method():
    assert build("ewc") == EWC()
    assert build("si:c=0.5") == SI(c=0.5)
    assert build("er").count == 32
    assert build("er").memory.capacity == 2000


def test_spaces_and_capitals_do_not_matter():
    assert build(" ER: memory = 10 + EWC : lambda = 2 ").methods[1] == EWC(lambda_=2)


@pytest.mark.parametrize("name", ["der++", "DER++", "Der++", "derpp"])
def test_der_plus_plus_has_its_own_name_in_it(name):
    chain = build(f"{name}:alpha=0.2+ewc")
    assert isinstance(chain.methods[0], DERpp)
    assert chain.methods[0].alpha == 0.2
    assert isinstance(build(name), DERpp)
    assert isinstance(build("der"), DER)
    assert isinstance(build("er+der++").methods[1], DERpp)


def test_memories_are_chosen_by_name():
    assert type(build("er").memory) is Balanced
    assert type(build("er", regression=True).memory) is Memory
    assert type(build("er:keep=reservoir").memory) is Memory
    assert type(build("er:keep=ring").memory) is Ring
    assert build("er:memory=64kB").memory.capacity == "64kB"


def test_memories_of_one_chain_have_seeds_of_their_own():
    first, second = build("er+der", seed=5).methods
    assert (first.memory.seed, second.memory.seed) == (5, 6)


def test_memories_on_disk_lie_in_folders_of_their_own(tmp_path):
    first, second = build("er+der", folder=str(tmp_path)).methods
    assert (first.memory.folder, second.memory.folder) == (tmp_path / "er", tmp_path / "der")


def test_a_growing_head_stands_in_front_unless_the_user_placed_it():
    chain = build("er+lwf", grow=True, head="fc", seed=3)
    assert chain.methods[0] == GrowHead("fc", 3)
    assert [type(method) for method in build("er+grow", grow=True).methods] == [Replay, GrowHead]
    assert isinstance(build("naive", grow=True), Chain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ewk", r"there is no method 'ewk' \(did you mean 'ewc'\?\); known: .*derpp, .*ewc"),
        ("er+", r"there is no method ''"),
        ("", r"there is no method ''"),
        (
            "er:memroy=10",
            r"er has no setting 'memroy' \(did you mean 'memory'\?\); it has memory, count, combine, keep",
        ),
        ("lwf:memory=10", r"lwf has no setting 'memory'"),
        ("ewc:lambda", r"cannot read 'lambda' in 'ewc:lambda'; expected key=value"),
        ("ewc:=3", r"cannot read '=3'"),
        ("ewc:lambda=1,lambda=2", r"'ewc:lambda=1,lambda=2' gives 'lambda' twice"),
        ("ewc:lambda=much", r"ewc:lambda must be a number, but is 'much'"),
        ("ewc:lambda=none", r"ewc:lambda must be a number, but is None"),
        ("ewc:lambda=true", r"ewc:lambda must be a number, but is True"),
        ("ewc:rows=1.5", r"ewc:rows must be int \| None, but is 1.5"),
        ("dann:tap=2", r"dann:tap must be a name \(quote it: '2'\), but is 2"),
        ("er:count=2.5", r"er:count must be a whole number, but is 2.5"),
        ("ewc:mode=seperate", r"mode must be one of separate, online, but is 'seperate'"),
        ("ewc:fisher=sampled", r"fisher must be one of exact, empirical, weighted, but is 'sampled'"),
        ("er:keep=all", r"there is no memory 'all'.*balanced, lossaware, reservoir, ring"),
        ("er:memory=0", r"a capacity is a whole number of rows"),
        ("er:memory=many", r"a capacity in bytes reads like"),
        ("er+ewc+er", r"names er twice"),
        ("naive+er", r"naive is the absence of a method"),
    ],
)
def test_what_cannot_be_is_an_error_with_a_way_out(text, message):
    with pytest.raises(ValueError, match=message):
        build(text)


@pytest.mark.parametrize("name", METHODS)
def test_the_parameters_listed_are_those_that_can_be_typed(name):
    given = {p.name: p.default for p in parameters(METHODS[name])}
    text = f"{name}:" + ",".join(f"{key}={value}" for key, value in given.items()) if given else name
    built = build(text)
    assert isinstance(built, METHODS[name])
    assert not any(key.endswith("_") for key in given)


def test_a_spec_reads_as_it_was_typed():
    assert str(parse("sgd:lr=0.01,momentum=0.9")) == "sgd:lr=0.01,momentum=0.9"
    assert str(parse("naive")) == "naive"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-2", -2),
        ("1e-3", 0.001),
        ("TRUE", True),
        ("False", False),
        ("None", None),
        ("a", "a"),
        ("64MB", "64MB"),
        ("", ""),
    ],
)
def test_values_are_numbers_words_of_logic_or_texts(text, value):
    read = literal(text)
    assert read == value
    assert type(read) is type(value)


def test_a_plus_before_a_digit_belongs_to_a_number():
    assert [(spec.name, dict(spec.settings)) for spec in parse_chain("a:x=1e+3,y=+2+b")] == [
        ("a", {"x": 1000.0, "y": 2}),
        ("b", {}),
    ]


def test_a_name_far_from_all_gets_no_suggestion():
    with pytest.raises(ValueError, match=r"^there is no thing 'zzz'; known: alpha, beta$"):
        one_of("thing", "zzz", ["beta", "alpha"])


def _registered(monkeypatch, **methods):
    for name, method in methods.items():
        monkeypatch.setitem(METHODS, name, method)


@dataclass
class _Alone(Naive):
    card: ClassVar[Card] = Card("frozen features", "none", "nothing", alone=True)


@dataclass
class _Answering(Naive):
    def predict(self, model, batch, objective):
        return objective(model, batch).logits * 2


@dataclass
class _Bending(Naive):
    card: ClassVar[Card] = Card("gradient", "none", "nothing")

    def before_step(self, model):
        pass


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("alone+ewc", "alone takes no step .* leaves ewc nothing"),
        ("er+alone", "leaves er nothing"),
        ("answering+other", "answering and other each give the answers"),
        ("bending+bent", "each project the gradient"),
        ("bending+si", "put it first: si\\+bending"),
    ],
)
def test_what_cannot_work_together_is_refused_with_the_reason(monkeypatch, text, why):
    _registered(monkeypatch, alone=_Alone, answering=_Answering, other=_Answering, bending=_Bending, bent=_Bending)
    with pytest.raises(ValueError, match=why):
        build(text)


@pytest.mark.parametrize("text", ["alone", "grow+alone", "answering+ewc", "si+bending", "bending+ewc", "er+bending"])
def test_what_can_work_together_is_built(monkeypatch, text):
    _registered(monkeypatch, alone=_Alone, answering=_Answering, bending=_Bending)
    assert build(text)


def test_the_seed_reaches_what_a_method_draws_itself_unless_it_is_given():
    assert build("gdumb", seed=5).seed == 5
    assert build("icarl:seed=7", seed=5).seed == 7
    assert build("er+dgr", seed=5).methods[1].seed == 6, "each part of a chain draws for itself"
