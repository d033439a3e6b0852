"""Rows that came before a column was longer: NaN is what they lack, in RAM and on disk."""

import pytest
import torch

from everlearn.memory import Memory


@pytest.mark.parametrize("place", ["in RAM", "on disk"])
def test_kept_rows_become_longer_before_longer_ones_come(place, tmp_path):
    folder = {"folder": tmp_path} if place == "on disk" else {}
    memory = Memory(5, **folder)
    memory.widen("x", 4)  # nothing is kept yet
    memory.add({"x": torch.ones(3, 2), "id": torch.arange(3)})
    memory.widen("x", 2)
    memory.widen("x", 4)
    rows = memory.sample(3)["x"]
    assert rows.shape == (3, 4)
    assert torch.equal(rows[:, :2], torch.ones(3, 2))
    assert rows[:, 2:].isnan().all()
    memory.add({"x": torch.zeros(1, 4), "id": torch.tensor([7])})
    other = Memory(5, **folder)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.column("x").nan_to_num(9), memory.column("x").nan_to_num(9))
    assert len(other) == 4
