"""One step: a batch is learned as a whole, or refused, and then nothing has changed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from everlearn import border
from everlearn.batch import Batch, join, length, move, take, unanswered, unlabeled
from everlearn.method import Method
from everlearn.models.fused import Fused, step
from everlearn.models.heads import follow
from everlearn.models.members import MakeOptimizer, drop_frozen, learning, take_in
from everlearn.models.scope import at_rest
from everlearn.models.views import average, bare, device_of, evaluating, ungraded
from everlearn.objective import Objective, Output, Viewed, ask, classify, classify_by_task, regress
from everlearn.randomness import mix, unmoved

Precision = Literal["float32", "bf16", "fp16"]
View = Callable[[Batch, int | None], Batch]


class Stepping:
    """A model, a method, an objective and an optimizer, which learn and answer one batch at a time.

    It knows batches, and nothing of experiences, epochs or order: those are the `Learner`'s, which says what its
    arguments mean.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method | None,
        objective: Objective,
        *,
        optimizer: MakeOptimizer,
        seed: int,
        view: View | None,
        device: str | torch.device | None,
        precision: Precision,
        accumulate: int,
        clip: float | None,
        compile: bool,  # noqa: A002 (torch's own word for it)
        fused: bool,
    ) -> None:
        border.positive(accumulate=accumulate)
        border.one_of("precision", precision, ("float32", "bf16", "fp16"))
        if fused:
            border.fusable(compiled=compile, precision=precision, accumulate=accumulate)
        self._live: nn.Module | None = None
        self._graphs: Fused | None = None
        self.model = model if device is None else model.to(device)
        self.method = method or Method()
        self.method.to(self.device)
        self.objective = objective
        self.make_optimizer, self.seed, self.view = optimizer, seed, view
        self.precision, self.accumulate, self.clip = precision, accumulate, clip
        self.compile, self.fused = compile, fused
        self.optimizer: Optimizer | None = None
        self.scheduler: LRScheduler | None = None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.number = 0
        """Steps taken."""
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
                self._follow(self.optimizer, before)
            self._live = None

    def predict(self, batch: Batch) -> Tensor:
        """The logits for `batch`. Nothing changes: no weight, buffer, memory, mode or random generator."""
        device = self.device
        with ungraded():
            if self.fused and self.method.plain_answers:  # by a graph, in which nothing can move
                if self._live is None or self._graphs is None:
                    self._wrap()
                assert self._graphs is not None  # noqa: S101 (it is fused)
                batch = move(batch, device)
                return self._graphs.answer(batch if self.view is None else self.view(unlabeled(batch), None))
            with unmoved(device), evaluating(self.model), self._autocast():
                return self.method.predict(self.model, move(unlabeled(batch), device), self._seen(None))

    # -- a step ------------------------------------------------------------------------------------------------

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
            or processes() > 1
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
        world, device = processes(), self.device
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
        if stepped and type(self.method).after_step is not Method.after_step:
            with ungraded():
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

    # -- what it is made of -------------------------------------------------------------------------------------

    def _seen(self, key: int | None) -> Objective:
        """The objective on rows as the model should see them; with a key, augmented."""
        inner = self.objective if key is None or self._graphs is None else self._graphs
        objective: Objective = partial(border.guarded, objective=inner) if key is not None else inner
        if self.view is None:
            return objective
        return Viewed(objective, self.view, None if key is None else mix(self.seed, key))

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

    def _follow(self, optimizer: Optimizer, before: dict[str, nn.Parameter]) -> None:
        """Lets the optimizer go on with what it knows, after what there was `before`: each weight once, by identity.

        What no longer learns is taken out, and what is new, or learns again, is put in. What its owner left out when
        it was offered stays out.
        """
        named = self._named()
        follow(optimizer, before, named)
        drop_frozen(optimizer)
        take_in(optimizer, named, {*self._offered} & {*before}, self.make_optimizer)
        self._offered = learning(named)

    def _agree(self) -> None:
        """Gives all processes the weights of the first."""
        if processes() > 1:
            for value in (*self.model.parameters(), *self.method.parameters(), *self.model.buffers()):
                first = value.detach().contiguous()
                distributed.broadcast(first, 0)
                value.detach().copy_(first)

    def _named(self) -> dict[str, nn.Parameter]:
        """All parameters by name, those of the method after those of the model."""
        named = {f"model.{name}": weight for name, weight in self.model.named_parameters()}
        for field, module in self.method.modules():
            named |= {f"method.{field}.{name}": weight for name, weight in module.named_parameters()}
        return named


_NAMELESS = (classify, classify_by_task, regress, ask)
"""Objectives that do not ask which row is which: where nothing else does, a row of a stream needs no name."""

_STREAM = 1 << 62
"""Above the ids of all rows of experiences: where those of streams without borders begin."""


def processes() -> int:
    """How many learn together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _split(batch: Batch, count: int) -> list[Batch]:
    """The batch in `count` parts, as even as can be; some may have no rows."""
    if count == 1:
        return [batch]
    sizes = [len(part) for part in torch.arange(length(batch)).tensor_split(count)]
    return [take(batch, slice(end - size, end)) for size, end in zip(sizes, accumulate(sizes), strict=True)]


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
