"""The optimizer, the schedule and the view that a user's words become."""

import pytest
import torch
from torch import nn

from everlearn.data import Columns
from everlearn.workspace.config import make
from everlearn.workspace.training import make_optimizer, make_scheduler, make_view


def test_an_optimizer_has_the_settings_it_was_given_and_its_own_defaults():
    optimizer = make_optimizer("adam:lr=0.02,betas=(0.5,0.6)")([nn.Parameter(torch.zeros(2))])
    assert isinstance(optimizer, torch.optim.Adam)
    assert [optimizer.defaults[name] for name in ("lr", "betas", "eps")] == [0.02, (0.5, 0.6), 1e-8]


@pytest.mark.parametrize(
    "text", ["cosine", "linear:start_factor=0.1", "step:step_size=2,gamma=0.5", "onecycle:max_lr=0.5"]
)
def test_a_schedule_changes_the_learning_rate_over_the_steps_of_an_arrival(text):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make_scheduler(text)(optimizer, 10)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert len(set(rates)) > 1


def test_no_schedule_is_none():
    assert make_scheduler("") is None


def test_vectors_are_seen_as_they_are_and_images_from_0_to_1(shop):
    config = make({"model": shop.model(), "weights": str(shop / "deployed.pth"), "data": ["x"], "out": "run"})
    assert make_view(config, Columns(x=torch.zeros(2, 3))) is None
    images = Columns(x=torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))
    assert float(make_view(config, images)(images.take(torch.tensor([0])))["x"].max()) == 1
