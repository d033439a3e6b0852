"""A run for Python: the same as for the terminal, step by step."""

import pytest
import torch

from everlearn.workspace.config import make
from everlearn.workspace.exam import examine
from everlearn.workspace.folder import done, folder_of, weights_of
from everlearn.workspace.opening import begin, resume
from everlearn.workspace.run import memories


@pytest.fixture
def config(settings):
    plain = {name: value if isinstance(value, int) else str(value) for name, value in settings.items()}
    return lambda **changes: make(plain | changes)


def test_each_step_is_a_moment_with_its_place_and_its_rows(config):
    moments = list(begin(config(compare=True, batch_size=16)).steps())
    before, moments = [m for m in moments if not m.of], [m for m in moments if m.of]
    assert [moment.contender for moment in before] == ["fine-tuning", "er"]  # while the past is looked at
    assert [moment.contender for moment in moments] == ["fine-tuning"] * 12 + ["er"] * 12
    assert [moment.place for moment in moments[:12]] == list(range(1, 13))
    assert {moment.of for moment in moments} == {12}
    assert {moment.experience for moment in moments} == {"new"}


def test_fine_tuning_is_not_compared_with_itself(config):
    assert list(begin(config(compare=True, method="naive")).contenders) == ["naive"]


def test_nothing_is_written_before_all_is_known_to_fit_and_then_only_the_config(config, tmp_path):
    run = begin(config())
    assert [path.name for path in (tmp_path / "made").rglob("*") if path.is_file()] == ["config.json"]
    assert not run.done
    assert not done(run.folder)


def test_rehearsing_moves_no_weight_and_the_result_not_by_a_bit(config, tmp_path, shop):
    before = (shop / "deployed.pth").read_bytes()
    run = begin(config(method="er:memory=30,count=16+si+lwf"))
    run.rehearse("er:memory=30,count=16+si+lwf", tmp_path)
    assert (shop / "deployed.pth").read_bytes() == before
    for _ in run.steps():
        pass
    other = begin(config(method="er:memory=30,count=16+si+lwf", out=str(tmp_path / "other")))
    for _ in other.steps():
        pass
    one, two = (torch.load(each.weights[0], weights_only=True) for each in (run, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_may_be_taken_at_any_moment(config):
    run = begin(config(checkpoint_steps=0, checkpoint_seconds=0.0))
    steps = run.steps()
    while next(steps).place < 3:
        pass
    run.save()
    steps.close()
    first = next(resume(run.folder, print).steps())
    assert first.place == 4


def test_the_memory_has_seen_old_rows_before_the_first_step(config):
    run = begin(config(method="er:memory=1000"))
    steps = run.steps()
    while not next(steps).of:
        pass
    (memory,) = memories(run._learner.method)
    assert len(memory) == 60 + 8
    assert sorted(set(memory.column("y").tolist())) >= [0, 1, 2]


@pytest.mark.parametrize(
    ("out", "folder", "weights"),
    [
        ("a/up.pth", "a/up", ["a/up.pth", "a/up/up.pth", "a/up/up.safetensors"]),
        ("a/v1.2.safetensors", "a/v1.2", ["a/v1.2.safetensors", "a/v1.2/v1.2.pth", "a/v1.2/v1.2.safetensors"]),
        ("a/run", "a/run", ["a/run/model.pth", "a/run/model.safetensors"]),
        ("a/run.v2", "a/run.v2", ["a/run.v2/model.pth", "a/run.v2/model.safetensors"]),
    ],
)
def test_out_names_the_folder_and_the_weights(out, folder, weights):
    assert str(folder_of(out)) == folder
    assert [str(path) for path in weights_of(out)] == weights


def test_an_exam_draws_no_random_numbers_and_names_what_the_model_does_not_know(config, shop):
    state = torch.get_rng_state()
    exam = examine(config(data=str(shop / "test.npz")))
    assert torch.equal(torch.get_rng_state(), state)
    assert exam.unknown == ("3", "4")
    assert exam.result.count == 100
    assert exam.result.by_class["3"] == (0, 20)


def test_a_method_that_weights_alone_cannot_speak_for_is_refused(config):
    with pytest.raises(ValueError, match="ncm answers by what it keeps, and not by the weights"):
        begin(config(method="ncm"))


def test_a_method_that_needs_task_labels_is_refused(config):
    with pytest.raises(ValueError, match="independent needs task labels"):
        begin(config(method="independent"))


@pytest.mark.parametrize("method", ["ewc", "mas"])
def test_a_method_that_measures_the_past_asks_for_it(config, method):
    with pytest.raises(ValueError, match=f"{method} measures on past data"):
        begin(config(method=method, old=""))
