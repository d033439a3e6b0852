"""The loop. It owns time: the optimizer, the order of the data, the place reached."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, repeat
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from everlearn import border
from everlearn.batch import Batch, Rows, join, length, move, take, unanswered, unlabeled
from everlearn.data.order import batches, endless, epoch_order
from everlearn.method import Method
from everlearn.metrics.evaluate import Result, evaluate
from everlearn.models.fused import Fused, step
from everlearn.models.heads import follow, resize_like
from everlearn.models.members import MakeOptimizer, arrange, drop_frozen, learning, members_of, take_in
from everlearn.models.scope import at_rest, restore_scope, scope_of
from everlearn.models.views import average, bare, device_of, evaluating
from everlearn.objective import Objective, Output, Viewed, ask, classify, classify_by_task, regress
from everlearn.randomness import global_state, mix, restore_global_state, unmoved
from everlearn.streams.experience import Experience

Precision = Literal["float32", "bf16", "fp16"]
MakeScheduler = Callable[[Optimizer, int], LRScheduler]
View = Callable[[Batch, int | None], Batch]


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


class Learner:
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
        border.positive(epochs=epochs, batch_size=batch_size, accumulate=accumulate)
        border.positive(reference_size=batch_size if reference_size is None else reference_size)
        border.one_of("precision", precision, ("float32", "bf16", "fp16"))
        if fused:
            border.fusable(compiled=compile, precision=precision, accumulate=accumulate)
        self.fused = fused
        self._live: nn.Module | None = None
        self._graphs: Fused | None = None
        self.model = model if device is None else model.to(device)
        self.method = method or Method()
        self.method.to(self.device)
        self.objective = objective
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.view, self.precision, self.accumulate, self.clip = view, precision, accumulate, clip
        self.compile, self.fresh_optimizer, self.drop_last, self.workers = compile, fresh_optimizer, drop_last, workers
        self.reference_size = reference_size
        self.optimizer: Optimizer | None = None
        self.scheduler: LRScheduler | None = None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.experience = 0
        """The experience that is being learned, or else the one that comes next."""
        self.epoch = 0
        self.position = 0
        """Batches of this epoch that have been learned."""
        self.number = 0
        """Steps taken, over all experiences."""
        self.planned = 0
        """Steps planned for this experience when it began."""
        self.beside: int | None = 0
        """Rows of the reference that this experience began with; None: a state of an older version does not say."""
        self.begun = False
        self.stopping = False
        # A module in eval mode within a model in train mode was put there on purpose: a frozen batch norm, say.
        quiet = [(name, m) for name, m in bare(model).named_modules() if not m.training] if model.training else []
        resting = at_rest(model)  # these stay in eval mode by themselves
        self._frozen = [module for name, module in quiet if name not in resting]
        self._offered: list[str] = []
        """The weights that were there to be learned when the optimizer last looked for some."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        # To walk through the modules at each step takes longer than some of them take.
        return device_of(self.model) if self._live is None or not self._weights else self._weights[0].device

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
        if not self.begun:
            self._begin(experience, count * self.epochs)
        elif count * self.epochs != self.planned:
            raise ValueError(
                f"experience {self.experience} began with {self.planned} steps, but the {len(experience.train)} rows "
                f"given now make {count * self.epochs}; go on with the rows that it began with"
            )
        elif self.beside is not None and _beside(experience) != self.beside:
            raise ValueError(
                f"experience {self.experience} began beside {self.beside} rows of a reference, but there are "
                f"{_beside(experience)} now; go on with the reference that it began with"
            )
        if self._live is None:
            self._wrap()
        epochs = 0 if self.stopping else self.epochs  # a state may have been saved after stop()
        while self.epoch < epochs:
            for batch, beside in zip(self._epoch(experience), self._beside(experience, count), strict=False):
                output = self._update(batch, beside)
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

    def observe(self, batch: Batch) -> Output:
        """Learns from one batch of a stream without borders; the outputs are detached.

        Rows without a column "id" get one, as those of an experience do, if anybody asks for it: they are new
        whenever they come.
        """
        if (output := self._at_once(batch)) is not None:
            return output
        if self.optimizer is None:
            self._agree()
            self.optimizer = self._new_optimizer()
        if self._live is None:
            self._wrap()
        if "id" not in batch and not (self.method.plain_loss and self.view is None and self.objective in _NAMELESS):
            first = _STREAM + (self.number << 24)
            batch = batch | {"id": torch.arange(first, first + length(batch))}
        return self._update(batch)

    def test_then_train(self, batch: Batch) -> Output:
        """`predict`, then `observe`: the logits are those from before the step, in eval mode.

        For a stream whose labels come along with the rows. Where `fused` finds that the model answers alike in train
        and in eval mode, operation by operation, one pass forward serves both.
        """
        if (output := self._at_once(batch, alike=True)) is not None:
            return output
        logits = self.predict(batch)
        return Output(self.observe(batch).loss, logits)

    @contextmanager
    def changing(self) -> Iterator[nn.Module]:
        """Lends the model to be changed between two steps: a head grows, a layer gets more inputs, a part is frozen.

        The optimizer goes on with what it knows of the weights that stay, and gets those that are new.
        """
        before = self._named()
        try:
            yield bare(self.model)
        finally:
            if self.optimizer is not None:
                follow(self.optimizer, before, self._named())
                self._follow_scope(self.optimizer, before)
            self._live = None

    def stop(self) -> None:
        """Makes the current experience end after this step, as if its data had run out."""
        self.stopping = self.begun  # between two experiences there is none to end

    # -- answering --------------------------------------------------------------------------------------------

    def predict(self, batch: Batch) -> Tensor:
        """The logits for `batch`. Nothing changes: no weight, buffer, memory, mode or random generator."""
        device = self.device
        with torch.no_grad():
            if self.fused and self.method.plain_answers:  # by a graph, in which nothing can move
                if self._live is None or self._graphs is None:
                    self._wrap()
                assert self._graphs is not None  # noqa: S101 (it is fused)
                batch = move(batch, device)
                return self._graphs.answer(batch if self.view is None else self.view(unlabeled(batch), None))
            with unmoved(device), evaluating(self.model), self._autocast():
                return self.method.predict(self.model, move(unlabeled(batch), device), self._seen(None))

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
            self.model,
            len(experience.train),
            self.batch_size,
            self.accumulate * _world(),
            drop_last=self.drop_last,
            beside=min(self.reference_size or self.batch_size, _beside(experience)),
        )
        if experience.reference is not None:
            border.stands_beside(experience.train, experience.reference)
        self._agree()
        before = self._named()
        self.method.begin(self.model, replace(experience, steps=planned), self._seen(None))
        after = self._named()
        if self.optimizer is None or self.fresh_optimizer:
            self.optimizer = self._new_optimizer()
        else:
            follow(self.optimizer, before, after)
            self._follow_scope(self.optimizer, before)
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

    def _wrap(self) -> None:
        """Puts what a step runs around the model, and notes what it moves."""
        self._live = torch.compile(self.model) if self.compile else self.model  # type: ignore[assignment]
        self._graphs = Fused(self.model, self.objective, border.LARGEST) if self.fused else None
        self._weights = [*self.model.parameters(), *self.method.parameters()]
        self._buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        # What a forward pass may change: statistics and counters, but no tables. By dtype, to be copied in one go each.
        changing = [buffer for buffer in self.model.buffers() if buffer.is_floating_point() or buffer.dim() == 0]
        self._kept = [[b for b in changing if b.dtype == dtype] for dtype in {b.dtype: None for b in changing}]
        self._shadow = [[buffer.clone() for buffer in kept] for kept in self._kept]

    def _at_once(self, batch: Batch, *, alike: bool = False) -> Output | None:
        """The step of a stream as one graph; None: nothing was learned, and it has to be made of its parts."""
        if (
            self._live is None
            or self._graphs is None
            or self.optimizer is None
            or not self.method.plain_step
            or self.view is not None
            or self.clip is not None
            or self.scheduler is not None
            or _world() > 1
        ):
            return None
        if not self.model.training:
            self._train()
        for weight in self._weights:
            weight.grad = None
        output = self._graphs.step(batch, self.optimizer, alike=alike)
        if output is not None:
            self.number += 1
        return output

    def _update(self, batch: Batch, beside: Batch | None = None) -> Output:
        """One step of the optimizer; the output is that of `batch`, without the rows beside it."""
        assert self._live is not None  # noqa: S101 (an invariant, for the type checker too)
        world, device = _world(), self.device
        batch = self._admit(batch, device, world)
        if not self.model.training:
            self._train()
        for weight in self._weights:
            weight.grad = None
        if self._kept:
            self._keep()
        objective = self._seen(self.number)
        outputs: list[Output] = []
        pieces = self._pieces(batch)
        sizes = list(map(length, pieces))
        rows, learned = sum(sizes), False
        if beside is not None and pieces:  # of several processes, one may have no share of a small batch
            parts = _split(self._admit(beside, device, world), len(pieces))
            pieces = [join(unanswered(piece), part) for piece, part in zip(pieces, parts, strict=True)]
        for piece, size in zip(pieces, sizes, strict=True):
            try:
                output = self._differentiated(piece, objective, size / rows)
            except Exception as error:
                self._refuse()
                error.add_note(f"Nothing was learned from this batch: {_shapes(batch)}.")
                raise
            learned |= output.loss is not None
            outputs.append(output)
        if learned if world == 1 else self._pool(rows if learned else 0):
            assert self.optimizer is not None  # noqa: S101 (there were gradients)
            self._step(self._live, self.optimizer)
        if world > 1:
            average(self._buffers)
        self.number += 1
        return _merge(outputs, sizes)

    def _differentiated(self, piece: Batch, objective: Objective, share: float) -> Output:
        """The output of the method, once `share` of the gradient of its loss is in the weights."""
        assert self._live is not None  # noqa: S101 (there is a step)
        with self._autocast():
            output = self.method(self._live, piece, objective)
        if output.loss is not None:
            border.finite_loss(output.loss)
            if self._graphs is not None:
                self._graphs.backward(output.loss)
            else:
                self.scaler.scale(output.loss if share == 1 else output.loss * share).backward()  # type: ignore[no-untyped-call]
        return output

    def _pool(self, rows: int) -> bool:
        """Makes each gradient its mean over the rows of all processes, and says whether there were any.

        A weight that was used in none of them keeps no gradient. Gradients are averaged here rather than by DDP:
        a method may run the model several times before one backward pass, or use only a part of it.
        """
        mine = torch.tensor([rows, *(weight.grad is not None for weight in self._weights)], device=self.device)
        distributed.all_reduce(mine)
        total, *used = mine.tolist()
        for weight, somewhere in zip(self._weights, used, strict=True):
            if somewhere and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        average([weight.grad for weight in self._weights if weight.grad is not None], rows / max(total, 1))
        return bool(total)

    def _agree(self) -> None:
        """Gives all processes the weights of the first."""
        if _world() > 1:
            for value in (*self.model.parameters(), *self.method.parameters(), *self.model.buffers()):
                first = value.detach().contiguous()
                distributed.broadcast(first, 0)
                value.detach().copy_(first)

    def _step(self, model: nn.Module, optimizer: Optimizer) -> None:
        scaled, stepped = self.scaler.is_enabled(), True
        if scaled:
            self.scaler.unscale_(optimizer)
        self.method.before_step(model)
        if self.clip is not None:
            nn.utils.clip_grad_norm_([w for w in self._weights if w.grad is not None], self.clip)
        if scaled:
            scale = self.scaler.get_scale()
            self.scaler.step(optimizer)
            self.scaler.update()
            stepped = self.scaler.get_scale() >= scale  # else the gradient overflowed, and there was no step
        else:
            step(optimizer)
        if stepped and type(self.method).after_step is not Method.after_step:  # no_grad takes longer than nothing
            with torch.no_grad():
                self.method.after_step(model)
        if self.scheduler is not None:
            self.scheduler.step()

    def _keep(self) -> None:
        for shadow, kept in zip(self._shadow, self._kept, strict=True):
            torch._foreach_copy_(shadow, kept)

    def _refuse(self) -> None:
        """Leaves the model as it was before the step: gradients are dropped, running statistics restored."""
        for weight in self._weights:
            weight.grad = None
        for shadow, kept in zip(self._shadow, self._kept, strict=True):
            torch._foreach_copy_(kept, shadow)

    def _train(self) -> None:
        self.model.train()
        for module in self._frozen:
            module.training = False

    def _admit(self, batch: Batch, device: torch.device, world: int = 1) -> Batch:
        """The batch on the device, once it is known to be clean."""
        if world == 1 or length(batch):  # of several processes, one may have no share of a small batch
            border.clean(batch)
        return move(batch, device)

    def _pieces(self, batch: Batch) -> Sequence[Batch]:
        if self.accumulate == 1 and length(batch):
            return (batch,)
        return [piece for piece in _split(batch, self.accumulate) if length(piece)]

    def _seen(self, key: int | None) -> Objective:
        """The objective on rows as the model should see them; with a key, augmented."""
        inner = self.objective if key is None or self._graphs is None else self._graphs
        objective: Objective = partial(border.guarded, objective=inner) if key is not None else inner
        if self.view is None:
            return objective
        return Viewed(objective, self.view, None if key is None else mix(self.seed, key))

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

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype)

    def _new_optimizer(self, offered: Sequence[str] | None = None) -> Optimizer | None:
        """One of the weights of these names; None: of all that learn."""
        named = self._named()
        self._offered = learning(named) if offered is None else list(offered)
        weights = [named[name] for name in self._offered]
        # An optimizer refuses to have no weights; a method that counts on frozen features needs none.
        return self.make_optimizer(weights) if weights or not self.method.own_answers else None

    def _follow_scope(self, optimizer: Optimizer, before: dict[str, nn.Parameter]) -> None:
        """Takes out of the optimizer what no longer learns, and puts in what now does: each weight once, by identity.

        `before` is what there was before this experience. What its owner left out when it was offered stays out.
        """
        named = self._named()
        drop_frozen(optimizer)
        take_in(optimizer, named, {*self._offered} & {*before}, self.make_optimizer)
        self._offered = learning(named)

    def _scope(self) -> dict[str, Any]:
        frozen = {id(module) for module in self._frozen}
        quiet = [name for name, module in bare(self.model).named_modules() if id(module) in frozen]
        return scope_of(self.model) | {"quiet": quiet, "offered": list(self._offered)}

    def _named(self) -> dict[str, nn.Parameter]:
        """All parameters by name, those of the method after those of the model."""
        named = {f"model.{name}": weight for name, weight in self.model.named_parameters()}
        for field, module in self.method.modules():
            named |= {f"method.{field}.{name}": weight for name, weight in module.named_parameters()}
        return named

    def _settings(self) -> dict[str, Any]:
        names = ("epochs", "batch_size", "seed", "precision", "accumulate", "clip", "fresh_optimizer", "drop_last")
        return {name: vars(self)[name] for name in (*names, "reference_size")} | {"processes": _world()}


_PLACE = ("experience", "epoch", "position", "number", "begun", "stopping", "planned", "beside")


_NAMELESS = (classify, classify_by_task, regress, ask)
"""Objectives that do not ask which row is which: where nothing else does, a row of a stream needs no name."""


def _world() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _share() -> tuple[int, int]:
    """Which of how many parts of each batch this process learns."""
    return (distributed.get_rank(), _world()) if _world() > 1 else (0, 1)


def _split(batch: Batch, count: int) -> list[Batch]:
    """The batch in `count` parts, as even as can be; some may have no rows."""
    if count == 1:
        return [batch]
    sizes = [len(part) for part in torch.arange(length(batch)).tensor_split(count)]
    return [take(batch, slice(end - size, end)) for size, end in zip(sizes, accumulate(sizes), strict=True)]


_REFERENCE = 1 << 39
"""Above the ids of the rows of one experience: where those of its reference begin."""

_STREAM = 1 << 62
"""Above the ids of all rows of experiences: where those of streams without borders begin."""


def _ids(experience: Experience) -> int:
    """The id of the first row of an experience whose rows have none of their own."""
    return experience.index << 40


def _beside(experience: Experience) -> int:
    """The rows of its reference."""
    return 0 if experience.reference is None else len(experience.reference)


def _shapes(batch: Batch) -> str:
    shapes = {n: f"{tuple(c.shape)} {c.dtype}" if isinstance(c, Tensor) else f"[{len(c)}]" for n, c in batch.items()}
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _merge(outputs: list[Output], sizes: list[int]) -> Output:
    """The outputs of the pieces as one, detached; rows that the method joined to a piece are left out."""
    if not outputs:
        return Output(None, torch.empty(0))
    if len(outputs) == 1:
        (loss, logits), rows = outputs[0], sizes[0]
        loss, logits = None if loss is None else loss.detach(), logits.detach()
        return Output(loss, logits if logits.shape[0] == rows else logits[:rows])
    found = [output.logits.detach()[:size] for output, size in zip(outputs, sizes, strict=True)]
    rows = sum(sizes)
    losses = [o.loss.detach() * size / rows for o, size in zip(outputs, sizes, strict=True) if o.loss is not None]
    return Output(torch.stack(losses).sum() if losses else None, torch.cat(found))
