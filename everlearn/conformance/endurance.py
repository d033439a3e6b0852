"""Endurance: a stream goes on and on, and some models are laid out in an order of their own."""

import gc

import torch
from torch import Tensor

from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.nets import PAIRS, convolutional, plain, rows, stream
from everlearn.conformance.subject import TRAITS


@check("many-experiences")
def many_experiences(trial: Trial) -> str:
    """A thousand experiences are learned without an error, and need no more memory than two hundred.

    Something is kept of each experience: rows, a buffer, a copy of the weights. Or a budget is divided by their number
    until nothing is left of it.

    Benchmarks have five or ten experiences.
    """
    weak = 1e-3 if "strength" in trial.traits else None  # a thousand penalties add up, and a step follows only so much
    subject = trial.make(plain(), memory=16, draw=8, batch_size=4, strength=weak)
    marks, sizes, objects = (trial.experiences // 5, trial.experiences), [], []
    gc.freeze()  # what was there before is neither looked through nor counted
    try:
        for index in range(trial.experiences):
            subject.learn(*rows(4, PAIRS[index % 3], first=4 * index))
            if index + 1 in marks:
                gc.collect()
                sizes.append(_tensors())
                objects.append(len(gc.get_objects()))
    finally:
        gc.unfreeze()
    more, span = sizes[1] - sizes[0], marks[1] - marks[0]
    new = objects[1] - objects[0]
    if "grows" in trial.traits:
        return f"it {TRAITS['grows']}: {more / span:,.0f} bytes"
    if more > 64 * span / 10 or new > span / 2:
        raise FoundError(
            f"from experience {marks[0]} to {marks[1]}, tensors grew from {sizes[0]:,} to {sizes[1]:,} bytes "
            f"({more / span:,.0f} for each experience), and {new / span:.1f} objects came with each"
        )
    return f"tensors: {sizes[0]:,} bytes after {marks[0]} experiences, {sizes[1]:,} after {marks[1]}"


def _tensors() -> int:
    """The bytes of all tensors that have come to life and are alive."""
    found = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in (each.untyped_storage() for each in found)}.values())


@check("channels-last")
def channels_last(trial: Trial) -> str:
    """A model whose convolutions are in channels_last learns as any other, and stays in channels_last.

    Gradients that are flattened with `view`, which raises an error for tensors in another order of memory.

    Such a gradient has the layout of its weight; `reshape` takes both.
    """
    net = convolutional()
    subject = trial.make(net)
    for x, y in stream(*PAIRS):
        subject.learn(x, y)
    if not net.get_parameter("body.4.weight").is_contiguous(memory_format=torch.channels_last):
        raise FoundError("the weights are in channels_last no longer")
    if not bool(subject.predict(x).amax(1).isfinite().all()):
        raise FoundError("a row has no finite answer")
    return f"{len(PAIRS)} experiences"
