"""Objectives give a loss where there are answers, logits where there are none, and errors that say what was wrong."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everlearn.batch import UNLABELED
from everlearn.border import NonFiniteError, clean, guarded, known
from everlearn.objective import Output, Viewed, ask, classify, classify_by_task, regress


def batch(count=6, classes=3):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, generator=random)
    return {"x": x, "y": torch.randint(classes, (count,), generator=random)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


class TestClassify:
    def test_it_is_cross_entropy(self, model):
        output = classify(model, batch())
        assert torch.equal(output.logits, model(batch()["x"]))
        assert torch.equal(output.loss, F.cross_entropy(output.logits, batch()["y"]))

    def test_without_answers_there_are_logits_and_no_loss(self, model):
        output = classify(model, {"x": batch()["x"]})
        assert output.loss is None
        assert output.logits.shape == (6, 3)

    def test_rows_without_a_label_add_nothing(self, model):
        some = batch()
        some["y"][2:] = UNLABELED
        expected = classify(model, {name: column[:2] for name, column in some.items()}).loss
        torch.testing.assert_close(classify(model, some).loss, expected)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.uint8, torch.bool])
    def test_labels_of_another_type_are_an_error(self, model, dtype):
        with pytest.raises(TypeError, match=rf"must be int64 positions, but y is {dtype}; use `y.long\(\)`"):
            classify(model, batch() | {"y": torch.zeros(6, dtype=dtype)})

    @pytest.mark.parametrize(("label", "message"), [(3, "from 0 to 3"), (-1, "from -1 to 2"), (10**6, "to 1000000")])
    def test_labels_that_the_model_does_not_answer_for_are_an_error(self, model, label, message):
        some = batch() | {"y": torch.tensor([0, 1, 2, UNLABELED, 0, label])}
        with pytest.raises(ValueError, match=rf"labels go .*{message}, but the model answers for the classes 0 to 2"):
            classify(model, some)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator here")
    def test_on_an_accelerator_such_a_label_makes_no_number_and_not_the_end_of_the_process(self, model):
        some = {name: column.cuda() for name, column in batch().items()}
        expected = classify(model.cuda(), some).loss
        assert torch.equal(expected, F.cross_entropy(model(some["x"]), some["y"]))
        for label in (3, -1):
            strange = some | {"y": torch.tensor([0, 1, 2, UNLABELED, 0, label], device="cuda")}
            assert classify(model, strange).loss.isnan()
            with pytest.raises(ValueError, match=r"the model answers for the classes 0 to 2"):
                guarded(model, strange, objective=classify)
        assert classify(model, some).loss == expected

    def test_a_missing_column_is_an_error_that_names_those_there_are(self, model):
        with pytest.raises(KeyError, match=r"no column 'x'; it has \['y'\]"):
            classify(model, {"y": batch()["y"]})


def test_classify_by_task_tells_the_model_the_task():
    class Model(nn.Module):
        def forward(self, x, task):
            self.told = task
            return x[:, :3]

    model, task = Model(), torch.arange(6)
    output = classify_by_task(model, batch() | {"task": task})
    assert model.told is task
    assert torch.equal(output.loss, F.cross_entropy(batch()["x"][:, :3], batch()["y"]))
    with pytest.raises(KeyError, match=r"no column 'task'"):
        classify_by_task(model, batch())


class TestRegress:
    @pytest.mark.parametrize("shape", [(6,), (6, 1)])
    def test_it_is_the_mean_squared_error_with_one_column_or_none(self, shape):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        y = torch.randn(6)
        expected = ((model(batch()["x"])[:, 0] - y) ** 2).mean()
        torch.testing.assert_close(regress(model, {"x": batch()["x"], "y": y.view(shape)}).loss, expected)

    def test_whole_numbers_and_doubles_are_targets_too(self):
        model = nn.Linear(4, 1)
        for y in (torch.arange(6), torch.arange(6).double()):
            assert regress(model, {"x": batch()["x"], "y": y}).loss.dtype == torch.float32

    def test_without_answers_there_is_no_loss(self):
        assert regress(nn.Linear(4, 1), {"x": batch()["x"]}).loss is None

    def test_another_number_of_targets_is_an_error(self):
        with pytest.raises(ValueError, match=r"the model predicts shape \(6, 2\), but y has \(6,\)"):
            regress(nn.Linear(4, 2), {"x": batch()["x"], "y": torch.zeros(6)})


def test_ask_hands_the_columns_over_by_name_but_for_our_own():
    class Model(nn.Module):
        def forward(self, input_ids, labels=None):
            return Output(None if labels is None else labels.sum(), input_ids)

    ids = torch.arange(3)
    mine = {"input_ids": ids, "labels": ids, "id": ids, "task": ids, "domain": ids}
    assert ask(Model(), mine) == Output(torch.tensor(3), ids)


def test_viewed_shows_the_model_the_view_and_leaves_the_batch_alone(model):
    keys = []

    def view(batch, key):
        keys.append(key)
        return batch | {"x": batch["x"] * 2}

    some = batch()
    output = Viewed(classify, view, 7)(model, some)
    assert torch.equal(output.logits, model(batch()["x"] * 2))
    assert torch.equal(some["x"], batch()["x"])
    Viewed(classify, view)(model, some)
    assert keys == [7, None]


class TestGuarded:
    def test_a_finite_loss_passes(self, model):
        assert torch.equal(guarded(model, batch(), objective=classify).loss, classify(model, batch()).loss)

    def test_a_batch_in_which_no_row_has_a_label_gives_no_loss(self, model):
        output = guarded(model, batch() | {"y": torch.full((6,), UNLABELED)}, objective=classify)
        assert output.loss is None
        assert output.logits.shape == (6, 3)

    def test_a_loss_that_is_no_number_is_refused(self):
        with pytest.raises(NonFiniteError, match=r"the loss is nan; .* clip=1\.0"):
            guarded(lambda x: x[:, :3] * torch.nan, batch(), objective=classify)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2e15, -1e20, 1e30, 1e200])
def test_values_that_spoil_weights_do_not_pass_the_border(dtype, value):
    x = torch.zeros(5, 3, 2, dtype=dtype)
    x[4, 1, 0] = torch.tensor(value, dtype=torch.float64).to(dtype)
    with pytest.raises(NonFiniteError, match=r"column 'x' of row 4"):
        clean({"x": x})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_but_sane_values_pass_the_border(dtype):
    clean({"x": torch.full((100, 10), 9e14 if dtype != torch.float16 else 6e4, dtype=dtype)})
    clean({"x": torch.zeros(3), "y": torch.tensor([2**62, 0, 1]), "text": ["", "a", "b"]})


def test_known_labels_are_those_the_model_answers_for():
    known(torch.tensor([0, 2, UNLABELED]), 3)
    known(torch.tensor([UNLABELED]), 3)
    known(torch.tensor([], dtype=torch.int64), 3)
