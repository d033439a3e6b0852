"""A frozen transformer reads prompts of each row's own, and nothing of it changes."""

import copy
from functools import partial

import pytest
import torch
from methods.small import net, weights
from methods.tokens import WIDTH, adam, batch, experience, hooks, learner, sgd, vit
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import join, take
from everlearn.data import Columns
from everlearn.data.order import batches, epoch_order
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain, attached
from everlearn.methods.coda import CODA
from everlearn.methods.composition import build
from everlearn.methods.growth import GrowHead
from everlearn.methods.l2p import L2P
from everlearn.methods.replay import Replay
from everlearn.models import MultiHead, snapshot
from everlearn.models.prompts import Site, Tokens, prompted, sites
from everlearn.objective import ask, classify
from everlearn.streams import Experience

every_method = pytest.mark.parametrize(
    "make", [partial(L2P, M=6, N=2, L=3), partial(CODA, M=3, L=2)], ids=["l2p", "coda"]
)
every_optimizer = pytest.mark.parametrize("optimizer", [sgd, adam])
THREE = ((0, 1), (2, 3), (4, 5))


def taught(make, model=None, count=2, **options):
    subject = learner(make(), model, **options)
    for index in range(count):
        subject.learn(experience(index, THREE[index]))
    return subject


@every_method
@every_optimizer
def test_the_body_is_bit_identical_whatever_the_optimizer_and_only_head_and_prompts_learn(make, optimizer):
    model = vit(dropout=0.3)
    model.blocks.insert(0, nn.Sequential(nn.Identity(), nn.LayerNorm(WIDTH)))
    before = snapshot(model)
    subject = taught(make, model, optimizer=optimizer)
    after = snapshot(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}
    assert all(weight.isfinite().all() for weight in subject.method.parameters())


@every_method
def test_a_normalisation_by_batches_in_the_body_rests(make):
    model = vit()
    model.embed = nn.Sequential(model.embed, nn.BatchNorm1d(4))
    before = copy.deepcopy(model.embed.state_dict())
    taught(make, model)
    assert checkpoint.same(dict(before), dict(model.embed.state_dict()))


@every_method
def test_an_answer_does_not_depend_on_the_other_rows_of_its_batch_nor_on_their_order(make):
    subject = taught(make)
    rows = join(batch(12), batch(12, 1, (2, 3)))
    whole = subject.predict(rows)
    for index in (torch.randperm(24, generator=torch.Generator().manual_seed(0)), torch.arange(0, 24, 5)):
        torch.testing.assert_close(subject.predict(take(rows, index)), whole[index], atol=1e-6, rtol=0)
    for row in range(24):
        alone = subject.predict(take(rows, slice(row, row + 1)))
        torch.testing.assert_close(alone, whole[row : row + 1], atol=1e-6, rtol=0)
        crowd = join(take(rows, slice(row, row + 1)), take(rows, torch.full((30,), (row + 12) % 24)))
        torch.testing.assert_close(subject.predict(crowd)[:1], alone, atol=1e-6, rtol=0)
    assert (whole[:1] - whole[1:2]).abs().max() > 1e-3


@every_method
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_step_and_a_prediction_compute_the_same_answers(make, norm_first, monkeypatch):
    """torch takes another way through a layer where no gradients are needed."""
    model = vit(dropout=0.5, norm_first=norm_first)
    subject = taught(make, model, count=1)
    assert torch.backends.mha.get_fastpath_enabled()
    answers = subject.predict(batch())
    for training in (True, False):
        output = subject.method(model.train(training), batch(), classify)
        torch.testing.assert_close(output.logits.detach(), answers, atol=1e-6, rtol=1e-5)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch.testing.assert_close(subject.predict(batch()), answers, atol=1e-6, rtol=1e-5)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    plain = model.eval()(batch()["x"])
    assert (plain - answers).abs().max() > 1e-2, "prompts are read"


@every_method
def test_rows_need_not_come_first(make):
    """The same weights, with tokens in the first dimension."""
    models = [vit(batch_first=True), vit(batch_first=False)]
    first, second = (taught(make, model) for model in models)
    assert set(first.method.axes.values()) == {1}
    assert set(second.method.axes.values()) == {0}
    torch.testing.assert_close(snapshot(models[0]), snapshot(models[1]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.predict(batch()), second.predict(batch()), atol=1e-5, rtol=1e-4)


@every_method
def test_nothing_is_left_on_the_model_not_even_after_an_error(make):
    subject = taught(make)
    assert hooks(subject.model) == 0
    subject.predict(batch())
    with pytest.raises(RuntimeError):
        subject.predict({"x": torch.zeros(2, 7)})
    with pytest.raises(RuntimeError):
        subject.observe({"x": torch.zeros(2, 7), "y": torch.zeros(2, dtype=torch.int64)})
    assert hooks(subject.model) == 0
    assert all(weight.requires_grad for weight in subject.model.parameters())


@every_method
def test_what_a_user_froze_stays_frozen(make):
    model = vit()
    model.blocks.requires_grad_(requires_grad=False)
    taught(make, model)
    assert not any(weight.requires_grad for weight in model.blocks.parameters())
    assert model.embed.weight.requires_grad


@every_method
def test_a_query_is_what_the_head_sees_without_prompts(make):
    subject = taught(make, vit(dropout=0.5))
    model, seen = subject.model.eval(), []
    handle = model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(batch()["x"])
    handle.remove()
    model.train()
    with prompted(model, subject.method.spans(), subject.method.axes, subject.method.prompts) as queries:
        model(batch()["x"])
    assert len(queries) == 1
    torch.testing.assert_close(queries[0], seen[0].detach())
    assert not queries[0].requires_grad
    assert all(module.training for module in model.modules())


@every_method
def test_rows_are_told_apart_among_the_classes_of_their_experience(make):
    subject = taught(make, count=1)
    subject.method.begin(subject.model, experience(1, (2, 3)), classify)
    subject.method.lambda_ = 0.0
    rows = batch(8, 1, (2, 3))
    output = subject.method(subject.model, rows, classify)
    expected = F.cross_entropy(output.logits[:, 2:4], rows["y"] - 2)
    torch.testing.assert_close(output.loss, expected)
    assert output.logits.isfinite().all(), "what is handed on is not masked"
    (grad,) = torch.autograd.grad(output.loss, [subject.model.head.weight])
    assert not grad[[0, 1, 4, 5]].any()
    assert grad[2:4].any()
    subject.method.mask = False
    subject.method.begin(subject.model, experience(1, (2, 3)), classify)
    output = subject.method(subject.model, rows, classify)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, rows["y"]))


@every_method
def test_replayed_rows_are_told_apart_among_all_classes(make):
    subject = taught(make, count=1)
    subject.method.begin(subject.model, experience(1, (2, 3)), classify)
    subject.method.lambda_ = 0.0
    rows = join(batch(8, 1, (2, 3)), batch(5, 0, (0, 1)))
    output = subject.method(subject.model, rows, classify)
    new = F.cross_entropy(output.logits[:8, 2:4], rows["y"][:8] - 2, reduction="sum")
    old = F.cross_entropy(output.logits[8:], rows["y"][8:], reduction="sum")
    torch.testing.assert_close(output.loss, (new + old) / 13)


@every_method
def test_with_replay_before_it_old_rows_are_learned_again(make):
    memory = Memory(40)
    subject = learner(Chain(Replay(memory, count=8), make()))
    before = snapshot(subject.model)
    for index in range(2):
        subject.learn(experience(index, THREE[index]))
    assert len(memory) == 40
    assert torch.equal(snapshot(subject.model)["embed.weight"], before["embed.weight"])
    behind = learner(Chain(make(), Replay(Memory(40), count=8)))
    with pytest.raises(ValueError, match="put the method that joins rows before this one"):
        behind.learn(experience())


@every_method
def test_unlabelled_rows_teach_nothing(make):
    subject = taught(make)
    before = copy.deepcopy(subject.method.state_dict()), snapshot(subject.model)
    output = subject.observe({"x": batch()["x"]})
    assert output.loss is None
    assert output.logits.shape == (12, 6)
    assert checkpoint.same(before, (subject.method.state_dict(), snapshot(subject.model)))


@every_method
def test_before_the_first_experience_the_head_learns_alone(make):
    subject = learner(make())
    before = weights(subject.model)
    for _ in range(3):
        subject.observe(batch())
    assert {n for n, w in subject.model.named_parameters() if not torch.equal(w, before[n])} == {
        "head.weight",
        "head.bias",
    }
    assert not list(subject.method.parameters())
    with torch.no_grad():
        assert torch.equal(subject.predict(batch()), subject.model.eval()(batch()["x"]))


@every_method
def test_what_was_learned_elsewhere_is_answered_as_before(make):
    subject = learner(make())
    before = subject.predict(batch())
    subject.remember(experience())
    assert torch.equal(subject.predict(batch()), before)
    subject.learn(experience(1, (2, 3)))
    after = subject.predict(batch())
    assert not torch.equal(before, after)


@every_method
@pytest.mark.parametrize("growing", [False, True])
def test_resume_is_exact_at_each_step(make, growing, tmp_path):
    def fresh():
        method = Chain(GrowHead(), make()) if growing else make()
        return learner(method, vit(2 if growing else 6), epochs=1)

    stream = [experience(index, THREE[index]) for index in range(3)]
    whole, numbers = fresh(), []
    for each in stream:
        for step in whole.steps(each):
            checkpoint.save(whole.state_dict(), tmp_path / str(step.number))
            numbers.append(step.number)
    assert len(numbers) == 9
    for number in (1, 3, 5, 9):
        second = fresh()
        second.load_state_dict(checkpoint.load(tmp_path / str(number)))
        for each in stream[second.experience :]:
            second.learn(each)
        assert checkpoint.same(whole.state_dict(), second.state_dict()), number
        assert torch.equal(whole.predict(batch()), second.predict(batch()))


@every_method
def test_in_a_loop_of_ones_own_that_leaves_gradients_of_zero_it_is_the_same(make):
    subject, model, method = learner(make()), vit(), make()
    subject.learn(experience())
    method.begin(model, experience(), classify)
    optimizer = sgd([*model.parameters(), *method.parameters()])
    with attached(method, model, optimizer):
        for epoch in range(2):
            for rows in batches(experience().train, epoch_order(24, 0, 0, epoch), 8):
                optimizer.zero_grad(set_to_none=False)
                method(model, rows, classify).loss.backward()
                optimizer.step()
    method.end(model, experience(), classify)
    assert checkpoint.same(snapshot(model), snapshot(subject.model))
    assert checkpoint.same(method.state_dict(), subject.method.state_dict())


@every_method
def test_under_autocast_the_pass_for_the_query_keeps_no_weight_from_learning(make):
    subject = learner(make(), precision="bf16")
    subject.method.begin(subject.model, experience(), classify)
    head, drawn = subject.model.head.weight.detach().clone(), copy.deepcopy(subject.method.tokens.state_dict())
    subject.learn(experience())
    assert not torch.equal(subject.model.head.weight, head)
    assert all(not torch.equal(w, drawn[name]) for name, w in subject.method.tokens.items())
    assert all(w.dtype == torch.float32 for w in subject.method.parameters())


@every_method
def test_in_double_precision_so_are_the_prompts(make):
    rows = Columns(x=experience().train.column("x").double(), y=experience().train.column("y"))
    subject = learner(make(), vit().double())
    subject.learn(Experience(0, rows, rows, (0, 1, 2)))
    assert all(weight.dtype == torch.float64 for weight in subject.method.parameters())


@every_method
def test_first_weights_follow_from_the_seed_and_from_nothing_else(make):
    states, model = [], vit()
    for seed in (0, 0, 1):
        method = make(seed=seed)
        torch.manual_seed(len(states))
        before = torch.get_rng_state()
        method.begin(model, experience(), classify)
        assert torch.equal(before, torch.get_rng_state())
        states.append(method.state_dict()["tokens"])
    assert checkpoint.same(dict(states[0]), dict(states[1]))
    assert not checkpoint.same(dict(states[0]), dict(states[2]))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x, mask=None):
        return self.inner(x, x, x, attn_mask=mask, need_weights=False)[0]


class Block(nn.Module):
    """Of somebody else's, with an answer in a tuple."""

    def __init__(self, tokens=None):
        super().__init__()
        self.attention, self.wide, self.tokens = Attention(), nn.Linear(WIDTH, WIDTH), tokens

    def forward(self, x, scale=1.0):
        mask = None if self.tokens is None else torch.zeros(self.tokens, self.tokens)
        x = x + scale * self.attention(x, mask)
        return x + self.wide(x).relu(), None


class Own(nn.Module):
    """Blocks under a name of their own, behind a stem."""

    def __init__(self, tokens=None):
        super().__init__()
        self.stem = nn.Linear(2, WIDTH)
        self.trunk = nn.ModuleList(Block(tokens) for _ in range(3))
        self.fc = nn.Linear(WIDTH, 6)

    def forward(self, x):
        h = self.stem(x.view(len(x), 4, 2))
        for block in self.trunk:
            h, _ = block(h, 0.5)
        return self.fc(h.mean(1))


@every_method
def test_blocks_of_any_kind_are_named_by_an_expression(make):
    torch.manual_seed(0)
    model = Own()
    before = weights(model)
    subject = learner(make(at=r"trunk\.[01]"), model)
    subject.learn(experience())
    assert subject.method.axes == {"trunk.0": 1, "trunk.1": 1}
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"fc.weight", "fc.bias"}
    with torch.no_grad():
        assert not torch.equal(subject.predict(batch()), model(batch()["x"]))


def test_the_sites_are_found_by_asking_the_model():
    rows = experience().train
    assert sites(vit(), rows, classify) == {"blocks.0": Site(1, 8), "blocks.1": Site(1, 8)}
    assert sites(vit(batch_first=False), rows, classify, r"blocks\.1") == {"blocks.1": Site(0, 8)}
    one = Experience(0, Columns(x=torch.randn(1, 8), y=torch.tensor([0])), rows, (0,)).train
    assert sites(vit(), one, classify, r"blocks\.1") == {"blocks.1": Site(1, 8)}
    model = vit()
    model.blocks[1] = model.blocks[0]
    with pytest.raises(ValueError, match="no part of ViT that is called once in a pass"):
        sites(model, rows, classify)


@every_method
def test_what_cannot_take_prompts_is_refused_with_a_way_out(make):
    rows = Columns(x=torch.randn(4, 5), y=torch.arange(4))
    with pytest.raises(ValueError, match=r"no part of Sequential .* is an nn.TransformerEncoderLayer; there is none"):
        make().begin(net(), Experience(0, rows, rows), classify)
    with pytest.raises(
        ValueError, match=r"no part of Own .* is an nn.TransformerEncoderLayer; at= takes some of trunk.0"
    ):
        learner(make(), Own()).learn(experience())
    with pytest.raises(ValueError, match=r"has a name that matches at='layer.*'; at= takes some of blocks.0, blocks.1"):
        learner(make(at="layer.*")).learn(experience())
    with pytest.raises(ValueError, match=r"the blocks trunk.0, .* do not take more tokens than they have"):
        learner(make(at=r"trunk\.\d"), Own(tokens=4)).learn(experience())
    rows, model = experience().train, MultiHead(vit(WIDTH), WIDTH, 2)
    with pytest.raises(ValueError, match="prompts need one head for all classes, but these have a task"):
        make().begin(model, Experience(0, rows, rows, (0, 1), task=0), classify)
    with pytest.raises(ValueError, match="M must be a whole number of at least 1"):
        make(M=0)


@every_method
def test_a_mask_over_something_else_than_classes_is_refused(make):
    subject = taught(make, count=1)
    subject.method.begin(subject.model, experience(), classify)
    with pytest.raises(ValueError, match="a class mask needs classes"):
        subject.method(subject.model, {"x": batch()["x"], "y": torch.rand(12)}, classify)
    assert hooks(subject.model) == 0


@every_method
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_on_a_vision_transformer_of_hugging_face(make):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=4,
    )
    model = transformers.ViTForImageClassification(config)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(24, 1, 8, 8, generator=random)
    rows = Columns(pixel_values=pixels, labels=torch.arange(24) % 2 + 2)
    layers = [name for name, _ in model.named_modules() if name.endswith((".0", ".1")) and "layer" in name]
    assert len(layers) == 2
    method = make(at=r".*layers?\.\d+")
    subject = Learner(model, method, ask, optimizer=sgd, epochs=2, batch_size=8)
    before = weights(model)
    plain = subject.predict({"pixel_values": pixels})
    subject.learn(Experience(0, rows, rows, (2, 3)))
    assert list(method.axes) == layers
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    answers = subject.predict({"pixel_values": pixels})
    assert not torch.allclose(answers, plain)
    alone = torch.cat([subject.predict({"pixel_values": pixels[i : i + 1]}) for i in range(6)])
    torch.testing.assert_close(alone, answers[:6], atol=1e-6, rtol=1e-5)
    assert hooks(model) == 0


def test_tokens_are_put_in_place_and_loading_makes_those_that_are_missing():
    tokens, other = Tokens(), Tokens()
    tokens.put("k", torch.ones(2))
    held = tokens["k"]
    tokens.put("k", torch.zeros(2))
    assert tokens["k"] is held
    assert not held.any()
    other.load_state_dict(tokens.state_dict())
    assert torch.equal(other["k"], held)


@pytest.mark.parametrize(
    "text", ["l2p+ewc", "lwf+coda", "der:memory=20+l2p", "mir:memory=20+coda", "gem:memory=20+l2p", "l2p+lora"]
)
def test_methods_that_ask_the_model_without_prompts_are_refused_beside_it(text):
    with pytest.raises(ValueError, match="asks it with prompts, of which"):
        build(text)


def test_on_the_command_line():
    method = build("l2p:M=20,N=4,lambda=0.1,at=blocks.*,mask=false", seed=3)
    given = {name: vars(method)[name] for name in ("M", "N", "lambda_", "at", "mask", "seed")}
    assert given == {"M": 20, "N": 4, "lambda_": 0.1, "at": "blocks.*", "mask": False, "seed": 3}
    build("er:memory=20+coda:M=5")
    with pytest.raises(ValueError, match=r"would see the batch before er has joined .*er\+l2p"):
        build("l2p+er:memory=20")
    with pytest.raises(ValueError, match="each give the answers in their own way"):
        build("l2p+coda")
