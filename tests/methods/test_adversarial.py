"""Adversarial alignment: whose gradient is turned, how strongly, and what comes of it."""

import math

import adaptation
import pytest
import torch
from adaptation import ADVERSARIAL, control, learned, learner, method, stream
from torch import nn
from torch.nn import functional as F

from everlearn import checkpoint
from everlearn.data import Columns
from everlearn.learner import Learner
from everlearn.method import Chain
from everlearn.methods import ADDA, BSP, CDAN, DANN, MDD, WDGRL, Freeze, Naive, Replay
from everlearn.methods.aligned import Side
from everlearn.methods.composition import build
from everlearn.models import snapshot
from everlearn.objective import classify
from everlearn.streams import Experience

CLASSES, WIDTH = 3, 4


def side(rows, seed, labelled):
    random = torch.Generator().manual_seed(seed)
    features, logits = (torch.randn(rows, n, generator=random, dtype=torch.float64) for n in (WIDTH, CLASSES))
    return Side(features, logits, torch.arange(rows) % CLASSES if labelled else torch.full((rows,), -100))


def prepared(name, strength, **options):
    """A method in float64 and a model whose head it may ask, at a progress where the strength is as given."""
    made = method(name, hi=strength, gamma=0.0, **options)
    made.prepare(WIDTH, CLASSES, torch.device("cpu"))
    made.critic.double()
    if name == "mdd":  # which is drawn small: its slopes, too
        nn.utils.vector_to_parameters(
            100 * nn.utils.parameters_to_vector(made.critic.parameters()), made.critic.parameters()
        )
    if name == "cdan":
        made.maps = [map_.double() for map_ in made.maps]
    torch.manual_seed(0)
    return made, nn.Sequential(nn.Linear(WIDTH, CLASSES)).double()


def slope(function, x, eps=1e-6):
    """The gradient of a function of a tensor, by finite differences."""
    found = torch.zeros_like(x)
    for place in range(x.numel()):
        step = torch.zeros_like(x).view(-1)
        step[place] = eps
        step = step.view_as(x)
        found.view(-1)[place] = (function(x + step) - function(x - step)) / (2 * eps)
    return found


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("name", "options"), [
    ("dann", {}), ("cdan", {}), ("cdan", {"entropy": False}), ("mdd", {}), ("mcd", {})
])  # fmt: skip
def test_the_net_descends_the_gap_and_the_features_ascend_it_strength_times(name, options, strength):
    made, model = prepared(name, strength, **options)
    source, target = side(3, 1, labelled=True), side(5, 2, labelled=False)
    known, unknown = (each.features.clone().requires_grad_() for each in (source, target))
    weights = [*made.critic.parameters(), *(model.parameters() if name == "mcd" else ())]
    gap = made.gap(model, source._replace(features=known), target._replace(features=unknown))
    to_known, to_unknown, *to_weights = torch.autograd.grad(gap, [known, unknown, *weights])
    with torch.no_grad():
        of_known = slope(lambda f: made.gap(model, source._replace(features=f), target), source.features)
        of_unknown = slope(lambda f: made.gap(model, source, target._replace(features=f)), target.features)
    kept = 1.0 if name == "mcd" else -strength  # in MCD, the source is learned by both heads, and nothing is turned
    torch.testing.assert_close(to_known, kept * of_known, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(to_unknown, -strength * of_unknown, atol=1e-7, rtol=1e-5)
    assert of_unknown.abs().max() > 1e-3
    for weight, found in zip(weights, to_weights, strict=True):
        before = weight.detach().clone()

        def told(value, weight=weight):
            with torch.no_grad():
                weight.copy_(value)
                return made.gap(model, source, target)

        some = slope(told, before) if before.numel() < 60 else None
        told(before)
        if some is not None:
            torch.testing.assert_close(found, some, atol=1e-7, rtol=1e-5)
            assert found.abs().max() > 0


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_strength_is_0_at_the_first_step_and_rises_to_hi_with_the_progress_of_the_experience(name):
    subject, found = learner(method(name, hi=0.5)), []

    class Watch(Naive):
        def loss(self, model, batch, objective, rest):
            found.append(made.strength)
            return rest(model, batch)

    made = subject.method
    subject.method = Chain(made, Watch())
    for experience in stream():
        subject.learn(experience)
    for steps in (found[:16], found[16:]):
        assert steps == [0.5 * (2 / (1 + math.exp(-10 * t / len(steps))) - 1) for t in range(len(steps))]
        assert steps[0] == 0


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_at_the_first_step_only_the_net_of_the_method_learns_from_the_gap(name):
    if name == "mcd":
        pytest.skip("its second head teaches the body the source from the first step")
    found = []
    for chain in (method(name), Naive()):
        subject = learner(chain)
        for _ in subject.steps(stream()[1]):
            break
        found.append(snapshot(subject.model))
    torch.testing.assert_close(*found, atol=0, rtol=0)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_strength_goes_on_where_it_was_after_resume(name, tmp_path):
    subject = learner(method(name))
    for step in subject.steps(stream()[1]):
        if step.number == 5:
            break
    checkpoint.save(subject.state_dict(), tmp_path / "c")
    other = learner(method(name))
    other.load_state_dict(checkpoint.load(tmp_path / "c"))
    assert other.method.strength == subject.method.strength > 0
    assert other.method.progress == 0.5


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_in_a_loop_of_ones_own_the_number_of_steps_must_be_said(name):
    made, model = method(name), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    made.begin(model, stream()[1], classify)
    with pytest.raises(ValueError, match="how many steps"):
        made(model, adaptation.batch(), classify)


@pytest.mark.parametrize("made", [DANN(), CDAN(), MDD(), ADDA(), WDGRL()], ids=lambda made: type(made).__name__)
def test_the_net_is_no_no_op_as_it_is_by_default(made):
    made.prepare(WIDTH, CLASSES, torch.device("cpu"))
    width = made.critic.widths[0]
    x = torch.randn(20, width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    made.critic.requires_grad_(requires_grad=True)
    said = made.critic(x)
    assert said.std(0).min() > 1e-3
    found = torch.autograd.grad(F.softplus(said).mean(), [x, *made.critic.parameters()])
    assert all(each.abs().max() > 0 for each in found)


@pytest.mark.parametrize("rows", [(8, 4), (1, 7)])
def test_dann_is_the_cross_entropy_of_the_discriminator_with_half_the_weight_on_each_side(rows):
    made, model = prepared("dann", 1.0)
    source, target = side(rows[0], 1, labelled=True), side(rows[1], 2, labelled=False)
    d = [torch.sigmoid(made.critic(each.features).flatten()) for each in (source, target)]
    by_hand = (-d[0].log().mean() - (1 - d[1]).log().mean()) / 2
    torch.testing.assert_close(made.gap(model, source, target), by_hand)


@pytest.mark.parametrize("name", ["dann", "cdan", "bsp+dann"])
def test_a_discriminator_that_is_sure_has_a_finite_loss_and_a_gradient(name):
    subject = learner(method(name, gamma=0.0))
    subject.learn(stream()[0])
    made = subject.method if name != "bsp+dann" else subject.method.methods[1]
    with torch.no_grad():
        made.critic[-1].bias += 200
    assert made.hi == 1
    for step in subject.steps(stream()[1]):
        assert step.loss.isfinite()
        break
    assert all(value.isfinite().all() for value in snapshot(subject.model).values())


GAPS = ["dann", "cdan", "adda", "mcd", "mdd", "wdgrl", "bsp+dann"]
SEEDS = (0, 1, 3)


@pytest.fixture(scope="module")
def controls():
    return [control(seed) for seed in SEEDS]


def test_without_alignment_the_target_stays_where_the_source_has_left_it(controls):
    before, after = zip(*controls, strict=True)
    assert 0.7 < sum(before) / len(SEEDS) < 0.9
    assert abs(sum(after) - sum(before)) / len(SEEDS) < 0.03


LARGER = {"cdan": {"hidden": 32}, "dann": {"hidden": 32}, "adda": {"hidden": 32}, "mdd": {"hidden": 1024},
          "wdgrl": {"hidden": 32, "steps": 5}}  # fmt: skip


@pytest.mark.parametrize("name", GAPS)
def test_alignment_closes_a_gap_that_the_control_leaves(name, controls):
    def chain():
        parts = [method(part, **LARGER.get(part, {})) for part in name.split("+")]
        return parts[0] if len(parts) == 1 else Chain(*parts)

    found = [adaptation.closed(chain(), seed) for seed in SEEDS]
    assert [before for before, _ in found] == [before for before, _ in controls]  # the source is learned alike
    gained = sum(after for _, after in found) - sum(after for _, after in controls)
    assert gained / len(SEEDS) > 0.08, (found, controls)
    assert sum(after for _, after in found) / len(SEEDS) > 0.94, (found, controls)


def test_in_a_chain_two_gaps_are_added_over_the_same_pass():
    passes = []

    class Counted(nn.Sequential):
        def forward(self, x):
            passes.append(len(x))
            return super().forward(x)

    made, model = Chain(BSP(trade_off=0.1), DANN(hidden=8, gamma=0.0)), Counted(nn.Linear(64, 6), nn.Linear(6, 10))
    made.begin(model, stream()[1], classify)
    passes.clear()
    both = made(model, adaptation.batch(), classify)
    assert passes == [12]
    plain = classify(model, adaptation.batch()).loss
    parts = [part(model, adaptation.batch(), classify).loss - plain for part in made.methods]
    torch.testing.assert_close(both.loss, plain + sum(parts))


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_in_a_chain_one_that_wants_the_sides_apart_is_enough(outer, inner):
    def ends(first, second):
        chain = Chain(method("bsp", together=first), method("dann", together=second))
        return learned(chain, stream(), "conv")

    assert checkpoint.same(ends(outer, inner), ends(False, False)) == (not (outer and inner))


def test_a_source_that_does_not_reach_the_model_is_refused():
    chain = Chain(method("dann"), method("adda"))
    with pytest.raises(ValueError, match=r"DANN saw the features of 8 rows of a batch of 12"):
        learned(chain, stream())


@pytest.mark.parametrize("name", ["adda", "wdgrl"])
def test_where_nothing_that_learns_leads_to_the_features_it_says_so(name):
    subject = learner(method(name))
    subject.model[:-1].requires_grad_(requires_grad=False)
    first, second = stream()
    if name == "wdgrl":  # which learns the source, too, unless what follows in the chain takes no steps
        subject.method = Chain(subject.method, Freeze(learns="none"))
    subject.learn(first)
    with pytest.raises(ValueError, match="moves nothing: its features are frozen"):
        subject.learn(second)


def test_the_text_of_a_chain_is_refused_where_alignment_would_see_no_memory_or_no_source():
    with pytest.raises(ValueError, match=r"er\+dann"):
        build("dann+er")
    with pytest.raises(ValueError, match="adda"):
        build("adda+dann")
    for text in ("delta+adda", "featdistill+adda"):
        with pytest.raises(ValueError, match=r"compares features of all rows.*l2sp\+adda"):
            build(text)
    first, second = stream()
    for text in ("thaw+adda", "adda+thaw:groups='0/head@0.5'"):
        subject = learner(build(text), epochs=1)
        subject.learn(first)
        if "groups" in text:  # of which the body is the first
            subject.learn(second)
        else:
            with pytest.raises(ValueError, match=r"moves nothing: .* do not learn yet"):
                subject.learn(second)
    assert isinstance(build("er:memory=50+bsp+cdan:hidden=16,tap=features").methods[0], Replay)


def test_a_stream_of_source_and_targets_is_adapted_to_one_after_the_other():
    _, target, test = adaptation.digits()
    first, second = stream(beside=False)
    third = Experience(2, Columns(x=target.column("x") * 0.9), test, second.classes)
    subject = learner(method("er+dann"))
    for experience in (first, second, third):
        subject.learn(experience)
    assert all(value.isfinite().all() for value in snapshot(subject.model).values())
    assert len(subject.method.methods[0].memory) == 60


def test_a_growing_head_gets_a_net_for_its_classes_and_goes_on_exactly(tmp_path):
    def begin():
        torch.manual_seed(0)
        return Learner(nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2)),
                       build("cdan:hidden=8", grow=True), optimizer=adaptation.zoo.SGD, batch_size=8)  # fmt: skip

    def experiences():
        source, target, test = adaptation.digits()
        few = [Columns(x=source.column("x")[source.column("y") < n], y=source.column("y")[source.column("y") < n])
               for n in (4, 8)]  # fmt: skip
        return [Experience(0, few[0], test, (0, 1, 2, 3)),
                Experience(1, Columns(x=target.column("x")[:40]), test, tuple(range(8)), reference=few[1])]  # fmt: skip

    whole, first = begin(), begin()
    for experience in experiences():
        whole.learn(experience)
        for step in first.steps(experience):
            if step.experience == 1 and step.place == 2:
                break
    assert whole.method.methods[1].critic.widths[0] == 16 * 8
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second = begin()
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    second.learn(experiences()[1])
    assert checkpoint.same(whole.state_dict(), second.state_dict())
