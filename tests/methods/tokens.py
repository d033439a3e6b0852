"""A small transformer with a class token, and experiences, for the tests of methods that learn prompts."""

import torch
from torch import nn

from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.streams import Experience

WIDTH = 8


class ViT(nn.Module):
    """Rows of 8 numbers as four tokens, behind one for the class."""

    def __init__(self, outputs=6, *, dropout=0.0, batch_first=True, norm_first=False):
        super().__init__()
        self.embed = nn.Linear(2, WIDTH)
        self.place = nn.Parameter(torch.randn(5, WIDTH) * 0.5)
        self.turned = not batch_first
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout, batch_first=batch_first, norm_first=norm_first)
            for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, outputs)

    def embedded(self, x):
        tokens = self.embed(x.view(len(x), 4, 2))
        return torch.cat((tokens.new_zeros(len(x), 1, WIDTH), tokens), 1) + self.place

    def forward(self, x):
        h = self.embedded(x)
        h = h.transpose(0, 1) if self.turned else h
        for block in self.blocks:
            h = block(h)
        return self.head(h[0] if self.turned else h[:, 0])


def vit(outputs=6, **options):
    """The same at each call."""
    torch.manual_seed(0)
    return ViT(outputs, **options)


def experience(index=0, classes=(0, 1, 2), count=24):
    random = torch.Generator().manual_seed(index)
    y = torch.tensor(classes)[torch.arange(count) % len(classes)]
    x = torch.randn(count, 8, generator=random) + torch.randn(20, 8, generator=torch.Generator().manual_seed(9))[y]
    rows = Columns(x=x, y=y)
    return Experience(index, rows, rows, tuple(classes))


def batch(count=12, index=0, classes=(0, 1, 2)):
    return experience(index, classes).train.take(torch.arange(count))


def learner(method, model=None, **options):
    settings = {"optimizer": sgd, "epochs": 2, "batch_size": 8} | options
    return Learner(vit() if model is None else model, method, **settings)


def sgd(weights):
    return torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.05)


def adam(weights):
    return torch.optim.AdamW(weights, lr=0.02, weight_decay=0.5)


def hooks(model):
    """How many there are on it."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
