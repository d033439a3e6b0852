"""How many classes answers name, in effect."""

import pytest
import torch
from torch.nn import functional as F

from everlearn.models.spread import WINDOW, Spread, entropies


def sure(labels, classes=4):
    return 50 * F.one_hot(torch.as_tensor(labels), classes).float()


def noted(*parts, share=0.6):
    spread, fell = Spread(), []
    for logits in parts:
        spread.note(logits)
        fell.append(bool(spread.fell(share)))
    return spread, fell


def test_sure_answers_about_k_classes_alike_are_k_classes():
    for k in (1, 2, 4):
        spread, _ = noted(sure([i % k for i in range(40)]))
        torch.testing.assert_close(spread.classes, torch.tensor(float(k)))
        assert float(spread.entropy) < 1e-6


def test_a_class_that_is_ruled_out_is_as_if_it_were_not_there():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    four = torch.cat([logits, torch.full((7, 1), -torch.inf)], 1)
    torch.testing.assert_close(entropies(four), entropies(logits))
    slopes = [torch.autograd.grad(entropies(each).sum(), logits)[0] for each in (four, logits)]
    torch.testing.assert_close(*slopes)


def test_unsure_answers_are_many_classes():
    spread, _ = noted(torch.zeros(5, 4))
    torch.testing.assert_close(spread.classes, torch.tensor(4.0))
    torch.testing.assert_close(spread.entropy, torch.tensor(4.0).log())


def test_rows_fade_by_their_number_and_not_by_batches():
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    fade = (1 - 1 / (WINDOW * 4)) ** 20
    spread, _ = noted(*logits.split(20))
    weights = torch.tensor([fade**2, fade, 1.0]).repeat_interleave(20)
    p = (weights[:, None] * logits.softmax(1)).sum(0) / weights.sum()
    torch.testing.assert_close(spread.classes, (-(p * p.log()).sum()).exp())
    torch.testing.assert_close(spread.entropy, (weights * entropies(logits)).sum() / weights.sum())


def test_answers_that_concentrate_are_one_alarm():
    healthy = sure([i % 4 for i in range(40)])
    spread, fell = noted(*[healthy] * 5, *[sure([2] * 40)] * 6)
    assert not any(fell[:5])
    assert fell[-1]
    assert int(spread.alarms) == 1
    for _ in range(9):
        spread.note(healthy)
        spread.fell(0.6)
    assert not bool(spread.low)
    assert int(spread.alarms) == 1


def test_to_waver_about_the_limit_is_one_alarm():
    spread, _ = noted(*[sure([i % 4 for i in range(40)])] * 5, *[sure([2] * 40)] * 2)
    count = int(spread.alarms)
    for place in range(30):
        spread.note(sure([2] * 12) if place % 2 else sure([i % 4 for i in range(24)]))
        spread.fell(0.6)
    assert count == int(spread.alarms) == 1


def test_few_classes_from_the_start_are_no_collapse():
    _, fell = noted(*[sure([i % 2 for i in range(40)])] * 30)
    assert not any(fell)


@pytest.mark.parametrize("size", [1, 2, 7, 200])
def test_classes_in_any_order_and_batches_of_any_size_are_no_collapse(size):
    labels = torch.randint(10, (4000,), generator=torch.Generator().manual_seed(size))
    _, fell = noted(*sure(labels, 10).split(size))
    assert not any(fell)


def test_a_restart_forgets_the_answers_and_counts_on():
    spread, _ = noted(*[sure([i % 4 for i in range(40)])] * 5, *[sure([2] * 40)] * 6)
    spread.restart(torch.tensor(data=False))
    assert bool(spread.low)
    spread.restart(torch.tensor(data=True))
    assert not bool(spread.low)
    spread.note(sure([1, 1, 1]))
    assert not bool(spread.fell(0.6)), "one class, and never more"
    assert int(spread.alarms) == 1


def test_another_number_of_classes_is_another_beginning():
    spread, fell = noted(*[sure([i % 4 for i in range(40)])] * 5, sure([1] * 9, 6))
    assert not any(fell)
    assert len(spread.sums) == 6


def test_its_state_is_all_of_it():
    spread, _ = noted(sure([0, 1, 2]))
    other = Spread()
    other.load_state_dict(spread.state_dict())
    for each in (spread, other):
        each.note(sure([3] * 9))
    torch.testing.assert_close(spread.classes, other.classes)


def test_the_entropy_of_what_has_no_classes_is_refused():
    for shape in ((4,), (4, 1)):
        with pytest.raises(ValueError, match=r"\(rows, classes\)"):
            entropies(torch.zeros(shape))
