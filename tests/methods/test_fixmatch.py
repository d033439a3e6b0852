"""FixMatch learns from a strong view what is surely said of a weak one."""

import copy

import pytest
import torch
from methods.sides import adaptation, batch, learner
from methods.small import net
from torch.nn import functional as F
from zoo import shaken

from everlearn.batch import take
from everlearn.data import as_rows, view
from everlearn.data.transforms import Flip, View
from everlearn.learner import Learner
from everlearn.methods import FixMatch
from everlearn.models import Net
from everlearn.objective import Viewed, classify
from everlearn.randomness import mix
from everlearn.streams import Experience


def test_the_lesson_is_the_cross_entropy_of_strong_views_with_sure_answers_by_hand():
    model, rows = net(), batch(5, 8)
    method = FixMatch(threshold=0.4, trade_off=2.0, strong=shaken, seed=4)
    added = method(model, rows, classify).loss - classify(model, rows).loss
    new = take(rows, slice(0, 8))
    p, strong = model(new["x"]).softmax(1), model(shaken(new, mix(4, 0))["x"])
    lessons = [F.cross_entropy(strong[i], p[i].argmax()) for i in range(8) if p[i].max() >= 0.4]
    assert 0 < len(lessons) < 8
    torch.testing.assert_close(added, 2.0 * torch.stack(lessons).sum() / 8)


def test_nothing_is_learned_from_what_is_unsure():
    model, rows = net(), batch(5, 8)
    assert FixMatch(threshold=1.0, strong=shaken)(model, rows, classify).loss == classify(model, rows).loss


def test_no_gradient_flows_into_the_weak_view():
    model, rows = net(), batch(0, 8)
    method = FixMatch(threshold=0.0, strong=lambda batch, key: {**batch, "x": 0 * batch["x"]})
    method(model, rows, classify).loss.backward()
    assert not model[0].weight.grad.any()


def test_labels_are_not_seen_by_the_strong_view():
    seen = []

    def watching(batch, key):
        seen.append(batch)
        return batch

    FixMatch(strong=watching)(net(), batch(5, 8), classify)
    assert "y" not in seen[0]
    assert len(seen[0]["x"]) == 8


def test_each_step_has_a_key_of_its_own_and_a_resumed_run_the_same_ones():
    def keys(method):
        found = []

        def watching(batch, key):
            found.append(key)
            return shaken(batch, key)

        method.strong = watching
        return found

    whole = learner(FixMatch(), epochs=2)
    expected = keys(whole.method)
    whole.learn(adaptation())
    assert len(set(expected)) == len(expected) == 6
    first = learner(FixMatch(strong=shaken), epochs=2)
    for step in first.steps(adaptation()):
        if step.number == 3:
            break
    second = learner(FixMatch(), epochs=2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    found = keys(second.method)
    second.learn(adaptation())
    assert found == expected[3:]


def test_the_learners_view_looks_at_what_the_strong_one_made():
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = {"x": images, "y": torch.tensor([0, 1, -100, -100, -100, -100]), "id": torch.arange(6)}
    seen = []

    def model(x):
        seen.append(x)
        return x.flatten(1)[:, :4]

    normal = view(((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    FixMatch(strong=View(augment=(Flip(1.0),)))(model, rows, Viewed(classify, normal, 3))
    weak, strong = seen
    torch.testing.assert_close(strong, weak[2:].flip(-1))


def test_its_default_is_for_images():
    torch.manual_seed(0)
    x = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8)
    data, beside = {"x": x}, {"x": x, "y": torch.arange(12) % 10}
    subject = Learner(
        Net(),
        FixMatch(threshold=0.0),
        optimizer=lambda w: torch.optim.SGD(w, lr=0.01),
        batch_size=6,
        view=view("cifar10"),
    )
    subject.learn(Experience(0, as_rows(data), as_rows(data), reference=as_rows(beside)))
    assert subject.number == 2


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold is a probability, in \[0, 1\], but is"):
        FixMatch(threshold=threshold)
