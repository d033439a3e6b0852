"""A memory with equally many rows of each class, as far as there are."""

from torch import Tensor

from everlearn.batch import Batch, tensor
from everlearn.memory.memory import Memory


class Balanced(Memory):
    """Keeps as many rows of each class as fit, and of each class a uniform sample.

    The class is the column "y", (n,) integers; rows that are `UNLABELED` form a class of their own. Places
    that a rare class cannot fill go to the others, and those that cannot be shared evenly go by hash. So
    here, too, what is kept is a function of the set of rows seen. The number of classes need not be known.

    >>> import torch
    >>> memory = Balanced(4)
    >>> memory.add({"y": torch.tensor([0, 0, 0, 0, 0, 0, 0, 1])})
    >>> memory.add({"y": torch.tensor([2, 2, 2, 2, 2, 2])})
    >>> memory.column("y").bincount().sort().values
    tensor([1, 1, 2])
    """

    def groups(self, batch: Batch) -> Tensor:
        """The classes of the rows."""
        return tensor(batch, "y")
