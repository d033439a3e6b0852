"""How a run trains, from what a user typed: the optimizer, its schedule, the view of the rows, the machine."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from everlearn.batch import Rows
from everlearn.data import View, view
from everlearn.schedule import inverse_decay, paced, warmup
from everlearn.spec import call, one_of, parse
from everlearn.transfer.rates import Grouped, grouped
from everlearn.workspace.config import Config, normalization
from everlearn.workspace.model import Loaded

_TAKES = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    # LBFGS wants to be given the loss again and again, and SparseAdam gradients that are sparse.
    if isinstance(cls, type) and issubclass(cls, Optimizer) and name not in ("Optimizer", "LBFGS", "SparseAdam")
}


_BY_PART = ("head", "decay", "decayed")
"""The settings of `everlearn.transfer.rates.grouped`, which any optimizer takes beside its own."""


def make_optimizer(
    text: str, model: nn.Module | None = None, head: str | None = None
) -> Callable[[list[nn.Parameter]], Optimizer]:
    """The factory that `sgd:lr=0.001,momentum=0.9` describes; its settings are tried at once.

    `sgd:lr=0.01,head=10,decay=0.75` gives the parts of `model` rates of their own; its head is the layer `head`, or
    the last linear one.
    """
    spec = parse(text)
    cls = _TAKES[one_of("optimizer", spec.name, _TAKES)]
    weight = nn.Parameter(torch.zeros(1, 1))
    make: Callable[..., Optimizer] = cls
    known = [name for name in make([weight], lr=0.1).defaults if name != "params"]
    own = {key: value for key, value in spec.settings.items() if key not in _BY_PART}
    parts = {key: value for key, value in spec.settings.items() if key in _BY_PART}
    call(spec.name, partial(make, [weight]), own, [*known, *_BY_PART])
    factory = partial(make, **own)
    if not parts:
        return factory
    if model is None:
        raise ValueError(f"{text!r} sets rates by part of a model, and here is none; leave out {', '.join(parts)}")
    rates: Grouped = call(spec.name, partial(grouped, factory, model, head_name=head or None), parts, _BY_PART)
    rates([*model.parameters()])
    return rates


def make_scheduler(text: str) -> Callable[[Optimizer, int], LRScheduler] | None:
    """The factory that `cosine` or `inverse:alpha=10,beta=0.75` describes, over the steps of an experience.

    Its settings are tried at once.
    """
    if not text:
        return None
    spec = parse(text)
    cls, known, over = _SCHEDULES[one_of("schedule", spec.name, _SCHEDULES)]

    def make(optimizer: Optimizer, steps: int, **settings: Any) -> LRScheduler:
        return cls(optimizer, **({over: max(1, steps)} if over else {}) | settings)

    def tried(**settings: Any) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        scheduler = make(optimizer, 3, **settings)
        optimizer.step()
        scheduler.step()

    call(spec.name, tried, spec.settings, known)
    return partial(make, **spec.settings)


def _paced(schedule: Callable[..., float], optimizer: Optimizer, steps: int, **settings: Any) -> LRScheduler:
    return paced(schedule, **settings)(optimizer, steps)


def _one_cycle(optimizer: Optimizer, max_lr: float | None = None, **settings: Any) -> LRScheduler:
    """Up to `max_lr`, or the optimizer's own rate, and down; parts with rates of their own keep their factors."""
    base = optimizer.defaults["lr"]
    highest = [group["lr"] if max_lr is None else max_lr * group["lr"] / base for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, **settings)


_lr = torch.optim.lr_scheduler
_SCHEDULES: dict[str, tuple[Callable[..., LRScheduler], tuple[str, ...], str]] = {
    "cosine": (_lr.CosineAnnealingLR, ("eta_min",), "T_max"),
    "linear": (_lr.LinearLR, ("start_factor", "end_factor"), "total_iters"),
    "step": (_lr.StepLR, ("step_size", "gamma"), ""),
    "onecycle": (_one_cycle, ("max_lr", "pct_start"), "total_steps"),
    "inverse": (partial(_paced, inverse_decay), ("alpha", "beta", "floor"), "steps"),
    "warmup": (partial(_paced, warmup), ("share", "start", "then", "floor"), "steps"),
}


def make_view(config: Config, rows: Rows, loaded: Loaded | None = None) -> View | None:
    """The view that the config asks for, or else the base that was loaded; None for vectors."""
    if loaded is not None and (loaded.prepares or loaded.text):
        own: View = loaded.base.view(augment=list(config.augment))
        return own
    x = rows.take(torch.arange(min(1, len(rows))))["x"]
    image = isinstance(x, torch.Tensor) and x.ndim == 4
    if not image and config.augment:
        raise ValueError(f"--augment is for images, but the rows of {config.data[0]} are none")
    normalize = config.normalize or "unit"
    if not image and normalize == "unit" and isinstance(x, torch.Tensor) and x.dtype != torch.uint8:
        return None
    if isinstance(x, torch.Tensor) and x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"--normalize is for pixels and measurements, but {config.data[0]} holds {x.dtype}")
    return view(normalize=normalization(normalize), augment=list(config.augment))


def use_machine(config: Config) -> None:
    """Sets the threads of torch; raises a ValueError unless the device can be computed on."""
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        torch.zeros(1, device=config.device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        unknown = "device type at start" in str(error)
        reason = "torch knows none of that name" if unknown else str(error).partition("\n")[0]
        raise ValueError(
            f"the device {config.device!r} cannot be used ({reason}); expected cpu, cuda, cuda:1, mps, ..."
        ) from error
