"""What bases are opened from, and which library a test needs for that."""

from importlib.util import find_spec

import pytest
import torch

from everlearn.data import Columns

needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")

TINY = "hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16"
VIT = f"hf:vit({TINY}, image_size=16, patch_size=8)"
BERT = f"hf:bert({TINY}, vocab_size=12)"

NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, outputs=4, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 5, 3, 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(5, outputs)
    def forward(self, x):
        return self.head(self.pool(self.conv(x).relu()))
"""


def rows(count=6, side=20, classes=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, 3, side, side + 4), dtype=torch.uint8, generator=generator)
    return Columns(x=x, y=torch.arange(count) % classes)


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def alike(module, state):
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)
