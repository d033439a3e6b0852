"""A probe is the minimum of logistic regression, written for features as they come, and for nothing but its classes."""

import pytest
import torch
from methods.small import experience, net
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED
from everlearn.data import Columns
from everlearn.models import MultiHead, pad
from everlearn.models.probing import install, probed, refitted
from everlearn.objective import classify, classify_by_task
from everlearn.streams import Experience


def features(count=120, width=6, classes=4, seed=0):
    """On different scales, and far from 0."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=random, dtype=torch.float64)
    y = (x[:, :classes] + torch.randn(count, classes, generator=random)).argmax(1)
    return x * torch.logspace(-2, 2, width) + 5, y


def zeros(classes, width=6):
    return torch.zeros(classes, width, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_it_answers_as_scikit_learn_does(strength):
    x, y = features()
    weight, bias = refitted(x, y, *zeros(4), strength)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)).fit(x, y)
    expected = torch.from_numpy(theirs.predict_proba(x))
    torch.testing.assert_close(F.linear(x, weight, bias).softmax(1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("biased", [True, False])
def test_the_gradient_of_what_it_minimises_is_zero_for_its_own_rows_beside_rows_that_stay(biased):
    x, y = features()
    y = y % 2 * 2 + 1  # the classes 1 and 3 of 5
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 6, generator=random, dtype=torch.float64) / 10
    bias = torch.randn(5, generator=random, dtype=torch.float64) if biased else None
    found, shift = refitted(x, y, weight, bias, 3.0)
    stays = torch.tensor([0, 2, 4])
    assert torch.equal(found[stays], weight[stays])
    assert (shift is None) != biased
    if biased:
        assert torch.equal(shift[stays], bias[stays])
    mean = x.mean(0) if biased else torch.zeros(6)
    scale = (x - mean).square().mean(0).sqrt()
    own = (found[[1, 3]] * scale).requires_grad_()  # as weights of standardised features
    fixed = F.linear(x, weight[stays], None if bias is None else bias[stays])
    offset = 0 if shift is None else (shift[[1, 3]] + found[[1, 3]] @ mean).requires_grad_()
    logits = torch.cat([(x - mean) / scale @ own.T + offset, fixed], dim=1)
    loss = F.cross_entropy(logits, (y == 3).long()) + own.square().sum() / (2 * 3.0 * len(x))
    for grad in torch.autograd.grad(loss, [own, offset] if biased else [own]):
        assert grad.abs().max() < 1e-6


def test_a_feature_that_never_changes_says_nothing_and_spoils_nothing():
    x, y = features()
    x[:, 2] = 7.3
    weight, bias = refitted(x, y, *zeros(4), 1.0)
    assert weight.isfinite().all()
    assert bias.isfinite().all()
    assert not weight[:, 2].any()


def test_one_class_alone_needs_no_weights():
    x, _ = features(10)
    weight, bias = refitted(x, torch.zeros(10, dtype=torch.int64), *zeros(1), 1.0)
    assert not weight.any()
    assert not bias.any()


def test_the_body_sees_each_labelled_and_unlabelled_row_once_in_eval_mode():
    model, seen = net(dropout=0.5), []
    model[0].register_forward_hook(lambda module, given, _: seen.append((len(given[0]), module.training)))
    data = Columns(x=torch.randn(600, 5), y=torch.arange(600) % 5 % 4)
    probed(model, Experience(0, data, data), classify, None, 1.0)
    assert sum(count for count, _ in seen) == 600
    assert not any(training for _, training in seen)


def test_rows_without_a_label_are_left_out_and_labelled_ones_beside_them_count():
    whole, model = experience(count=40), net()
    x, y = whole.train.column("x"), whole.train.column("y")
    part = y.clone()
    part[20:] = UNLABELED
    alone = probed(model, Experience(0, Columns(x=x[:20], y=y[:20]), whole.test), classify, None, 1.0)
    among = probed(model, Experience(0, Columns(x=x, y=part), whole.test), classify, None, 1.0)
    torch.testing.assert_close(among, alone)
    beside = Experience(0, Columns(x=x[20:]), whole.test, reference=Columns(x=x[:20], y=y[:20]))
    torch.testing.assert_close(probed(model, beside, classify, None, 1.0), alone)
    assert probed(model, Experience(0, Columns(x=x), whole.test), classify, None, 1.0) == {}


def test_the_model_stays_until_the_solution_is_installed():
    model = net()
    before = model[3].weight.detach().clone()
    solution = probed(model, experience(), classify, None, 1.0)
    assert torch.equal(model[3].weight, before)
    install(model, solution)
    assert list(solution) == ["3.weight", "3.bias"]
    assert torch.equal(model[3].weight, solution["3.weight"])


def test_a_head_with_rows_in_reserve_keeps_them_at_zero():
    model = net()
    plain = probed(model, experience(), classify, None, 1.0)
    pad(model, 9)
    install(model, probed(model, experience(), classify, None, 1.0))
    assert torch.equal(model[3].weight[:4], plain["3.weight"])
    assert not model[3].weight[4:].any()


def test_of_many_heads_it_is_the_one_of_the_task():
    torch.manual_seed(0)
    model = MultiHead(nn.Linear(5, 6), 6, 2, tasks=3)
    data = Columns(x=torch.randn(20, 5), y=torch.arange(20) % 2, task=torch.full((20,), 1))
    assert list(probed(model, Experience(0, data, data, (0, 1), 1), classify_by_task, None, 1.0)) == [
        "heads.1.weight",
        "heads.1.bias",
    ]


class Words(nn.Module):
    """A head that reads each of three words."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(x.unsqueeze(1).expand(-1, 3, -1)).mean(1)


def test_what_no_probe_can_be_of_is_refused():
    with pytest.raises(ValueError, match=r"C, the weight of the rows .* must be above 0, but is 0"):
        probed(net(), experience(), classify, None, 0.0)
    with pytest.raises(ValueError, match=r"the model answers for the classes 0 to 1; let the head grow"):
        probed(net(2), experience(), classify, None, 1.0)
    with pytest.raises(ValueError, match="the head '3' is frozen"):
        probed(net().requires_grad_(requires_grad=False), experience(), classify, None, 1.0)
    with pytest.raises(ValueError, match="the head 'head' reads 5 numbers, but 15 go into it for each row"):
        probed(Words(), experience(), classify, "head", 1.0)


def test_no_rows_are_no_probe():
    empty = Columns(x=torch.zeros(0, 5), y=torch.zeros(0, dtype=torch.int64))
    assert probed(net(), Experience(0, empty, empty), classify, None, 1.0) == {}


def test_with_a_least_deviation_weights_for_a_feature_that_hardly_varies_stay_small():
    x, y = features()
    x = (x - 5) / torch.logspace(-2, 2, 6) * torch.tensor([1e-5, 1, 1, 1, 1, 1]) + 5
    whole, bounded = (refitted(x, y, *zeros(4), 1.0, least=least)[0].abs() for least in (0.0, 0.1))
    assert whole[:, 0].max() > 1e3
    assert bounded[:, 0].max() < 10
    torch.testing.assert_close(bounded[:, 5], whole[:, 5], atol=0.3, rtol=0)
