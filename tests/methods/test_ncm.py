"""The nearest mean is the nearest mean."""

import pytest
import torch
from methods.small import everything, rows
from torch import nn
from torch.nn import functional as F

from everlearn.methods.ncm import NCM
from everlearn.objective import classify

DATA, ASKED = everything(rows(50)), everything(rows(20, seed=1))


def answers(**given):
    method = NCM(**given)
    for part in torch.arange(50).split(8):
        method(nn.Identity(), {name: column[part] for name, column in DATA.items()}, classify)
    return method.predict(nn.Identity(), {"x": ASKED["x"]}, classify)


def test_the_score_is_the_negative_squared_distance_from_the_mean():
    means = torch.stack([DATA["x"][DATA["y"] == label].mean(0) for label in range(4)])
    torch.testing.assert_close(answers(), -torch.cdist(ASKED["x"], means).square(), rtol=1e-5, atol=1e-5)


def test_with_cosines_it_orders_the_classes_by_the_angles_to_their_means():
    means = torch.stack([DATA["x"][DATA["y"] == label].mean(0) for label in range(4)])
    cosines = F.cosine_similarity(ASKED["x"].unsqueeze(1), means, dim=2)
    torch.testing.assert_close(answers(metric="cosine"), 2 * cosines - 2, rtol=1e-5, atol=1e-5)
    assert not torch.equal(cosines.argmax(1), answers().argmax(1))


def test_a_mean_is_that_of_all_rows_whenever_their_class_comes_back():
    method = NCM()
    for value in (1.0, 2.0, 6.0):
        method(nn.Identity(), {"x": torch.full((1, 3), value), "y": torch.tensor([1])}, classify)
    assert torch.equal(method.solve()[0][1], torch.full((3,), 3.0, dtype=torch.float64))


def test_a_metric_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="metric must be one of euclidean, cosine, but is 'l1'"):
        NCM(metric="l1")
