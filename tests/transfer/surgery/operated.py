"""Models to be operated on, and what must be the same afterwards."""

import torch
from torch import nn
from torch.nn import functional as F


def images(rows=6, size=12):
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1))


def shaken(model):
    """The model with statistics, scales and shifts of its norms that are not those of a new one."""
    random = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.normal_(generator=random)
                module.running_var.uniform_(0.5, 2, generator=random)
                module.weight.uniform_(0.5, 2, generator=random)
                module.bias.normal_(generator=random)
    return model


class Convolutions(nn.Module):
    """Conv-BN-pool-depthwise-BN-conv-flatten-BN-linear, with functions between the layers."""

    def __init__(self, norm=True):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.depth = nn.Conv2d(6, 12, 3, groups=6, padding=1)
        self.norm2 = nn.BatchNorm2d(12) if norm else nn.Identity()
        self.second = nn.Conv2d(12, 5, 1, bias=False)
        self.norm3 = nn.BatchNorm1d(20) if norm else nn.Identity()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(20, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        x = F.relu6(self.norm2(self.depth(x)))
        x = F.adaptive_avg_pool2d(F.gelu(self.second(x)), 2)
        return self.head(self.drop(self.norm3(torch.flatten(x, 1))))


class Untraceable(nn.Module):
    """Decides by value."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm, self.two = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6 * 25, 4)

    def forward(self, x):
        x = self.norm(self.one(x))
        if x.sum() > 1e9:
            x = -x
        return self.two(F.max_pool2d(x.relu(), 2).flatten(1))


def answer(model, x, *, train=False):
    """What it answers in eval mode, or with statistics of the batch; as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    for module in model.modules():
        if train and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    with torch.no_grad():
        y = model(x)
        for buffer, value in buffers:
            buffer.copy_(value)
    for module, mode in modes:
        module.training = mode
    return y


def both(model, x):
    return answer(model, x), answer(model, x, train=True)


def apart(before, after):
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(before, after, strict=True))


class Watched:
    """Everything of a model that a refused operation must give back."""

    def __init__(self, model):
        self.model = model
        self.modules = list(model.named_modules(remove_duplicate=False))
        self.kinds = [type(module) for _, module in self.modules]
        self.weights = list(model.named_parameters(remove_duplicate=False))
        self.values = {name: value.clone() for name, value in model.state_dict().items()}
        self.modes = [module.training for _, module in self.modules]
        self.flags = [weight.requires_grad for _, weight in self.weights]
        self.hooks = [(module._forward_hooks, dict(module._forward_hooks)) for _, module in self.modules]
        self.shown = repr(model)
        self.random = torch.get_rng_state()

    def same(self):
        model = self.model
        assert [(n, id(m)) for n, m in model.named_modules(remove_duplicate=False)] == [
            (n, id(m)) for n, m in self.modules
        ]
        assert [type(module) for _, module in self.modules] == self.kinds
        assert [(n, id(w)) for n, w in model.named_parameters(remove_duplicate=False)] == [
            (n, id(w)) for n, w in self.weights
        ]
        assert model.state_dict().keys() == self.values.keys()
        assert all(torch.equal(value, self.values[name]) for name, value in model.state_dict().items())
        assert [module.training for module in model.modules()] == [m.training for _, m in self.modules] == self.modes
        assert [weight.requires_grad for _, weight in self.weights] == self.flags
        assert all(
            module._forward_hooks is hooks and dict(hooks) == content
            for (_, module), (hooks, content) in zip(self.modules, self.hooks, strict=True)
        )
        assert repr(model) == self.shown
        assert torch.equal(torch.get_rng_state(), self.random)
        return True
