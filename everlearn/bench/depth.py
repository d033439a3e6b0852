"""How deep a net should be to learn a stream of which nobody knows how long it is: several depths, and one that hedges.

The stream is that of Sahoo et al. (2018) in small: a random net of eight layers is the teacher, and halfway another one
takes its place for a while.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from everlearn.bench.nets import Weights
from everlearn.learner import Learner
from everlearn.methods.composition import build
from everlearn.models.exits import OnlineMLP
from everlearn.models.nets import MLP
from everlearn.randomness import mix, seeded

PARTS = 12
"""Of the stream, each of which has an error of its own: four make one third."""


@dataclass(frozen=True)
class Depth:
    """A stream of rows with two classes, each predicted and then learned, once, by a net of `layers` of 100 ReLU units.

    The score is the error in %, of the whole stream and of each part of it. A method called hedge has an exit at each
    layer, and one at the input. An answer is that of the forward pass that a step begins with, so
    there is no second one: without dropout it is what `predict` would have said.
    """

    source: str
    layers: int
    drift: bool = True
    """Whether the second third of the stream has another concept than the first and the last; else there is one."""
    weights: Weights = "torch"
    rows: int = 100_000
    inputs: int = 50
    width: int = 100
    lr: float = 0.01

    @property
    def chance(self) -> dict[str, float]:
        """Half of all answers."""
        return {"error": 50.0}

    def data(self, folder: Path) -> str:  # noqa: ARG002 (made here)
        """The digest of the first rows."""
        x, y = stream(100, self.inputs, 0, drift=self.drift)
        return hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()[:16]

    def measure(self, method: str, seed: int, folder: Path) -> dict[str, float]:  # noqa: ARG002 (made here)
        """The errors of one run."""
        wrong = self.wrong(method, seed)
        parts = {part_name(i): part for i, part in enumerate(wrong.tensor_split(PARTS))}
        return {name: 100 * part.double().mean().item() for name, part in ({"error": wrong} | parts).items()}

    def wrong(
        self, method: str, seed: int, watch: Callable[[int, nn.Module], None] = lambda _row, _model: None
    ) -> Tensor:
        """For each row whether the answer was wrong; `watch` is shown the model before each row."""
        x, y = stream(self.rows, self.inputs, seed, drift=self.drift)
        learner = Learner(
            self.net(method, seed), build(method, seed=seed), optimizer=partial(SGD, lr=self.lr), fused=True
        )
        ids, answers = torch.arange(len(y)), []
        for i in range(len(y)):
            watch(i, learner.model)
            here = slice(i, i + 1)
            answers.append(learner.observe({"x": x[here], "y": y[here], "id": ids[here]}).logits)
        return torch.cat(answers).argmax(1) != y

    def net(self, method: str, seed: int) -> nn.Module:
        """The first net, whose weights are drawn from `seed` alone."""
        with seeded(mix(seed, 3)):
            if "hedge" not in method:
                made: nn.Module = MLP(self.inputs, (self.width,) * self.layers, 2)
            else:
                made = OnlineMLP(self.inputs, 2, self.layers, self.width)
            if self.weights == "xavier":
                for layer in made.modules():
                    if isinstance(layer, nn.Linear) and layer.bias is not None:
                        nn.init.xavier_uniform_(layer.weight)
                        nn.init.zeros_(layer.bias)
        return made


def part_name(index: int) -> str:
    """What the error of a part is called."""
    return f"part {index + 1}"


def stream(rows: int, inputs: int, seed: int, *, drift: bool) -> tuple[Tensor, Tensor]:
    """Rows (rows, inputs), standard normal, and their classes, 0 or 1, about as many of each."""
    generator = torch.Generator().manual_seed(mix(seed, 0))
    x = torch.randn(rows, inputs, generator=generator)
    y = taught(x, mix(seed, 1))
    if drift:
        second = slice(rows // 3, 2 * rows // 3)
        y[second] = taught(x[second], mix(seed, 2))
    return x, y


def taught(x: Tensor, seed: int, layers: int = 8, width: int = 100) -> Tensor:
    """What a random net of so many layers says, above or below its median: He normal weights, no biases."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape[1], width, generator=generator)]
    weights += [torch.randn(width, width, generator=generator) for _ in range(layers - 1)]
    out = torch.randn(width, generator=generator)

    def said(h: Tensor) -> Tensor:
        for weight in weights:
            h = F.relu(h @ weight) * (2 / len(weight)) ** 0.5
        return h @ out

    middle = said(torch.randn(4096, x.shape[1], generator=generator)).median()
    return (torch.cat([said(part) for part in torch.split(x, 4096)]) > middle).long()
