"""The parts of a run: what the user's words become."""

import numpy as np
import pytest
import torch
from torch import nn

from everlearn.data import Columns, Subset
from everlearn.workspace.config import make
from everlearn.workspace.parts import (
    Marked,
    arrange,
    build_model,
    load_model,
    load_sources,
    make_optimizer,
    make_scheduler,
    make_view,
    model_file,
)


@pytest.fixture
def config(shop):
    def given(**changes):
        paths = {"weights": shop / "deployed.pth", "data": shop / "first.npz", "old": shop / "old.npz", "out": "run"}
        return make({"model": shop.model()} | {name: str(path) for name, path in paths.items()} | changes)

    return given


@pytest.fixture
def arranged(config, shop):
    """The data of a run for the net with three outputs."""

    def run(**changes):
        for name in ("data", "test"):
            if name in changes:
                changes[name] = [str(shop / f"{item}.npz") for item in changes[name]]
        asked = config(**changes)
        return arrange(asked, load_sources(asked), outputs=3)

    return run


def test_the_constructor_draws_from_no_generator_but_torch_own(shop):
    state = torch.get_rng_state()
    build_model(shop.model("Net(outputs=4)"))
    assert not torch.equal(torch.get_rng_state(), state)  # it does draw, so what follows can fail
    config = make({"model": shop.model(), "weights": str(shop / "deployed.pth"), "data": ["x"], "out": "run"})
    state = torch.get_rng_state()
    load_model(config)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_the_weights_leave_out_is_the_same_for_one_seed(shop, tmp_path):
    state = torch.load(shop / "deployed.pth", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "body.0.bias"}, tmp_path / "part.pth")
    biases = []
    for seed in (0, 0, 1):
        given = {"model": shop.model(), "weights": str(tmp_path / "part.pth"), "data": ["x"], "out": "run"}
        model, report = load_model(make(given | {"seed": seed}))
        assert report.missing == ("body.0.bias",)
        biases.append(dict(model.named_parameters())["body.0.bias"].detach())
    assert torch.equal(biases[0], biases[1])
    assert not torch.equal(biases[0], biases[2])


def test_the_file_of_a_model_is_found_whichever_way_it_is_named(shop):
    assert model_file(shop.model("Net(outputs=4)")) == shop / "net.py"
    assert model_file("everlearn.models:MLP").name == "__init__.py"
    assert model_file("no_such_package_at_all:Net") is None


# -- tests -----------------------------------------------------------------------------------------------------


def labels(rows):
    return sorted(set(rows.column("y").tolist()))


def test_one_set_of_tests_is_split_by_the_arrival_that_brought_the_class(arranged):
    data = arranged(data=["first", "second"], test=["test-all"])
    assert [labels(each.test) for each in (data.past, *data.arrivals)] == [[0, 1, 2], [3, 4], [5, 6]]


def test_an_arrival_without_new_classes_is_tested_on_those_it_has(arranged):
    data = arranged(data=["more", "first"], test=["test"])
    assert [labels(each.test) for each in (data.past, *data.arrivals)] == [[0, 1, 2], [0, 2], [3, 4]]


def test_held_out_rows_and_learned_rows_are_all_rows_once(arranged):
    data = arranged(holdout=0.3)
    assert data.held_out
    for each in (data.past, *data.arrivals):
        rows = torch.cat([each.train.column("x"), each.test.column("x")])
        assert len(rows.unique(dim=0)) == len(rows) in (40, 60)
        assert 0.1 < len(each.test) / len(rows) < 0.5


def test_nothing_is_held_out_where_there_are_tests(arranged):
    data = arranged(test=["test"])
    assert not data.held_out
    assert [len(each.train) for each in (data.past, *data.arrivals)] == [60, 40]


def test_outputs_without_names_are_numbers_where_all_labels_are(arranged):
    data = arranged(old="", data=["second"])
    assert data.classes == ("0", "1", "2", "5", "6")
    assert data.known == 3
    assert labels(data.arrivals[0].train) == [3, 4]  # a class gets the next output, whatever its name


# -- ids -------------------------------------------------------------------------------------------------------


def test_marked_rows_are_the_same_rows_with_other_ids():
    rows = Columns(x=torch.arange(4.0), y=torch.tensor([0, 1, 0, 1]), id=torch.tensor([3, 5, 8, 2**62]))
    marked = Marked(Subset(rows, [3, 0]), 2**63 - 12345)
    batch = marked.take(torch.tensor([1, 0]))
    assert torch.equal(batch["x"], torch.tensor([0.0, 3.0]))
    assert torch.equal(batch["id"], marked.column("id")[[1, 0]])
    assert torch.equal(batch["id"] ^ (2**63 - 12345), torch.tensor([3, 2**62]))
    assert bool((batch["id"] >= 0).all())
    assert torch.equal(marked.column("y"), torch.tensor([1, 0]))
    assert (len(marked), marked.resident) == (2, True)


def test_equal_data_has_equal_ids_wherever_it_lies_and_other_data_others(arranged, config, shop, tmp_path):
    (tmp_path / "first.npz").write_bytes((shop / "first.npz").read_bytes())
    here, there = (
        arranged(data=["first"], test=["test"]),
        config(data=str(tmp_path / "first.npz"), test=str(shop / "test.npz")),
    )
    there = arrange(there, load_sources(there), outputs=3)
    ids = [each.arrivals[0].train.column("id") for each in (here, there)]
    assert torch.equal(*ids)
    with np.load(shop / "first.npz") as arrays:
        np.savez(tmp_path / "first.npz", x=arrays["x"][:30], y=arrays["y"][:30])
    other = config(data=str(tmp_path / "first.npz"), test=str(shop / "test.npz"))
    other = arrange(other, load_sources(other), outputs=3).arrivals[0].train.column("id")
    assert not torch.isin(other, ids[0]).any()


# -- the rest --------------------------------------------------------------------------------------------------


def test_an_optimizer_has_the_settings_it_was_given_and_its_own_defaults():
    optimizer = make_optimizer("adam:lr=0.02,betas=(0.5,0.6)")([nn.Parameter(torch.zeros(2))])
    assert isinstance(optimizer, torch.optim.Adam)
    assert [optimizer.defaults[name] for name in ("lr", "betas", "eps")] == [0.02, (0.5, 0.6), 1e-8]


@pytest.mark.parametrize(
    "text", ["cosine", "linear:start_factor=0.1", "step:step_size=2,gamma=0.5", "onecycle:max_lr=0.5"]
)
def test_a_schedule_changes_the_learning_rate_over_the_steps_of_an_arrival(text):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make_scheduler(text)(optimizer, 10)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert len(set(rates)) > 1


def test_no_schedule_is_none():
    assert make_scheduler("") is None


def test_vectors_are_seen_as_they_are_and_images_from_0_to_1(config):
    assert make_view(config(), Columns(x=torch.zeros(2, 3))) is None
    images = Columns(x=torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))
    assert float(make_view(config(), images)(images.take(torch.tensor([0])))["x"].max()) == 1
