"""Importances: what a penalty pulls at shows what it is made of."""

from functools import partial

import torch
from torch import Tensor

from everlearn.conformance.check import FoundError, Trial, check
from everlearn.conformance.nets import PAIRS, stream
from everlearn.conformance.surplus import alike, at, flat, surplus
from everlearn.models.views import Weights

STRONG = 1000.0
"""A strength at which rounding does not matter: importances are small."""


@check("penalty-holds", "pull")
def penalty_holds(trial: Trial) -> str:
    """A penalty is 0 where the last experience ended, and pulls back from everywhere else.

    A penalty that is always 0: the method is plain fine-tuning under another name.

    A copy of the weights that shares their memory moves with them, and so the distance from it stays 0; on another
    device the same line copies, and the fault is not there.
    """
    found = surplus(trial, STRONG)
    moved = flat(found.run.moved)
    still, pull = float(found.first.abs().max()), float(found.second.abs().max())
    if pull == 0:
        raise FoundError(f"weights moved by up to {float(moved.abs().max()):.2g} are pulled by exactly 0")
    if not still <= 1e-3 * pull:
        raise FoundError(f"there is a pull of {still:.2g} where the last experience ended ({pull:.2g} when moved)")
    along = float(found.second @ moved)
    if not along > 0:
        raise FoundError(f"it pushes away: the gradient along the movement is {along:.2g}")
    return f"pull 0 at the anchor, up to {pull:.2g} at strength {STRONG:g} when moved"


@check("path-integral", "path")
def path_integral(trial: Trial) -> str:
    """The importance of a weight is its path integral: the sum of -gradient x movement, over the squared distance.

    Importances that are 0, cut off at a constant, or made from something other than the steps that were taken.

    Gradients and weights have to be noted on both sides of a step, and each of these copies can go wrong alone.
    """
    found = surplus(trial, STRONG, epochs=4)
    run = found.run
    path = {name: torch.zeros_like(weight) for name, weight in run.anchor.items()}
    for step in run.watch.steps[: run.steps]:
        for name, gradient in step.gradient.items():
            if gradient is not None:
                path[name] -= gradient * (step.after[name] - step.before[name])
    start = run.watch.steps[0].before
    importance = {n: value / ((run.anchor[n] - start[n]).square() + 0.1) for n, value in path.items()}
    moved, whole = flat(run.moved), flat(importance)
    expected = {"the path integral": moved * whole.clamp(min=0), "the signed path integral": moved * whole}
    return alike(found.second, expected, "after an experience of 12 steps")


@check("fisher-of-each-row", "fisher")
def fisher_of_each_row(trial: Trial) -> str:
    """The importance of a weight is the mean over rows of the squared gradient of each row.

    The square of the mean gradient of a batch in its place: smaller by up to the size of the batch, and in other
    proportions.

    A loss is a mean over its batch, and so its gradient is one, too; squaring comes too late. It costs a loop over
    rows, or the gradients of single rows, to do it right.
    """
    found = surplus(trial, STRONG, epochs=8)
    run, (x, y) = found.run, stream(*PAIRS[:2])[0]
    exact, empirical = _fisher(run.anchor, x, None), _fisher(run.anchor, x, y)
    moved = flat(run.moved)
    return alike(
        found.second,
        {"the Fisher information": moved * exact, "the empirical Fisher information": moved * empirical},
        "after training in batches of 8",
    )


def _fisher(weights: Weights, x: Tensor, y: Tensor | None) -> Tensor:
    """The diagonal of the Fisher information, by one backward pass for each row, and for each class where y is None."""
    net = at(weights)
    total = torch.zeros(sum(weight.numel() for weight in weights.values()), dtype=torch.float64)
    for place in range(len(x)):
        log_p = net(x[place : place + 1]).log_softmax(1)[0]
        for label in range(len(log_p)) if y is None else [int(y[place])]:
            grads = torch.autograd.grad(log_p[label], list(net.parameters()), retain_graph=True)
            share = 1.0 if y is not None else log_p[label].exp().double().detach()
            total += share * torch.cat([grad.double().flatten() for grad in grads]).square()
    return total / len(x)


@check("importance-in-any-batches", "estimated")
def importance_in_any_batches(trial: Trial) -> str:
    """The importance does not depend on the batches in which it is estimated.

    An estimate that shrinks with the batch: one strength then means something else for every batch size.

    Whatever is not linear in the gradient, a square or an absolute value, has to be taken of each row.
    """
    # At a learning rate of 0 the weights are the same whatever the batches.
    still = partial(torch.optim.SGD, lr=0.0)
    large, small = (surplus(trial, STRONG, optimizer=still, batch_size=size).second for size in (24, 3))
    if not float(small.abs().max()) > 0:
        raise FoundError("weights that were moved are pulled by exactly 0")
    ratio = float(large.norm() / small.norm())
    rest = float((large - small).norm() / small.norm())
    if not rest <= 1e-3:
        raise FoundError(f"the pull with batches of 24 is {ratio:.3g} of that with batches of 3 ({rest:.1%} apart)")
    return f"batches of 3 and of 24 differ by {rest:.0e}"


@check("sensitivity-of-each-row", "sensitivity")
def sensitivity_of_each_row(trial: Trial) -> str:
    """The importance of a weight is the mean over rows of the absolute gradient of the squared norm of the outputs.

    The absolute value of the mean gradient in its place, in which rows cancel each other out.

    As with the Fisher information: the mean over the batch has been taken when the gradient arrives.
    """
    found = surplus(trial, STRONG, epochs=4)
    x = stream(*PAIRS[:1])[0][0]
    net = at(found.run.anchor)
    total = torch.zeros_like(found.second)
    for place in range(len(x)):
        grads = torch.autograd.grad(net(x[place : place + 1]).square().sum(), list(net.parameters()))
        total += torch.cat([grad.double().flatten() for grad in grads]).abs()
    expected = {"the sensitivity of each row": flat(found.run.moved) * total / len(x)}
    return alike(found.second, expected, "after training in batches of 8")
