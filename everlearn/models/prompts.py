"""Prompts: tokens that blocks of a transformer read beside their own, put there by hooks, without a change to it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Batch, Rows, move, unlabeled
from everlearn.models.features import tap_input
from everlearn.models.heads import head_of
from everlearn.models.resting import resting
from everlearn.models.views import bare, device_of, evaluating
from everlearn.objective import Objective


class Tokens(nn.ParameterDict):
    """Prompts, and what chooses them, by name; loading a state makes those that are missing."""

    @torch.no_grad()
    def put(self, name: str, value: Tensor) -> None:
        """Makes `name` this value: in place where there is one, as an optimizer has it."""
        if name in self:
            self[name].copy_(value)
        else:
            self[name] = nn.Parameter(value.clone())

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: object) -> None:
        for name, value in state.items():
            if name.startswith(prefix):
                self.put(name.removeprefix(prefix), value)
        super()._load_from_state_dict(state, prefix, *rest)


class Site(NamedTuple):
    """A block that turns tokens into as many tokens."""

    axis: int
    """The dimension that counts tokens, 0 or 1; the other one counts rows."""
    width: int


Span = tuple[str, str]
"""The blocks at whose entrance prompts come, and at whose exit they go."""


@torch.no_grad()
def sites(model: nn.Module, rows: Rows, objective: Objective, at: str | None = None) -> dict[str, Site]:
    """The blocks whose names match the regular expression `at` as a whole, in the order in which they are called.

    None means every `nn.TransformerEncoderLayer`. A block takes one tensor of three dimensions as its first argument,
    once in a pass, and gives one of that shape (or a tuple that begins with it). The model is asked about one row, and
    about two: the dimension that grows is that of rows, so it need not come first. None at all is a ValueError.
    """
    model = bare(model)
    one, two = (_shapes(model, rows.take(torch.zeros(count, dtype=torch.int64)), objective) for count in (1, 2))
    found = {}
    for name, shape in one.items():
        rows_first = [(shape[axis], two.get(name, shape)[axis]) == (1, 2) for axis in (0, 1)]
        if any(rows_first):
            found[name] = Site(int(rows_first[0]), shape[2])
    modules = dict(model.named_modules())
    if at is None:
        chosen = {name: site for name, site in found.items() if isinstance(modules[name], nn.TransformerEncoderLayer)}
    else:
        chosen = {name: site for name, site in found.items() if re.fullmatch(at, name)}
    if not chosen:
        wanted = "is an nn.TransformerEncoderLayer" if at is None else f"has a name that matches at={at!r}"
        names = [name for name in found if any(modules[name].children())]  # a block, and not one of its layers
        known = f"at= takes some of {', '.join(names[:12])}" if names else "there is none, but prompts need tokens"
        raise ValueError(
            f"no part of {type(model).__name__} that is called once in a pass, and turns tokens, three dimensions, "
            f"into as many, {wanted}; {known}"
        )
    return chosen


def _shapes(model: nn.Module, batch: Batch, objective: Objective) -> dict[str, torch.Size]:
    """The shapes of the tokens that modules keep the shape of, by name, in the order of the calls."""
    calls: dict[str, list[torch.Size | None]] = {}

    def come(name: str) -> None:
        calls.setdefault(name, []).append(None)

    def go(name: str, given: tuple[Any, ...], output: Any) -> None:
        tensors = [value for value in given if isinstance(value, Tensor)]
        first = output[0] if isinstance(output, tuple) and output else output
        if len(tensors) == 1 and tensors[0] is given[0] and tensors[0].dim() == 3 and isinstance(first, Tensor):
            calls[name][-1] = first.shape if first.shape == tensors[0].shape else None

    with ExitStack() as hooks, evaluating(model):
        for name, module in model.named_modules():
            if name:
                before = module.register_forward_pre_hook(lambda _module, _given, name=name: come(name))
                after = module.register_forward_hook(lambda _module, given, output, name=name: go(name, given, output))
                hooks.callback(before.remove)
                hooks.callback(after.remove)
        objective(model, _question(model, batch))
    return {name: shapes[0] for name, shapes in calls.items() if len(shapes) == 1 and shapes[0] is not None}


def _question(model: nn.Module, batch: Batch) -> Batch:
    device = device_of(model)
    return move(unlabeled(batch), device)


def try_out(model: nn.Module, rows: Rows, objective: Objective, names: Iterable[str]) -> None:
    """Asks the model about a row; a ValueError if that fails, as the blocks of these names do not take prompts."""
    try:
        objective(bare(model), _question(bare(model), rows.take(torch.zeros(1, dtype=torch.int64))))
    except RuntimeError as error:
        raise ValueError(
            f"the blocks {', '.join(names)} do not take more tokens than they have: a mask, or something between them, "
            f"goes by their number; name other blocks with at=. torch says: {error}"
        ) from error


@contextmanager
def prompted(
    model: nn.Module,
    spans: Sequence[Span],
    axes: Mapping[str, int],
    make: Callable[[Tensor], Sequence[Tensor]],
    head: str | None = None,
) -> Iterator[list[Tensor]]:
    """In the block, each call of `model` reads prompts of its own rows; yields the queries, one for each call.

    A query, (rows, width), is what the head sees where there are no prompts: in eval mode and without gradients. From
    it `make` gives the prompts of each span, (rows, prompts, width), which are put behind the tokens at the entrance of
    its first block, and taken away again at the exit of its last. Nothing is left on the model afterwards. Without
    spans there is nothing to ask for, and no query.
    """
    model = bare(model)
    modules = dict(model.named_modules())
    queries: list[Tensor] = []
    if not spans:
        yield queries
        return
    now: list[Tensor] = []
    """The prompts of this call; none while it is asked for its query."""

    def ask(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        now.clear()
        queries.append(_query(model, head, args, kwargs))
        with torch.autocast(queries[-1].device.type, enabled=False):
            now.extend(make(queries[-1]))

    def come(given: tuple[Any, ...], place: int, axis: int) -> tuple[Any, ...] | None:
        if not now:
            return None
        tokens = now[place] if axis else now[place].transpose(0, 1)
        return (torch.cat((given[0], tokens.to(given[0].dtype)), axis), *given[1:])

    def go(output: Any, place: int, axis: int) -> Any:
        if not now:
            return output
        tokens = output[0] if isinstance(output, tuple) else output
        left = tokens.narrow(axis, 0, tokens.shape[axis] - now[place].shape[1])
        return (left, *output[1:]) if isinstance(output, tuple) else left

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(ask, with_kwargs=True).remove)
        for place, (first, last) in enumerate(spans):
            at_first, at_last = {"place": place, "axis": axes[first]}, {"place": place, "axis": axes[last]}
            hooks.callback(
                modules[first].register_forward_pre_hook(lambda _, given, at=at_first: come(given, **at)).remove
            )
            hooks.callback(
                modules[last].register_forward_hook(lambda _, __, output, at=at_last: go(output, **at)).remove
            )
        yield queries


def _query(model: nn.Module, head: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    name, layer = head_of(model, head)
    # At rest: some versions of torch let autocast keep the copy of a weight, made here without a graph, for later.
    with torch.no_grad(), resting(model, but=()), tap_input(layer) as seen:
        model.forward(*args, **kwargs)  # not the call, whose hooks would ask again
    if len(seen) != 1:
        raise ValueError(f"the head {name!r} was called {len(seen)} times for one batch; name the layer with head=")
    query = seen[0].flatten(1)
    return query.to(torch.promote_types(query.dtype, torch.float32))


def attention(q: Tensor, a: Tensor, k: Tensor) -> Tensor:
    """cos(q * a_m, k_m) of each row and component, (rows, components); no tensor has a dimension for all three."""
    length = (q.square() @ a.square().T).clamp(min=torch.finfo(q.dtype).tiny).sqrt()
    return q @ (a * F.normalize(k)).T / length


def overlap(b: Tensor) -> Tensor:
    """The mean square of the entries of B B^T - I, where the rows of B are components."""
    b = b.flatten(1)
    return (b @ b.T - torch.eye(len(b), dtype=b.dtype, device=b.device)).square().mean()
