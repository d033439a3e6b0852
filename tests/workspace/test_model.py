"""The model that a user names, and its weights."""

import torch

from everlearn.models.named import build_model, model_file
from everlearn.workspace.config import make
from everlearn.workspace.model import load_model


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
        loaded = load_model(make(given | {"seed": seed}))
        model, report = loaded.model, loaded.report
        assert report.missing == ("body.0.bias",)
        biases.append(dict(model.named_parameters())["body.0.bias"].detach())
    assert torch.equal(biases[0], biases[1])
    assert not torch.equal(biases[0], biases[2])


def test_the_file_of_a_model_is_found_whichever_way_it_is_named(shop):
    assert model_file(shop.model("Net(outputs=4)")) == shop / "net.py"
    assert model_file("everlearn.models:MLP").name == "__init__.py"
    assert model_file("no_such_package_at_all:Net") is None
