"""What is frozen stays frozen, bit for bit, whoever calls train(), in whatever copy, after any resume."""

import copy
import io

import pytest
import torch
from methods.small import DECAYING as OPTIMIZERS
from methods.small import experience
from torch import nn

from everlearn import checkpoint
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import EWC, GrowHead, LoRA, Replay
from everlearn.models import MLP, ResNet18, snapshot
from everlearn.models.blocks import blocks
from everlearn.models.scope import at_rest
from everlearn.schedule import inverse_decay
from everlearn.transfer.freezing import freeze, freeze_as, thaw
from everlearn.transfer.frozen import frozen_report

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def net(outputs=4):
    """Two blocks with batch normalisation and dropout, then the head; its statistics have seen some rows."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.5),
        nn.Linear(8, 6),
        nn.BatchNorm1d(6, affine=False),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(6, outputs),
    )
    model(torch.randn(50, 5) + 1)
    return model


def learner(model, **options):
    return Learner(model, **{"optimizer": OPTIMIZERS["sgd"], "batch_size": 8, "epochs": 2} | options)


def body(model):
    return {name: value for name, value in snapshot(model).items() if not name.startswith("7.")}


def modes(model):
    return [module.training for module in model]


def members(subject):
    named = {id(weight): name for name, weight in subject.model.named_parameters()}
    return [[named[id(weight)] for weight in group["params"]] for group in subject.optimizer.param_groups]


@every_optimizer
def test_what_is_frozen_stays_bit_for_bit_and_gets_no_gradient(make):
    model = net()
    freeze(model)
    before = body(model)
    subject = learner(model, optimizer=make, method=Chain(Replay(Memory(20), count=4), EWC(rows=10)))
    for index in range(2):
        for _ in subject.steps(experience(index)):
            assert all(weight.grad is None for weight in list(model.parameters())[:-2])
    assert checkpoint.same(before, body(model))
    assert members(subject) == [["7.weight", "7.bias"]]


@every_optimizer
def test_a_loop_of_ones_own_holds_it_too_though_it_calls_train_and_gives_zero_gradients(make):
    """The optimizer has the frozen weights among its own, and has moments for them."""
    model = net()
    optimizer = make(model.parameters())
    for frozen in (False, True):
        if frozen:
            freeze(model, first=1)
        before = {name: value for name, value in snapshot(model).items() if name[0] in "01"}
        for _ in range(4):
            model.train()
            optimizer.zero_grad(set_to_none=False)
            nn.functional.cross_entropy(model(torch.randn(8, 5)), torch.randint(4, (8,))).backward()
            optimizer.step()
        after = {name: value for name, value in snapshot(model).items() if name[0] in "01"}
        assert checkpoint.same(before, after) == frozen


def test_train_called_at_each_epoch_wakes_nothing_up():
    model = net()
    freeze(model)
    before, subject = body(model), learner(model)
    for _ in subject.steps(experience()):
        model.train()
        assert modes(model) == [False] * 5 + [True] * 3
        model.eval()
        assert not any(modes(model))
        model.train()
    assert checkpoint.same(before, body(model))


def test_dropout_within_and_in_front_of_what_is_frozen_is_off():
    model = net()
    freeze(model, first=2)
    assert modes(model) == [False] * 5 + [True] * 3  # the last one is in front of the head
    thaw(model)
    freeze(model, first=1)
    assert modes(model) == [False] * 2 + [True] * 6  # the first one is in front of what learns
    inner = MLP(5, (6, 6), 2, dropout=0.5)
    freeze(inner)
    inner.train()
    assert not any(module.training for module in inner.features.modules())  # frozen as a whole
    assert torch.equal(inner.features(torch.ones(3, 5)), inner.features(torch.ones(3, 5)))


def test_frozen_normalisation_answers_in_train_mode_as_in_eval_mode():
    model = net()
    freeze(model)
    x = torch.randn(20, 5) * 3 + 5
    model.train()
    once = model[:5](x)
    assert torch.equal(once, model.eval()[:5](x))


def test_a_last_batch_of_one_row_is_learned_where_the_normalisation_is_frozen():
    model = net()
    freeze(model)
    model.eval()
    learner(model).learn(experience(count=9))
    with pytest.raises(ValueError, match="leave a batch of one row"):
        learner(net().eval()).learn(experience(count=9))


def test_adapting_normalisation_moves_its_statistics_and_not_its_weights():
    model = net()
    freeze(model, norm="adapt")
    before = body(model)
    learner(model).learn(experience())
    moved = {name for name, value in body(model).items() if not torch.equal(value, before[name])}
    assert moved == {f"{n}.{part}" for n in (1, 4) for part in ("running_mean", "running_var", "num_batches_tracked")}
    assert modes(model.train()) == [False, True, False, False, True, True, True, True]


def copied(model):
    return copy.deepcopy(model)


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("make", [copied, pickled])
def test_a_copy_is_frozen_by_itself(make):
    model = net()
    freeze(model)
    other = make(model)
    thaw(model)
    other.train()
    assert modes(other) == [False] * 5 + [True] * 3
    assert all(modes(model))
    assert [weight.requires_grad for weight in other.parameters()] == [False] * 6 + [True] * 2
    before = body(other)
    learner(other).learn(experience())
    assert checkpoint.same(before, body(other))


def test_a_compiled_model_is_frozen_and_thawed_through_its_wrapper():
    model = net()
    wrapped = torch.compile(model, backend="eager")
    freeze(wrapped)
    before = body(model)
    for _ in range(3):
        wrapped.train()
        wrapped(torch.randn(8, 5)).sum().backward()
    assert checkpoint.same(before, body(model))
    assert model[0].weight.grad is None
    subject = learner(model, compile=True)
    assert modes(model) == [False] * 5 + [True] * 3
    assert subject.model is model
    thaw(wrapped)
    assert all(modes(model))
    wrapped(torch.randn(8, 5))
    assert not torch.equal(before["1.running_mean"], model[1].running_mean)


@every_optimizer
@pytest.mark.parametrize("pause", [2, 6, 9])
def test_a_fresh_model_learns_on_with_the_scope_of_the_checkpoint(make, pause, tmp_path):
    """Frozen, then thawed in part, in the first experience, between the two, and in the second."""

    def fresh(frozen=False):
        model = net()
        if frozen:
            freeze(model)
        return learner(model, optimizer=make)

    def go(subject, until=None):
        for index in range(subject.experience, 2):
            for step in subject.steps(experience(index)):
                if step.number == until:
                    return
            if index == 0:
                thaw(subject.model, "3", "4")

    whole, first, second = fresh(frozen=True), fresh(frozen=True), fresh()
    for subject, until in ((whole, None), (first, pause)):
        torch.manual_seed(5)
        go(subject, until)
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    assert at_rest(second.model) == at_rest(first.model)
    assert modes(second.model) == modes(first.model.train())
    assert frozen_report(second.model) == frozen_report(first.model)
    go(second)
    assert checkpoint.same(whole.state_dict(), second.state_dict())
    assert members(second) == [["7.weight", "7.bias"], ["3.weight", "3.bias"]]


def test_resume_does_not_freeze_again_what_was_thawed():
    def fresh():
        model = net()
        freeze(model)
        return learner(model)

    first, second = fresh(), fresh()
    first.learn(experience(0))
    thaw(first.model)
    first.learn(experience(1))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert all(weight.requires_grad for weight in second.model.parameters())
    assert all(modes(second.model))
    for each in (first, second):
        torch.manual_seed(3)
        each.learn(experience(2))
    assert checkpoint.same(first.state_dict(), second.state_dict())


def test_a_module_that_the_user_put_in_eval_mode_comes_back_so():
    model = net()
    model[1].eval()
    first, second = learner(model), learner(net())
    next(iter(first.steps(experience())))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for each in (first, second):
        torch.manual_seed(3)
        each.learn(experience())
    assert not second.model[1].training
    assert checkpoint.same(first.state_dict(), second.state_dict())


SCHEDULERS = {
    "none": None,
    "lambda": lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: inverse_decay(i / steps)),
    "cosine": torch.optim.lr_scheduler.CosineAnnealingLR,
    "onecycle": lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps),
}


@every_optimizer
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_thawed_weight_enters_once_and_the_state_of_the_others_stays(make, scheduler):
    model = net()
    freeze(model)
    subject = learner(model, optimizer=make, scheduler=scheduler)
    subject.learn(experience(0))
    head = model[7].weight
    state = {name: value.clone() for name, value in subject.optimizer.state[head].items() if value is not None}
    with torch.no_grad():  # equal in value to one that the optimizer has: no reason to leave it out
        model[7].bias.zero_()
        model[1].bias.zero_()
        model[3].bias.zero_()
    thaw(model, "1", "3")
    before, seen = snapshot(model), []
    subject.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append({name: value.clone() for name, value in optimizer.state[head].items()})
    )
    next(steps := subject.steps(experience(1)))
    assert members(subject) == [["7.weight", "7.bias"], ["1.weight", "1.bias", "3.weight", "3.bias"]]
    assert checkpoint.same(state, seen[0])
    for name in ("1.bias", "3.bias", "3.weight"):
        assert not torch.equal(before[name], snapshot(model)[name])
    list(steps)
    subject.learn(experience(2))
    assert sum(map(len, members(subject))) == 6


def test_what_is_frozen_between_two_experiences_leaves_the_optimizer_and_comes_back_with_new_moments():
    model = net()
    subject = learner(model)
    subject.learn(experience(0))
    weight = model[0].weight
    assert weight in subject.optimizer.state
    freeze(model, first=1)
    held = {name: value for name, value in snapshot(model).items() if name[0] in "01"}
    subject.learn(experience(1))
    assert checkpoint.same(held, {name: value for name, value in snapshot(model).items() if name[0] in "01"})
    assert members(subject) == [["3.weight", "3.bias", "7.weight", "7.bias"]]
    assert weight not in subject.optimizer.state
    thaw(model)
    subject.learn(experience(2))
    assert sorted(name for group in members(subject) for name in group) == sorted(
        name for name, _ in model.named_parameters()
    )
    assert not torch.equal(held["0.weight"], model[0].weight)


def test_a_growing_head_and_frozen_parts_go_together():
    model = net(2)
    freeze(model)
    subject = learner(model, method=GrowHead())
    for index, classes in enumerate(((0, 1), (0, 1, 2, 3))):
        subject.learn(experience(index, classes=classes))
    assert members(subject) == [["7.weight", "7.bias"]]
    thaw(model, "3")
    subject.learn(experience(2))
    assert members(subject) == [["7.weight", "7.bias"], ["3.weight", "3.bias"]]


def test_what_the_owner_left_out_of_the_optimizer_stays_out_when_others_thaw():
    model = net()
    freeze(model, "0", "1")
    subject = learner(model, optimizer=lambda weights: OPTIMIZERS["sgd"](weights[2:]))
    subject.learn(experience(0))
    assert members(subject) == [["7.weight", "7.bias"]]
    thaw(model, "0")
    subject.learn(experience(1))
    assert members(subject) == [["7.weight", "7.bias"], ["0.weight", "0.bias"]]


def test_another_method_with_weights_of_the_same_names_takes_part():
    subject = learner(net(), method=LoRA(r=2))
    subject.learn(experience(0))
    subject.method = LoRA(r=2)
    subject.learn(experience(1))
    members = {id(weight) for group in subject.optimizer.param_groups for weight in group["params"]}
    assert members >= {id(weight) for weight in subject.method.parameters()}


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({"names": ("0", "1")}, {"0", "1"}),
        ({"names": ("*.bias",)}, set()),
        ({"first": 1}, {"0", "1"}),
        ({"share": 0.6}, {"0", "1"}),
        ({"share": 0.9}, {"0", "1", "3"}),
        ({"but": "1"}, {"0", "3"}),
        ({"head": "3"}, {"0", "1", "7"}),
        ({}, {"0", "1", "3"}),
    ],
)
def test_the_part_that_was_meant_is_frozen(options, frozen):
    model = net()
    freeze(model, *options.pop("names", ()), **options)
    found = {name.split(".")[0] for name, weight in model.named_parameters() if not weight.requires_grad}
    if frozen:
        assert found == frozen
    else:
        assert [weight.requires_grad for weight in model.parameters()] == [True, False] * 4
        assert all(modes(model))


def test_blocks_of_a_residual_net_are_counted_in_the_order_of_its_forward():
    names = [block.name for block in blocks(ResNet18())]
    assert len(names) > 8
    order = []
    model = ResNet18()
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name))
    model(torch.zeros(2, 3, 32, 32))
    assert order == names
    listed = [weight for block in blocks(model) for weight in block.weights]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters())


def test_layers_behind_a_large_vocabulary_are_blocks_by_themselves():
    """As in XLM-RoBERTa and MiniLM, where the table of the words has more weights than all layers together."""

    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(5000, 8)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False)
            self.head = nn.Linear(8, 2)

    model = Text()
    names = ["words", *(f"encoder.layers.{layer}" for layer in range(3)), "head"]
    assert [block.name for block in blocks(model)] == names
    assert freeze(model, first=2).parts[2].frozen == 0


def test_what_a_user_types_is_understood():
    for words, options in ((["body"], {}), (["2"], {"first": 2}), (["0.6"], {"share": 0.6})):
        one, two = net(), net()
        assert freeze_as(one, words) == freeze(two, **options)
    assert freeze_as(net(), ["0", "3"]) == freeze(net(), "0", "3")
    with pytest.raises(ValueError, match=r"no policy for batch normalisation 'adopt' \(did you mean 'adapt'"):
        freeze_as(net(), ["0"], norm="adopt")


def test_what_cannot_be_meant_is_refused_and_nothing_is_frozen():
    model = net()
    named = MLP(5, (4,), 2)
    with pytest.raises(
        ValueError, match=r"'featurs' matches no module and no parameter of MLP; the nearest names are 'features'"
    ):
        freeze(named, "featurs")
    with pytest.raises(ValueError, match="freezes all 8 parameters of Sequential, which leaves nothing to train"):
        freeze(model, "*")
    with pytest.raises(ValueError, match="3 blocks shall be frozen, but Sequential has 2 before its head: 0, 3"):
        freeze(model, first=3)
    with pytest.raises(ValueError, match="less than the first block, '0'"):
        freeze(model, share=0.01)
    with pytest.raises(ValueError, match=r"a share of 1\.5 is to be frozen; expected more than 0 and less than 1"):
        freeze(model, share=1.5)
    with pytest.raises(ValueError, match="several ways"):
        freeze(model, "0", first=1)
    with pytest.raises(ValueError, match="two ways"):
        thaw(model, "0", last=1)
    with pytest.raises(ValueError, match="no linear layer that could be the head"):
        freeze(nn.Sequential(nn.Conv2d(1, 2, 3)))
    with pytest.raises(ValueError, match="Linear has no block before its head, so there is nothing to freeze"):
        freeze(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="matches no module"):
        thaw(model, "9")
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(modes(model))


def test_policies_are_of_the_parts_they_were_given_for():
    model = net()
    freeze(model, "0", "1", norm="adapt")
    freeze(model, "3")
    assert modes(model.train()) == [False, True, False, False, False, True, True, True]
    freeze(model, "1", norm="frozen")
    assert not model.train()[1].training


def test_the_report_says_what_is_there():
    model = net()
    whole = sum(weight.numel() for weight in model.parameters())
    assert frozen_report(model).frozen == 0
    report = freeze(model, first=1, norm="recompute")
    first, second, head = report.parts
    assert (first.name, first.parameters, first.frozen, first.norm, first.mode) == ("0", 64, 64, "recompute", "rests")
    assert (second.name, second.frozen, second.norm, second.mode) == ("3", 0, "adapt", "")
    assert head.head
    assert (report.parameters, report.frozen, report.share) == (whole, 64, 64 / whole)
    assert "64 of 146 parameters (43.8 %) are frozen, among them all of 0" in str(report)
    assert report.table().row_count == 3
    torch.manual_seed(0)
    alone = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for weight in alone[:2].parameters():
        weight.requires_grad_(requires_grad=False)
    part = frozen_report(alone).parts[0]  # frozen by hand, and its statistics drift
    assert (part.frozen, part.norm, part.mode) == (32, "adapt", "")


def test_thawing_the_last_blocks_leaves_the_first():
    model = net()
    freeze(model)
    thaw(model, last=2)
    assert [weight.requires_grad for weight in model.parameters()] == [False] * 4 + [True] * 4
    assert modes(model.train()) == [False, False, True, True, True, True, True, True]


class Tied(nn.Module):
    """What goes in and what comes out are of the same words."""

    def __init__(self):
        super().__init__()
        self.words, self.body, self.out = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x):
        return self.out(self.body(self.words(x)))


@pytest.mark.parametrize("name", ["words", "out", "out.weight", "o*"])
def test_a_weight_with_two_names_is_frozen_and_thawed_by_each(name):
    model = Tied()
    assert freeze(model, name).frozen == 24
    assert not model.words.weight.requires_grad
    assert at_rest(model.train()) == {"words": "frozen", "out": "frozen"}
    assert thaw(model, name).frozen == 0
    assert at_rest(model) == {}


def test_the_tied_weight_of_a_head_is_not_of_the_body():
    model = Tied()
    freeze(model)
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == [
        "body.weight",
        "body.bias",
    ]
