"""A padded head is a growing head, to all who look at its logits and its state; and growth compiles nothing again."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import zoo
from torch import nn, optim

from everlearn import checkpoint
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import DER, EWC, L2, MIR, PNN, SI, DERpp, GrowHead, ICaRL, LwF, Naive, Replay
from everlearn.models import MLP, grow, head_of, recall, resize_like, snapshot
from everlearn.models.fisher import fisher
from everlearn.models.heads import follow
from everlearn.models.padded import PaddedLinear, pad
from everlearn.objective import classify


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def net(outputs=2, capacity=None, *, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, outputs, bias=bias)).to(dtype)
    if capacity:
        pad(model, capacity)
    return model


def named(model):
    return dict(model.named_parameters())


def rows(count=6, seed=0):
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))


# -- what it answers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_room_changes_no_answer_and_no_state(bias, dtype):
    plain, padded = net(3, bias=bias, dtype=dtype), net(3, 20, bias=bias, dtype=dtype)
    x = rows().to(dtype)
    assert torch.equal(plain(x), padded(x))
    assert checkpoint.same(dict(plain.state_dict()), dict(padded.state_dict()))
    assert (padded[2].bias is None) is not bias
    assert padded[2].weight.shape == (20, 12)
    assert padded[2].weight.dtype == dtype
    assert repr(padded[2]) == f"PaddedLinear(in_features=12, out_features=3, bias={bias}, capacity=20)"


def test_outputs_that_grow_are_those_that_any_head_would_get():
    plain, padded, x = net(2), net(2, 20), rows()
    for outputs in (4, 3, 9, 20):
        grow(plain, outputs, seed=5)
        head = grow(padded, outputs, seed=5)
        assert head.out_features == plain[2].out_features
        assert torch.equal(plain(x), padded(x))
        assert checkpoint.same(snapshot(plain), snapshot(padded))


def test_within_its_room_the_parameters_are_the_same_objects_and_the_optimizer_need_not_know():
    model = net(2, 20)
    optimizer = optim.Adam(model.parameters())
    nn.functional.cross_entropy(model(rows()), torch.arange(6) % 2).backward()
    optimizer.step()
    before, state = named(model), deepcopy(optimizer.state_dict())
    grow(model, 20)
    follow(optimizer, before, named(model))
    assert all(weight is before[name] for name, weight in named(model).items())
    assert checkpoint.same(state, optimizer.state_dict())


def test_beyond_its_room_it_is_refused_and_stays_as_it_was_until_it_gets_more():
    model = net(2, 4)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    nn.functional.cross_entropy(model(rows()), torch.arange(6) % 2).backward()
    optimizer.step()
    before, x = snapshot(model), rows()
    with pytest.raises(
        ValueError, match=r"room for 4 outputs, but 5 are needed; make more with pad\(model, capacity\)"
    ):
        grow(model, 5)
    assert checkpoint.same(before, snapshot(model))
    answers, then, momentum = model(x), named(model), optimizer.state[model[2].weight]["momentum_buffer"]
    assert pad(model, 9) is model[2]
    follow(optimizer, then, named(model))
    assert torch.equal(model(x), answers)
    assert torch.equal(optimizer.state[model[2].weight]["momentum_buffer"][:4], momentum)
    assert grow(model, 9).out_features == 9
    with pytest.raises(ValueError, match="a capacity of 8 has no room for the 9 outputs"):
        pad(model, 8)


@pytest.mark.parametrize(
    "make",
    [
        partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        partial(optim.AdamW, lr=0.01, weight_decay=0.1),
        partial(optim.Adam, lr=0.01, weight_decay=0.1, fused=True),
        partial(optim.RMSprop, lr=0.01, momentum=0.9, centered=True),
        partial(optim.Adagrad, lr=0.1),
        partial(optim.Rprop, lr=0.01),
    ],
)
def test_rows_in_reserve_stay_zero_whatever_the_optimizer(make):
    model = net(3, 20)
    optimizer = make(model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        model(rows()).square().mean().backward()
        optimizer.step()
    for part in (model[2].weight, model[2].bias):
        assert not part[3:].any()
        assert not part.grad[3:].any()
        assert part[:3].all()


def test_a_layer_made_with_room_begins_as_one_without():
    layers = []
    for make in (nn.Linear, partial(PaddedLinear, capacity=50)):
        torch.manual_seed(0)
        layers.append(make(7, 3))
    assert checkpoint.same(*(snapshot(layer) for layer in layers))
    assert not layers[1].weight[3:].any()
    for layer in layers:
        torch.manual_seed(1)
        layer.reset_parameters()
    assert checkpoint.same(*(snapshot(layer) for layer in layers))
    assert not layers[1].weight[3:].any()


def test_the_layer_is_the_same_object_with_its_hooks_and_what_was_frozen():
    model = net(3)
    layer, seen = model[2], []
    layer.register_forward_hook(lambda *_: seen.append(True))
    layer.bias.requires_grad_(requires_grad=False)
    assert pad(model, 10) is layer
    model(rows())
    assert seen
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (True, False)
    assert isinstance(pad(nn.Linear(4, 2), 5), PaddedLinear)
    assert head_of(model) == ("2", layer)


def test_a_copy_grows_by_itself():
    model = net(2, 20)
    copy = deepcopy(model)
    grow(copy, 7)
    assert (model(rows()).shape, copy(rows()).shape) == ((6, 2), (6, 7))


def test_what_it_was_is_recalled_with_the_outputs_that_there_were():
    model = net(2, 20)
    then, x = snapshot(model), rows()
    before = model(x).detach()
    grow(model, 8)
    with torch.no_grad():
        model[2].weight += 1
    assert torch.equal(recall(model, then, lambda model, x: model(x), x), before)


def test_heads_that_cannot_have_room_are_refused():
    class Cosine(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, nn.functional.normalize(self.weight))

    with pytest.raises(ValueError, match="'0' is a Cosine, of which nothing is known"):
        pad(nn.Sequential(Cosine(4, 2)), 10)
    with pytest.raises(ValueError, match="parametrization"):
        pad(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), 10)
    tied = nn.ModuleDict({"embedding": nn.Embedding(3, 4), "head": nn.Linear(4, 3)})
    tied["head"].weight = tied["embedding"].weight
    with pytest.raises(ValueError, match=r"'head' shares its weights with 'embedding'"):
        pad(tied, 10)
    assert type(tied["head"]) is nn.Linear


# -- states


@pytest.mark.parametrize("saved", [1, 3, 8])
def test_states_go_from_a_head_with_room_to_one_without_and_back(saved):
    x = rows()
    for source, target in ((net(saved), net(3, 20)), (net(saved, 20), net(3)), (net(saved, 8), net(3, 20))):
        torch.nn.init.normal_(source[0].weight)
        state = source.state_dict()
        assert resize_like(target, state) == ([] if saved == 3 else ["2"])
        target.load_state_dict(state)
        assert torch.equal(source(x), target(x))
        assert checkpoint.same(snapshot(source), snapshot(target))
    assert not target[2].weight[saved:].any()


def test_outputs_that_go_leave_nothing_in_reserve():
    model = net(5, 20)
    resize_like(model, net(2).state_dict())
    assert model(rows()).shape == (6, 2)
    assert not model[2].weight[2:].any()
    assert not model[2].bias[2:].any()


@pytest.mark.parametrize("saved", [2, 20])
def test_a_state_of_another_size_is_not_loaded_unasked(saved):
    model = net(3, 20)
    before = snapshot(model)[f"{2}.weight"]
    with pytest.raises(RuntimeError, match=rf"size mismatch for 2.weight: \({saved}, 12\) is saved, but there are 3"):
        model.load_state_dict(net(saved).state_dict())
    assert torch.equal(before, snapshot(model)["2.weight"])


# -- methods

METHODS = {
    "naive": Naive,
    "er": lambda: Replay(Memory(50), count=8),
    "derpp": lambda: DERpp(Memory(50), alpha=0.3, beta=0.5, count=8),
    "der": lambda: DER(Memory(50), alpha=0.3, count=8),
    "mir": lambda: MIR(Memory(50), count=8, subsample=20),
    "lwf": LwF,
    "icarl": lambda: ICaRL(K=30),
    "si": lambda: SI(c=1.0),
    "l2": lambda: L2(lambda_=0.1),
}


def learned(method, capacity=None, optimizer=zoo.SGD, tasks=3):
    learner = Learner(net(2, capacity), Chain(GrowHead(), method), optimizer=optimizer, epochs=1, batch_size=16)
    for experience in zoo.stream(True)[:tasks]:
        learner.learn(experience)
    return learner


def question():
    return {"x": zoo.digits()[1].take(torch.arange(30))["x"]}


@pytest.mark.parametrize("optimizer", [zoo.SGD, partial(optim.AdamW, lr=0.01)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_learning_with_room_is_learning_with_a_head_that_grows_bit_for_bit(method, optimizer):
    plain, padded = (learned(METHODS[method](), capacity, optimizer) for capacity in (None, 40))
    assert padded.model[2].weight.shape == (40, 12)
    assert checkpoint.same(snapshot(plain.model), snapshot(padded.model))
    assert torch.equal(plain.predict(question()), padded.predict(question()))
    assert plain.predict(question()).shape == (30, 6)


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_importances_estimated_with_room_are_those_without_up_to_rounding(mode):
    plain, padded = (learned(EWC(20.0, mode, rows=60), capacity) for capacity in (None, 40))
    for name, value in snapshot(plain.model).items():
        torch.testing.assert_close(snapshot(padded.model)[name], value, rtol=1e-4, atol=1e-5)
    assert not padded.method.methods[1].importance["2.weight"][6:].any()


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_the_fisher_information_of_rows_in_reserve_is_zero(labels):
    batch = {"x": rows(12), "y": torch.arange(12) % 3}
    plain, padded = (fisher(model, [batch], classify, labels) for model in (net(3), net(3, 9)))
    for name, value in plain.items():
        torch.testing.assert_close(padded[name][: len(value)], value)
        assert not padded[name][len(value) :].any()


def test_columns_of_a_progressive_net_may_have_room():
    answers = []
    for capacity in (None, 7):
        learner = Learner(net(2, capacity), Chain(GrowHead(), PNN()), optimizer=zoo.SGD, batch_size=16)
        for experience in zoo.task_stream(True)[:3]:
            learner.learn(experience)
        answers.append([learner.predict(each.test.take(torch.arange(9))) for each in zoo.task_stream(True)[:3]])
    assert checkpoint.same(*answers)


@pytest.mark.parametrize("method", [Naive, lambda: Replay(Memory(50), count=8), SI, LwF])
def test_resume_is_exact(method, tmp_path):
    whole = learned(method(), 40)
    first = learned(method(), 40, tasks=1)
    for step in first.steps(zoo.stream(True)[1]):
        if step.place == 2:
            break
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second = learned(method(), 40, tasks=0)
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    for experience in zoo.stream(True)[1:3]:
        second.learn(experience)
    assert checkpoint.same(whole.state_dict(), second.state_dict())


# -- compiling


def graphs(model, steps, *, once=False):
    """How many graphs were compiled when the head of `model` with each number of outputs had been trained and asked.

    To be asked is to be compiled anew, without gradients. With `once`, an error if the second number compiles anything.
    """
    count, counts = [], []

    def counted(graph, _inputs):
        count.append(graph)
        return graph

    compiled = torch.compile(model, backend=counted)
    for outputs in steps:
        grow(model, outputs)
        with torch._dynamo.config.patch(error_on_recompile=once and outputs != steps[0]):
            compiled(rows()).square().sum().backward()
            with torch.no_grad():
                assert compiled(rows()).shape == (6, outputs)
        counts.append(len(count))
    return counts


class Wrapped(nn.Module):
    """A user's model, with the head deep inside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"body": nn.Linear(64, 8), "heads": nn.ModuleList([nn.Linear(8, 2)])})

    def forward(self, x):
        return self.inner["heads"][0](self.inner["body"](x).relu()) * 2


@pytest.mark.parametrize("make", [net, Wrapped, partial(MLP, 64, (16,), 2)], ids=["sequential", "wrapped", "mlp"])
def test_growth_within_the_room_compiles_nothing_again_and_without_it_each_time(make):
    model = make()
    pad(model, 10)
    assert graphs(model, (2, 4, 5, 8, 10), once=True) == [2] * 5
    assert graphs(make(), (2, 4, 6)) == [2, 4, 6]


def test_what_is_compiled_answers_and_learns_as_what_is_not():
    plain, model = net(2, 10), net(2, 10)
    compiled = torch.compile(model, backend="aot_eager")
    for outputs in (2, 5, 10):
        for each, called in ((plain, plain), (model, compiled)):
            grow(each, outputs)
            each.zero_grad()
            with torch._dynamo.config.patch(error_on_recompile=outputs > 2):
                answer = called(rows())
            answer.square().sum().backward()
        torch.testing.assert_close(answer, plain(rows()))
        for name, weight in named(plain).items():
            torch.testing.assert_close(model.get_parameter(name).grad, weight.grad)


def test_without_room_the_compiler_gives_up_after_eight_graphs():
    assert graphs(net(), range(2, 8)) == [2, 4, 6, 8, 8, 8]


def test_a_first_output_alone_is_a_case_of_its_own_to_the_compiler():
    model = net(1)
    pad(model, 10)
    assert graphs(model, (1, 2, 3, 10)) == [2, 4, 4, 4]


def test_a_copy_of_a_head_with_room_compiles_once_too():
    assert graphs(deepcopy(net(2, 10)), (2, 3, 10), once=True) == [2, 2, 2]
