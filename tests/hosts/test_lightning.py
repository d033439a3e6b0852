"""A method inside the loop of Lightning."""

from dataclasses import dataclass, field

import pytest
import torch
import zoo
from torch import nn
from torch.utils.data import DataLoader

from everlearn import checkpoint
from everlearn.batch import take
from everlearn.methods import GrowHead, Naive
from everlearn.models import snapshot
from everlearn.objective import Output

lightning = pytest.importorskip("lightning", reason="the host for Lightning needs lightning")
from everlearn.hosts.lightning import Continual  # noqa: E402

pytestmark = [
    # Lightning flattens what it is given with a part of torch that torch has moved.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '(train|predict)_dataloader' does not have many workers"),
]


@dataclass
class Companion(Naive):
    """Has a layer of its own, which corrects the logits."""

    layer: nn.Module = field(default_factory=lambda: nn.Linear(10, 10))

    def loss(self, model, batch, objective, rest):
        output = rest(model, batch)
        corrected = self.layer(output.logits)
        return Output(output.loss + nn.functional.cross_entropy(corrected, batch["y"]), output.logits)


def experience():
    return zoo.stream(small=True)[0]


def batches():
    rows = experience().train
    return [rows.take(torch.arange(start, start + 16)) for start in range(0, 64, 16)]


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(max_epochs=1, enable_checkpointing=False, **quiet, **options)


def fit(host, **options):
    trainer(**options).fit(host, DataLoader(batches(), batch_size=None))


def test_a_fit_is_an_experience_from_begin_to_end():
    host = Continual(zoo.mlp(10), zoo.Diary(), optimizer=zoo.SGD)
    host.experience = experience()
    fit(host)
    assert host.method.days == ["begin", *["before", "after"] * 4, "end"]


def test_a_fit_without_an_experience_neither_begins_nor_ends():
    host = Continual(zoo.mlp(10), zoo.Diary(), optimizer=zoo.SGD)
    fit(host)
    assert host.method.days == ["before", "after"] * 4


def test_a_step_of_several_batches_is_one_step_to_the_method():
    host = Continual(zoo.mlp(10), zoo.Diary(), optimizer=zoo.SGD)
    fit(host, accumulate_grad_batches=3)
    assert host.method.days == ["before", "after"] * 2


def test_a_head_grows_before_the_optimizer_is_made():
    host = Continual(zoo.mlp(1), GrowHead(), optimizer=zoo.SGD)
    host.experience = experience()
    fit(host)
    (group,) = host.trainer.optimizers[0].param_groups
    assert {id(weight) for weight in group["params"]} == {id(weight) for weight in host.model.parameters()}
    assert host.model[5].out_features == max(experience().classes) + 1


def test_weights_of_the_method_are_learned_with_those_of_the_model():
    host = Continual(zoo.mlp(10), Companion(), optimizer=zoo.SGD)
    before = snapshot(host.method.layer)
    fit(host)
    assert not checkpoint.same(before, snapshot(host.method.layer))


def test_predictions_are_those_of_the_method_and_change_nothing():
    host = Continual(zoo.mlp(10), zoo.Diary(), optimizer=zoo.SGD)
    before = snapshot(host.model)
    found = torch.cat(trainer().predict(host, DataLoader(batches(), batch_size=None)))
    with torch.no_grad():
        expected = host.model.eval()(torch.cat([batch["x"] for batch in batches()])) + 100
    torch.testing.assert_close(found, expected)
    assert checkpoint.same(before, snapshot(host.model))
    assert host.method.days == []


def test_a_checkpoint_is_loaded_without_running_code(tmp_path):
    subject = zoo.learner("er+lwf+si")
    host = Continual(subject.model, subject.method, optimizer=zoo.SGD)
    host.experience = experience()
    made = trainer()
    made.fit(host, DataLoader([take(batch, slice(0, 8)) for batch in batches()], batch_size=None))
    made.save_checkpoint(tmp_path / "c")
    loaded = torch.load(tmp_path / "c", weights_only=True)
    assert checkpoint.same(loaded["method"], subject.method.state_dict())
