"""The loop. It owns time: the order of the data, and the place reached."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from everlearn import border
from everlearn.batch import Batch, Rows
from everlearn.data.order import batches, endless, epoch_order
from everlearn.method import Method
from everlearn.metrics.evaluate import Result, evaluate
from everlearn.models.heads import resize_like
from everlearn.models.members import MakeOptimizer, arrange, members_of
from everlearn.models.scope import restore_scope, scope_of
from everlearn.models.views import bare, evaluating
from everlearn.objective import Objective, classify, classify_by_task, regress
from everlearn.randomness import global_state, mix, restore_global_state
from everlearn.stepping import Precision, Stepping, View, processes
from everlearn.streams.experience import Experience

MakeScheduler = Callable[[Optimizer, int], LRScheduler]


@dataclass(frozen=True)
class Step:
    """Yielded between two optimizer steps, where everything may be read, saved or stopped."""

    experience: int
    epoch: int
    number: int
    """Steps taken by this learner, over all experiences."""
    of: int
    """Steps that this experience takes in all, if nobody stops it."""
    place: int
    """Steps taken in this experience."""
    loss: Tensor | None
    """Detached, and still on its device: reading it may wait for the GPU."""


class Learner(Stepping):
    """Learns experience after experience with one model, one method and one objective.

    `optimizer` makes an optimizer from a list of parameters: `partial(torch.optim.SGD, lr=0.01)`. `scheduler`
    makes a scheduler from an optimizer and the number of steps of an experience. `view` makes what the model
    sees from what the rows hold (`everlearn.data.view`): normalised, and in training augmented. Batches have
    `batch_size` rows, computed in `accumulate` pieces, each of which the method sees as a batch. `clip` bounds
    the norm of the gradient. `fresh_optimizer` forgets momenta between experiences. The model stays where it is
    unless `device` says where it should be. Under `torchrun` each process learns its share of every batch.
    `fused` runs forward and backward as one recorded graph (`everlearn.models.fused`): several times faster where a
    model is small, and refused with a reason where it cannot be the same.

    An experience with a `reference` is learned beside it: each batch is followed by `reference_size` of those rows
    (None: as many as a batch has), which come in an order of their own, again and again.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method | None = None,
        objective: Objective = classify,
        *,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        epochs: int = 1,
        batch_size: int = 32,
        seed: int = 0,
        view: View | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        accumulate: int = 1,
        clip: float | None = None,
        compile: bool = False,  # noqa: A002 (torch's own word for it)
        fused: bool = False,
        fresh_optimizer: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        reference_size: int | None = None,
    ) -> None:
        border.positive(epochs=epochs, batch_size=batch_size)
        border.positive(reference_size=batch_size if reference_size is None else reference_size)
        super().__init__(
            model,
            method,
            objective,
            optimizer=optimizer,
            seed=seed,
            view=view,
            device=device,
            precision=precision,
            accumulate=accumulate,
            clip=clip,
            compile=compile,
            fused=fused,
        )
        self.make_scheduler = scheduler
        self.epochs, self.batch_size, self.reference_size = epochs, batch_size, reference_size
        self.fresh_optimizer, self.drop_last, self.workers = fresh_optimizer, drop_last, workers
        self.experience = 0
        """The experience that is being learned, or else the one that comes next."""
        self.epoch = 0
        self.position = 0
        """Batches of this epoch that have been learned."""
        self.planned = 0
        """Steps planned for this experience when it began."""
        self.beside: int | None = 0
        """Rows of the reference that this experience began with; None: a state of an older version does not say."""
        self.begun = False
        self.stopping = False

    # -- learning ---------------------------------------------------------------------------------------------

    def learn(self, experience: Experience) -> None:
        """Learns all of `experience`."""
        for _ in self.steps(experience):
            pass

    def steps(self, experience: Experience) -> Iterator[Step]:
        """Learns `experience`, one step at a time. Leave the loop to pause; call `stop` to finish early.

        Called again, or after `load_state_dict`, it goes on from where it was.
        """
        if self.begun and experience.index != self.experience:
            raise ValueError(
                f"the learner is in the middle of experience {self.experience}, but was given experience "
                f"{experience.index}; finish that one first, or call stop() and go through its last step"
            )
        count = self._batches_in(experience)
        before = deepcopy(self.state_dict()) if self._lacks_labels(experience) else None
        if not self.begun:
            self._begin(experience, count * self.epochs)
        else:
            self._same(experience, count * self.epochs)
        if self._live is None:
            self._wrap()
        epochs = 0 if self.stopping else self.epochs  # a state may have been saved after stop()
        while self.epoch < epochs:
            for batch, beside in zip(self._epoch(experience), self._beside(experience, count), strict=False):
                output = self._update(batch, beside)
                if before is not None and output.loss is None and all(each.grad is None for each in self._weights):
                    self.load_state_dict(before)  # in no process was there a lesson, and so there would never be one
                    border.has_labels(experience.train)
                before = None
                self.position += 1
                place = self.epoch * count + self.position
                yield Step(experience.index, self.epoch, self.number, count * self.epochs, place, output.loss)
                if self.stopping:
                    break
            self.epoch, self.position = self.epoch + 1, 0
            if self.stopping:
                break
        self.method.end(self.model, experience, self._seen(None))
        self.experience, self.epoch, self.position = experience.index + 1, 0, 0
        self.begun = self.stopping = False

    def remember(self, experience: Experience) -> None:
        """Keeps what it would keep if it had learned `experience`, without changing the model.

        The way in for a model that was trained elsewhere: memories are filled, importances estimated, teachers
        taken. The method sees each row once, in eval mode and without gradients.
        """
        if self.begun:
            raise ValueError(f"the learner is in the middle of experience {self.experience}; finish it first")
        self.method.begin(self.model, experience, self._seen(None))
        objective = self._seen(None)
        order = torch.arange(len(experience.train))
        with torch.no_grad(), evaluating(self.model), self._autocast():
            for batch in batches(
                experience.train,
                order,
                self.batch_size,
                workers=self.workers,
                seed=self.seed,
                first_id=_ids(experience),
            ):
                self.method(self.model, self._admit(batch, self.device), objective)
        self.method.end(self.model, experience, self._seen(None))
        self.experience = experience.index + 1

    def stop(self) -> None:
        """Makes the current experience end after this step, as if its data had run out."""
        self.stopping = self.begun  # between two experiences there is none to end

    def evaluate(self, rows: Rows, **options: Any) -> Result:
        """How well `predict` does on `rows`; the options are those of `everlearn.metrics.evaluate`."""
        return evaluate(self.predict, rows, **options)

    # -- saving -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that exact resume needs: tensors and plain values. Taken between two steps.

        Raises `NonFiniteError` if a weight or running statistic is not finite.
        """
        weights = dict(bare(self.model).state_dict())
        border.finite_state(weights, "the weight")
        return {
            "settings": self._settings(),
            "model": weights,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer and self.optimizer.state_dict(),
            "members": self.optimizer and members_of(self.optimizer, self._named()),
            "scope": self._scope(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "place": {name: vars(self)[name] for name in _PLACE},
            "random": global_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` saved, with the same settings; heads take the sizes that they had."""
        border.same_settings(state["settings"], self._settings())
        resize_like(bare(self.model), state["model"])
        bare(self.model).load_state_dict(state["model"])
        if "scope" in state:  # else it was saved by a version that left the scope to whoever builds the model
            for module in self._frozen:
                module.training = self.model.training
            self._frozen = [bare(self.model).get_submodule(name) for name in state["scope"]["quiet"]]
            for module in self._frozen:
                module.training = False
            restore_scope(self.model, state["scope"])
        self.method.load_state_dict(state["method"])
        self.method.to(self.device)
        place = {"beside": None} | state["place"]
        vars(self).update({name: place[name] for name in _PLACE})
        self._live = None
        self.optimizer = self.scheduler = None
        if state["optimizer"] is not None:
            self.optimizer = self._new_optimizer(state["scope"]["offered"] if "scope" in state else None)
            if self.optimizer is None:
                raise ValueError("the state has an optimizer, but all weights are frozen now; thaw those that were not")
            arrange(self.optimizer, self._named(), state["members"])
            if state["scheduler"] is not None and self.make_scheduler is not None:
                # The steps it is made for are part of its own state, which replaces these at once.
                self.scheduler = self.make_scheduler(self.optimizer, place["planned"])
                self.scheduler.load_state_dict(state["scheduler"])
            self.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # it would go on in the tensors of the giver
        self.scaler.load_state_dict(state["scaler"])
        restore_global_state(state["random"])

    # -- inside -----------------------------------------------------------------------------------------------

    def _begin(self, experience: Experience, planned: int) -> None:
        border.trainable_batches(
            None if self.method.own_steps else self.model,
            len(experience.train),
            self.batch_size,
            self.accumulate * processes(),
            drop_last=self.drop_last,
            beside=min(self.reference_size or self.batch_size, _beside(experience)),
        )
        if experience.reference is not None:
            border.stands_beside(experience.train, experience.reference)
        self._agree()
        before = self._named()
        self.method.begin(self.model, replace(experience, steps=planned), self._seen(None))
        if self.optimizer is None or self.fresh_optimizer:
            self.optimizer = self._new_optimizer()
        else:
            self._follow(self.optimizer, before)
        # Not before: refused here, the learner must not be left with an optimizer for the head as it was.
        labels = not self.method.own_answers
        border.fits(self.model, experience.train, self._seen(None), self.device, labels=labels)
        if self.make_scheduler is not None and self.optimizer is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = group.pop("initial_lr", group["lr"])  # where the last schedule began
            self.scheduler = self.make_scheduler(self.optimizer, planned)
        self.experience, self.planned, self.begun = experience.index, planned, True
        self.beside = _beside(experience)
        self._live = None

    def _same(self, experience: Experience, planned: int) -> None:
        """Raises a ValueError unless this is what began."""
        if planned != self.planned:
            raise ValueError(
                f"experience {self.experience} began with {self.planned} steps, but the {len(experience.train)} rows "
                f"given now make {planned}; go on with the rows that it began with"
            )
        if self.beside is not None and _beside(experience) != self.beside:
            raise ValueError(
                f"experience {self.experience} began beside {self.beside} rows of a reference, but there are "
                f"{_beside(experience)} now; go on with the reference that it began with"
            )

    def _lacks_labels(self, experience: Experience) -> bool:
        """Whether the first step may teach nothing: of rows without labels, only some methods make a lesson."""
        known = experience.reference is not None or self.objective not in _LABELLED or self.method.own_lessons
        if known or self.epoch or self.position or self.stopping or not len(experience.train):
            return False
        try:
            border.has_labels(experience.train)
        except ValueError:
            return True
        return False

    def _epoch(self, experience: Experience) -> Iterator[Batch]:
        order = epoch_order(len(experience.train), self.seed, experience.index, self.epoch)
        if self.drop_last:
            order = order[: len(order) // self.batch_size * self.batch_size]
        yield from batches(
            experience.train,
            order,
            self.batch_size,
            skip=self.position,
            workers=self.workers,
            seed=mix(self.seed, experience.index, self.epoch),
            first_id=_ids(experience),
            share=_share(),
        )

    def _beside(self, experience: Experience, count: int) -> Iterator[Batch | None]:
        """What of the reference stands beside the batches that follow in this epoch of `count`; without end."""
        rows = experience.reference
        if rows is None:
            yield from repeat(None)
            return
        yield from endless(
            rows,
            self.reference_size or self.batch_size,
            self.epoch * count + self.position,
            seed=mix(self.seed, _REFERENCE),
            experience=experience.index,
            workers=self.workers,
            first_id=_ids(experience) + _REFERENCE,
            share=_share(),
        )

    def _batches_in(self, experience: Experience) -> int:
        whole, some = divmod(len(experience.train), self.batch_size)
        return whole + (some > 0 and not self.drop_last)

    def _scope(self) -> dict[str, Any]:
        frozen = {id(module) for module in self._frozen}
        quiet = [name for name, module in bare(self.model).named_modules() if id(module) in frozen]
        return scope_of(self.model) | {"quiet": quiet, "offered": list(self._offered)}

    def _settings(self) -> dict[str, Any]:
        names = ("epochs", "batch_size", "seed", "precision", "accumulate", "clip", "fresh_optimizer", "drop_last")
        return {name: vars(self)[name] for name in (*names, "reference_size")} | {"processes": processes()}


_LABELLED = (classify, classify_by_task, regress)
"""Objectives that find what is right in the column "y"."""

_PLACE = ("experience", "epoch", "position", "number", "begun", "stopping", "planned", "beside")


def _share() -> tuple[int, int]:
    """Which of how many parts of each batch this process learns."""
    return (distributed.get_rank(), processes()) if processes() > 1 else (0, 1)


_REFERENCE = 1 << 39
"""Above the ids of the rows of one experience: where those of its reference begin."""


def _ids(experience: Experience) -> int:
    """The id of the first row of an experience whose rows have none of their own."""
    return experience.index << 40


def _beside(experience: Experience) -> int:
    """The rows of its reference."""
    return 0 if experience.reference is None else len(experience.reference)
