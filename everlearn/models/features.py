"""What the head sees: the features that a model makes of its input."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from everlearn.batch import Batch
from everlearn.models.heads import head_of
from everlearn.models.views import bare, tap
from everlearn.objective import Objective, Output
from everlearn.spec import one_of


@contextmanager
def tap_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of `module`, one for each time it is called while the block runs."""
    inputs: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def tapped(model: nn.Module, layer: str | None = None) -> Iterator[list[Tensor]]:
    """The outputs of `layer`, or what the head reads (None), one for each pass while the block runs.

    A name that is no layer's is a ValueError that names the nearest.
    """
    model = bare(model)
    if layer is None:
        with tap_input(head_of(model)[1]) as seen:
            yield seen
        return
    names = [name for name, _ in model.named_modules()]
    with tap(model.get_submodule(one_of("layer", layer, names))) as seen:
        yield seen


def with_features(
    model: nn.Module, batch: Batch, objective: Objective, head: str | None = None
) -> tuple[Output, Tensor]:
    """The output of `objective`, and the features that the head saw, (rows, width).

    The head is the linear layer named `head`, or the last one. Gradients flow through both.
    """
    name, _ = head_of(bare(model), head)
    with tap_input(bare(model).get_submodule(name)) as seen:
        output = objective(model, batch)
    passes = learning(seen)
    if len(passes) != 1:
        raise ValueError(
            f"the head {name!r} was called {len(passes)} times for one batch; name the layer with head=, or put the "
            "method that asks the model more than once in front of this one"
        )
    return output, passes[0].flatten(1)


def learning(seen: list[Tensor]) -> list[Tensor]:
    """Of what layers gave, that of passes that learn: a teacher, who does not, may have passed through them, too."""
    return [given for given in seen if isinstance(given, Tensor) and given.requires_grad] or seen


def vectors(seen: list[Tensor]) -> Tensor:
    """What a layer gave in the pass that learns, (rows, numbers); a ValueError where that is not one tensor."""
    given = learning(seen)[0]
    if not isinstance(given, Tensor):
        raise ValueError(  # noqa: TRY004 (what is wrong is the name that was given)
            f"the tapped layer gives a {type(given).__name__}; name one inside it, which gives one tensor"
        )
    return given.flatten(1)
