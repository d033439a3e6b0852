"""New rows ask only among the classes of their batch, old rows among all that were ever seen."""

from functools import partial

import pytest
import torch
from methods.small import experience, net
from torch.nn import functional as F

from everlearn.batch import UNLABELED
from everlearn.learner import Learner
from everlearn.memory import Memory
from everlearn.method import Chain
from everlearn.methods import EWC, GrowHead, Naive
from everlearn.methods.erace import ERACE
from everlearn.objective import Output, classify, regress

SGD = partial(torch.optim.SGD, lr=0.1)


def rows(start, y):
    ids = torch.arange(start, start + len(y))
    x = torch.randn(len(y), 5, generator=torch.Generator().manual_seed(start))
    return {"x": x, "y": torch.tensor(y), "id": ids}


def started(count=6, experiences=2, old=((0, 1, 0, 1), (2, 3, 2, 3))):
    """A method that has seen the classes 0 to 3 of a model for six."""
    method, model = ERACE(Memory(100), count), net(6)
    for index in range(experiences):
        method.begin(model, experience(index), classify)
    for place, y in enumerate(old):
        method(model, rows(100 * place, list(y)), classify)
    return method, model


def among(logits, y, classes):
    """Cross-entropy in a world of these classes only."""
    return F.cross_entropy(logits[:, classes], torch.tensor([classes.index(label) for label in y.tolist()]))


def watched(method, model, batch):
    seen = []

    def watching(model, batch):
        seen.append(batch)
        return classify(model, batch)

    return method(model, batch, watching), seen


def test_the_loss_is_that_of_a_world_with_fewer_classes():
    method, model = started()
    new = rows(500, [2, 4, 2, 4, 2])
    output, (_, old) = watched(method, model, new)
    # of 0 to 5: 2 and 4 are here, 5 has never come; 0, 1 and 3 are old and not here
    expected = among(model(new["x"]), new["y"], [2, 4, 5]) + among(model(old["x"]), old["y"], [0, 1, 2, 3, 4])
    torch.testing.assert_close(output.loss, expected)
    assert len(output.logits) == 5
    torch.testing.assert_close(output.logits, model(new["x"]))


def test_new_rows_do_not_move_the_outputs_of_old_classes():
    method, model = started()
    method.memory = Memory(100)  # nothing old beside them
    method(model, rows(500, [4, 4, 2]), classify).loss.backward()
    moved = model[3].weight.grad.abs().sum(1)
    assert (moved[[0, 1, 3]] < 1e-6).all()
    assert (moved[[2, 4, 5]] > 1e-3).all()


def test_in_the_first_experience_nothing_is_masked():
    method, model = ERACE(Memory(100), 4), net()
    method.begin(model, experience(), classify)
    first = rows(0, [0, 1, 2, 3])
    assert torch.equal(method(model, first, classify).loss, classify(model, first).loss)
    new = rows(10, [0, 0, 0])
    output, (_, old) = watched(method, model, new)
    torch.testing.assert_close(output.loss, classify(model, new).loss + classify(model, old).loss)


def test_in_a_stream_without_borders_the_mask_is_there_from_the_start():
    method, model = started(experiences=0)
    new = rows(500, [4, 4])
    method.memory = Memory(100)
    torch.testing.assert_close(method(model, new, classify).loss, among(model(new["x"]), new["y"], [4, 5]))


def test_classes_that_were_seen_are_remembered_as_the_head_grows():
    learner = Learner(net(2), Chain(GrowHead(), ERACE(Memory(30), 8)), optimizer=SGD, batch_size=10)
    learner.learn(experience(0, classes=(0, 1)))
    method = learner.method.methods[1]
    assert method.seen.tolist() == [True, True]
    learner.learn(experience(1, classes=(0, 1, 2, 3, 4)))
    assert method.seen.tolist() == [True] * 5


def test_a_method_that_follows_keeps_its_part_of_the_loss():
    method, model = started()
    other = EWC(lambda_=10.0)
    other.anchor = {name: weight.detach() + 1 for name, weight in model.named_parameters()}
    other.importance = {name: torch.ones_like(weight) for name, weight in model.named_parameters()}
    new, state = rows(500, [2, 4]), method.state_dict()
    alone = method(model, new, classify).loss
    method.load_state_dict(state)
    penalty = 5.0 * sum(weight.numel() for weight in model.parameters())
    torch.testing.assert_close(Chain(method, other)(model, new, classify).loss, alone + penalty)


def test_rows_without_a_label_add_nothing():
    method, model = started()
    method.memory = Memory(100)
    some = rows(500, [4, UNLABELED, 2])
    labelled = torch.tensor([0, 2])
    expected = among(model(some["x"])[labelled], some["y"][labelled], [2, 4, 5])
    output = method(model, some, classify)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_a_batch_without_a_loss_is_left_alone():
    def mute(model, batch):
        return Output(None, classify(model, batch).logits)

    method, model = started()
    before = method.seen.clone()
    assert method(model, rows(500, [4]), mute).loss is None
    assert torch.equal(method.seen, before)


def test_rows_remembered_elsewhere_count_as_seen():
    method, model = ERACE(Memory(100), 4), net()
    method.memory.add(rows(0, [3, 3]))
    output, (new, old) = watched(method, model, rows(10, [0, 1]))
    expected = among(model(new["x"]), new["y"], [0, 1, 2, 3]) + among(model(old["x"]), old["y"], [0, 1, 3])
    torch.testing.assert_close(output.loss, expected)


def test_with_no_old_rows_asked_for_it_is_fine_tuning_bit_for_bit():
    weights = []
    for method in (Naive(), ERACE(Memory(30), count=0)):
        learner = Learner(net(), method, optimizer=SGD, batch_size=5)
        for index in range(3):
            learner.learn(experience(index, classes=(0, 1, 2, 3)[: index + 2]))
        weights.append([weight.detach().clone() for weight in learner.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_what_is_no_classification_among_all_classes_is_refused():
    method = ERACE(Memory(10))
    with pytest.raises(ValueError, match=r"heads by the column 'task' never compete; take er"):
        method(net(), rows(0, [0, 1]) | {"task": torch.zeros(2).long()}, classify)
    with pytest.raises(ValueError, match=r"erace classifies.*float32 labels; take er"):
        method(net(1), rows(0, [0, 1]) | {"y": torch.zeros(2)}, regress)
    assert len(method.memory) == 0
