"""Learners that are broken on purpose, one for each check."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from everlearn.batch import length, take, unlabeled
from everlearn.conformance.own import Entry, Everlearn, OwnSubject
from everlearn.data.order import batches
from everlearn.memory import Memory
from everlearn.methods import DER, EWC, MAS, SI, ICaRL, Naive, Replay
from everlearn.models.views import bare, trainable
from everlearn.objective import Output


def batch_gradients(model, experience, size, loss):
    """The gradient of the mean loss of each batch."""
    for batch in batches(experience.train, torch.arange(len(experience.train)), size):
        weights = trainable(model)
        yield dict(zip(weights, torch.autograd.grad(loss(batch), list(weights.values())), strict=True))


@dataclass
class Aliased(EWC):
    """Its anchor is the weights themselves."""

    def end(self, model, experience, objective):
        super().end(model, experience, objective)
        self.anchor = {name: weight.data for name, weight in trainable(model).items()}


@dataclass
class Clipped(SI):
    """Its importances are cut off at a constant."""

    def end(self, model, experience, objective):
        super().end(model, experience, objective)
        self.importance = {name: value.clamp(max=1e-3) for name, value in self.importance.items()}


@dataclass
class BatchFisher(EWC):
    """Squares the gradients of batches."""

    size: int = 8

    def end(self, model, experience, objective):
        super().end(model, experience, objective)
        grads = list(batch_gradients(model, experience, self.size, lambda batch: objective(model, batch).loss))
        self.importance = {name: torch.stack([g[name].square() for g in grads]).mean(0) for name in grads[0]}


@dataclass
class BatchMAS(MAS):
    """Takes absolute values of the gradients of batches."""

    size: int = 8

    def end(self, model, experience, objective):
        super().end(model, experience, objective)

        def norm(batch):
            return objective(model, batch).logits.square().sum(1).mean()

        grads = list(batch_gradients(model, experience, self.size, norm))
        self.importance = {name: torch.stack([g[name].abs() for g in grads]).mean(0) for name in grads[0]}


@dataclass
class Distilling(Naive):
    """A distillation in which everything can be wrong."""

    lambda_o: float = 1.0
    T: float = 2.0
    dim: int = 1
    training: bool = False

    teacher: nn.Module | None = field(default=None, init=False)

    def loss(self, model, batch, objective, rest):
        output = rest(model, batch)
        if self.teacher is None or self.lambda_o == 0:
            return output
        with torch.no_grad():
            before = (objective(self.teacher, unlabeled(batch)).logits / self.T).softmax(self.dim)
        now = (output.logits / self.T).log_softmax(1)
        return Output(output.loss + self.lambda_o * F.kl_div(now, before, reduction="batchmean"), output.logits)

    def end(self, model, experience, objective):
        self.teacher = copy.deepcopy(model).train(self.training)
        self.teacher.requires_grad_(False)


class Recent(Memory):
    """Adds the new, shuffles, and cuts."""

    def __init__(self, capacity, seed):
        super().__init__(capacity, seed)
        self.kept, self.random = {}, torch.Generator().manual_seed(seed)

    def add(self, batch, *, renew=False):
        batch = {name: torch.cat([self.kept[name], column]) if self.kept else column for name, column in batch.items()}
        order = torch.randperm(length(batch), generator=self.random)[: self.capacity]
        self.kept = take(batch, order)

    def sample(self, count):
        return take(self.kept, torch.randperm(length(self.kept), generator=self.random)[:count]) if self.kept else {}

    def __len__(self):
        return length(self.kept)


class Reservoir(Recent):
    """Knows a row by nothing, and draws its place among `count + more` rows."""

    def __init__(self, capacity, seed, more=1):
        super().__init__(capacity, seed)
        self.count, self.more = 0, more

    def add(self, batch, *, renew=False):
        for place in range(length(batch)):
            row = take(batch, slice(place, place + 1))
            if length(self.kept) < self.capacity:
                self.kept = {n: torch.cat([self.kept[n], c]) if self.kept else c.clone() for n, c in row.items()}
            elif (slot := int(torch.randint(self.count + self.more, (), generator=self.random))) < self.capacity:
                for name, column in row.items():
                    self.kept[name][slot] = column[0]
            self.count += 1


class HalfEmpty(Memory):
    """Fills up its draws with empty places."""

    def sample(self, count):
        drawn = super().sample(count)
        return {name: torch.cat([c, c.new_zeros(count, *c.shape[1:])])[:count] for name, c in drawn.items()}


@dataclass
class Noise(ICaRL):
    """Selects exemplars by features that mean nothing."""

    def _phi(self, model, objective, rows):
        return F.normalize(torch.randn(length(rows), 12, generator=torch.Generator().manual_seed(0)))


@dataclass
class Evaluating(Naive):
    """Trains in eval mode."""

    def loss(self, model, batch, objective, rest):
        model.eval()
        return rest(model, batch)


@dataclass
class Looking(Naive):
    """Looks at the data at the end of an experience in train mode."""

    def end(self, model, experience, objective):
        with torch.no_grad():
            objective(model, experience.train.take(torch.arange(8)))


@dataclass
class Twice(Naive):
    """Passes everything through the model once more, in train mode."""

    lambda_o: float = 1.0

    def loss(self, model, batch, objective, rest):
        objective(model, batch)
        return rest(model, batch)


@dataclass
class Soiling(Naive):
    """Leaves a gradient behind."""

    def loss(self, model, batch, objective, rest):
        objective(model, batch).loss.backward()
        return rest(model, batch)


@dataclass
class Thawing(Naive):
    """Switches all of the model to train mode."""

    def begin(self, model, experience, objective):
        model.train()


@dataclass
class Decaying(Naive):
    """Shrinks all weights."""

    def after_step(self, model):
        for weight in bare(model).parameters():
            weight.mul_(0.999)


@dataclass
class Stiff(DER):
    """Compares logits as if their number never changed."""

    first: list = field(default_factory=list, init=False)

    def loss(self, model, batch, objective, rest):
        output = rest(model, batch)
        self.first = self.first or [output.logits.detach()[:1]]
        return Output(output.loss + 0 * (output.logits - self.first[0]).square().mean(), output.logits)


@dataclass
class Once(Naive):
    """Takes every class for a new one."""

    seen: list = field(default_factory=list, init=False)

    def begin(self, model, experience, objective):
        if set(self.seen) & set(experience.classes):
            raise ValueError("a class came back")
        self.seen = [*self.seen, *experience.classes]


@dataclass
class Forgetful(Naive):
    """Begins with a new head each time."""

    def begin(self, model, experience, objective):
        model.head.reset_parameters()


@dataclass
class Default(Naive):
    """Makes the head in the default dtype."""

    def begin(self, model, experience, objective):
        model.head.float()


@dataclass
class Dividing(Naive):
    """Divides by a number of batches that may be 0."""

    def begin(self, model, experience, objective):
        1 / (len(experience.train) // 8)


@dataclass
class Hoarding(Naive):
    """Keeps all rows."""

    rows: list = field(default_factory=list, init=False)

    def end(self, model, experience, objective):
        self.rows.append(experience.train.take(torch.arange(len(experience.train)))["x"].clone())


@dataclass
class Viewing(Naive):
    """Flattens gradients with `view`."""

    def before_step(self, model):
        torch.cat([weight.grad.view(-1) for weight in trainable(model).values()])


class Bent(Everlearn):
    """everlearn with another subject, or other readings."""

    def __init__(self, subject=None, readings=None):
        super().__init__({"naive": Entry(lambda setup: Naive()), "er": Entry(lambda s: Replay(Memory(s.memory)))})
        self.other, self.bend = subject, readings

    def subject(self, method, setup):
        given = super().subject(method, setup)
        return self.other(given.learner, given.setup)

    def readings(self, history):
        return self.bend(dict(super().readings(history)))


class ClearsMoments(OwnSubject):
    def learn(self, x, y, *, steps=None):
        if self.learner.optimizer is not None:
            self.learner.optimizer.state.clear()
        super().learn(x, y, steps=steps)


class TakesAll(OwnSubject):
    def learn(self, x, y, *, steps=None):
        super().learn(x, y, steps=steps)
        mine = {id(weight) for group in self.learner.optimizer.param_groups for weight in group["params"]}
        others = [weight for weight in self.model.parameters() if id(weight) not in mine]
        if others:
            self.learner.optimizer.add_param_group({"params": others})


class PredictsInTrainMode(OwnSubject):
    def predict(self, x):
        return self.model.train()(x).detach()


class GrowsWhenExamined(OwnSubject):
    def evaluate(self, x, y):
        self.model.head = nn.Linear(self.model.head.in_features, int(y.max()) + 1)
        return super().evaluate(x, y)


class Draws(OwnSubject):
    def predict(self, x):
        torch.rand(1)
        return super().predict(x)


class Votes(OwnSubject):
    def predict(self, x):
        logits = super().predict(x)
        return logits + logits.mean(0)


class Wavers(OwnSubject):
    def predict(self, x):
        self.random = vars(self).setdefault("random", torch.Generator().manual_seed(0))
        logits = super().predict(x)
        return logits + torch.randn(logits.shape, generator=self.random)


class Rescales(OwnSubject):
    def learn(self, x, y, *, steps=None):
        super().learn(x, y, steps=steps)
        x[:, 1:] *= 0.5


class Adds(OwnSubject):
    def predict(self, x):
        batch = self.setup.lend({"x": x})
        batch["answers"] = self.learner.predict(batch)
        return batch["answers"]


class ForgetsMoments(OwnSubject):
    def load(self, saved):
        super().load(saved)
        if self.learner.optimizer is not None:
            self.learner.optimizer.state.clear()


class StartsOver(OwnSubject):
    def load(self, saved):
        super().load(saved | {"place": saved["place"] | {"position": 0}})


class Unseeded(OwnSubject):
    def __init__(self, learner, setup):
        super().__init__(learner, setup)
        self.learner.seed = 0


def forgetting_over_all(readings):
    return readings | {"forgetting": readings["forgetting_over_all"]}


def compared_with_another(readings):
    return readings | {"forgetting": readings["average_accuracy"] - readings["learning_accuracy"] + 0.1}


def method(make, *traits):
    """An adapter of one method."""
    naive = Entry(lambda setup: Naive())
    return Everlearn({"broken": Entry(make, frozenset(traits)), "naive": naive})


def strength(setup, name="lambda_"):
    return {} if setup.strength is None else {name: setup.strength}


def distilling(**faults):
    return method(lambda s: Distilling(**strength(s, "lambda_o"), **faults), "teacher", "kl", "strength")


def remembering(memory):
    return method(lambda s: Replay(memory(s), count=s.draw), "replay", "uniform", "budget")


SABOTEURS = {
    "penalty-holds": method(lambda s: Aliased(**strength(s)), "pull"),
    "path-integral": method(lambda s: Clipped(**strength(s, "c")), "path"),
    "fisher-of-each-row": method(lambda s: BatchFisher(**strength(s), size=s.batch_size), "fisher"),
    "importance-in-any-batches": method(lambda s: BatchFisher(**strength(s), size=s.batch_size), "estimated"),
    "sensitivity-of-each-row": method(lambda s: BatchMAS(**strength(s), size=s.batch_size), "sensitivity"),
    "teacher-stays": distilling(training=True),
    "teacher-agrees-with-itself": distilling(dim=0),
    "distillation-of-the-paper": distilling(T=1.0),
    "uniform-over-the-stream": remembering(lambda s: Recent(s.memory, s.seed)),
    "fair-when-small": remembering(lambda s: Reservoir(s.memory, s.seed, more=0)),
    "a-row-is-kept-once": remembering(lambda s: Reservoir(s.memory, s.seed)),
    "stored-rows-are-rows": method(lambda s: Replay(HalfEmpty(s.memory), count=40), "stores"),
    "budget-is-kept": remembering(lambda s: Memory(s.memory + 3, s.seed)),
    "herding-is-greedy": method(lambda s: Noise(K=s.memory, count=s.draw), "herding"),
    "steps-in-train-mode": method(lambda s: Evaluating()),
    "estimates-in-eval-mode": method(lambda s: Looking()),
    "estimates-leave-buffers": method(lambda s: Looking()),
    "references-leave-statistics": method(lambda s: Twice(), "projects"),
    "clean-gradients": method(lambda s: Soiling()),
    "frozen-statistics-stay": method(lambda s: Thawing()),
    "frozen-weights-stay": method(lambda s: Decaying()),
    "head-grows": method(lambda s: Stiff(Memory(s.memory))),
    "classes-come-back": method(lambda s: Once()),
    "growth-keeps-answers": method(lambda s: Forgetful()),
    "growth-keeps-kind": method(lambda s: Default()),
    "growth-keeps-moments": Bent(ClearsMoments),
    "optimizer-keeps-its-members": Bent(TakesAll),
    "small-experience": method(lambda s: Dividing()),
    "prediction-changes-nothing": Bent(PredictsInTrainMode),
    "evaluation-changes-nothing": Bent(GrowsWhenExamined),
    "prediction-draws-nothing": Bent(Draws),
    "rows-are-answered-alone": Bent(Votes),
    "answers-repeat": Bent(Wavers),
    "data-stay": Bent(Rescales),
    "arguments-stay": Bent(Adds),
    "resume-between-experiences": Bent(ForgetsMoments),
    "resume-at-any-step": Bent(StartsOver),
    "seeds-decide": Bent(Unseeded),
    "strength-0-is-fine-tuning": method(lambda s: Twice(**strength(s, "lambda_o")), "strength"),
    "many-experiences": method(lambda s: Hoarding()),
    "channels-last": method(lambda s: Viewing()),
    "readings-by-hand": Bent(readings=forgetting_over_all),
    "a-static-model-forgets-nothing": Bent(readings=compared_with_another),
}
"""For each check, what it has to find."""
