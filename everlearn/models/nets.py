"""Small reference nets: what the papers of the field train, without torchvision."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.models.heads import drawn
from everlearn.models.views import bare
from everlearn.randomness import mix


class Classifier(nn.Module):
    """`features`, which turn inputs into vectors of `width` numbers, and a linear `head` that reads them.

    All nets here but `MultiHead` are one of these. As those of any `nn.Module`, the first weights are drawn
    from torch's global generator: seed it to get the same net twice.
    """

    def __init__(self, features: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The logits, shape (rows, outputs)."""
        logits: Tensor = self.head(self.features(x))
        return logits


class MLP(Classifier):
    """Layers of `hidden` ReLU units on flattened inputs; as it stands, the net of van de Ven & Tolias (2019).

    >>> MLP(inputs=64, hidden=(32,), outputs=5)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self, inputs: int = 784, hidden: Sequence[int] = (400, 400), outputs: int = 10, dropout: float = 0.0
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        widths = [inputs, *hidden]
        for before, after in zip(widths, hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        super().__init__(nn.Sequential(*layers), widths[-1], outputs)


class Net(Classifier):
    """Two 3x3 convolutions of 16 and 32 channels, each halved by pooling, for squares of `size` pixels.

    >>> Net(outputs=5)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(self, outputs: int = 10, channels: int = 3, size: int = 32) -> None:
        features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        super().__init__(features, 32 * (size // 4) ** 2, outputs)


class ResNet18(Classifier):
    """ResNet-18 (He et al., CVPR 2016) for small images: a 3x3 stem of stride 1 and no pooling after it.

    Width 64 is the usual one; width 20 is the "slim" one of Lopez-Paz & Ranzato (GEM, NeurIPS 2017).
    """

    def __init__(self, outputs: int = 10, width: int = 64, channels: int = 3) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        before = width
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            layers += [_Block(before, after, stride), _Block(after, after, 1)]
            before = after
        features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(features, before, outputs)


class _Block(nn.Module):
    """Two 3x3 convolutions, and a way around them: the basic block of He et al."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class MultiHead(nn.Module):
    """One `backbone`, which gives vectors of `width` numbers, and for each task a head of its own.

    A task that is not in a batch gives its head no gradient at all, not one of zeros, so neither momentum nor
    weight decay moves it. Loading a state with another number of tasks gives the model that number.

    >>> model = MultiHead(nn.Flatten(), width=4, outputs_per_task=2, tasks=3)
    >>> model(torch.zeros(5, 4), torch.tensor([2, 0, 0, 1, 2])).shape
    torch.Size([5, 2])
    """

    def __init__(
        self, backbone: nn.Module, width: int, outputs_per_task: int, tasks: int = 1, *, seed: int = 0
    ) -> None:
        super().__init__()
        if tasks < 1:
            raise ValueError(f"a model with a head for each task needs at least one task, but tasks is {tasks}")
        self.backbone, self.width, self.outputs_per_task, self.seed = backbone, width, outputs_per_task, seed
        self.heads = nn.ModuleList()
        self._add_head(torch.empty(0))
        self.grow_tasks(tasks)

    def grow_tasks(self, tasks: int) -> None:
        """Makes the heads of tasks 0 to `tasks` - 1 where there are none yet; fewer is no change.

        Each begins as an `nn.Linear` does, drawn from the seed of this model and the number of its task
        alone, with the dtype and on the device of the first one.
        """
        while len(self.heads) < tasks:
            self._add_head(next(self.heads.parameters()))

    def _add_head(self, like: Tensor) -> None:
        weight, bias = drawn(self.outputs_per_task, self.width, mix(self.seed, len(self.heads)))
        head = nn.Linear(self.width, self.outputs_per_task, device="meta")  # draws nothing
        head.weight, head.bias = nn.Parameter(weight.to(like)), nn.Parameter(bias.to(like))
        self.heads.append(head.train(self.training))

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """The logits, shape (rows, outputs per task), of rows `x` for the tasks `task` (rows, int64).

        A task without a head is a ValueError: predicting must not make one.
        """
        features = self.backbone(x)
        tasks = torch.unique(task).tolist() or [0]
        if not 0 <= tasks[0] <= tasks[-1] < len(self.heads):
            raise ValueError(
                f"the batch has rows of the tasks {tasks}, but heads for 0 to {len(self.heads) - 1} exist; "
                f"call grow_tasks({tasks[-1] + 1}) when a task arrives"
            )
        if len(tasks) == 1:
            logits: Tensor = self.heads[tasks[0]](features)
            return logits
        rows = [(task == one).nonzero().flatten() for one in tasks]
        answers = [self.heads[one](features[mine]) for one, mine in zip(tasks, rows, strict=True)]
        return torch.cat(answers)[torch.cat(rows).argsort()]

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: object) -> None:
        start = f"{prefix}heads."
        tasks = len({name[len(start) :].split(".")[0] for name in state if name.startswith(start)})
        self.grow_tasks(tasks)
        del self.heads[max(tasks, 1) :]
        super()._load_from_state_dict(state, prefix, *rest)


def head_for(model: nn.Module, task: int | None, head: str | None = None) -> str | None:
    """The name of the layer that answers about `task`: in a `MultiHead` the task's own, elsewhere `head`."""
    return f"heads.{task or 0}" if isinstance(bare(model), MultiHead) else head
