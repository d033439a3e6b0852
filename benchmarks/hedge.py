"""A step of Hedge, one row at a time, against a loop written by hand over the same exits.

    python benchmarks/hedge.py [--layers 20] [--steps 200] [--runs 9]

"plain" is one backward pass over the same exits of the same model, with equal weights: no exit is weighed, no answer
given, nothing checked. "by exit" is what one writes first: a linear layer and a cross-entropy for each exit, their
weighted sum, one backward pass, SGD, and the weights of the exits. "stacked" is the same with all classifiers as one
product and all losses at once. The last two begin with the weights of our model, and must end with them, too. "fused"
is ours in that mode.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from statistics import median

import torch
from measure import Line, interleaved, ratios, times
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn import Learner
from everlearn.methods import Hedge
from everlearn.models.exits import OnlineMLP

INPUTS, WIDTH, LR = 50, 100, 0.01
GOAL = 1.05

Step = Callable[[Tensor, Tensor], object]


class Hand(nn.Module):
    """The same net, exit by exit."""

    def __init__(self, model: OnlineMLP) -> None:
        super().__init__()
        self.layers = nn.ModuleList([deepcopy(m) for m in model.body if isinstance(m, nn.Linear)])
        exits, read = len(model.taps), model.head.weight.detach()
        parts = read[:, exits:].unflatten(1, (exits, -1))
        self.exits = nn.ModuleList([deepcopy(model.first)])
        for place in range(exits):
            each = nn.Linear(WIDTH, model.head.out_features)
            with torch.no_grad():
                each.weight.copy_(parts[:, place])
                each.bias.copy_(read[:, place])
            self.exits.append(each)
        self.alpha = model.alpha.clone()


def by_exit(model: OnlineMLP) -> tuple[Hand, Step]:
    """A linear layer and a loss for each exit."""
    net = Hand(model)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)

    def step(x: Tensor, y: Tensor) -> Tensor:
        h, logits = x, [net.exits[0](x)]
        for layer, exit_ in zip(net.layers, list(net.exits)[1:], strict=True):
            h = F.relu(layer(h))
            logits.append(exit_(h))
        losses = torch.stack([F.cross_entropy(each, y) for each in logits])
        optimizer.zero_grad()
        (net.alpha * losses).sum().backward()
        optimizer.step()
        with torch.no_grad():
            answer = sum(a * each.softmax(1) for a, each in zip(net.alpha, logits, strict=True))
            weigh(net.alpha, losses, len(net.layers))
        return answer

    return net, step


def stacked(model: OnlineMLP) -> tuple[Hand, Step]:
    """One product for all exits but the first, and one loss."""
    net = Hand(model)
    weight = nn.Parameter(torch.stack([each.weight.detach().t() for each in list(net.exits)[1:]]))
    bias = nn.Parameter(torch.stack([each.bias.detach() for each in list(net.exits)[1:]]).unsqueeze(1))
    first = net.exits[0]
    optimizer = torch.optim.SGD([*net.layers.parameters(), *first.parameters(), weight, bias], lr=LR)

    def step(x: Tensor, y: Tensor) -> Tensor:
        h, seen = x, []
        for layer in net.layers:
            h = F.relu(layer(h))
            seen.append(h)
        logits = torch.cat([first(x).unsqueeze(0), torch.baddbmm(bias, torch.stack(seen), weight)])
        losses = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)), reduction="none")
        optimizer.zero_grad()
        (net.alpha * losses).sum().backward()
        optimizer.step()
        with torch.no_grad():
            answer = torch.tensordot(net.alpha, logits.softmax(-1), 1)
            weigh(net.alpha, losses, len(net.layers))
        return answer

    return net, step


def plain(model: OnlineMLP) -> tuple[None, Step]:
    """One backward pass over the exits as they are."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def step(x: Tensor, y: Tensor) -> None:
        answers = model.answers(x)
        loss = F.nll_loss(answers.flatten(0, 1), y.repeat(len(answers)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return None, step


def weigh(alpha: Tensor, losses: Tensor, depth: int, beta: float = 0.99, s: float = 0.2) -> None:
    """The rule of the paper, in place."""
    alpha.mul_(beta ** (1 - (-losses).exp())).clamp_(min=s / depth)
    alpha /= alpha.sum()


def learner(model: OnlineMLP, *, fused: bool = False) -> Learner:
    """Ours."""
    return Learner(model, Hedge(), optimizer=partial(torch.optim.SGD, lr=LR), fused=fused)


def lines(layers: int = 20, steps: int = 200, runs: int = 9) -> list[Line]:
    """Our step, `Learner.observe`, as a multiple of theirs."""
    torch.manual_seed(0)
    model = OnlineMLP(INPUTS, 2, layers, WIDTH)
    x = torch.randn(4096, INPUTS)
    y = (x[:, :2].sum(1) > 0).long()
    found = []
    loops: list[tuple[str, Callable[[OnlineMLP], tuple[Hand | None, Step]], float | None]]
    loops = [("by exit", by_exit, GOAL), ("plain", plain, None), ("stacked", stacked, None)]
    loops += [("fused, plain", plain, GOAL), ("fused, stacked", stacked, GOAL)]
    for name, make, goal in loops:
        ours, (net, theirs) = learner(deepcopy(model), fused=name.startswith("fused")), make(deepcopy(model))
        count = {"ours": 0, "theirs": 0}

        def our_step(ours: Learner = ours, count: dict[str, int] = count) -> None:
            i = count["ours"] = (count["ours"] + 1) % 4096
            ours.observe({"x": x[i : i + 1], "y": y[i : i + 1]})

        def their_step(theirs: Step = theirs, count: dict[str, int] = count) -> None:
            i = count["theirs"] = (count["theirs"] + 1) % 4096
            theirs(x[i : i + 1], y[i : i + 1])

        above, below = interleaved(times(our_step, steps), times(their_step, steps), runs)
        if net is not None:
            torch.testing.assert_close(ours.model.alpha, net.alpha, rtol=1e-3, atol=1e-4)
        detail = f"{1e3 * median(above) / steps:.3f} ms and {1e3 * median(below) / steps:.3f} ms"
        found.append(Line("hedge", name, ratios(above, below), "x", goal, more_is_better=False, detail=detail))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for line in lines(given.layers, given.steps, given.runs):
        print(f"ours / {line.name}: {line.score:.2f} ({line.detail}){'' if line.passed is None else f', goal {GOAL}'}")


if __name__ == "__main__":
    main()
