"""Linear probes: logistic regression on the features of a body, solved once, as the weights of its head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.batch import Rows
from everlearn.models.body import looked
from everlearn.models.heads import head_of, own_parameters
from everlearn.models.nets import head_for
from everlearn.models.views import Weights, bare
from everlearn.objective import Objective, known
from everlearn.streams.experience import Experience


def probed(
    model: nn.Module,
    experience: Experience,
    objective: Objective,
    head: str | None,
    C: float,  # noqa: N803 (scikit-learn's name)
    *,
    old: Rows | None = None,
    least: float = 0.0,
) -> Weights:
    """The weights of the head, by name, that are best for the labelled rows of the experience; the model stays.

    So they are for those of its reference, and of the past (`old`). The body sees each row once, in eval mode. What is
    solved for is the rows of the classes that have labelled rows; the other rows of the head stay, and take part as
    the rivals that they are. Nothing, where there is no label.
    """
    if not C > 0:
        raise ValueError(f"C, the weight of the rows against the penalty, must be above 0, but is {C!r}")
    head = head_for(model, experience.task, head)
    name, layer = head_of(bare(model), head)
    own = own_parameters(bare(model), name)
    if not all(part.requires_grad for part in own.values()):
        raise ValueError(f"the head {name!r} is frozen, but a probe is about nothing else; thaw it, or name another")
    parts = [rows for rows in (experience.train, experience.reference, old) if rows is not None]
    found = [pair for rows in parts for pair in looked(model, rows, torch.arange(len(rows)), objective, head)]
    if not found:
        return {}
    x, y = (torch.cat(column).cpu() for column in zip(*found, strict=True))
    if not len(y):
        return {}
    if x.shape[1] != layer.in_features:
        raise ValueError(
            f"the head {name!r} reads {layer.in_features} numbers, but {x.shape[1]} go into it for each row; a probe "
            "is of one vector a row: name the layer that reads it with head="
        )
    known(y, layer.out_features)
    now = {part: value.detach()[: layer.out_features].cpu().double() for part, value in own.items()}
    new = refitted(x.double(), y, now["weight"], now.get("bias"), C, least=least)
    return {
        f"{name}.{part}".lstrip("."): value.to(own[part])
        for part, value in zip(("weight", "bias"), new, strict=True)
        if value is not None
    }


def refitted(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    C: float,  # noqa: N803
    *,
    least: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Weight (classes, width) and bias (classes) with the rows of the classes in `y` (rows) at the minimum of

        1/2 sum |W_c|^2 + C sum_i CE(W z_i + b, y_i)   over these rows,   z = (x - mean) / deviation of x (rows, width)

    and written for x. Deviations below `least` times their root mean square count as that. Without a bias the mean is
    taken to be 0. All are float64; L-BFGS with strong Wolfe conditions.
    """  # noqa: D400, D415 (an equation)
    mean = x.mean(0) if bias is not None else x.new_zeros(x.shape[1])
    deviation = (x - mean).square().mean(0).sqrt()
    told = deviation > 1e-12 * x.abs().amax(0)  # a feature that never changes says nothing
    share = torch.where(told, 1 / deviation.clamp(min=least * deviation.square().mean().sqrt()), 0.0)
    z = (x - mean) * share
    classes, place = y.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    rivals = torch.ones(len(weight), dtype=torch.bool).index_fill(0, classes, value=False)
    fixed = F.linear(x, weight[rivals], None if bias is None else bias[rivals])
    W = torch.zeros(len(classes), x.shape[1], dtype=x.dtype, requires_grad=True)  # noqa: N806
    b = torch.zeros(len(classes), dtype=x.dtype, requires_grad=bias is not None)
    free = [W] if bias is None else [W, b]
    solver = torch.optim.LBFGS(
        free, max_iter=2000, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        solver.zero_grad()
        logits = torch.cat([F.linear(z, W, b), fixed], dim=1)
        loss = F.cross_entropy(logits, place) + W.square().sum() / (2 * C * len(z))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    solver.step(closure)  # type: ignore[no-untyped-call]
    scaled = W.detach() * share
    weight = weight.index_copy(0, classes, scaled)
    return weight, None if bias is None else bias.index_copy(0, classes, b.detach() - scaled @ mean)


@torch.no_grad()
def install(model: nn.Module, weights: Weights) -> None:
    """Writes the weights that `probed` gave, in place; rows that a head has in reserve stay."""
    for name, value in weights.items():
        bare(model).get_parameter(name)[: len(value)].copy_(value)
