"""DAN brings the means of two samples together under five kernels."""

import torch
from methods.sides import adaptation, learner, side
from models.test_kernels import by_hand

from everlearn.methods import DAN, Naive
from everlearn.models.kernels import discrepancy


def test_the_gap_is_the_discrepancy_under_five_kernels_by_hand():
    source, target = side(5), side(8, seed=1, shift=1.0)
    kernel = by_hand(torch.cat([source.features, target.features]).detach())
    torch.testing.assert_close(DAN().gap(None, source, target), discrepancy(kernel, 5).float())


def test_descending_the_gap_brings_the_means_together():
    source, target = side(20), side(30, seed=1, shift=1.0)
    x, first = target.features.detach().clone(), DAN().gap(None, source, target).item()
    for _ in range(100):
        x = x.detach().requires_grad_()
        gap = DAN().gap(None, source, target._replace(features=x))
        x = x - 20 * torch.autograd.grad(gap, x)[0]
    assert gap.item() < first / 5
    assert (x.mean(0) - source.features.mean(0)).norm() < 0.5


def test_a_learner_makes_the_features_of_both_sides_more_alike():
    def apart(method):
        subject = learner(method, epochs=20)
        subject.learn(adaptation())
        with torch.no_grad():
            mine, theirs = (
                subject.model[:2](part.column("x")) for part in (adaptation().reference, adaptation().train)
            )
        return (mine.mean(0) - theirs.mean(0)).norm()

    assert apart(DAN(trade_off=20.0)) < 0.7 * apart(Naive())
