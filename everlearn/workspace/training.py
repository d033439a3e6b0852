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
from everlearn.spec import call, one_of, parse
from everlearn.workspace.config import Config

_TAKES = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    # LBFGS wants to be given the loss again and again, and SparseAdam gradients that are sparse.
    if isinstance(cls, type) and issubclass(cls, Optimizer) and name not in ("Optimizer", "LBFGS", "SparseAdam")
}


def make_optimizer(text: str) -> Callable[[list[nn.Parameter]], Optimizer]:
    """The factory that `sgd:lr=0.001,momentum=0.9` describes; its settings are tried at once."""
    spec = parse(text)
    cls = _TAKES[one_of("optimizer", spec.name, _TAKES)]
    weight = nn.Parameter(torch.zeros(1, 1))
    make: Callable[..., Optimizer] = cls
    known = [name for name in make([weight], lr=0.1).defaults if name != "params"]
    call(spec.name, partial(make, [weight]), spec.settings, known)
    return partial(make, **spec.settings)


def make_scheduler(text: str) -> Callable[[Optimizer, int], LRScheduler] | None:
    """The factory that `cosine` or `step:step_size=100,gamma=0.5` describes, over the steps of an experience.

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


_lr = torch.optim.lr_scheduler
_SCHEDULES: dict[str, tuple[Callable[..., LRScheduler], tuple[str, ...], str]] = {
    "cosine": (_lr.CosineAnnealingLR, ("eta_min",), "T_max"),
    "linear": (_lr.LinearLR, ("start_factor", "end_factor"), "total_iters"),
    "step": (_lr.StepLR, ("step_size", "gamma"), ""),
    "onecycle": (_lr.OneCycleLR, ("max_lr", "pct_start"), "total_steps"),
}


def make_view(config: Config, rows: Rows) -> View | None:
    """The view that the config asks for, if the rows are images; None for vectors."""
    x = rows.take(torch.arange(min(1, len(rows))))["x"]
    image = isinstance(x, torch.Tensor) and x.ndim == 4
    if not image and config.augment:
        raise ValueError(f"--augment is for images, but the rows of {config.data[0]} are none")
    if not image and config.normalize == "unit" and isinstance(x, torch.Tensor) and x.dtype != torch.uint8:
        return None
    if isinstance(x, torch.Tensor) and x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"--normalize is for pixels and measurements, but {config.data[0]} holds {x.dtype}")
    return view(normalize=_normalization(config.normalize), augment=list(config.augment))


def _normalization(text: str) -> Any:
    mean, colon, std = text.partition(":")
    if not colon:
        return text
    try:
        return tuple(map(float, mean.split(","))), tuple(map(float, std.split(",")))
    except ValueError as error:
        raise ValueError(f"cannot read --normalize {text!r}; expected a name, or mean,...:std,...") from error


def use_machine(config: Config) -> None:
    """Sets the threads of torch; raises a ValueError unless the device can be computed on."""
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        torch.zeros(1, device=config.device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the device {config.device!r} cannot be used ({reason}); expected cpu, cuda, cuda:1, mps, ..."
        ) from error
