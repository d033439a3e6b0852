"""Deep generative replay: learn, along with new rows, rows that a generator makes up like the old ones.

Shin et al., Continual Learning with Deep Generative Replay, NeurIPS 2017. arXiv:1705.08690
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.batch import Batch, tensor
from everlearn.method import Card, Method
from everlearn.models.vae import VAE
from everlearn.models.views import Weights, recall, snapshot
from everlearn.objective import Objective, Output
from everlearn.randomness import mix, seeded
from everlearn.streams.experience import Experience


@dataclass
class DGR(Method):
    """L = 1/k L_new + (1 - 1/k) L(f(x~), y~) in experience k, where x~ is made by the generator as it was after
    the last experience, and y~ is what the model as it was then says of it.

    The generator learns from the same mixture, by the same optimizer: its loss is added, and shares no weight with the
    model's. No row is kept. Departure: a variational autoencoder in place of the paper's adversarial network, as by van
    de Ven et al. 2022. Rows are of one size, floats from 0 to 1 or uint8 pixels.
    """  # noqa: D205 (one equation, one sentence)

    card: ClassVar[Card] = Card(
        "replay", "1 forward, 1 backward over made-up rows; 2 of the generator", "two generators"
    )

    inputs: int = 784
    """Numbers in a row."""
    hidden: int = 400
    z: int = 100
    count: int = 128
    """Rows made up in each step."""
    seed: int = 0

    generator: VAE = field(init=False)
    teacher: Weights = field(default_factory=dict, init=False)
    maker: Weights = field(default_factory=dict, init=False)
    """The generator as it was after the last experience."""
    classes: list[int] = field(default_factory=list, init=False)
    """The classes that the teacher knows."""
    k: int = field(default=0, init=False)
    drawn: int = field(default=0, init=False)
    """Draws so far: with the seed, all the state of its randomness."""

    def __post_init__(self) -> None:
        with seeded(mix(self.seed)):
            self.generator = VAE(self.inputs, self.hidden, self.z)

    def begin(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Counts the experience."""
        self.k += 1

    def loss(self, model: nn.Module, batch: Batch, objective: Objective, rest: Objective) -> Output:
        """Adds the loss on made-up rows, and that of the generator."""
        output, x = rest(model, batch), tensor(batch, "x")
        if "task" in batch:
            raise ValueError(
                "dgr makes up rows, but not their task; leave the task labels out, or use a replay of rows"
            )
        seen = self._pixels(x)
        loss = self.generator(seen, self._noise(seen)).mean() + (0 if output.loss is None else output.loss)
        if self.maker and self.count:
            made = recall(self.generator, self.maker, VAE.generate, self._noise(seen, self.count))
            rows: Batch = {"x": _as(x, made), "id": torch.arange(self.count, device=x.device)}
            said = recall(model, self.teacher, objective, rows).logits[:, self.classes].argmax(1)
            rows["y"] = torch.tensor(self.classes, device=x.device)[said]
            old = self.generator(made, self._noise(made)).mean()
            answered = objective(model, rows).loss
            loss = loss / self.k + (1 - 1 / self.k) * (old if answered is None else old + answered)
        return Output(loss, output.logits)

    def end(self, model: nn.Module, experience: Experience, objective: Objective) -> None:
        """Model and generator become those that the next experience hears of the past."""
        self.teacher, self.maker = snapshot(model), snapshot(self.generator)
        self.classes = sorted({*self.classes, *experience.classes})

    def _pixels(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] != self.inputs:
            raise ValueError(f"rows have {flat.shape[1]} numbers, but dgr was made for {self.inputs}; give inputs=")
        return flat / 255 if x.dtype == torch.uint8 else flat.float()

    def _noise(self, rows: Tensor, count: int | None = None) -> Tensor:
        self.drawn += 1
        random = torch.Generator().manual_seed(mix(self.seed, self.drawn))
        return torch.randn(len(rows) if count is None else count, self.z, generator=random).to(rows.device)


def _as(x: Tensor, made: Tensor) -> Tensor:
    """Made-up rows in the shape and the dtype of `x`."""
    rows = made.view(len(made), *x.shape[1:])
    return (rows * 255).round().to(torch.uint8) if x.dtype == torch.uint8 else rows.to(x.dtype)
