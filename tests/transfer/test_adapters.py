"""An adapter is saved with all that the answers depend on, and can be taken into the weights for good."""

from collections import OrderedDict
from functools import partial

import pytest
import torch
import zoo
from methods.small import everything, norm_net, opposed, weights
from torch import nn

from everlearn import checkpoint
from everlearn.learner import Learner
from everlearn.models import MultiHead, snapshot
from everlearn.transfer.adapters import adapt, load_adapter, merge_adapter, save_adapter
from everlearn.transfer.freezing import freeze

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def learner(model):
    return Learner(model, optimizer=SGD, batch_size=8, epochs=2)


def questions():
    return everything(zoo.stream(True)[0].test)


@pytest.fixture
def taught():
    """A convolutional net with batch normalisation that was adapted and learned."""
    torch.manual_seed(0)
    subject = Learner(adapt(zoo.Conv(10), r=2), optimizer=SGD, batch_size=16)
    subject.learn(zoo.stream(True)[0])
    return subject


def fresh():
    torch.manual_seed(0)
    return zoo.Conv(10)


def test_at_first_it_answers_as_the_base_does():
    x = questions()["x"]
    before = fresh().eval()(x)
    assert torch.equal(adapt(fresh(), r=2).eval()(x), before)


def test_only_adapters_head_and_normalisation_learn(taught):
    before, after = snapshot(adapt(fresh(), r=2)), snapshot(taught.model)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {part for name in moved for part in name.split(".") if "lora" in part or part == "modules_to_save"} == {
        "lora_A",
        "lora_B",
        "modules_to_save",
    }
    assert not [name for name in moved if "base_layer" in name or "original_module" in name]
    assert any(name.endswith("running_mean") for name in moved)


def test_saved_and_loaded_into_the_base_it_answers_bit_for_bit_as_before(taught, tmp_path):
    """Without the running statistics the logits of such a net differ after loading."""
    save_adapter(taught.model, tmp_path / "a")
    loaded = load_adapter(fresh(), tmp_path / "a")
    x = questions()["x"]
    assert torch.equal(loaded.eval()(x), taught.model.eval()(x))
    assert checkpoint.same(snapshot(loaded), snapshot(taught.model))
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()


def test_a_loaded_one_goes_on_learning_as_it_would_have(taught, tmp_path):
    save_adapter(taught.model, tmp_path / "a")
    ends = []
    for model in (load_adapter(fresh(), tmp_path / "a"), taught.model):
        again = Learner(model, optimizer=SGD, batch_size=16)
        again.learn(zoo.stream(True)[1])
        ends.append(snapshot(again.model))
    assert checkpoint.same(*ends)


def test_merged_it_is_the_plain_module_that_it_was_made_of(taught):
    x = questions()["x"]
    before = taught.model.eval()(x)
    plain = merge_adapter(taught.model)
    assert type(plain) is zoo.Conv
    assert snapshot(plain).keys() == snapshot(fresh()).keys()
    torch.testing.assert_close(plain.eval()(x), before, atol=1e-5, rtol=0)


def test_resume_is_exact(tmp_path):
    whole = learner(adapt(norm_net(), r=2, dropout=0.1))
    torch.manual_seed(1)
    for step in whole.steps(opposed(0)):
        if step.number == 3:
            checkpoint.save(whole.state_dict(), tmp_path / "c")
    second = learner(adapt(norm_net(), r=2, dropout=0.1, seed=5))
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    second.learn(opposed(0))
    assert checkpoint.same(whole.state_dict(), second.state_dict())


def test_what_it_draws_depends_on_the_seed_alone_and_moves_no_generator():
    one, same, other = (snapshot(adapt(fresh(), r=2, seed=seed)) for seed in (0, 0, 1))
    assert checkpoint.same(one, same)
    assert not checkpoint.same(one, other)
    model, state = fresh(), torch.get_rng_state()
    torch.rand(1)
    moved = torch.get_rng_state()
    assert checkpoint.same(snapshot(adapt(model, r=2)), one)
    assert torch.equal(torch.get_rng_state(), moved)
    assert not torch.equal(state, moved)


def test_targets_are_names_of_layers_as_a_whole():
    adapted = adapt(fresh(), r=2, targets=r"features\.3")
    assert {name.split(".lora_A")[0] for name in weights(adapted) if "lora_A" in name} == {
        "base_model.model.features.3"
    }
    with pytest.raises(ValueError, match=r"matches targets='conv'; there are features\.0, features\.3"):
        adapt(fresh(), targets="conv")


def test_layers_that_torch_reads_past_are_not_adapted():
    """In eval mode a transformer layer of torch takes its weights without asking its parts."""
    torch.manual_seed(0)
    adapted = adapt(zoo.Transformer(10), r=2)
    assert [name for name in weights(adapted) if "lora_A" in name] == ["base_model.model.embed.lora_A.default.weight"]
    with pytest.raises(ValueError, match="there are embed"):
        adapt(zoo.Transformer(10), targets=r"encoder\.linear1")


def test_heads_of_all_tasks_learn():
    torch.manual_seed(0)
    adapted = adapt(MultiHead(nn.Linear(5, 6), 6, 2, tasks=2), r=2)
    learning = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {name.split("heads.")[1][0] for name in learning if "heads" in name} == {"0", "1"}


def test_a_normalisation_that_is_frozen_stays_frozen():
    model = fresh()
    freeze(model)
    adapted = adapt(model, r=2)
    before = snapshot(adapted)
    Learner(adapted, optimizer=partial(torch.optim.SGD, lr=0.001)).learn(zoo.stream(True)[0])
    assert not [n for n, v in snapshot(adapted).items() if "running" in n and not torch.equal(v, before[n])]


def test_a_base_with_other_weights_and_another_model_are_refused(taught, tmp_path):
    save_adapter(taught.model, tmp_path / "a")
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="made for a base with other weights"):
        load_adapter(zoo.Conv(10), tmp_path / "a")
    with pytest.raises(ValueError, match="does not fit this Sequential"):
        load_adapter(norm_net(), tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        load_adapter(fresh(), tmp_path)
    with pytest.raises(TypeError, match="a Conv without adapters"):
        save_adapter(fresh(), tmp_path / "b")


def test_names_that_peft_would_mistake_are_refused():
    parts = OrderedDict({str(place): nn.Linear(4, 4) for place in range(12)})
    del parts["11"]
    parts["a1"], parts["1"] = nn.Linear(4, 4), parts.pop("1")
    with pytest.raises(ValueError, match="peft would take 'a1' for '1'"):
        adapt(nn.Sequential(parts))


class Twice(nn.Module):
    """A layer that runs twice, and one whose weight is also that of another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.left, self.right, self.own = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.right.weight = self.left.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.again(self.first(x).tanh())
        return self.head(self.own(self.right(self.left(x).tanh())))


def test_merging_moves_no_weight_that_stands_in_two_places(tmp_path):
    torch.manual_seed(1)
    x, model = torch.randn(8, 4), adapt(Twice(), r=2)
    learns = {name.split(".")[2] for name, weight in model.named_parameters() if weight.requires_grad}
    assert learns == {"own", "head"}
    optimizer = torch.optim.SGD((weight for weight in model.parameters() if weight.requires_grad), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(8) % 3).backward()
        optimizer.step()
    wanted = model(x)
    save_adapter(model, tmp_path)
    assert torch.equal(load_adapter(Twice(), tmp_path)(x), wanted)
    torch.testing.assert_close(merge_adapter(model)(x), wanted)
