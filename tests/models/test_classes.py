"""Classes by name: append-only, in order of arrival."""

import pytest
import torch

from everlearn.batch import UNLABELED
from everlearn.models.classes import Classes


def test_a_class_keeps_its_position_whatever_arrives_later():
    classes = Classes(["m", "z"])
    before = classes.index(["m", "z"])
    classes.add(["a", "zz", "10", "2"])
    assert torch.equal(classes.index(["m", "z"]), before)
    assert classes.names == ("m", "z", "a", "zz", "10", "2")


def test_new_classes_are_appended_in_the_order_given_and_known_ones_stay():
    classes = Classes(["dog", "cat"])
    positions = classes.add(["ant", "cat", "10", "2"])
    assert positions.dtype == torch.int64
    assert positions.tolist() == [2, 1, 3, 4]
    assert classes.add(["ant"]).tolist() == [2]
    assert len(classes) == 5


def test_adding_and_indexing_nothing_gives_an_empty_index():
    classes = Classes()
    for positions in (classes.add([]), classes.index([])):
        assert positions.shape == (0,)
        assert positions.dtype == torch.int64


def test_index_answers_rows_that_repeat():
    assert Classes(["dog", "cat"]).index(["cat", "cat", "dog"]).tolist() == [1, 1, 0]


def test_index_never_adds():
    classes = Classes(["dog"])
    with pytest.raises(ValueError, match="unknown"):
        classes.index(["cat"])
    assert classes.names == ("dog",)
    assert "cat" not in classes


def test_an_unknown_class_is_named_with_the_nearest_known_and_the_way_out():
    with pytest.raises(ValueError, match=r"'dgo'.*'dog'.*add\(\)"):
        Classes(["cat", "dog"]).index(["cat", "dgo"])
    with pytest.raises(ValueError, match="no class is known"):
        Classes().index(["dog"])
    with pytest.raises(ValueError, match="and 95 more"):
        Classes(["dog"]).index([str(name) for name in range(100)])


def test_a_table_takes_the_labels_of_a_data_set_to_those_of_the_head():
    classes = Classes(["dog", "cat", "ant"])
    names = ("ant", "dog")  # the data set's label 0 is "ant"
    y = torch.tensor([0, 1, 1, 0])
    assert [classes.names[position] for position in classes.table(names)[y]] == ["ant", "dog", "dog", "ant"]
    with pytest.raises(ValueError, match="unknown"):
        classes.table(["ant", "bee"])


def test_the_label_of_unlabeled_rows_is_in_no_small_table():
    with pytest.raises(IndexError):
        Classes(["dog"]).table(["dog"])[torch.tensor([UNLABELED])]


@pytest.mark.parametrize("call", [Classes, Classes(["a"]).add, Classes(["a", "b"]).table])
def test_one_name_for_two_classes_is_refused(call):
    with pytest.raises(ValueError, match="'b' comes twice"):
        call(["a", "b", "b"])


def test_a_refused_name_leaves_the_map_as_it_was():
    classes = Classes(["a"])
    with pytest.raises(ValueError, match="twice"):
        classes.add(["b", "b"])
    with pytest.raises(TypeError, match="3 is a int"):
        classes.add(["c", 3])
    assert classes.names == ("a",)


def test_one_string_is_not_taken_for_the_names_of_its_letters():
    with pytest.raises(TypeError, match=r"write \['cat'\]"):
        Classes("cat")


def test_the_state_is_plain_and_gives_the_same_map(tmp_path):
    classes = Classes(["z", "a"])
    torch.save(classes.state_dict(), tmp_path / "classes.pt")
    loaded = Classes(["something", "else"])
    loaded.load_state_dict(torch.load(tmp_path / "classes.pt", weights_only=True))
    assert loaded.names == ("z", "a")
    assert loaded.state_dict() == {"names": ["z", "a"]}


def test_a_saved_state_does_not_change_with_the_map():
    classes = Classes(["a"])
    state = classes.state_dict()
    classes.add(["b"])
    assert state == {"names": ["a"]}


def test_a_damaged_state_is_refused_and_leaves_the_map_as_it_was():
    classes = Classes(["a"])
    with pytest.raises(ValueError, match="twice"):
        classes.load_state_dict({"names": ["b", "b"]})
    assert list(classes) == ["a"]
