"""The same method gives the same weights in every loop: ours, your own, Lightning's, the Hugging Face Trainer's."""

import gc
from functools import cache
from tempfile import TemporaryDirectory

import pytest
import zoo
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler

from everlearn import checkpoint
from everlearn.batch import length, take
from everlearn.data.order import batches, epoch_order
from everlearn.method import attached
from everlearn.models import snapshot

EPOCHS, SIZE, SEED = 2, 16, 0
CASES = [
    *(pytest.param(name, False, id=name) for name in ("naive", "er", "ewc", "si", "lwf", "derpp", "er+ewc")),
    *(pytest.param(name, True, id=f"{name}-growing") for name in ("si", "derpp", "er+ewc")),
]
every_case = pytest.mark.parametrize(("method", "growing"), CASES)
pytestmark = [
    # Lightning flattens what it is given with a part of torch that torch has moved.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture(scope="module", autouse=True)
def frozen_garbage():
    """Both trainers collect garbage at each start, which takes longer than the test where much has been imported."""
    import lightning  # noqa: F401
    import transformers  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def learner(method, growing=False, **options):
    """A learner without dropout, which meets whole batches only, and begins each experience with a new optimizer."""
    made = zoo.learner(method, growing=growing, fresh_optimizer=True, drop_last=True, **options)
    for module in made.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return made


def stream():
    return zoo.stream(small=True)[:3]


def fixed_batches(experience):
    """The batches that a learner meets, over all epochs."""
    found = []
    for epoch in range(EPOCHS):
        order = epoch_order(len(experience.train), SEED, experience.index, epoch)
        order = order[: len(order) // SIZE * SIZE]
        found += batches(experience.train, order, SIZE, first_id=experience.index << 40)
    return found


def in_learner(subject, experience):
    subject.learn(experience)


def in_own_loop(subject, experience, pieces=1):
    model, method = subject.model, subject.method
    method.begin(model, experience, subject.objective)
    optimizer = zoo.SGD(model.parameters())
    found = fixed_batches(experience)
    with attached(method, model, optimizer):
        for start in range(0, len(found), pieces):
            group = found[start : start + pieces]
            for batch in group:
                (method(model, batch, subject.objective).loss / len(group)).backward()
            optimizer.step()
            optimizer.zero_grad()
    method.end(model, experience, subject.objective)


def lightning_host(subject):
    from everlearn.hosts.lightning import Continual

    return Continual(subject.model, subject.method, subject.objective, optimizer=zoo.SGD)


def lightning_trainer(**options):
    import lightning

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(**{"max_epochs": 1, "enable_checkpointing": False} | quiet | options)


def in_lightning(subject, experience, **options):
    host = lightning_host(subject)
    host.experience = experience
    lightning_trainer(**options).fit(host, DataLoader(fixed_batches(experience), batch_size=None))


def huggingface_trainer(subject, experience, folder, **options):
    import transformers

    from everlearn.hosts.huggingface import Continual

    class InOrder(Continual):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(dataset or self.train_dataset)

    rows = [
        {name: column[0] for name, column in take(batch, slice(row, row + 1)).items()}
        for batch in fixed_batches(experience)
        for row in range(length(batch))
    ]
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": SIZE,
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "remove_unused_columns": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }
    trainer = InOrder(
        subject.model,
        transformers.TrainingArguments(**settings | options),
        train_dataset=rows,
        method=subject.method,
        objective=subject.objective,
        optimizer_cls_and_kwargs=(zoo.SGD.func, zoo.SGD.keywords),
    )
    trainer.experience = experience
    return trainer


def in_huggingface(subject, experience, **options):
    with TemporaryDirectory() as folder:
        huggingface_trainer(subject, experience, folder, **options).train()


def learned(how, method, growing=False, **options):
    """What a model and a method are after three experiences."""
    subject = learner(method, growing)
    for experience in stream():
        how(subject, experience, **options)
    return state(subject)


def state(subject):
    return {"model": snapshot(subject.model), "method": subject.method.state_dict()}


@cache
def expected(method, growing=False):
    return learned(in_learner, method, growing)


@every_case
def test_your_own_loop_gives_the_weights_of_the_learner(method, growing):
    assert checkpoint.same(learned(in_own_loop, method, growing), expected(method, growing))


@every_case
def test_lightning_gives_the_weights_of_the_learner(method, growing):
    assert checkpoint.same(learned(in_lightning, method, growing), expected(method, growing))


@every_case
def test_the_hugging_face_trainer_gives_the_weights_of_the_learner(method, growing):
    assert checkpoint.same(learned(in_huggingface, method, growing), expected(method, growing))


def test_the_methods_compared_give_different_weights():
    found = [expected(name)["model"] for name in ("naive", "er", "ewc", "si", "lwf", "derpp", "er+ewc")]
    assert not any(checkpoint.same(a, b) for place, a in enumerate(found) for b in found[:place])


@pytest.mark.parametrize("method", ["er", "si"])
def test_one_step_may_be_of_several_batches_in_every_loop(method):
    ours = learned(in_own_loop, method, pieces=2)
    assert not checkpoint.same(ours, expected(method))
    assert checkpoint.same(learned(in_lightning, method, accumulate_grad_batches=2), ours)
    assert checkpoint.same(learned(in_huggingface, method, gradient_accumulation_steps=2), ours)


def test_a_method_sees_gradients_before_they_are_clipped_in_every_loop():
    subject = learner("si", clip=0.5)
    for experience in stream():
        subject.learn(experience)
    assert not checkpoint.same(state(subject), expected("si"))
    assert checkpoint.same(learned(in_lightning, "si", gradient_clip_val=0.5), state(subject))
    assert checkpoint.same(learned(in_huggingface, "si", max_grad_norm=0.5), state(subject))


class Place:
    """Batches that know how many of them have been given out, as Lightning wants them for going on within a fit."""

    def __init__(self, found):
        self.found, self.given = found, 0

    def __len__(self):
        return len(self.found)

    def __iter__(self):
        for batch in self.found[self.given :]:
            self.given += 1
            yield batch
        self.given = 0

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, place):
        self.given = place["given"]


@pytest.mark.parametrize(("method", "growing"), [("er+ewc", False), ("si", True), ("derpp", True), ("lwf", False)])
def test_a_fit_of_lightning_goes_on_exactly_from_its_checkpoint(method, growing, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    def fit(subject, path):
        host = lightning_host(subject)
        host.experience = last
        saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
        trainer = lightning_trainer(enable_checkpointing=True, callbacks=[saving])
        trainer.fit(host, Place(fixed_batches(last)), ckpt_path=path, weights_only=True)
        return state(subject)

    *before, last = stream()
    subject = learner(method, growing)
    for experience in before:
        in_lightning(subject, experience)
    assert checkpoint.same(fit(subject, None), expected(method, growing))
    fresh = learner(method, growing)  # nothing but the checkpoint knows the past
    assert checkpoint.same(fit(fresh, tmp_path / "step=3.ckpt"), expected(method, growing))


@pytest.mark.parametrize(("method", "growing"), [("er+ewc", False), ("si", True), ("derpp", True), ("lwf", False)])
def test_the_hugging_face_trainer_goes_on_exactly_from_its_checkpoint(method, growing, tmp_path):
    *before, last = stream()
    subject = learner(method, growing)
    for experience in before:
        in_huggingface(subject, experience)
    huggingface_trainer(subject, last, tmp_path, save_strategy="steps", save_steps=3).train()
    assert checkpoint.same(state(subject), expected(method, growing))

    subject = learner(method, growing)  # nothing but the checkpoint knows the past
    trainer = huggingface_trainer(subject, last, tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert checkpoint.same(state(subject), expected(method, growing))
