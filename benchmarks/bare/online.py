"""One row, or a few, at a time by hand: predict, then learn."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer


@dataclass
class Online:
    model: nn.Module
    optimizer: Optimizer

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """The answers from before the step."""
        self.model.eval()
        with torch.no_grad():
            answer = self.model(x)
        self.model.train()
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return answer
