"""Avalanche through the checks of everlearn.conformance, in an environment of its own.

python -m venv avalanche
avalanche/bin/pip install torch==2.13.0 torchvision==0.28.0 avalanche-lib==0.6.0 quadprog
export PYTHONPATH=.:benchmarks
avalanche/bin/python -m everlearn.conformance conformance_avalanche:Avalanche --experiences 200
avalanche/bin/python -m everlearn.conformance conformance_avalanche:Unlabelled --checks classes-come-back

Strategies are made by their own constructors. Experiences carry the task label 0, as those of Avalanche's
class-incremental benchmarks do; those of `Avalanche(labelled=False)`, from `benchmark_from_datasets`, carry none.
"""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import dill
import torch
from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import BWT, Accuracy, Forgetting
from avalanche.models import IncrementalClassifier
from avalanche.training import (
    AGEM,
    DER,
    ER_ACE,
    EWC,
    GEM,
    MAS,
    MIR,
    BiC,
    ExperienceBalancedBuffer,
    GDumb,
    GSS_greedy,
    ICaRL,
    LwF,
    Naive,
    ParametricBuffer,
    RandomExemplarsSelectionStrategy,
    ReservoirSamplingBuffer,
    SynapticIntelligence,
)
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import ReplayPlugin, RWalkPlugin
from torch import nn
from torch.utils.data import TensorDataset

from everlearn.conformance import NotOfferedError

warnings.showwarning = lambda *_: None  # they are about what is deprecated


def replay(setup, buffer):
    """The replay plugin with a storage policy of one's choice."""
    return ReplayPlugin(setup.memory, batch_size_mem=setup.draw, storage_policy=buffer)


def icarl(setup, given):
    """A model in two parts is what iCaRL takes."""
    if setup.model._forward_hooks:  # noqa: SLF001
        raise NotOfferedError("iCaRL makes a model of its own from two parts, whose passes the watch does not see")
    if setup.growing:
        raise NotOfferedError("iCaRL asks the benchmark for the number of all classes before the first has come")
    del given["model"]
    parts = {"feature_extractor": nn.Sequential(Unnumbered(), setup.model.body), "classifier": setup.model.head}
    return ICaRL(**parts, memory_size=setup.memory, buffer_transform=None, fixed_memory=True, **given)


class Unnumbered(nn.Module):
    """Drops the number of a row."""

    def forward(self, x):
        return x[:, 1:]


def plus(plugin):
    """Plain training with a plugin."""

    def made(setup, given):
        return Naive(**given | {"plugins": setup.lend([*given["plugins"], plugin(setup)])})

    return made


def gss(_, given):
    """A batch of it has 32 replayed rows, whatever is set; it raises an error where fewer than a batch are stored.

    So an experience comes twice here, lest nothing else be seen of it.
    """
    return GSS_greedy(mem_size=200, input_size=[17], **given | {"train_epochs": 2 * given["train_epochs"]})


def strong(setup, default):
    return default if setup.strength is None else setup.strength


STRATEGIES = {
    "naive": (set(), lambda _, g: Naive(**g)),
    "er": ({"stores", "replay", "budget", "uniform"}, plus(lambda s: replay(s, ReservoirSamplingBuffer(s.memory)))),
    "er-by-experience": (
        {"stores", "replay", "budget"},
        plus(lambda s: replay(s, ExperienceBalancedBuffer(s.memory, adaptive_size=True))),
    ),
    "er-parametric": (
        {"stores", "replay", "budget", "uniform"},
        plus(lambda s: replay(s, ParametricBuffer(s.memory, selection_strategy=RandomExemplarsSelectionStrategy()))),
    ),
    "er-ace": ({"stores", "budget"}, lambda s, g: ER_ACE(mem_size=s.memory, batch_size_mem=s.draw, **g)),
    "mir": ({"stores", "budget"}, lambda s, g: MIR(mem_size=s.memory, subsample=50, batch_size_mem=s.draw, **g)),
    "gss": ({"stores"}, gss),
    "gdumb": ({"stores", "restarts"}, lambda s, g: GDumb(mem_size=s.memory, **g)),
    "der": ({"stores", "replay", "budget"}, lambda s, g: DER(mem_size=s.memory, batch_size_mem=s.draw, beta=0.0, **g)),
    "derpp": ({"stores", "replay", "budget"}, lambda s, g: DER(mem_size=s.memory, batch_size_mem=s.draw, **g)),
    "ewc": ({"strength", "pull", "fisher", "estimated", "grows"}, lambda s, g: EWC(ewc_lambda=strong(s, 1.0), **g)),
    "ewc-online": (
        {"strength", "pull", "fisher", "estimated"},
        lambda s, g: EWC(ewc_lambda=strong(s, 1.0), mode="online", decay_factor=0.9, **g),
    ),
    "si": (
        {"strength", "pull", "path"},
        lambda s, g: SynapticIntelligence(si_lambda=strong(s, 1.0), eps=s.damping, **g),
    ),
    "mas": ({"strength", "pull", "sensitivity", "estimated"}, lambda s, g: MAS(lambda_reg=strong(s, 1.0), **g)),
    "rwalk": ({"strength", "pull"}, plus(lambda s: RWalkPlugin(ewc_lambda=strong(s, 1e-4), delta_t=1))),
    "lwf": ({"strength", "teacher", "kl"}, lambda s, g: LwF(alpha=strong(s, 1.0), temperature=2, **g)),
    "agem": (
        {"stores", "replay", "uniform", "projects", "grows"},
        lambda s, g: AGEM(patterns_per_exp=s.memory, sample_size=s.draw, **g),
    ),
    "gem": (
        {"stores", "replay", "projects", "grows"},
        lambda s, g: GEM(patterns_per_exp=s.memory, memory_strength=0.5, **g),
    ),
    "icarl": ({"stores", "replay", "budget", "teacher", "herding"}, icarl),
    "bic": (
        {"stores", "replay", "budget", "teacher"},
        lambda s, g: BiC(mem_size=s.memory, val_percentage=0.1, T=2, stage_2_epochs=2, **g),
    ),
}


class Avalanche:
    """The strategies of Avalanche."""

    def __init__(self, *, labelled=True):
        self.labelled = labelled
        self.name = "avalanche-lib 0.6.0" + ("" if labelled else ", no task labels")
        self.methods = {name: frozenset(traits) for name, (traits, _) in STRATEGIES.items()}

    def subject(self, method, setup):
        return Learner(STRATEGIES[method][1], setup, self.labelled)

    def readings(self, history):
        """What its standalone metrics make of the answers."""
        forgetting, transfer, pooled = Forgetting(), BWT(), Accuracy()
        for after, asked in enumerate(history):
            for on, (y, given) in enumerate(asked):
                one = Accuracy()
                one.update(given, y)
                for metric in (forgetting, transfer):
                    metric.update(on, one.result(), initial=after == on)
                if after == len(history) - 1:
                    pooled.update(given, y)
        means = [sum(metric.result().values()) / len(metric.result()) for metric in (forgetting, transfer)]
        return {
            "average_accuracy_pooled": pooled.result(),
            "forgetting_from_first": means[0],
            "backward_transfer": means[1],
        }


class Answers(SupervisedPlugin):
    """Keeps the logits of an evaluation."""

    def __init__(self):
        super().__init__()
        self.logits = []

    def after_eval_forward(self, strategy, **_):
        self.logits.append(strategy.mb_output.detach().clone())


class Learner:
    """One strategy."""

    def __init__(self, make, setup, labelled):
        RNGManager.set_random_seeds(setup.seed)
        net = setup.model
        if setup.growing:
            head = IncrementalClassifier(net.head.in_features, initial_out_features=2).to(net.head.weight.dtype)
            head.classifier.load_state_dict(net.head.state_dict())
            net.head = head
        self.answers = Answers()
        given = {
            "model": net,
            "optimizer": setup.optimizer(net.parameters()),
            "criterion": nn.CrossEntropyLoss(),
            "train_mb_size": setup.batch_size,
            "train_epochs": setup.epochs,
            "eval_mb_size": 64,
            "evaluator": None,
            "plugins": setup.lend([self.answers]),
        }
        if make is icarl:
            del given["criterion"]
        self.strategy = make(setup, given)
        self.labelled = labelled
        self.came = []
        self.outputs = net.head.out_features if not setup.growing else 0

    @property
    def model(self):
        return self.strategy.model

    def experience(self, x, y, index, name):
        """As a benchmark of Avalanche's would give it."""
        data, targets = [TensorDataset(x, y)], DataAttribute(y.tolist(), "targets")
        if self.labelled:
            attributes = [targets, TaskLabels([0] * len(y))]
            rows = TaskAwareSupervisedClassificationDataset(data, data_attributes=attributes)
        else:
            rows = AvalancheDataset(data, data_attributes=[targets])
        benchmark = with_classes_timeline(benchmark_from_datasets(**{name: [rows]}))
        if self.labelled:
            benchmark = with_task_labels(benchmark)
        experience = benchmark.streams[name][0]
        experience.current_experience = index
        return experience

    def of_new_classes(self, x, y):
        """The last experience of a benchmark of all that came so far, in which each experience has its own classes."""
        self.came.append((x, y))
        groups = [torch.unique(y).tolist() for _, y in self.came]
        seen = [label for group in groups for label in group]
        if len(set(seen)) < len(seen):
            raise NotOfferedError(f"{type(self.strategy).__name__} wants a benchmark in which no class comes back")
        to_come = [label for label in range(self.outputs) if label not in seen]
        rows, order = self.came, seen + to_come
        if to_come:  # a row for each, so that the benchmark knows how many classes there are
            groups.append(to_come)
            rows = [*rows, (x[:1].expand(len(to_come), -1), torch.tensor(to_come))]
        rows = TensorDataset(*map(torch.cat, zip(*rows, strict=True)))
        rows.targets = rows.tensors[1].tolist()
        sizes = dict(enumerate(map(len, groups)))
        benchmark = nc_benchmark(
            rows, rows, len(groups), task_labels=False, fixed_class_order=order, per_exp_classes=sizes
        )
        return benchmark.train_stream[len(self.came) - 1]

    def learn(self, x, y, *, steps=None):
        if steps is not None:
            raise NotOfferedError("training cannot be left off within an experience")
        if isinstance(self.strategy, ICaRL | BiC):
            experience = self.of_new_classes(x, y)
        else:
            experience = self.experience(x, y, self.strategy.clock.train_exp_counter, "train")
        self.strategy.train(experience)

    def predict(self, x):
        self.answers.logits.clear()
        self.strategy.eval(self.experience(x, torch.zeros(len(x), dtype=torch.long), 0, "test"))
        return torch.cat(self.answers.logits)

    def evaluate(self, x, y):
        self.answers.logits.clear()
        self.strategy.eval(self.experience(x, y, 0, "test"))
        metric = Accuracy()
        metric.update(torch.cat(self.answers.logits), y)
        return metric.result()

    def save(self):
        with TemporaryDirectory() as folder:
            save_checkpoint(self.strategy, Path(folder) / "checkpoint", exclude=["optimizer"])
            try:
                dill.dumps(torch.optim.SGD([torch.zeros(1)]))
            except (TypeError, dill.PicklingError) as error:
                said = f"checkpoints are made with dill, which cannot hold any optimizer of torch {torch.__version__}"
                raise NotOfferedError(said) from error
            save_checkpoint(self.strategy, Path(folder) / "checkpoint")
            return (Path(folder) / "checkpoint").read_bytes(), list(self.came)

    def load(self, saved):
        content, self.came = saved[0], list(saved[1])
        with TemporaryDirectory() as folder:
            (Path(folder) / "checkpoint").write_bytes(content)
            self.strategy, _ = maybe_load_checkpoint(self.strategy, Path(folder) / "checkpoint")
        self.answers = next(plugin for plugin in self.strategy.plugins if isinstance(plugin, Answers))


class Unlabelled(Avalanche):
    """Its strategies on experiences without task labels."""

    def __init__(self):
        super().__init__(labelled=False)
