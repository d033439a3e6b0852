"""A method inside the loop of the Hugging Face Trainer."""

from dataclasses import dataclass, field

import pytest
import torch
import zoo
from torch import nn

from everlearn import checkpoint
from everlearn.methods import Naive
from everlearn.models import snapshot
from everlearn.objective import classify

transformers = pytest.importorskip("transformers", reason="the host for the Trainer needs transformers")
from everlearn.hosts.huggingface import Continual  # noqa: E402


def rows(count=64, **columns):
    columns = columns or {name: zoo.digits()[0].column(name)[:count] for name in ("x", "y")}
    return [{name: column[place] for name, column in columns.items()} for place in range(count)]


def trainer(folder, model, method, data, objective=classify, **options):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "remove_unused_columns": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }
    arguments = transformers.TrainingArguments(**settings | options)
    return Continual(model, arguments, train_dataset=data, eval_dataset=data, method=method, objective=objective)


def test_training_is_an_experience_from_begin_to_end(tmp_path):
    made = trainer(tmp_path, zoo.mlp(10), zoo.Diary(), rows())
    made.experience = zoo.stream()[0]
    made.train()
    assert made.method.days == ["begin", *["before", "after"] * 4, "end"]


def test_training_without_an_experience_neither_begins_nor_ends(tmp_path):
    made = trainer(tmp_path, zoo.mlp(10), zoo.Diary(), rows())
    made.train()
    assert made.method.days == ["before", "after"] * 4


def test_a_step_of_several_batches_is_one_step_to_the_method(tmp_path):
    made = trainer(tmp_path, zoo.mlp(10), zoo.Diary(), rows(), gradient_accumulation_steps=3)
    made.train()
    assert made.method.days == ["before", "after"] * 2


def test_answers_are_those_of_the_method_the_loss_is_that_of_the_objective_and_nothing_changes(tmp_path):
    model = zoo.mlp(10)
    made = trainer(tmp_path, model, zoo.Diary(), rows())
    before = snapshot(model)
    found = made.predict(rows())
    x, y = (zoo.digits()[0].column(name)[:64] for name in ("x", "y"))
    with torch.no_grad():
        expected = model.eval()(x)
    torch.testing.assert_close(torch.from_numpy(found.predictions), expected + 100)
    assert found.label_ids.tolist() == y.tolist()
    loss = nn.functional.cross_entropy(expected, y).item()
    assert found.metrics["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert made.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-5)
    unlabelled = made.predict([{"x": row["x"]} for row in rows()])
    torch.testing.assert_close(torch.from_numpy(unlabelled.predictions), expected + 100)
    assert checkpoint.same(before, snapshot(model))
    assert made.method.days == []


def bert():
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "intermediate_size": 16}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, **still))


def texts(count=32):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (count, 6), generator=generator)
    return rows(count, input_ids=tokens, labels=tokens[:, 0] % 3, id=torch.arange(count))


def test_a_model_of_hugging_face_learns_in_pieces_what_it_learns_from_whole_batches(tmp_path):
    """Such a model scales its loss by the rows of a whole batch if it is told of them; a method's is a mean."""
    from everlearn.objective import ask

    weights = []
    for pieces in (1, 4):
        model = bert()
        options = {"gradient_accumulation_steps": pieces, "per_device_train_batch_size": 16 // pieces}
        made = trainer(tmp_path, model, zoo.METHODS["naive"](), texts(), ask, **options)
        made.train()
        weights.append(snapshot(model))
    torch.testing.assert_close(weights[1], weights[0], atol=1e-5, rtol=1e-4)
    assert not checkpoint.same(weights[0], snapshot(bert()))


def test_a_model_of_hugging_face_replays_tokens(tmp_path):
    from everlearn.objective import ask

    method = zoo.METHODS["er"]()
    made = trainer(tmp_path, bert(), method, texts(), ask, num_train_epochs=2)
    made.train()
    assert sorted(method.memory.ids.tolist()) == list(range(32))
    assert made.predict(texts()).predictions.shape == (32, 3)


def test_a_saved_model_has_the_state_of_the_method_beside_it(tmp_path):
    subject = zoo.learner("er+lwf+si")
    made = trainer(tmp_path, subject.model, subject.method, rows())
    made.experience = zoo.stream()[0]
    made.train()
    made.save_model(tmp_path / "final")
    assert checkpoint.same(checkpoint.load(tmp_path / "final" / "method-0.checkpoint"), subject.method.state_dict())


@dataclass
class Companion(Naive):
    layer: nn.Module = field(default_factory=lambda: nn.Linear(10, 10))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (Naive, {"remove_unused_columns": True}),
        (Naive, {"fp16": True}),
        (Naive, {"label_smoothing_factor": 0.1}),
        (Companion, {}),
    ],
)
def test_what_would_silently_go_wrong_is_refused(method, options, tmp_path):
    with pytest.raises(ValueError, match="remove_unused_columns=False, bf16 instead of fp16"):
        trainer(tmp_path, bert(), method(), rows(), **options)
