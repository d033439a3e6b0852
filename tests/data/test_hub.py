"""What holds for data sets of Hugging Face."""

import numpy as np
import pytest
import torch

from everlearn.data import Columns, as_rows, load

datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def pictures(count=3, size=(6, 8)):
    from PIL import Image

    return [Image.fromarray(np.full((*size, 3), 10 * place, np.uint8)) for place in range(count)]


def imaged(count=3, size=(6, 8)):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat", "eel"])})
    labels = [place % 2 for place in range(count)]
    return datasets.Dataset.from_dict({"image": pictures(count, size), "label": labels}, features=features)


def save(dataset, path):
    dataset.save_to_disk(str(path))
    return path


def test_a_data_set_at_hand_is_rows_whose_label_is_y_and_image_x():
    rows = as_rows(imaged())
    assert not rows.resident
    batch = rows.take(torch.tensor([2, 0]))
    assert batch["x"].shape == (2, 3, 6, 8)
    assert batch["x"].dtype == torch.uint8
    assert batch["x"][:, 0, 0, 0].tolist() == [20, 0]
    assert batch["y"].tolist() == [0, 0]
    assert rows.column("y").tolist() == [0, 1, 0]
    assert rows.column("x").shape == (3, 3, 6, 8)


def test_tokens_become_tensors_and_texts_lists_under_their_own_names():
    dataset = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3, 4]], "labels": [1, 0], "text": ["a", "b"]})
    batch = as_rows(dataset).take(torch.tensor([1, 0]))
    assert batch["input_ids"].tolist() == [[3, 4], [1, 2]]
    assert batch["labels"].tolist() == [0, 1]
    assert batch["text"] == ["b", "a"]
    with pytest.raises(KeyError, match="colour"):
        as_rows(dataset).column("colour")


def test_columns_that_would_share_a_name_are_an_error():
    with pytest.raises(ValueError, match="cannot be told apart"):
        as_rows(datasets.Dataset.from_dict({"label": [1], "y": [2]}))


def test_a_saved_table_is_a_table(tmp_path):
    features = datasets.Features(
        {
            "a": datasets.Value("float64"),
            "label": datasets.ClassLabel(names=["up", "down"]),
            "b": datasets.Value("int32"),
        }
    )
    dataset = datasets.Dataset.from_dict({"a": [0.1, 2.0], "label": [0, 1], "b": [3, 4]}, features=features)
    source = load(save(dataset, tmp_path / "t"))
    assert isinstance(source.rows, Columns)
    assert source.features == ("a", "b")
    assert source.names == ("down", "up")
    assert source.rows.column("y").tolist() == [1, 0]
    assert torch.equal(source.rows.column("x"), torch.tensor([[0.1, 3], [2, 4]]))
    with pytest.raises(ValueError, match="no column of images that size=8"):
        load(tmp_path / "t", size=8)


def test_saved_images_are_decoded_when_they_are_taken(tmp_path):
    source = load(save(imaged(), tmp_path / "t"))
    assert not source.rows.resident
    assert source.names == ("cat", "dog")
    batch = source.rows.take(torch.tensor([2, 1]))
    assert batch["x"].shape == (2, 3, 6, 8)
    assert batch["y"].tolist() == [1, 0]
    assert torch.equal(batch["id"], source.rows.column("id")[[2, 1]])
    assert load(tmp_path / "t", size=(4, 5), channels=1).rows.take(torch.tensor([0]))["x"].shape == (
        1,
        1,
        4,
        5,
    )
    assert load(tmp_path / "t").fingerprint == source.fingerprint


def test_saved_images_of_two_sizes_need_one(tmp_path):
    both = datasets.concatenate_datasets([imaged(), imaged(1, (3, 3))])
    path = save(both, tmp_path / "t")
    with pytest.raises(ValueError, match=r"row 1 has \(6, 8\) and row 4 has \(3, 3\).*--size"):
        load(path)
    assert load(path, size=4).rows.column("x").shape == (4, 3, 4, 4)


def test_one_of_several_splits_is_named(tmp_path):
    table = datasets.Dataset.from_dict({"a": [1.0, 2.0], "y": [0, 1]})
    path = save(datasets.DatasetDict({"train": table, "test": table}), tmp_path / "t")
    train, test = load(path, split="train"), load(path, split="test")
    assert not set(train.rows.column("id").tolist()) & set(test.rows.column("id").tolist())
    with pytest.raises(ValueError, match=r"splits \['train', 'test'\]; say which"):
        load(path)
    with pytest.raises(ValueError, match="without splits"):
        load(save(table, tmp_path / "u"), split="train")


def test_a_label_that_the_data_set_does_not_know_is_an_error(tmp_path):
    features = datasets.Features({"a": datasets.Value("float32"), "label": datasets.ClassLabel(names=["u"])})
    dataset = datasets.Dataset.from_dict({"a": [1.0, 2.0], "label": [0, -1]}, features=features)
    with pytest.raises(ValueError, match="row 2 holds None"):
        load(save(dataset, tmp_path / "t"))


def test_a_saved_data_set_without_rows_is_an_error(tmp_path):
    dataset = datasets.Dataset.from_dict({"a": [1.0], "y": [0]}).select([])
    with pytest.raises(ValueError, match="has no rows"):
        load(save(dataset, tmp_path / "t"))


def test_images_take_no_other_features(tmp_path):
    path = save(imaged(), tmp_path / "t")
    for options in ({"task": "regression"}, {"features": ["label"]}):
        with pytest.raises(ValueError, match="one column of images can be x"):
            load(path, **options)
