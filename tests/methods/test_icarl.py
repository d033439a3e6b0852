"""iCaRL keeps a few exemplars of each class, nothing else of the past, and answers with the nearest of their means."""

import copy
from collections import Counter
from functools import partial

import pytest
import torch
from methods.small import everything, experience, net, norm_net, shake
from methods.test_lwfmc import by_hand, labelled
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.batch import UNLABELED, Batch, take
from everlearn.data import Columns, view
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import GrowHead
from everlearn.methods.icarl import ICaRL
from everlearn.objective import classify
from everlearn.streams import Experience

SGD = partial(torch.optim.SGD, lr=0.1)


def learned(*experiences, model=None, **options):
    settings = {"view": options.pop("view", None), "batch_size": options.pop("batch_size", 10)}
    subject = Learner(model or net(6), ICaRL(**options), optimizer=SGD, **settings)
    for each in experiences:
        subject.learn(each)
    return subject


def phi(model, x):
    """Normalised features, in eval mode."""
    model = copy.deepcopy(model).eval()
    return F.normalize(model[:-1](x)).detach()


def herded(features, count):
    """Algorithm 4 of the paper, word by word."""
    mean, chosen = F.normalize(features.mean(0), dim=0), []
    for k in range(1, count + 1):
        total = sum((features[j] for j in chosen), torch.zeros_like(mean))
        away = [
            torch.inf if j in chosen else (mean - (features[j] + total) / k).norm().item() for j in range(len(features))
        ]
        chosen.append(min(range(len(features)), key=away.__getitem__))
    return chosen


def ids(method, label):
    return method.exemplars.of(label)["id"].tolist()


@pytest.mark.parametrize("make", [net, norm_net])
def test_exemplars_are_herded_from_plain_rows_in_eval_mode(make):
    part = labelled(0, 0, 1, count=40)
    subject = learned(part, model=make(6), K=10, view=view(augment=()))
    data = everything(part.train)
    for label in (0, 1):
        mine = (data["y"] == label).nonzero().flatten()
        chosen = mine[herded(phi(subject.model, data["x"][mine]), 5)]
        kept = subject.method.exemplars.of(label)
        assert torch.equal(kept["x"], data["x"][chosen])
        assert kept["id"].tolist() == chosen.tolist()


def test_exemplars_are_raw_rows_and_chosen_without_augmentation():
    def far(batch: Batch, key):
        shift = 100.0 if key is not None else 0.0  # what is augmented is unlike anything
        return batch | {"x": batch["x"] + 3 + shift}

    subject = learned(labelled(0, 0, 1), K=6, view=far)
    data = everything(labelled(0, 0, 1).train)
    mine = (data["y"] == 1).nonzero().flatten()
    assert ids(subject.method, 1) == mine[herded(phi(subject.model, data["x"][mine] + 3), 3)].tolist()
    assert torch.equal(subject.method.exemplars.of(1)["x"], data["x"][torch.tensor(ids(subject.method, 1))])


def test_a_smaller_budget_keeps_the_first_and_is_never_exceeded():
    subject = learned(labelled(0, 0, 1), K=11)
    before = {c: ids(subject.method, c) for c in (0, 1)}
    assert [len(each) for each in before.values()] == [5, 5]
    subject.learn(labelled(1, 2, 3, 4))
    assert Counter(subject.method.exemplars.rows["y"].tolist()) == dict.fromkeys(range(5), 2)
    for c in (0, 1):
        assert ids(subject.method, c) == before[c][:2]
    subject.learn(labelled(2, 5))
    assert len(subject.method.exemplars) == 6
    assert subject.method.exemplars.classes == [0, 1, 2, 3, 4, 5]


def test_a_number_for_each_class_is_that_of_each_class():
    subject = learned(labelled(0, 0, 1), labelled(1, 2), m=3)
    assert Counter(subject.method.exemplars.rows["y"].tolist()) == {0: 3, 1: 3, 2: 3}


def test_a_class_with_few_rows_has_all_of_them_once():
    subject = learned(labelled(0, 0, 1, count=6), K=100)
    assert sorted(subject.method.exemplars.rows["id"].tolist()) == list(range(6))


def test_nothing_of_the_past_is_kept_but_the_exemplars():
    subject = learned(labelled(0, 0, 1, count=200), labelled(1, 2, 3, count=200), K=8)
    rows = subject.method.exemplars.rows
    assert {len(column) for column in rows.values()} == {8}
    assert rows["x"].untyped_storage().nbytes() == 8 * 5 * 4


def test_a_class_that_comes_back_is_herded_from_new_rows_and_exemplars_none_twice():
    first, again = labelled(0, 0, 1), labelled(1, 1, 2, count=30)
    both = Columns({name: torch.cat([first.train.column(name)[first.train.column("y") == 1], again.train.column(name)])
                    for name in ("x", "y")} | {"id": torch.cat([
                        (first.train.column("y") == 1).nonzero().flatten(), torch.arange(30) + 1000])})  # fmt: skip
    subject = learned(first, K=12)
    old = subject.method.exemplars.of(1)
    subject.learn(Experience(1, both, both, (1, 2)))
    data = everything(both)
    mine = take(data, data["y"] == 1)
    assert set(old["id"].tolist()) <= set(mine["id"].tolist())
    expected = mine["id"][torch.tensor(herded(phi(subject.model, mine["x"]), 4))]
    assert ids(subject.method, 1) == expected.tolist()
    assert len(set(ids(subject.method, 1))) == 4


def test_old_exemplars_may_be_chosen_again_beside_new_rows():
    first, again = labelled(0, 0, 1), labelled(1, 1, 2)
    subject = learned(first, m=6)
    old = subject.method.exemplars.of(1)
    subject.learn(again)
    data = everything(again.train)
    fresh = take(data, data["y"] == 1)
    x = torch.cat([fresh["x"], old["x"]])
    chosen = torch.tensor(herded(phi(subject.model, x), 6))
    assert torch.equal(subject.method.exemplars.of(1)["x"], x[chosen])
    assert set(ids(subject.method, 1)) & set(old["id"].tolist())
    assert set(ids(subject.method, 1)) - set(old["id"].tolist())


def test_each_exemplar_is_learned_once_in_each_pass_over_the_new_rows():
    """Pitfall 37: the first iCaRL of many never got to see its exemplars again."""
    subject, seen = learned(labelled(0, 0, 1), K=7), []
    subject.epochs = 3
    plain = subject.objective

    def watching(model, batch):
        if model.training:
            seen.append(batch)
        return plain(model, batch)

    subject.objective = watching
    for _ in subject.steps(labelled(1, 2, 3, count=50)):
        assert len(subject.method.exemplars) == 6
    for epoch in range(3):
        passed = torch.cat([batch["id"] for batch in seen[5 * epoch : 5 * epoch + 5]])
        old = passed[passed < 1 << 40].tolist()
        assert len(passed) == 56
        assert len(set(old)) == 6
    sizes = [len(batch["id"]) for batch in seen]
    assert max(sizes) - min(sizes) <= 1


def test_a_count_sets_how_many_exemplars_a_batch_has():
    subject = learned(labelled(0, 0, 1), K=6, count=4)
    subject.method.begin(subject.model, labelled(1, 2), classify)
    drawn = [subject.method.exemplars.beside(10, 4)["id"].tolist() for _ in range(3)]
    assert [len(each) for each in drawn] == [4, 4, 4]
    assert Counter(drawn[0] + drawn[1] + drawn[2]) == dict.fromkeys(drawn[0] + drawn[1][:2], 2)


def test_the_loss_is_that_of_lwfmc_over_new_rows_and_exemplars():
    subject = learned(labelled(0, 0, 1), K=6, T=2.0)
    teacher, method = copy.deepcopy(subject.model), subject.method
    shake(subject.model)
    method.begin(subject.model, labelled(1, 2, 3), classify)
    batch = everything(labelled(1, 2, 3).train)
    loss = method(subject.model, batch, classify).loss
    joined = {name: torch.cat([batch[name], method.exemplars.rows[name]]) for name in ("x", "y")}
    torch.testing.assert_close(loss, by_hand(subject.model, teacher, joined, (0, 1), (2, 3), by=2.0))


def test_the_answer_is_the_nearest_mean_of_exemplars_among_classes_seen():
    subject = learned(labelled(0, 0, 1), labelled(1, 4, 2), K=12)
    rows, x = subject.method.exemplars.rows, everything(experience(7).train)["x"]
    features = phi(subject.model, rows["x"])
    means = {c: F.normalize(features[rows["y"] == c].mean(0), dim=0) for c in (0, 1, 2, 4)}
    answers = subject.predict({"x": x})
    for row, answer in zip(phi(subject.model, x), answers, strict=True):
        for c, mean in means.items():
            torch.testing.assert_close(answer[c], -(row - mean).square().sum(), rtol=1e-4, atol=1e-6)
        assert answer[3] == answer[5] == -torch.inf


def test_means_are_those_of_the_present_weights_even_in_the_middle_of_an_experience():
    subject = learned(labelled(0, 0, 1), K=12)
    kept = subject.method.means
    for _ in subject.steps(labelled(1, 2, 3)):
        break
    assert not len(subject.method.means)
    rows, x = subject.method.exemplars.rows, everything(experience(7).train)["x"]
    features = phi(subject.model, rows["x"])
    means = torch.stack([F.normalize(features[rows["y"] == c].mean(0), dim=0) for c in (0, 1)])
    expected = -(phi(subject.model, x)[:, None] - means).square().sum(2)
    torch.testing.assert_close(subject.predict({"x": x})[:, :2], expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(means, kept)


def test_before_the_first_end_the_network_answers():
    subject = learned()
    for _ in subject.steps(labelled(0, 0, 1)):
        break
    batch = {"x": everything(experience(7).train)["x"]}
    torch.testing.assert_close(subject.predict(batch), subject.model.eval()(batch["x"]).detach())


def test_choosing_leaves_modes_and_running_statistics_as_they_were():
    subject = learned(model=norm_net(6))
    for _ in subject.steps(labelled(0, 0, 1)):
        before = copy.deepcopy(subject.model.state_dict())
    assert checkpoint.same(before, subject.model.state_dict())
    assert all(module.training for module in subject.model.modules())


def test_what_is_saved_in_the_middle_goes_on_with_the_same_exemplars(tmp_path):
    whole, first = (learned(labelled(0, 0, 1), K=7) for _ in range(2))
    whole.learn(labelled(1, 2, 3))
    for step in first.steps(labelled(1, 2, 3)):
        if step.place == 1:
            break
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second = learned(K=7)
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    second.learn(labelled(1, 2, 3))
    assert checkpoint.same(whole.state_dict(), second.state_dict())


def test_rows_without_a_label_are_no_exemplars():
    data = everything(labelled(0, 0, 1).train)
    data["y"][::2] = UNLABELED
    subject = learned(Experience(0, Columns(data), Columns(data), (0, 1)), K=100)
    assert len(subject.method.exemplars) == 10


def test_a_head_may_grow_before_it():
    subject = Learner(net(2), Chain(GrowHead(), ICaRL(K=9)), optimizer=SGD, batch_size=10)
    for part in (labelled(0, 0, 1), labelled(1, 2, 3)):
        subject.learn(part)
    assert subject.predict(everything(experience().train)).isfinite().all()


def test_a_model_that_was_trained_elsewhere_is_remembered():
    subject = learned(K=8)
    before = copy.deepcopy(subject.model.state_dict())
    subject.remember(labelled(0, 0, 1))
    assert len(subject.method.exemplars) == 8
    assert checkpoint.same(before, subject.model.state_dict())


def test_a_budget_that_classes_cannot_share_is_refused_before_anything_is_learned():
    subject = learned(labelled(0, 0, 1), K=3)
    with pytest.raises(ValueError, match="K = 3 exemplars cannot be shared by 4 classes; raise K"):
        subject.learn(labelled(1, 2, 3))
    with pytest.raises(ValueError, match="K must be a whole number of at least 1, but is 0"):
        ICaRL(K=0)
