"""What every method of adaptation owes: rows without labels beside labelled ones, on every kind of model."""

import copy
from functools import partial

import adaptation
import pytest
import torch
from adaptation import NAMES, batch, learned, learner, method

from everlearn import checkpoint
from everlearn.batch import take
from everlearn.method import Method
from everlearn.methods import METHODS, Naive
from everlearn.methods.aligned import Aligned
from everlearn.models import snapshot
from everlearn.objective import classify

stream = partial(adaptation.stream, rows=(32, 22))  # 8 steps, and 6
CHAINS = [*NAMES, "er+dann", "er+mcd", "er+wdgrl", "bsp+cdan"]
MODELS = ["mlp", "conv", "transformer"]
ALIGNED = [name for name in NAMES if issubclass(METHODS[name], Aligned)]
every_chain = pytest.mark.parametrize("name", CHAINS)
every_method = pytest.mark.parametrize("name", NAMES)
every_model = pytest.mark.parametrize("model", MODELS)
aligned = pytest.mark.parametrize("name", ALIGNED)


def begun(name, model, **options):
    """The method at the beginning of an experience of which nothing says how long it is, a third of it done."""
    made = method(name, **options)
    made.begin(model, stream()[1], classify)
    if isinstance(made, Aligned):
        made.taken, made.planned = 3, 9
    return made


def net(model="mlp"):
    return adaptation.still(learner(Naive(), model).model)


@every_chain
@pytest.mark.parametrize(("model", "pause"), [("mlp", 9), ("conv", 11), ("transformer", 13)])
def test_resume_in_the_middle_of_an_unlabelled_experience_is_exact(name, model, pause, tmp_path):
    whole = learner(method(name), model)
    for experience in stream():
        whole.learn(experience)
    first = learner(method(name), model)
    for experience in stream():
        for step in first.steps(experience):
            if step.number == pause:
                break
    checkpoint.save(first.state_dict(), tmp_path / "c")
    torch.manual_seed(999)
    second = learner(method(name), model)
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    assert (second.experience, second.begun) == (1, True)
    second.learn(stream()[1])
    assert second.number == whole.number == 14
    assert checkpoint.same(whole.state_dict(), second.state_dict())


@every_chain
@every_model
def test_prediction_changes_nothing_and_rows_are_answered_alone(name, model):
    subject = learner(method(name), model)
    for experience in stream():
        subject.learn(experience)
    before, asked = copy.deepcopy(subject.state_dict()), {"x": batch()["x"]}
    answers = subject.predict(asked)
    assert checkpoint.same(before, subject.state_dict())
    alone = torch.cat([subject.predict(take(asked, slice(i, i + 1))) for i in range(12)])
    torch.testing.assert_close(alone, answers, atol=1e-5, rtol=1e-4)


@every_method
@every_model
def test_with_a_trade_off_of_0_it_is_plain_training_bit_for_bit(name, model):
    assert checkpoint.same(learned(method(name, trade_off=0.0), stream(), model), learned(Naive(), stream(), model))


@every_method
def test_an_experience_in_which_all_rows_have_labels_is_plain_training_bit_for_bit(name):
    assert checkpoint.same(learned(method(name), stream()[:1]), learned(Naive(), stream()[:1]))


@every_chain
def test_beside_a_reference_the_weights_differ_from_plain_training(name):
    plain = "er" if name.startswith("er") else "naive"
    chain = adaptation.Replay(adaptation.Memory(100), count=8) if plain == "er" else Naive()
    one, other = (learner(each) for each in (method(name), chain))
    for subject in (one, other):
        adaptation.still(subject.model)
        for experience in stream():
            subject.learn(experience)
    assert not checkpoint.same(snapshot(one.model), snapshot(other.model))
    assert all(value.isfinite().all() for value in snapshot(one.model).values())


@aligned
def test_without_a_reference_nothing_is_aligned_and_that_is_said(name):
    subject = learner(method(name))
    subject.learn(stream()[0])
    before = copy.deepcopy(subject.state_dict())
    with pytest.raises(ValueError, match="the rows have no labels"):
        subject.learn(stream(beside=False)[1])
    assert checkpoint.same(before, subject.state_dict())


@aligned
def test_a_replay_memory_is_a_source(name):
    found = []
    for each in (method(f"er+{name}"), method(f"er+{name}", trade_off=0.0)):  # no dropout: nothing else differs
        subject = learner(each)
        adaptation.still(subject.model)
        for experience in stream(beside=False):
            subject.learn(experience)
        found.append(snapshot(subject.model))
    assert not checkpoint.same(*found)


@every_method
@pytest.mark.parametrize(("labelled", "unlabelled"), [(4, 8), (8, 4), (7, 1), (1, 7), (1, 1)])
def test_the_sides_may_have_any_numbers_of_rows(name, labelled, unlabelled):
    model = net()
    output = begun(name, model)(model, batch(labelled, unlabelled), classify)
    output.loss.backward()
    assert len(output.logits) == labelled + unlabelled
    assert output.loss.isfinite()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


@every_method
def test_a_last_batch_of_one_row_is_learned(name):
    subject = learner(method(name), "transformer", batch_size=3, epochs=1)
    subject.learn(stream()[1])
    assert subject.number == 8
    assert all(value.isfinite().all() for value in snapshot(subject.model).values())


@every_method
def test_the_order_of_the_rows_means_nothing(name):
    model, mixed = net(), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    one, other = (begun(name, model)(model, batch(order=order), classify) for order in (None, mixed))
    if name != "wdgrl":  # which pairs rows by their places
        torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.logits[mixed], other.logits)


@every_chain
@every_model
def test_steps_are_in_train_mode_with_clean_gradients_and_leave_every_mode_as_it_was(name, model):
    subject, seen = learner(method(name), model), []

    class Watch(Method):
        def loss(self, model, batch, objective, rest):
            modes = [module.training for module in model.modules()]
            assert any(modes) != ("adda" in name and subject.experience == 1)  # compared with a copy in eval mode
            assert all(modes) == any(modes)
            assert all(weight.grad is None for weight in subject.model.parameters())
            seen.append(True)
            return rest(model, batch)

    subject.method = adaptation.Chain(subject.method, Watch())
    for experience in stream():
        subject.learn(experience)
    assert len(seen) == 14
    assert all(module.training for module in subject.model.modules())
    assert all(weight.requires_grad for weight in subject.model.parameters())
    assert not any("forward" in vars(module) for module in subject.model.modules())


@every_chain
@pytest.mark.parametrize("precision", ["bf16"])
def test_under_autocast_all_stays_finite_and_as_wide_as_it_was(name, precision):
    subject = learner(method(name), "conv", precision=precision)
    before = {name: value.dtype for name, value in snapshot(subject.model).items()}
    for experience in stream():
        subject.learn(experience)
    assert before == {name: value.dtype for name, value in snapshot(subject.model).items()}
    state = [*snapshot(subject.model).values(), *(p for p in subject.method.parameters())]
    assert all(value.isfinite().all() for value in state)
    assert all(value.dtype == torch.float32 for value in subject.method.parameters())


@aligned
def test_the_gap_is_computed_in_float32_with_autocast_off(name):
    model, seen = net(), []
    made = begun(name, model)
    gap = made.gap

    def watched(model, source, target):
        told = gap(model, source, target)
        seen.append((torch.is_autocast_enabled("cpu"), {t.dtype for t in (*source[:2], *target[:2], told)}))
        return told

    made.gap = watched
    with torch.autocast("cpu", torch.bfloat16):
        made(model, batch(), classify)
    assert seen == [(False, {torch.float32})]


@aligned
@pytest.mark.parametrize(("model", "tap"), [("conv", "features.3"), ("transformer", "encoder"), ("mlp", "0")])
def test_any_layer_may_be_aligned(name, model, tap):
    if name == "mcd":
        pytest.skip("its two heads read what the head reads")
    found = [learned(method(name, tap=tap), stream(), model), learned(method(name), stream(), model)]
    assert all(value.isfinite().all() for value in found[0].values())
    assert name == "mcc" or not checkpoint.same(*found)  # which looks at answers only


@aligned
def test_a_layer_that_there_is_not_is_refused_with_the_nearest(name):
    if name == "mcd":
        pytest.skip("it takes none")
    with pytest.raises(ValueError, match="featurs"):
        learner(method(name, tap="featurs"), "conv").learn(stream()[0])


@aligned
def test_with_each_side_by_itself_it_learns_and_goes_on_exactly(name, tmp_path):
    whole, first = (learner(method(name, together=False), "conv") for _ in range(2))  # where nothing is drawn
    for experience in stream():
        whole.learn(experience)
        for step in first.steps(experience):
            if step.number == 11:
                break
    checkpoint.save(first.state_dict(), tmp_path / "c")
    second = learner(method(name, together=False), "conv")
    second.load_state_dict(checkpoint.load(tmp_path / "c"))
    second.learn(stream()[1])
    assert checkpoint.same(whole.state_dict(), second.state_dict())
    assert not checkpoint.same(snapshot(whole.model), learned(method(name), stream(), "conv"))


@every_chain
def test_a_batch_may_be_computed_in_pieces(name):
    weights = learned(method(name), stream(), accumulate=2)
    assert all(value.isfinite().all() for value in weights.values())


@every_method
def test_to_remember_an_experience_changes_no_weight(name):
    subject = learner(method(name))
    before = snapshot(subject.model)
    subject.remember(stream()[1])
    assert checkpoint.same(before, snapshot(subject.model))
    subject.learn(stream()[0])


@every_method
def test_the_users_data_are_untouched(name):
    experience = stream()[1]
    before = [copy.deepcopy(rows.take(torch.arange(len(rows)))) for rows in (experience.train, experience.reference)]
    learned(method(name), [experience])
    after = [rows.take(torch.arange(len(rows))) for rows in (experience.train, experience.reference)]
    assert checkpoint.same(before, after)


@every_method
def test_every_weight_of_a_method_has_one_optimizer(name):
    subject = learner(method(name))
    subject.learn(stream()[0])
    members = [id(weight) for group in subject.optimizer.param_groups for weight in group["params"]]
    assert len(members) == len(set(members))
    assert {id(weight) for weight in subject.method.parameters() if weight.requires_grad} <= set(members)


@every_chain
def test_a_method_starts_alike_whatever_was_drawn_before(name):
    found = []
    for draws in (0, 3):
        model = net()
        torch.rand(draws)
        state = torch.get_rng_state()
        made = method(name)
        made.begin(model, stream()[1], classify)
        assert torch.equal(state, torch.get_rng_state())
        found.append(made.state_dict())
    assert checkpoint.same(*found)
