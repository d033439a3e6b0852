"""What tests of adaptation share: methods by name, a labelled source, a target without labels, and a gap to close."""

from functools import cache, partial

import torch
import zoo
from torch import nn

from everlearn.batch import UNLABELED
from everlearn.data import Columns, Subset
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import METHODS, Naive, Replay
from everlearn.models import snapshot
from everlearn.streams import Experience

ADAM = partial(torch.optim.Adam, lr=0.005)


SETTINGS = {
    "dann": {"hidden": 16},
    "cdan": {"hidden": 16},
    "adda": {"hidden": 16},
    "mdd": {"hidden": 16},
    "wdgrl": {"hidden": 16, "steps": 2},
    "fixmatch": {"threshold": 0.1, "strong": zoo.shaken},
}
"""What makes a method quick, or fit for rows of numbers."""

NAMES = [name for name, cls in METHODS.items() if cls.card.family == "adaptation"]
"""All methods of the family: one is on trial as soon as it is registered."""

ADVERSARIAL = ["dann", "cdan", "mcd", "mdd"]
"""Those that reverse a gradient."""


def method(name, **options):
    """The method by its name, `er+name` with a memory in front, `bsp+name` in a chain."""
    front, _, rest = name.rpartition("+")
    if front:
        return Chain(Replay(Memory(100), count=8) if front == "er" else method(front), method(rest, **options))
    return METHODS[name](**SETTINGS.get(name, {}) | options)


@cache
def digits():
    """240 labelled digits, 120 faint ones on grey without a label, and 200 such to ask about."""
    train, test = zoo.digits()
    source, more = (train.take(torch.arange(*span)) for span in ((0, 240), (240, 360)))
    rows = test.take(torch.arange(200))
    return (
        Columns(x=source["x"], y=source["y"]),
        Columns(x=_faint(more["x"])),
        Columns(x=_faint(rows["x"]), y=rows["y"]),
    )


def _faint(x):
    return 0.5 - 0.4 * x


def stream(beside=True, rows=(60, 40)):
    """A labelled experience, then one without labels, of so many rows: beside a reference, or by itself."""
    source, target, test = digits()
    classes = tuple(range(10))
    return [
        Experience(0, Subset(source, torch.arange(rows[0])), test, classes),
        Experience(1, Subset(target, torch.arange(rows[1])), test, classes, reference=source if beside else None),
    ]


def learner(chain, model="mlp", **options):
    """Batches of 8 rows without a label beside 4 with one; the same learner at each call."""
    torch.default_generator.manual_seed(0)
    net = zoo.MODELS[model](10)
    torch.default_generator.manual_seed(1)
    settings = {"optimizer": zoo.SGD, "epochs": 2, "batch_size": 8, "reference_size": 4}
    return Learner(net, chain, **settings | options)


def batch(labelled=4, unlabelled=8, order=None):
    """Rows without a label, then labelled ones, unless `order` says otherwise."""
    source, target, _ = digits()
    known, unknown = source.take(torch.arange(labelled)), target.take(torch.arange(unlabelled))
    x = torch.cat([unknown["x"], known["x"]])
    y = torch.cat([torch.full((unlabelled,), UNLABELED), known["y"]])
    order = torch.arange(len(x)) if order is None else order
    return {"x": x[order], "y": y[order], "id": order}


def still(model):
    """The model without dropout: what differs then is not chance."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def learned(chain, experiences, model="mlp", **options):
    """The weights and buffers of a model after the experiences."""
    subject = learner(chain, model, **options)
    for experience in experiences:
        subject.learn(experience)
    return snapshot(subject.model)


# -- a gap ----------------------------------------------------------------------------------------------------

SHIFT = 0.7


def shifted(count, seed, target):
    """Two classes told by x0 in both domains, and by x1 in the source; in the target x1 is the same for both."""
    y = torch.arange(count) % 2
    sign = 2.0 * y - 1
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([0.5, 0.4])
    return x + torch.stack([1.2 * sign, torch.full_like(sign, SHIFT) if target else 1.5 * sign], 1), y


def closed(chain, seed, epochs=10):
    """How right a net is about the target, after the source, and after the target without labels beside it."""
    (sx, sy), (tx, _), (ux, uy) = (shifted(n, 10 * seed + i, i > 0) for i, n in enumerate((240, 240, 400)))
    source, target, test = Columns(x=sx, y=sy), Columns(x=tx), Columns(x=ux, y=uy)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    subject = Learner(net, chain, optimizer=ADAM, epochs=epochs)
    found = []
    for experience in (Experience(0, source, test, (0, 1)), Experience(1, target, test, (0, 1), reference=source)):
        subject.learn(experience)
        found.append(subject.evaluate(test).value)
    return found


def control(seed):
    """The same training without a method."""
    return closed(Naive(), seed)
