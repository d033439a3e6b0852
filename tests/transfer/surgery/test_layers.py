"""Layers come in, go and are stacked; the names of the others stay, and what moved is said."""

import pytest
import torch
from torch import nn
from transfer.surgery.operated import Watched, answer, apart, both, images, shaken

from everlearn.models import MLP, Net, ResNet18
from everlearn.transfer.surgery import SurgeryError, insert, remove, stack


class Blocks(nn.Module):
    """Transformer blocks in a ModuleList, with the norm first or last."""

    def __init__(self, *, first=True):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=first, batch_first=True) for _ in range(3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def tokens():
    return torch.randn(5, 7, 8, generator=torch.Generator().manual_seed(0))


def test_an_inserted_layer_stands_where_it_was_put_and_no_name_changes():
    model, x = Net(4, 3, 12), images()
    names = list(model.state_dict())
    layer = nn.Conv2d(16, 16, 1)
    outcome = insert(model, "features.0", layer, x)
    assert [name for name in model.state_dict() if name in names] == names
    assert list(model.features)[1] is layer
    old = Net(4, 3, 12)
    old.load_state_dict({name: value for name, value in model.state_dict().items() if name in names})
    assert outcome.evaluated == pytest.approx(float((answer(old, x) - answer(model, x)).abs().max()), rel=1e-4)
    assert outcome.evaluated > 0
    assert not outcome.exact


def test_an_insertion_that_is_to_be_exact_and_is_not_is_undone():
    model, x = Net(4, 3, 12), images()
    layer = nn.Conv2d(16, 16, 1)
    watch = Watched(model)
    with pytest.raises(SurgeryError, match="would move"):
        insert(model, "features.1", layer, x, exact=True)
    assert watch.same()
    insert(model, "features.1", nn.Dropout(0.5), x, exact=True)


def test_a_removed_layer_is_an_identity_and_says_how_far_it_moved():
    model, x = shaken(ResNet18(4, width=4)), images()
    names, before = list(model.state_dict()), both(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outcome = remove(model, "features.4", x, optimizer=optimizer)
    after = both(model, x)
    assert outcome.evaluated == apart(before[:1], after[:1]) > 0
    assert outcome.trained == apart(before[1:], after[1:])
    assert list(model.state_dict()) == [name for name in names if not name.startswith("features.4.")]
    assert {id(w) for group in optimizer.param_groups for w in group["params"]} == set(map(id, model.parameters()))


def test_a_layer_that_changes_the_shape_cannot_be_removed():
    model, x = shaken(ResNet18(4, width=4)), images()
    watch = Watched(model)
    with pytest.raises(SurgeryError, match=r"makes \(6, 8, 6, 6\) of \(6, 4, 12, 12\)"):
        remove(model, "features.5", x)
    with pytest.raises(SurgeryError, match="no layer named ''"):
        remove(model, "", x)
    assert watch.same()


def test_stacked_residual_blocks_add_nothing_until_they_learn():
    model, x = shaken(ResNet18(4, width=4)), images()
    before, names = both(model, x), list(model.state_dict())
    outcome = stack(model, "features.4", x, copies=2)
    assert apart(before, both(model, x)) == 0
    assert outcome.exact
    assert [name for name in model.state_dict() if name in names] == names
    blocks = list(model.features)
    assert len(blocks) == 15
    assert torch.equal(blocks[5].conv1.weight, blocks[4].conv1.weight)
    assert blocks[5].conv1.weight is not blocks[4].conv1.weight
    model(x).square().sum().backward()
    assert blocks[5].bn2.weight.grad.abs().sum() > 0


def test_stacked_transformer_blocks_with_the_norm_first_are_exact():
    model, x = Blocks(), tokens()
    before, optimizer = both(model, x), torch.optim.Adam(model.parameters())
    old = [list(layer.parameters()) for layer in model.layers]
    outcome = stack(model, "layers.1", x, optimizer=optimizer)
    assert apart(before, both(model, x)) < 1e-6
    assert list(outcome.changed) == ["layers.2"]
    stayed = [model.layers[place] for place in (0, 1, 3)]
    assert all(next(layer.parameters()) is weights[0] for layer, weights in zip(stayed, old, strict=True))
    members = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in members} == set(map(id, model.parameters()))
    assert len(members) == len(list(model.parameters()))


def test_with_the_norm_last_only_plain_copies_are_possible_and_are_said_to_move():
    model, x = Blocks(first=False), tokens()
    for layer in model.layers:
        nn.init.uniform_(layer.norm2.weight, 0.5, 2)
    watch = Watched(model)
    with pytest.raises(SurgeryError, match="would move"):
        stack(model, "layers.1", x)
    assert watch.same()
    before = both(model, x)
    outcome = stack(model, "layers.1", x, zero=())
    assert outcome.evaluated == apart(before[:1], both(model, x)[:1]) > 0
    assert "plain" in outcome.changed["layers.2"]
    assert "not to be preserved" in str(outcome)


def test_hooks_modes_and_frozen_weights_of_a_block():
    model, x, calls = shaken(ResNet18(4, width=4)), images(), []
    model.features[4].register_forward_hook(lambda *_: calls.append(1))
    model.features[4].conv1.requires_grad_(False)
    model.features[4].bn1.eval()
    stack(model, "features.4", x)
    copy = list(model.features)[5]
    assert not copy._forward_hooks
    assert len(model.features[4]._forward_hooks) == 1
    assert not copy.conv1.weight.requires_grad
    assert not copy.bn1.training
    assert copy.training


def test_what_cannot_be_stacked_is_refused():
    model, x = MLP(4, (3,), 2), torch.randn(2, 4)
    with pytest.raises(SurgeryError, match=r"must be in an nn\.Sequential or nn\.ModuleList"):
        stack(model, "head", x)
    with pytest.raises(SurgeryError, match="no projection to be zero"):
        stack(model, "features.2", x)
    with pytest.raises(SurgeryError, match="copies must be at least 1"):
        stack(model, "features.2", x, copies=0)
    with pytest.raises(SurgeryError, match="would move"):
        stack(nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4)), "0", x)
