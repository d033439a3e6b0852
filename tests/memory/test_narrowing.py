"""A memory whose rows were made wider can be as narrow again as it was."""

import pytest
import torch

from everlearn import checkpoint
from everlearn.memory import Balanced, Memory


def batch(count, width=3, start=0):
    ids = torch.arange(start, start + count)
    return {"x": torch.rand(count, width, generator=torch.Generator().manual_seed(start)), "y": ids % 3, "id": ids}


@pytest.mark.parametrize("make", [Memory, Balanced])
@pytest.mark.parametrize("rows", [0, 4, 30])
def test_narrowing_takes_widening_back_to_the_last_bit(make, rows):
    memory, never = make(10), make(10)
    for one in (memory, never):
        one.add(batch(rows)) if rows else None
    memory.widen("x", 5)
    memory.narrow("x", 3)
    assert checkpoint.same(memory.state_dict(), never.state_dict())
    for one in (memory, never):
        one.add(batch(20, start=100))
    assert checkpoint.same(memory.state_dict(), never.state_dict())
    memory.narrow("x", 3)
    memory.narrow("x", 9)
    assert checkpoint.same(memory.state_dict(), never.state_dict())


def test_rows_on_disk_are_not_rewritten(tmp_path):
    memory = Memory(10, folder=tmp_path)
    memory.add(batch(4))
    with pytest.raises(ValueError, match="never rewritten"):
        memory.narrow("x", 2)
