"""A student learns to answer as its teacher does, by the learner's own loop; the teacher changes in nothing."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from transfer.surgery.operated import Watched, answer

from everlearn import Learner
from everlearn.data import Columns
from everlearn.models import MLP
from everlearn.objective import classify
from everlearn.streams import Experience
from everlearn.transfer.surgery import Imitate, distil, transplant


def rows(count=300, **more):
    return Columns(x=torch.randn(count, 6, generator=torch.Generator().manual_seed(0)), **more)


def test_rows_without_labels_are_enough():
    teacher, student = MLP(6, (16,), 3), MLP(6, (24,), 3)
    transplant(teacher, student)
    watch = Watched(teacher)
    agreement = distil(teacher, student, rows(), epochs=15, optimizer=partial(torch.optim.Adam, lr=0.01))
    assert agreement.after > max(0.9, agreement.before)
    torch.set_rng_state(watch.random)
    assert watch.same()


def test_the_loss_is_that_of_the_paper():
    teacher, student = MLP(6, (16,), 3, dropout=0.5), MLP(6, (24,), 3)  # asked in eval mode, whatever mode it is in
    batch = rows(8).take(torch.arange(8)) | {"y": torch.tensor([0, 1, 2, -100, -100, 0, 1, 2])}
    with torch.no_grad():
        p, q = (answer(teacher, batch["x"]) / 3).softmax(1), (student(batch["x"]) / 3).softmax(1)
        expected = 9 * (p * (p / q).log()).sum(1).mean()
        labels = F.cross_entropy(student(batch["x"]), batch["y"])
    torch.testing.assert_close(Imitate(teacher, T=3)(student, batch).loss, expected)
    mixed = Imitate(teacher, T=3, share=0.25)(student, batch).loss
    torch.testing.assert_close(mixed, 0.25 * expected + 0.75 * labels)
    nobody = batch | {"y": torch.full((8,), -100)}
    torch.testing.assert_close(Imitate(teacher, T=3, share=0.25)(student, nobody).loss, 0.25 * expected)
    assert Imitate(teacher)(student, {"x": batch["x"]}).loss is None


def test_with_no_share_it_is_plain_training():
    data = rows(y=torch.arange(300) % 3)
    weights = []
    teacher = MLP(6, (16,), 3)
    for objective in (Imitate(teacher, share=0.0), classify):
        torch.manual_seed(1)
        learner = Learner(MLP(6, (8,), 3), objective=objective, optimizer=partial(torch.optim.SGD, lr=0.1))
        learner.learn(Experience(0, data, data, (0, 1, 2)))
        weights.append(learner.model.head.weight.detach())
    assert torch.equal(*weights)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"the teacher answers \(8, 3\) and the student \(8, 4\)"):
        distil(MLP(6, (4,), 3), MLP(6, (4,), 4), rows(8), batch_size=8)
