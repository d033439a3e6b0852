"""A sweep finds where rates begin to help and to harm, and leaves everything as it was."""

import copy
import math
import xml.etree.ElementTree as ET
from functools import partial

import pytest
import torch
from methods.small import experience, net, norm_net
from torch import nn

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.methods import GrowHead
from everlearn.objective import regress
from everlearn.streams import Experience
from everlearn.transfer.rates import grouped
from everlearn.transfer.sweep import RangeTest, _steepest, _ticks, range_test

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def learner(model=None, make=SGD, **options):
    return Learner(model or net(), optimizer=make, **{"batch_size": 8} | options)


def quadratic():
    """Rows of one number x = 1, y = 1: the loss is (w - 1)^2, and a step with rate r scales w - 1 by 1 - 2r."""
    data = Columns(x=torch.ones(8, 1), y=torch.ones(8))
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(-1.0)
    return Learner(model, objective=regress, optimizer=partial(torch.optim.SGD, lr=0.5), batch_size=8), Experience(
        0, data, data
    )


def test_each_step_is_taken_with_its_own_rate():
    """The oracle: the product of (1 - 2 r) over the steps before."""
    subject, data = quadratic()
    found = range_test(subject, data, low=1e-3, high=10, steps=30, smoothing=0)
    error, expected = -2.0, []
    for rate in found.rates:
        expected.append(error**2)
        error *= 1 - 2 * rate
    assert found.losses == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert found.smoothed == tuple(min(loss, 4.0) for loss in found.losses)  # what is above the first counts as that
    around = range_test(subject, data, low=1e-3, high=10, steps=30, smoothing=0.5)
    weights = [0.5 ** abs(3 - k) for k in range(len(around.losses))]
    mean = sum(w * min(loss, 4.0) for w, loss in zip(weights, around.losses, strict=True)) / sum(weights)
    assert around.smoothed[3] == pytest.approx(mean)
    assert found.rates[:2] == pytest.approx([1e-3, 1e-3 * 1e4 ** (1 / 29)])
    assert found.diverged
    assert len(found.rates) < 30
    assert 0.02 < found.suggestion < 0.5  # it falls until rates of 1, where it would turn around


def test_nothing_of_the_learner_changes():
    model = norm_net()
    subject = learner(model, grouped(SGD, model, head=10))
    subject.learn(experience(0))
    before, generator = copy.deepcopy(subject.state_dict()), torch.get_rng_state()
    modes, members = (
        [m.training for m in model.modules()],
        [list(map(id, g["params"])) for g in subject.optimizer.param_groups],
    )
    first = range_test(subject, experience(1), steps=20)
    assert checkpoint.same(before, subject.state_dict())
    assert torch.equal(generator, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert members == [list(map(id, g["params"])) for g in subject.optimizer.param_groups]
    torch.manual_seed(77)
    assert range_test(subject, experience(1), steps=20) == first  # whatever the state of the generators


def test_groups_keep_their_factors():
    model = net()
    seen = []

    def make(weights):
        optimizer = torch.optim.SGD(weights, lr=0.01)
        optimizer.register_step_pre_hook(lambda each, *_: seen.append([group["lr"] for group in each.param_groups]))
        return optimizer

    found = range_test(learner(model, grouped(make, model, head=10)), experience(), low=1e-4, high=1e-2, steps=10)
    assert [rates[0] for rates in seen] == pytest.approx(found.rates)
    assert [rates[1] for rates in seen] == pytest.approx([10 * rate for rate in found.rates])


def test_a_method_may_take_part_and_is_not_changed():
    subject, method = learner(net(2)), GrowHead()
    found = range_test(subject, experience(0), steps=12, method=method)
    assert len(found.losses) == 12
    assert subject.model[3].out_features == 2


def test_it_suggests_nothing_where_the_loss_never_falls():
    assert _steepest((0.1, 1, 10, 100), (1, 2, 3, 4), 0) is None
    assert _steepest((0.1, 1, 10, 100, 1000), (5, 4.9, 4, 3.9, 9), 3) == 10
    found = RangeTest((0.1, 1.0), (1.0, 2.0), (1.0, 2.0), None, 0.1, diverged=False)
    assert str(found) == "no rate from 1.0e-01 to 1.0e+00 made the loss fall"
    assert "steepest" not in found.svg()


def test_the_picture_is_whole_and_stands_alone():
    subject, data = quadratic()
    found = range_test(subject, data, low=1e-4, high=10, steps=40)
    root = ET.fromstring(found.svg())  # noqa: S314 (our own)
    texts = ["".join(part.itertext()) for part in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"1e-4", "1e-3", "1e-2", "1e-1", "learning rate", f"steepest: {found.suggestion:.1e}"} <= set(texts)
    assert "http" not in found.svg().replace("http://www.w3.org/2000/svg", "")
    assert found.svg() == found.svg()
    width, height = map(float, root.get("viewBox").split()[2:])
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.get("cx")) <= width
        assert 0 <= float(circle.get("cy")) <= height


@pytest.mark.parametrize("high", [0.013, 0.9, 7, 44, 1234])
def test_ticks_are_few_and_round(high):
    assert 3 <= len(_ticks(0, high)) <= 9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 1, "high": 0.1}, "must go up from low to high, both above 0, but they are 1 and 0.1"),
        ({"low": 0}, "must go up from low to high"),
        ({"steps": 3}, "at least 4 steps, but steps is 3"),
        ({"smoothing": 1}, "from 0 up to 1, but is 1"),
        ({"low": 1e20, "high": 1e30}, "begin with a lower one"),
    ],
)
def test_what_cannot_be_swept_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        range_test(learner(), experience(), **options)


def test_rates_that_are_multiples_of_nothing_are_refused():
    with pytest.raises(ValueError, match="lr=0, of which no other rate is a multiple"):
        range_test(learner(make=partial(torch.optim.SGD, lr=0.0)), experience())


def test_a_loss_of_zero_all_the_way_has_a_picture_too():
    one_class = Columns(x=torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), y=torch.zeros(16).long())
    found = range_test(learner(nn.Linear(5, 1)), Experience(0, one_class, one_class), steps=8)
    assert set(found.losses) == {0.0}
    assert "nan" not in found.svg()


def test_a_learner_within_an_experience_is_refused():
    subject = learner()
    next(iter(subject.steps(experience())))
    with pytest.raises(ValueError, match="in the middle of experience 0"):
        range_test(subject, experience())


def test_losses_and_rates_are_finite_even_where_it_diverges():
    found = range_test(learner(), experience(count=40), low=1e-3, high=1e4, steps=60)
    assert found.diverged
    assert all(map(math.isfinite, found.losses))
    assert found.lowest <= found.rates[-1]
