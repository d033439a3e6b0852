import pytest
import torch

from everlearn.batch import UNLABELED, take
from everlearn.metrics import Result, evaluate


class Table:
    resident = True

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["y"])

    def take(self, index):
        return take(self.columns, index)

    def column(self, name):
        return self.columns[name]


def logits(batch):
    return batch["x"]


def rows(count=100, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, classes, generator=generator)
    return Table(x=x, y=torch.randint(classes, (count,), generator=generator))


def test_right_answers_are_counted_in_all_and_by_class():
    data = rows()
    result = evaluate(logits, data, names=["a", "b", "c", "d", "e"])
    right = data.columns["x"].argmax(1) == data.columns["y"]
    assert result.correct == int(right.sum())
    assert result.count == 100
    assert result.value == pytest.approx(int(right.sum()) / 100)
    for position, name in enumerate("abcde"):
        of_class = data.columns["y"] == position
        assert result.by_class[name] == (int(right[of_class].sum()), int(of_class.sum()))


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_the_size_of_the_batches_changes_nothing(batch_size):
    whole = evaluate(logits, rows(), loss=True, confusion=True)
    result = evaluate(logits, rows(), loss=True, confusion=True, batch_size=batch_size)
    assert (result.correct, result.count, result.by_class) == (whole.correct, whole.count, whole.by_class)
    assert result.loss == pytest.approx(whole.loss, rel=1e-6)
    assert torch.equal(result.confusion, whole.confusion)


def test_rows_come_in_their_order_without_answers_and_without_gradients():
    seen = []

    def predict(batch):
        assert set(batch) == {"x", "text"}
        assert not torch.is_grad_enabled()
        seen.extend(batch["text"])
        return batch["x"]

    data = rows(10)
    data.columns["text"] = [str(i) for i in range(10)]
    evaluate(predict, data, batch_size=3)
    assert seen == [str(i) for i in range(10)]
    assert torch.is_grad_enabled()


def test_evaluating_draws_no_random_numbers():
    before = torch.get_rng_state()
    evaluate(logits, rows(), loss=True, confusion=True)
    assert torch.equal(before, torch.get_rng_state())


def test_rows_without_a_label_are_not_counted():
    data = rows()
    data.columns["y"][::2] = UNLABELED
    result = evaluate(logits, data, loss=True, confusion=True)
    labelled = Table(x=data.columns["x"][1::2], y=data.columns["y"][1::2])
    expected = evaluate(logits, labelled, loss=True)
    assert (result.correct, result.count, result.by_class) == (expected.correct, 50, expected.by_class)
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)
    assert result.confusion.sum() == 50
    data.columns["y"][:] = UNLABELED
    assert evaluate(logits, data, loss=True) == Result(0.0, 0)


def test_no_rows_give_no_value():
    result = evaluate(logits, Table(x=torch.zeros(0, 3), y=torch.zeros(0, dtype=torch.int64)))
    assert result.count == 0
    assert result.value != result.value


def test_nan_is_an_error_and_never_an_answer():
    data = rows()
    data.columns["x"][42, 1] = torch.nan
    with pytest.raises(ValueError, match=r"gives NaN .* 1 of 100 rows, first for row 42"):
        evaluate(logits, data, batch_size=10)
    with pytest.raises(ValueError, match="gives NaN"):
        evaluate(logits, data, among=torch.tensor([0, 2, 3, 4]))


def test_among_leaves_only_some_classes_to_choose_from():
    x = torch.tensor([[9.0, 1.0, 2.0], [9.0, 2.0, 1.0]])
    data = Table(x=x, y=torch.tensor([2, 1]))
    assert evaluate(logits, data).correct == 0
    limited = evaluate(logits, data, among=torch.tensor([1, 2]), loss=True)
    assert limited.correct == 2
    assert limited.loss == pytest.approx(float(torch.log1p(torch.exp(torch.tensor(-1.0)))))
    assert torch.equal(x, torch.tensor([[9.0, 1.0, 2.0], [9.0, 2.0, 1.0]]))


def test_among_must_name_classes_that_the_model_has_and_all_labels():
    data = Table(x=torch.zeros(2, 3), y=torch.tensor([2, 1]))
    with pytest.raises(ValueError, match=r"0\.\.2.*\[1, 3\]"):
        evaluate(logits, data, among=torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"labels \[2\] are not among"):
        evaluate(logits, data, among=torch.tensor([0, 1]))


def test_a_class_that_the_head_does_not_have_yet_is_a_wrong_answer():
    data = Table(x=torch.eye(3), y=torch.tensor([0, 1, 7]))
    result = evaluate(logits, data, confusion=True)
    assert result.correct == 2
    assert result.by_class == {"0": (1, 1), "1": (1, 1), "7": (0, 1)}
    assert result.confusion.shape == (8, 8)
    assert result.confusion[7, 2] == 1
    with pytest.raises(ValueError, match="class 7 has no loss"):
        evaluate(logits, data, loss=True)


def test_the_loss_is_the_mean_over_labelled_rows():
    data = rows()
    expected = torch.nn.functional.cross_entropy(data.columns["x"], data.columns["y"])
    assert evaluate(logits, data, loss=True, batch_size=7).loss == pytest.approx(float(expected), rel=1e-6)
    assert evaluate(logits, data).loss is None


def test_labels_and_names_that_do_not_fit_are_errors():
    with pytest.raises(TypeError, match=r"float32.*kind='error'"):
        evaluate(logits, Table(x=torch.zeros(2, 3), y=torch.zeros(2)))
    with pytest.raises(ValueError, match="-1"):
        evaluate(logits, Table(x=torch.zeros(2, 3), y=torch.tensor([0, -1])))
    with pytest.raises(ValueError, match="label 2 has no name"):
        evaluate(logits, Table(x=torch.zeros(2, 3), y=torch.tensor([0, 2])), names=["a", "b"])
    with pytest.raises(ValueError, match="twice"):
        evaluate(logits, Table(x=torch.zeros(2, 3), y=torch.tensor([0, 1])), names=["a", "a"])
    with pytest.raises(ValueError, match=r"\(2, classes\).*\(2,\)"):
        evaluate(lambda batch: batch["x"][:, 0], Table(x=torch.zeros(2, 3), y=torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="batch_size"):
        evaluate(logits, rows(), batch_size=0)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_the_error_of_a_regression_does_not_broadcast(shape):
    y = torch.tensor([0.0, 1.0, 2.0, 3.0])
    data = Table(x=y + torch.tensor([1.0, 0.0, 2.0, 0.0]), y=y)
    result = evaluate(lambda batch: batch["x"].view(-1, *shape[1:]), data, kind="error", batch_size=4)
    assert result == Result(correct=5.0, count=4)
    assert result.value == 1.25


def test_several_outputs_of_a_regression_are_averaged():
    data = Table(x=torch.zeros(3, 2), y=torch.tensor([[1.0, 3.0], [0.0, 0.0], [2.0, 0.0]]))
    assert evaluate(logits, data, kind="error", batch_size=2) == Result(correct=5.0 + 2.0, count=3)


def test_a_target_of_minus_a_hundred_is_a_number():
    data = Table(x=torch.zeros(2), y=torch.tensor([-100.0, 0.0]))
    assert evaluate(logits, data, kind="error").correct == 10_000


def test_regressions_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3,\)"):
        evaluate(logits, Table(x=torch.zeros(3, 2), y=torch.zeros(3)), kind="error")
    with pytest.raises(ValueError, match="first for row 1"):
        evaluate(logits, Table(x=torch.tensor([0.0, torch.nan]), y=torch.zeros(2)), kind="error")
    with pytest.raises(ValueError, match="about classes"):
        evaluate(logits, Table(x=torch.zeros(3), y=torch.zeros(3)), kind="error", loss=True)
