"""An experience changes the matrices of the body by one of low rank, exactly as adapters beside the layers would."""

import copy
from functools import partial

import pytest
import torch
import zoo
from methods.small import experience, net, norm_net, weights
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.data.order import batches, epoch_order
from everlearn.learner import Learner
from everlearn.method import Chain, attached
from everlearn.methods.composition import build
from everlearn.methods.ewc import EWC
from everlearn.methods.growth import GrowHead
from everlearn.methods.inflora import InfLoRA
from everlearn.methods.lora import LoRA
from everlearn.methods.lwf import LwF
from everlearn.methods.olora import OLoRA
from everlearn.models import snapshot
from everlearn.models.lowrank import LowRank
from everlearn.objective import ask, classify
from everlearn.streams import Experience

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.05),
    "adam": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
every_kind = pytest.mark.parametrize("make", [LoRA, OLoRA, pytest.param(partial(InfLoRA, threshold=0.2), id="InfLoRA")])


def learner(model=None, method=None, optimizer="sgd", **options):
    settings = {"optimizer": OPTIMIZERS[optimizer], "epochs": 3, "batch_size": 8} | options
    return Learner(net() if model is None else model, method or LoRA(r=2), **settings)


def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 4))


@every_kind
@every_optimizer
def test_matrices_change_by_low_rank_the_head_freely_and_nothing_else_at_all(make, optimizer):
    subject = learner(deep(), make(r=2), optimizer)
    for index in range(3):
        before = weights(subject.model)
        for _ in subject.steps(experience(index)):
            change = {name: w.detach() - before[name] for name, w in subject.model.named_parameters()}
            assert not any(change[name].any() for name in ("0.bias", "2.bias", "3.weight", "3.bias"))
        for name in ("0.weight", "2.weight"):
            sizes = torch.linalg.svdvals(change[name].double())
            assert sizes[1] > 1e-4
            assert sizes[2] < 1e-5 * sizes[0], "of rank 2"
        assert torch.linalg.matrix_rank(change["5.weight"]) == 4


@every_kind
def test_what_a_user_froze_stays_and_stays_out_of_the_adapters(make):
    model = deep()
    model[0].requires_grad_(requires_grad=False)
    before = weights(model)
    subject = learner(model, make(r=2))
    subject.learn(experience())
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[2].weight, before["2.weight"])
    assert list(subject.method.adapters) == ["2/weight A", "2/weight B"]


@every_kind
def test_a_new_adapter_changes_nothing_before_its_first_step_and_nothing_when_it_is_merged(make):
    subject = learner(deep(), make(r=2))
    rows = experience().test.take(torch.arange(20))
    for index in range(2):
        before = subject.predict(rows)
        subject.method.begin(subject.model, experience(index), classify)
        subject.method.after_step = torch.no_grad()(subject.method.after_step)
        subject.method.after_step(subject.model)
        assert torch.equal(subject.predict(rows), before)
        for step in subject.steps(experience(index)):
            if step.place == step.of:
                before = subject.predict(rows)
        assert torch.equal(subject.predict(rows), before)
        assert not subject.method.base


def test_the_model_is_at_each_step_what_the_adapters_say():
    subject = learner(deep(), LoRA(r=3, alpha=5.0))
    before = weights(subject.model)
    for _ in subject.steps(experience()):
        for name in ("0.weight", "2.weight"):
            a, b = subject.method.adapters.pair(name)
            torch.testing.assert_close(subject.model.get_parameter(name), before[name] + 5 / 3 * b @ a)


def test_each_experience_draws_an_a_of_its_own_and_begins_with_b_at_0():
    method, model = LoRA(r=2), deep()
    drawn = []
    for index in (0, 1, 0):
        method.begin(model, experience(index), classify)
        a, b = method.adapters.pair("2.weight")
        drawn.append(a.detach().clone())
        assert a.abs().max() <= 12**-0.5
        assert not b.any()
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    other = LoRA(r=2, seed=1)
    other.begin(model, experience(0), classify)
    assert not torch.equal(other.adapters.pair("2.weight")[0], drawn[0])


def test_gradients_are_those_of_autograd_through_the_product():
    """The oracle: the same loss, written with A and B in the graph."""
    model, method = norm_net(), LoRA(r=2, alpha=3.0)
    model.eval()
    method.begin(model, experience(), classify)
    adapters = {name: method.adapters.pair(name) for name in method.base}
    assert list(adapters) == ["1.weight"]
    with torch.no_grad():
        for _, b in adapters.values():
            b.normal_(generator=torch.Generator().manual_seed(0))
        method.after_step(model)
    batch = experience().train.take(torch.arange(10))
    made = {n: method.base[n].view(3, 1, 3) + 1.5 * (b @ a).view(3, 1, 3) for n, (a, b) in adapters.items()}
    loss = F.cross_entropy(torch.func.functional_call(model, made, (batch["x"],)), batch["y"])
    pairs = [each for pair in adapters.values() for each in pair]
    expected = torch.autograd.grad(loss, pairs)
    method(model, batch, classify).loss.backward()
    method.before_step(model)
    for each, grad in zip(pairs, expected, strict=True):
        torch.testing.assert_close(each.grad, grad)
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {"6.weight", "6.bias"}


def taught(model, rows, optimizer, classifier):
    """A plain loop of somebody else's over what requires gradients."""
    step = OPTIMIZERS[optimizer]([weight for weight in model.parameters() if weight.requires_grad])
    for epoch in range(3):
        for batch in batches(rows, epoch_order(len(rows), 0, 0, epoch), 8):
            step.zero_grad()
            classifier(model, batch).loss.backward()
            step.step()


def beside(model, method, targets, head):
    """The same model with adapters of peft, which begin with the A of ours."""
    peft = pytest.importorskip("peft")
    settings = {"r": method.r, "lora_alpha": method.alpha, "target_modules": targets, "modules_to_save": [head]}
    other = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**settings))
    method = copy.deepcopy(method)
    method.begin(model, experience(), classify)
    for name, module in other.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            with torch.no_grad():
                module.lora_A["default"].weight.copy_(method.adapters.pair(f"{name}.weight")[0])
    return other


@every_optimizer
def test_it_learns_what_the_adapters_of_peft_learn(optimizer):
    """The oracle: the same optimizer on layers that peft puts in the places of ours, merged by peft."""
    subject = learner(deep().double(), LoRA(r=3, alpha=6.0), optimizer)
    other = beside(subject.model, subject.method, ["0", "2"], "5")
    rows = Columns(x=experience().train.column("x").double(), y=experience().train.column("y"))
    taught(other, rows, optimizer, classify)
    before = weights(subject.model)
    subject.learn(Experience(0, rows, rows, (0, 1, 2, 3)))
    merged = other.merge_and_unload()
    assert not torch.allclose(before["2.weight"], subject.model[2].weight, atol=0.01)
    for name, weight in subject.model.named_parameters():
        torch.testing.assert_close(weight, merged.get_parameter(name), atol=1e-9, rtol=0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # what peft asks of transformers
def test_on_a_vision_transformer_of_hugging_face_it_learns_what_peft_learns():
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
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.ViTForImageClassification(config).double()
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != "classifier"]
    chosen = [name for name in layers if "attention" in name]
    assert len(chosen) == 8
    random = torch.Generator().manual_seed(0)
    rows = Columns(pixel_values=torch.randn(24, 1, 8, 8, generator=random).double(), labels=torch.arange(24) % 4)
    method = LoRA(r=2, targets=r".*attention.*weight")
    subject = Learner(model, method, ask, optimizer=OPTIMIZERS["sgd"], epochs=3, batch_size=8)
    other = beside(model, method, chosen, "classifier")
    taught(other, rows, "sgd", ask)
    before = weights(model)
    subject.learn(Experience(0, rows, rows, (0, 1, 2, 3)))
    merged = other.merge_and_unload()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {f"{name}.weight" for name in chosen} | {"classifier.weight", "classifier.bias"}
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, merged.get_parameter(name), atol=1e-9, rtol=0)


@every_kind
@pytest.mark.parametrize("kind", [{"model": "transformer", "growing": True}, {"model": "mlp"}, {"tasks": True}])
def test_resume_is_exact_at_each_step(make, kind, tmp_path, monkeypatch):
    monkeypatch.setitem(zoo.METHODS, "lora", partial(make, r=2))
    stream = (zoo.task_stream if kind.get("tasks") else zoo.stream)(True)[:2]
    whole, states = zoo.learner("lora", epochs=1, **kind), []
    for each in stream:
        for step in whole.steps(each):
            if step.place in (1, 3, step.of):
                checkpoint.save(whole.state_dict(), tmp_path / str(step.number))
                states.append(step.number)
    assert len(states) == 6
    for number in states:
        second = zoo.learner("lora", epochs=1, **kind)
        second.load_state_dict(checkpoint.load(tmp_path / str(number)))
        for each in stream[second.experience :]:
            second.learn(each)
        assert checkpoint.same(whole.state_dict(), second.state_dict()), number


def test_in_a_loop_of_ones_own_it_is_the_same():
    subject, model, method = learner(deep()), deep(), LoRA(r=2)
    subject.learn(experience())
    method.begin(model, experience(), classify)
    optimizer = OPTIMIZERS["sgd"]([*model.parameters(), *method.parameters()])
    with attached(method, model, optimizer):
        for epoch in range(3):
            for batch in batches(experience().train, epoch_order(20, 0, 0, epoch), 8):
                optimizer.zero_grad()
                method(model, batch, classify).loss.backward()
                optimizer.step()
    method.end(model, experience(), classify)
    assert checkpoint.same(snapshot(model), snapshot(subject.model))


def test_a_loop_that_leaves_gradients_of_zero_moves_nothing_that_is_frozen():
    model, method = deep(), LoRA(r=2)
    before = weights(model)
    method.begin(model, experience(), classify)
    optimizer = OPTIMIZERS["adam"]([*model.parameters(), *method.parameters()])
    with attached(method, model, optimizer):
        for batch in batches(experience().train, torch.arange(20), 8):
            optimizer.zero_grad(set_to_none=False)
            method(model, batch, classify).loss.backward()
            optimizer.step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"0.weight", "2.weight", "5.weight", "5.bias"}


def test_pieces_of_a_batch_are_the_batch():
    whole, pieces = (learner(deep(), batch_size=10, accumulate=a) for a in (1, 2))
    for subject in (whole, pieces):
        subject.learn(experience())
    for name, weight in whole.model.named_parameters():
        torch.testing.assert_close(pieces.model.get_parameter(name), weight)


def test_clipping_bounds_the_gradients_of_the_adapters():
    class Watch(LoRA):
        def after_step(self, model):
            grads = [weight.grad for weight in (*model.parameters(), *self.parameters()) if weight.grad is not None]
            assert len(grads) == 6
            assert torch.cat([grad.flatten() for grad in grads]).norm() <= 0.01 + 1e-6
            super().after_step(model)

    learner(deep(), Watch(r=2), clip=0.01).learn(experience())


def test_alpha_0_trains_the_head_alone():
    subject = learner(deep(), LoRA(r=2, alpha=0.0))
    before = weights(subject.model)
    subject.learn(experience())
    moved = {name for name, weight in subject.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"5.weight", "5.bias"}


def test_a_penalty_beside_it_is_about_the_adapted_weights_in_either_order():
    ends = []
    for order in (Chain, lambda *both: Chain(*reversed(both))):
        subject = learner(deep(), order(LoRA(r=2), EWC(lambda_=5.0)))
        for index in range(2):
            subject.learn(experience(index))
        ends.append(snapshot(subject.model))
        assert not any(weight.isnan().any() for weight in ends[-1].values())
    assert checkpoint.same(*ends)
    plain = learner(deep(), LoRA(r=2))
    for index in range(2):
        plain.learn(experience(index))
    assert not checkpoint.same(ends[0], snapshot(plain.model))


def test_a_teacher_behind_it_answers_without_the_new_adapter():
    subject = learner(deep(), Chain(LoRA(r=2), LwF()))
    subject.learn(experience(0))
    teacher = copy.deepcopy(subject.method.methods[1].teacher)
    assert checkpoint.same(teacher, snapshot(subject.model))
    subject.learn(experience(1))
    assert not checkpoint.same(teacher, snapshot(subject.model))


def test_weights_in_half_precision_follow_adapters_in_full():
    torch.manual_seed(0)
    model = deep().to(torch.bfloat16)
    rows = Columns(x=torch.randn(20, 5).bfloat16(), y=torch.arange(20) % 4)
    subject = learner(model, LoRA(r=2))
    for _ in subject.steps(Experience(0, rows, rows, (0, 1, 2, 3))):
        a, b = subject.method.adapters.pair("0.weight")
        assert a.dtype == b.dtype == torch.float32
        made = subject.method.base["0.weight"] + 8 * b @ a
        assert torch.equal(model[0].weight, made.to(torch.bfloat16))


def test_with_scaled_gradients_a_step_that_overflowed_moves_nothing():
    subject = learner(deep(), LoRA(r=2), precision="fp16")
    before = weights(subject.model)
    subject.learn(experience())
    assert all(weight.isfinite().all() for weight in subject.model.parameters())
    assert not torch.equal(subject.model[2].weight, before["2.weight"])


def test_weights_that_two_layers_share_are_one_weight():
    model = deep()
    model.insert(2, nn.Linear(12, 5))
    model.insert(3, nn.Linear(5, 12))
    model[3].weight = model[0].weight
    subject = learner(model)
    rows = experience().test.take(torch.arange(20))
    subject.learn(experience())
    assert model[3].weight is model[0].weight
    assert sorted(subject.method.adapters) == [f"{n}/weight {m}" for n in (0, 2, 4) for m in "AB"]
    assert subject.predict(rows).isfinite().all()


@every_kind
def test_a_stream_without_borders_moves_the_head_alone_before_and_after_experiences_that_adapt(make):
    subject = learner(deep(), make(r=2))
    for index in range(2):
        for name, stays in (("2.weight", True), ("5.weight", False)):
            before = weights(subject.model)
            subject.observe(experience(7).train.take(torch.arange(8)))
            assert torch.equal(subject.model.get_parameter(name), before[name]) == stays
        before = weights(subject.model)
        subject.learn(experience(index))
        assert not torch.equal(subject.model[2].weight, before["2.weight"])


def test_a_head_that_grows_keeps_what_it_had():
    subject = learner(net(2), Chain(GrowHead(), LoRA(r=2)))
    subject.learn(experience(0, classes=(0, 1)))
    subject.learn(experience(1, classes=(0, 1, 2, 3)))
    assert subject.model[3].weight.shape == (4, 6)
    assert subject.method.methods[1].learns == ["3.weight", "3.bias"]


def test_loading_makes_the_adapters_that_are_missing():
    method = LoRA(r=2)
    method.begin(deep(), experience(), classify)
    other = LowRank()
    other.load_state_dict(method.adapters.state_dict())
    assert list(other) == list(method.adapters)
    assert all(torch.equal(other[key], value) for key, value in method.adapters.items())


def test_what_it_cannot_adapt_is_refused():
    with pytest.raises(ValueError, match=r"no trainable matrix of Sequential.*targets='query'; there are 0.weight"):
        learner(deep(), LoRA(targets="query")).learn(experience())
    with pytest.raises(ValueError, match="none, so thaw some"):
        learner(nn.Linear(5, 4), LoRA()).learn(experience())
    with pytest.raises(ValueError, match="r must be a whole number of at least 1, but is 0"):
        LoRA(r=0)


def test_on_the_command_line():
    method = build("lora:r=4,alpha=8,targets=.*attention.*weight")
    assert (method.r, method.alpha, method.targets) == (4, 8, ".*attention.*weight")


@pytest.mark.parametrize("text", ["lora+si", "gem+olora", "lora+inflora", "freeze+lora"])
def test_methods_that_take_the_gradient_of_a_weight_too_are_refused_beside_it(text):
    with pytest.raises(ValueError, match="turns the gradients of weights into those of adapters"):
        build(text)
    build("er:memory=20+lora+ewc")
