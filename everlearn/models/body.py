"""A body that stays as it is: its features, looked at without leaving a trace, and computed once for many heads."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from everlearn.batch import ANSWERS, UNLABELED, Batch, Rows, join, move, tensor, unlabeled
from everlearn.data.order import batches
from everlearn.data.rows import Columns
from everlearn.data.transforms import View
from everlearn.models.features import tap_input
from everlearn.models.views import bare, device_of, evaluating, tap
from everlearn.objective import Objective, Output, Viewed, classify
from everlearn.streams.experience import Experience


@torch.no_grad()
def look(model: nn.Module, batch: Batch, objective: Objective, head: str | None = None) -> tuple[Output, Tensor]:
    """The output of `objective` on the batch without its answers, and the features, (rows, width).

    The features are what goes into the layer named `head`, of whatever kind: flattened, in eval mode. None means
    the last linear layer, which must be what gives the model's answer; a model that has no linear layer is all body,
    and its answer is the features (the same tensor, then). A ValueError where that leaves a doubt.
    """
    model = bare(model)
    question = move(unlabeled(batch), device_of(model))
    layers = dict(model.named_modules())
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if head is None and not linear:
        with evaluating(model):
            features = objective(model, question).logits.flatten(1)
        return Output(None, features), features
    name = linear[-1] if head is None else head
    if name not in layers:
        raise ValueError(f"{type(model).__name__} has no layer {name!r} whose input could be the features; {_WAY_OUT}")
    with evaluating(model), tap_input(layers[name]) as inputs, tap(layers[name]) as outputs:
        output = objective(model, question)
    if len(inputs) != 1:
        raise ValueError(
            f"the features are what goes into {name!r}, but it was called {len(inputs)} times for one batch; {_WAY_OUT}"
        )
    if head is None and outputs[0] is not output.logits:
        raise ValueError(
            f"the last linear layer, {name!r}, is not what gives the answer of {type(model).__name__}; {_WAY_OUT}"
        )
    return Output(None, output.logits), inputs[0].flatten(1)


_WAY_OUT = (
    "name the one layer whose input is the features (head='fc'); a model that ends with its features gets one by "
    "nn.Sequential(model, nn.Identity()) and head='1'"
)


def labelled(features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The features of the rows that have a label, and their labels; ValueErrors where these cannot be counted."""
    name = next((name for name in ANSWERS if name in batch), None)
    y = features.new_full((len(features),), UNLABELED, dtype=torch.int64) if name is None else tensor(batch, name)
    if y.dtype != torch.int64 or y.shape != features.shape[:1]:
        raise TypeError(
            f"class labels must be int64 positions, one for each of the {len(features)} rows, but these are {y.dtype} "
            f"of shape {tuple(y.shape)}"
        )
    y = y.to(features.device)
    known = y != UNLABELED
    if not bool(known.all()):
        features, y = features[known], y[known]
    if len(y) and int(y.min()) < 0:
        raise ValueError(f"labels must be class positions from 0, or {UNLABELED} for none, but one is {int(y.min())}")
    if not bool(features.sum().isfinite() or features.isfinite().all()):  # a sum is quick, but may overflow
        raise ValueError("the features of these rows are not all finite, so none was counted; clean or leave out rows")
    return features, y


def looked(
    model: nn.Module, rows: Rows, positions: Tensor, objective: Objective, head: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The `labelled` features of the rows at `positions`, batch by batch."""
    for batch in batches(rows, positions, 256):
        yield labelled(look(model, batch, objective, head)[1], batch)


def features_of(
    rows: Rows,
    model: nn.Module,
    objective: Objective = classify,
    *,
    head: str | None = None,
    view: View | None = None,
    batch_size: int = 256,
    workers: int = 0,
) -> Columns:
    """Rows whose "x" is the features (float32, in RAM) that `model` makes of each row; other columns stay.

    See `look` for what `head` means. With `view`, the model sees the rows as a learner with that view would ask
    about them: not augmented. A learner of these needs no body any more: its model is `nn.Identity()`.

    >>> body = nn.Sequential(nn.Flatten(), nn.ReLU())
    >>> rows = Columns(x=torch.tensor([[[1.0, -2.0]]]), y=[3])
    >>> features_of(rows, body).take(torch.tensor([0]))
    {'x': tensor([[1., 0.]]), 'y': tensor([3])}
    """
    seen = objective if view is None else Viewed(objective, view)
    own = rows.take(torch.arange(min(1, len(rows))))
    parts = []
    for batch in batches(rows, torch.arange(len(rows)), batch_size, workers=workers):
        x = look(model, batch, seen, head)[1].float().cpu()
        parts.append({name: column for name, column in batch.items() if name in own} | {"x": x})
    return Columns(join(*parts) if parts else own)


def frozen(
    stream: Iterable[Experience],
    model: nn.Module,
    objective: Objective = classify,
    *,
    head: str | None = None,
    view: View | None = None,
    batch_size: int = 256,
    workers: int = 0,
) -> Iterator[Experience]:
    """The stream with features in place of inputs, each experience computed when it is asked for (`features_of`).

    heads = [Learner(nn.Identity(), method, optimizer=sgd) for method in (NCM(), SLDA(), Ridge())]
    for experience in frozen(stream, body):
        for each in heads:
            each.learn(experience)
    """
    for experience in stream:
        train, test = (
            features_of(rows, model, objective, head=head, view=view, batch_size=batch_size, workers=workers)
            for rows in (experience.train, experience.test)
        )
        yield replace(experience, train=train, test=test)
