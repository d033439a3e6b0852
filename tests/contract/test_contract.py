"""What every method owes, on every kind of model, with and without a growing head, with and without task labels.

Each method is asked about each property, and meets each kind of model; each method about each property on each kind of
model is `make contract`.
"""

import copy
import gc
import math
import os
import tracemalloc

import pytest
import torch
import zoo
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import join, take
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import FAMILIES, Chain, Method
from everlearn.methods import (
    AGEM,
    DER,
    DGR,
    ERACE,
    EWC,
    GEM,
    GPM,
    L2,
    MAS,
    METHODS,
    MIR,
    OGD,
    SI,
    DERpp,
    FeatDistill,
    LwF,
    Naive,
    Replay,
    RWalk,
)
from everlearn.models import snapshot
from everlearn.objective import Output
from everlearn.streams import Experience

KINDS = [
    pytest.param({"model": "mlp"}, id="mlp"),
    pytest.param({"model": "mlp", "growing": True}, id="mlp-growing"),
    pytest.param({"model": "conv"}, id="conv"),
    pytest.param({"model": "conv", "growing": True}, id="conv-growing"),
    pytest.param({"model": "transformer", "growing": True}, id="transformer-growing"),
    pytest.param({"tasks": True}, id="tasks"),
]
ALL = os.environ.get("EVERLEARN_CONTRACT") == "all"
ALWAYS = {"mlp-growing", "tasks"}
"""The kinds on which each property is asked for at once: a head that grows, and task labels."""


def kinds(method, place):
    """The kinds of model on which a method is asked for the property at this place among the four.

    Those that are quick, and one of the others, so that over the properties a method comes to each.
    """
    suited = [
        kind
        for kind in KINDS
        if zoo.suits(method, tasks=kind.values[0].get("tasks", False), model=kind.values[0].get("model", "mlp"))
        and (method not in zoo.UNLABELLED or kind.id in zoo.LABELLED)
    ]
    in_turn = [kind for kind in suited if kind.id not in ALWAYS]
    chosen = in_turn[(list(zoo.METHODS).index(method) + place) % len(in_turn)] if in_turn else None
    return [kind for kind in suited if ALL or kind.id in ALWAYS or kind is chosen]


def each_case(place):
    return pytest.mark.parametrize(
        ("method", "kind"),
        [
            pytest.param(method, *kind.values, id=f"{method}-{kind.id}")
            for method in zoo.METHODS
            for kind in kinds(method, place)
        ],
    )


def stream(kind):
    """Experiences of 50 to 60 rows: three steps and a smaller one in each epoch."""
    return zoo.task_stream(True, rows=260) if kind.get("tasks") else zoo.stream(True, rows=260)


def questions(kind):
    experience = stream(kind)[0]
    return experience.test.take(torch.arange(20))


@each_case(0)
def test_resume_is_exact(method, kind, tmp_path):
    total = sum(2 * math.ceil(len(experience.train) / 16) for experience in stream(kind)[:3])
    pauses = (1, total // 2, total - 1) if kind == {"model": "mlp", "growing": True} else (total // 2 + 1,)
    whole, saved = zoo.learner(method, **kind), {}
    for experience in stream(kind)[:3]:
        for step in whole.steps(experience):
            if step.number in pauses:
                saved[step.number] = tmp_path / f"{step.number}"
                checkpoint.save(whole.state_dict(), saved[step.number])
    assert whole.number == total
    assert tuple(saved) == pauses
    for pause, path in saved.items():
        torch.manual_seed(999)
        second = zoo.learner(method, **kind)
        second.load_state_dict(checkpoint.load(path))
        assert second.number == pause
        for experience in stream(kind)[second.experience : 3]:
            second.learn(experience)
        assert second.number == total
        assert checkpoint.same(whole.state_dict(), second.state_dict()), f"saved at step {pause} of {total}"
        assert torch.equal(whole.predict(questions(kind)), second.predict(questions(kind)))


@each_case(1)
def test_predict_is_pure(method, kind):
    subject = zoo.learner(method, epochs=1, **kind)
    for experience in stream(kind)[:2]:
        subject.learn(experience)
    before = copy.deepcopy(subject.state_dict())
    modes = [module.training for module in subject.model.modules()]
    parameters = list(map(id, subject.model.parameters()))
    answers = subject.predict(questions(kind))
    subject.evaluate(stream(kind)[0].test, among=None)
    assert checkpoint.same(before, subject.state_dict())
    assert modes == [module.training for module in subject.model.modules()]
    assert parameters == list(map(id, subject.model.parameters()))
    alone = torch.cat([subject.predict(take(questions(kind), slice(i, i + 1))) for i in range(20)])
    torch.testing.assert_close(alone, answers, atol=1e-5, rtol=1e-4)


@each_case(2)
def test_the_model_trains_in_train_mode_estimates_in_eval_mode_with_clean_gradients(method, kind):
    subject = zoo.learner(method, epochs=1, **kind)
    seen = []

    class Watch(Method):
        """Innermost in the chain: sees what each training step sees."""

        def loss(self, model, batch, objective, rest):
            resting = method in zoo.TOKENS or (method in zoo.RESTING and subject.experience > 0)
            assert method in zoo.PARTLY or all(module.training != resting for module in model.modules())
            assert all(weight.grad is None for weight in model.parameters())
            seen.append(True)
            return rest(model, batch)

    subject.method = Chain(Watch(), subject.method) if method in zoo.EXITS else Chain(subject.method, Watch())
    estimates = []
    plain = subject.objective

    def watching(model, batch):
        estimates.append(subject.model.training)
        return plain(model, batch)

    for experience in stream(kind)[:2]:
        subject.objective = plain
        for _ in subject.steps(experience):
            pass
        subject.objective = watching
        before = snapshot(subject.model)
        subject.method.end(subject.model, experience, watching)
        assert checkpoint.same(before, snapshot(subject.model))
    assert seen or zoo.alone(method)
    assert not any(estimates)


@pytest.mark.parametrize(
    "mute",
    [
        lambda: EWC(lambda_=0.0, rows=20),
        lambda: SI(c=0.0),
        lambda: LwF(lambda_o=0.0),
        lambda: DER(Memory(50), alpha=0.0),
        lambda: DERpp(Memory(50), alpha=0.0, beta=0.0),
        lambda: Replay(Memory(50), count=0),
        lambda: ERACE(Memory(50), count=0),
        lambda: MIR(Memory(50), count=0),
        lambda: DGR(inputs=64, hidden=8, z=4, count=0),
        lambda: MAS(lambda_=0.0, rows=20),
        lambda: RWalk(lambda_=0.0),
        lambda: L2(lambda_=0.0),
        lambda: FeatDistill(lambda_=0.0),
        lambda: AGEM(Memory(50), count=0),
        lambda: GEM(Memory(50), constraints=0),
        lambda: OGD(directions=0),
        lambda: GPM(threshold=0.0, rows=20),
        Chain,
        lambda: Chain(EWC(lambda_=0.0, rows=20), SI(c=0.0), LwF(lambda_o=0.0)),
    ],
)
@pytest.mark.parametrize("model", ["mlp", "conv"])
def test_with_strength_0_it_is_fine_tuning_bit_for_bit(mute, model):
    weights = []
    for method in (Naive(), mute()):
        subject = zoo.learner("naive", model)
        subject.method = method
        for experience in zoo.stream(True)[:3]:
            subject.learn(experience)
        weights.append(snapshot(subject.model))
    assert checkpoint.same(*weights)


@pytest.mark.parametrize(
    "strong", [lambda: EWC(lambda_=20.0), lambda: SI(c=5.0), LwF, lambda: DER(Memory(50)), lambda: Replay(Memory(50))]
)
def test_with_strength_the_weights_differ_from_fine_tuning(strong):
    weights = []
    for method in (Naive(), strong()):
        subject = zoo.learner("naive")
        subject.method = method
        for module in subject.model.modules():
            module.p = 0.0  # no dropout: what differs is the method
        for experience in zoo.stream(True)[:2]:
            subject.learn(experience)
        weights.append(snapshot(subject.model))
    assert not checkpoint.same(*weights)


@each_case(3)
def test_the_users_data_are_untouched(method, kind):
    experiences = stream(kind)[:2]
    before = [copy.deepcopy(e.train.take(torch.arange(len(e.train)))) for e in experiences]
    subject = zoo.learner(method, epochs=1, **kind)
    for experience in experiences:
        subject.learn(experience)
    after = [e.train.take(torch.arange(len(e.train))) for e in experiences]
    assert checkpoint.same(before, after)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_a_card(name):
    card = METHODS[name].card
    assert card.family in FAMILIES
    assert card.passes
    assert card.stores
    assert name in ("naive", "grow") or "card" in vars(METHODS[name]), "it would carry the card of another"


@pytest.mark.parametrize("method", zoo.METHODS)
def test_in_bf16_weights_and_what_is_kept_stay_finite_and_as_wide_as_they_were(method):
    kind = {"model": "transformer" if method in zoo.TOKENS else "conv"}
    kind = {"tasks": True} if method in zoo.NEEDS_TASKS else kind
    subject = zoo.learner(method, precision="bf16", epochs=1, **kind)
    before = {name: value.dtype for name, value in snapshot(subject.model).items()}
    for experience in stream(kind)[:2]:
        subject.learn(experience)
    assert before.items() <= {name: value.dtype for name, value in snapshot(subject.model).items()}.items()
    assert all(value.isfinite().all() for value in snapshot(subject.model).values())
    assert not subject.predict(questions(kind)).isnan().any()


class Letters(torch.nn.Module):
    """A bag of letters of texts that differ in length."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = torch.nn.EmbeddingBag(26, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, texts):
        places = torch.tensor([0, *(len(text) for text in texts[:-1])]).cumsum(0)
        return self.head(self.mix(self.table(torch.tensor([ord(c) - 97 for text in texts for c in text]), places)))


def reads(model, batch):
    logits = model(batch["text"])
    return Output(F.cross_entropy(logits, batch["y"]) if "y" in batch else None, logits)


@pytest.mark.parametrize(
    "method", sorted(zoo.METHODS.keys() - zoo.NEEDS_TASKS - zoo.TENSORS - zoo.TOKENS - zoo.NORMS - zoo.EXITS)
)
def test_rows_may_be_lists_of_things_that_differ_in_size(method):
    torch.manual_seed(0)
    subject = Learner(Letters(), zoo.METHODS[method](), reads, optimizer=zoo.SGD, batch_size=8)
    y = torch.arange(24) % 2
    for index, words in enumerate((("ab", "cdcde"), ("fff", "ghghi"))):
        rows = Columns(text=[words[label] * (1 + place % 3) for place, label in enumerate(y.tolist())], y=y + 2 * index)
        experience = Experience(index, rows, rows, (2 * index, 2 * index + 1))
        subject.learn(experience)
        assert subject.predict(rows.take(torch.arange(5))).shape == (5, 4)


@pytest.mark.parametrize("method", ["lwf", "er+lwf+si"])
@pytest.mark.parametrize("model", ["mlp", "conv"])
def test_a_teacher_stays_as_it_was(method, model):
    subject = zoo.learner(method, model)
    subject.learn(zoo.stream(True)[0])
    lwf = subject.method if isinstance(subject.method, LwF) else subject.method.methods[1]
    before = copy.deepcopy(lwf.teacher)
    for _ in subject.steps(zoo.stream(True)[1]):
        assert checkpoint.same(before, lwf.teacher)
        if subject.position >= 5:
            break


def test_the_methods_for_rows_without_labels_are_those_of_two_families():
    named = {name for name, cls in METHODS.items() if cls.card.family in ("adaptation", "test time")}
    assert {name for name in zoo.UNLABELLED if "+" not in name} == named & zoo.METHODS.keys()


@pytest.mark.parametrize("method", sorted(zoo.METHODS.keys() - zoo.NEEDS_TASKS - zoo.UNLABELLED))
def test_learns(method):
    subject = zoo.learner(method, epochs=10)
    least = 0.8 if subject.method.own_answers else 0.9  # on the features of a body that nobody has trained
    for experience in zoo.stream()[:2]:
        subject.learn(experience)
        assert subject.evaluate(experience.test).value > least
        least = 0.6 if method in zoo.RESTING | zoo.TOKENS else least  # on features that know two other classes


@pytest.mark.parametrize(("method", "least"), [("er", 0.6), ("er-balanced", 0.6), ("derpp", 0.6), ("er+ewc", 0.6)])
def test_replay_remembers_what_fine_tuning_forgets(method, least):
    naive, subject = zoo.learner("naive", epochs=4), zoo.learner(method, epochs=4)
    for experience in zoo.stream():
        naive.learn(experience)
        subject.learn(experience)
    _, test = zoo.digits()
    assert naive.evaluate(test).value < 0.4
    assert subject.evaluate(test).value > least


GROWING = {"coda", "olora", "gpm"}
"""What they keep grows: components or an A with each experience; a basis, ever more slowly, up to all inputs."""
FLAT = [name for name in zoo.METHODS if name not in zoo.NEEDS_TASKS | GROWING and "+" not in name]
"""All others, by themselves."""
SOON = ["naive", "er", "derpp", "ewc", "si", "lwf", "bic", "scr", "agem", "slda"]


THOUSAND = os.environ.get("EVERLEARN_THOUSAND") == "all"
"""Whether there are a thousand experiences, and all methods. After two hundred each memory is full."""


@pytest.mark.parametrize("method", FLAT if THOUSAND else SOON)
def test_many_tiny_experiences_keep_memory_use_flat(method):
    marks = (200, 999 if THOUSAND else 299)
    subject = zoo.learner(method, epochs=1, batch_size=4)
    if method == "ewc":
        subject.method.lambda_ = 1e-3  # a thousand penalties add up, and plain SGD follows only so much curvature
        subject.method.fisher = "empirical"  # one label a row
    if method == "mas":
        subject.method.lambda_ = 1e-5

    def size():
        return sum(v.numel() * v.element_size() for v in _tensors(subject.method.state_dict()))

    sizes = []
    tracemalloc.start()
    for index in range(marks[-1] + 1):
        x = torch.randn(4, 64, generator=torch.Generator().manual_seed(index))
        rows = Columns(x=x, y=torch.arange(4) % 10)
        subject.learn(Experience(index, rows, rows, (0, 1, 2, 3)))
        if index in marks:
            gc.collect()
            sizes.append((size(), tracemalloc.get_traced_memory()[0]))
    tracemalloc.stop()
    assert sizes[1][0] == sizes[0][0]
    assert sizes[1][1] < sizes[0][1] + 250 * (marks[1] - marks[0])


def _tensors(state):
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def test_order_in_a_chain_is_order_of_wrapping():
    seen = []

    class Watch(Naive):
        def loss(self, model, batch, objective, rest):
            seen.append(len(batch["y"]))
            return rest(model, batch)

    def memory():
        memory = Memory(50)
        memory.add({"x": torch.zeros(8, 64), "y": torch.zeros(8, dtype=torch.long)})
        return memory

    batch = {"x": torch.zeros(4, 64), "y": torch.zeros(4, dtype=torch.long)}
    objective = zoo.learner("naive").objective
    Chain(Replay(memory(), count=8), Watch())(zoo.mlp(10), batch, objective)
    Chain(Watch(), Replay(memory(), count=8))(zoo.mlp(10), batch, objective)
    assert seen == [12, 4]


def test_a_teacher_leaves_no_trace_in_the_rest_of_a_chain():
    memory, lwf, model = Memory(50), LwF(), zoo.mlp(10)
    objective = zoo.learner("naive").objective
    lwf.end(model, zoo.stream(True)[0], objective)
    batch = {"x": torch.zeros(4, 64), "y": torch.zeros(4, dtype=torch.long)}
    Chain(lwf, Replay(memory))(model, batch, objective)
    assert memory.seen == 4
    assert set(join(batch, memory.rows())) == {"x", "y"}
