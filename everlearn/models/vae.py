"""A variational autoencoder: a generator of rows like those it has seen.

Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014. arXiv:1312.6114
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class VAE(nn.Module):
    """Two hidden layers either way, for rows of `inputs` numbers from 0 to 1.

    `forward` takes rows, (n, inputs), and noise, (n, z), both floats, and gives the loss of each row, (n,): the
    cross-entropy of the reconstruction plus KL(q(z|x) || N(0, 1)), both per input. The noise comes from outside: who
    trains it owns the randomness.
    """

    def __init__(self, inputs: int, hidden: int = 400, z: int = 100) -> None:
        super().__init__()
        self.inputs, self.z = inputs, z
        self.encoder = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(hidden, z), nn.Linear(hidden, z)
        self.decoder = nn.Sequential(
            nn.Linear(z, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, inputs)
        )

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """The loss of each row, the negative evidence lower bound per input."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        decoded = self.decoder(mean + noise * (log_variance / 2).exp())
        rebuilt = F.binary_cross_entropy_with_logits(decoded, x, reduction="none").sum(1)
        known = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        loss: Tensor = (rebuilt + known) / self.inputs
        return loss

    def generate(self, noise: Tensor) -> Tensor:
        """The rows, (n, inputs) from 0 to 1, for noise, (n, z)."""
        return torch.sigmoid(self.decoder(noise))
