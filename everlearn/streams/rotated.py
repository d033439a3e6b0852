"""Rotated images: the same images in domain after domain, each turned by an angle of its own.

Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017. arXiv:1706.08840
"""

import math

import torch
from torch import Tensor

from everlearn.batch import Rows, tensor
from everlearn.randomness import mix
from everlearn.streams.arrivals import by_domain
from everlearn.streams.experience import Experience
from everlearn.streams.permuted import BLACK, Rearranged


def rotated(train: Rows, test: Rows, domains: int, *, seed: int = 0, degrees: float = 180.0) -> list[Experience]:
    """Domain-incremental: all images of domain k are turned by angle k, in training and test.

    All angles are drawn here, uniformly from [0, `degrees`) and from (`seed`, k) alone; more domains leave the
    earlier ones as they are. Each pixel takes the value of the one pixel that was there (`turned`). Images are turned
    when they are taken; nothing is copied.
    """
    image = tensor(train.take(torch.zeros(1, dtype=torch.int64)), "x")
    if image.ndim < 3:
        raise ValueError(
            f"only images, (rows, ..., height, width), can be turned, but x has the shape {tuple(image.shape)}"
        )
    angles = [
        float(torch.rand((), generator=torch.Generator().manual_seed(mix(seed, domain)), dtype=torch.float64)) * degrees
        for domain in range(domains)
    ]
    maps = [turned(image.shape[-2], image.shape[-1], torch.tensor([angle], dtype=torch.float64))[0] for angle in angles]
    names = [f"rotated {angle}" for angle in angles]
    return by_domain(
        (Rearranged(train, where, name=name), Rearranged(test, where, name=name))
        for where, name in zip(maps, names, strict=True)
    )


def turned(height: int, width: int, degrees: Tensor) -> Tensor:
    """For each angle, counter-clockwise, which pixel comes to each place: (n, height * width) int64, -1 for none.

    The nearest pixel, in the fixed-point arithmetic of PIL's `Image.rotate`, in which published results were made.

    >>> turned(2, 2, torch.tensor([90.0]))
    tensor([[1, 3, 0, 2]])
    """
    angle = -torch.deg2rad(degrees.double() % 360)
    # PIL rounds, so that right angles are right ones.
    sine, cosine = ((each * 1e15).round() / 1e15 for each in (angle.sin(), angle.cos()))
    middle = (width / 2, height / 2)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = columns.flatten(), rows.flatten()

    def source(along: Tensor, down: Tensor, centre: float) -> Tensor:
        start = centre - along * middle[0] - down * middle[1] + along * 0.5 + down * 0.5
        fixed = [(value * _ONE + 0.5).floor().long()[:, None] for value in (along, down, start)]
        return (fixed[0] * x + fixed[1] * y + fixed[2]) >> int(math.log2(_ONE))

    from_x, from_y = source(cosine, sine, middle[0]), source(-sine, cosine, middle[1])
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    return torch.where(inside, from_y * width + from_x, BLACK)


_ONE = 1 << 16
