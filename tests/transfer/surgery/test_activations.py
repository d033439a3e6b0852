"""Activations are swapped by type or by name, and how far that moves the answers is said."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transfer.surgery.operated import Convolutions, Watched, apart, both, images

from everlearn.models import Net
from everlearn.transfer.surgery import SurgeryError, swap


def test_all_of_a_type_and_one_by_name():
    model, x = Net(4, 3, 12).eval(), images()
    before = both(model, x)
    outcome = swap(model, {nn.ReLU: nn.GELU, "features.1": nn.LeakyReLU(0.2)}, x)
    assert [type(model.features[k]) for k in (1, 4)] == [nn.LeakyReLU, nn.GELU]
    assert outcome.evaluated == apart(before[:1], both(model, x)[:1]) > 0
    assert not outcome.exact
    assert not model.features[4].training
    features = F.max_pool2d(F.leaky_relu(model.features[0](x), 0.2), 2)
    by_hand = F.max_pool2d(F.gelu(model.features[3](features)), 2).flatten(1)
    torch.testing.assert_close(model(x), model.head(by_hand))


def test_each_place_has_its_own_and_one_module_in_two_places_stays_one():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared, nn.Linear(4, 4), nn.ReLU())
    swap(model, {nn.ReLU: nn.PReLU(init=0.1)}, torch.randn(3, 4))
    assert model[1] is model[3]
    assert model[1] is not model[5]
    assert model[1].weight is not model[5].weight


def test_the_same_activation_moves_nothing():
    model, x = Net(4, 3, 12), images()
    assert swap(model, {nn.ReLU: nn.ReLU}, x).evaluated == 0


def test_what_is_no_activation_or_not_there_is_refused_and_nothing_is_changed():
    model, x = Net(4, 3, 12), images()
    broken = nn.Threshold(1e9, float("nan"))
    watch = Watched(model)
    with pytest.raises(SurgeryError, match=r"'features\.0' is a Conv2d and no activation"):
        swap(model, {"features.0": nn.ReLU}, x)
    with pytest.raises(SurgeryError, match="has no module of type Tanh"):
        swap(model, {nn.Tanh: nn.ReLU}, x)
    with pytest.raises(SurgeryError, match="no activation"):
        swap(model, {nn.Conv2d: nn.ReLU}, x)
    with pytest.raises(SurgeryError, match="would move by nan"):
        swap(model, {nn.ReLU: broken}, x)
    assert watch.same()
    with pytest.raises(SurgeryError, match="calls as a function"):
        swap(Convolutions(), {nn.ReLU: nn.GELU}, x)
