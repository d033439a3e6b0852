"""Deep generative replay: what the generator makes up stands in for the past, and nothing of the past is kept."""

import pytest
import torch
import zoo
from torch import nn

from everlearn.learner import Learner
from everlearn.methods import Naive
from everlearn.methods.dgr import DGR
from everlearn.models import snapshot
from everlearn.models.vae import VAE
from everlearn.objective import Output, classify


def dgr(**settings):
    return DGR(**{"inputs": 64, "hidden": 32, "z": 8, "count": 16} | settings)


def learner(method, epochs=2):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Learner(net, method, optimizer=lambda w: torch.optim.Adam(w, lr=0.003), epochs=epochs, batch_size=16)


def test_the_loss_of_the_generator_is_the_negative_evidence_lower_bound():
    torch.manual_seed(0)
    vae, x, noise = VAE(5, 7, 3), torch.rand(4, 5), torch.randn(4, 3)
    hidden = vae.encoder(x)
    q = torch.distributions.Normal(vae.mean(hidden), (vae.log_variance(hidden) / 2).exp())
    p = torch.distributions.Bernoulli(probs=vae.generate(q.mean + q.stddev * noise), validate_args=False)
    bound = p.log_prob(x).sum(1) - torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum(1)
    torch.testing.assert_close(vae(x, noise), -bound / 5)


def test_the_loss_is_the_mixture_of_new_and_made_up_rows():
    subject = learner(dgr())
    subject.learn(zoo.stream(True)[0])
    method, batch = subject.method, zoo.stream(True)[1].train.take(torch.arange(8))
    method.begin(subject.model, zoo.stream(True)[1], classify)
    asked = []

    def watched(model, rows):
        asked.append(rows)
        return classify(model, rows)

    loss = method.loss(subject.model, batch, watched, classify).loss
    made = next(rows for rows in asked if "y" in rows)
    assert set(made["y"].tolist()) <= {0, 1}, "the teacher knows no other class"
    assert made["x"].shape == (16, 64)
    assert 0 <= made["x"].min() <= made["x"].max() <= 1
    parts = classify(subject.model, batch).loss + classify(subject.model, made).loss
    generators = 2 * loss - parts  # of the generator on both halves, each at most the entropy of a coin and the KL
    assert 0 < generators < 4


def test_without_made_up_rows_the_model_learns_as_by_fine_tuning_bit_for_bit():
    weights = []
    for method in (Naive(), dgr(count=0)):
        subject = learner(method)
        for experience in zoo.stream(True)[:3]:
            subject.learn(experience)
        weights.append(snapshot(subject.model))
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_the_generator_learns_and_what_it_makes_looks_like_what_it_saw():
    subject = learner(dgr(hidden=64), epochs=20)
    rows = zoo.stream(True)[0].train
    x = rows.take(torch.arange(len(rows)))["x"]
    before = subject.method.generator(x, torch.zeros(len(x), 8)).mean()
    subject.learn(zoo.stream(True)[0])
    with torch.no_grad():
        assert subject.method.generator(x, torch.zeros(len(x), 8)).mean() < 0.7 * before
        made = subject.method.generator.generate(torch.randn(200, 8, generator=torch.Generator().manual_seed(0)))
    others = zoo.stream(True)[4].train
    other = others.take(torch.arange(len(others)))["x"].mean(0)
    assert 2 * (made.mean(0) - x.mean(0)).square().sum() < (made.mean(0) - other).square().sum()


def test_it_remembers_what_fine_tuning_forgets_and_keeps_no_row():
    scores = []
    for method in (Naive(), dgr(hidden=64, count=32)):
        subject = learner(method, epochs=15)
        for experience in zoo.stream()[:2]:
            subject.learn(experience)
        scores.append(subject.evaluate(zoo.stream()[0].test).value)
    assert scores[0] < 0.2
    assert scores[1] > 0.6


def test_uint8_pixels_are_made_up_as_uint8_pixels():
    def pixels(model, batch):
        assert batch["x"].dtype == torch.uint8
        return classify(model, batch | {"x": batch["x"].float().flatten(1) / 255})

    method, model = dgr(inputs=16), nn.Linear(16, 4)
    batch = {"x": torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8), "y": torch.arange(5) % 2}
    experience = zoo.stream(True)[0]
    for _ in range(2):
        method.begin(model, experience, pixels)
        assert method.loss(model, batch, pixels, pixels).loss.isfinite()
        method.end(model, experience, pixels)


def test_rows_of_another_size_or_with_tasks_are_refused():
    model = nn.Linear(16, 4)
    with pytest.raises(ValueError, match="rows have 16 numbers, but dgr was made for 64; give inputs="):
        dgr().loss(model, {"x": torch.rand(2, 16), "y": torch.tensor([0, 1])}, classify, classify)
    with pytest.raises(ValueError, match="leave the task labels out"):
        dgr().loss(model, {"x": torch.rand(2, 16), "task": torch.tensor([0, 1])}, classify, classify)


def test_rows_without_labels_teach_the_generator_only():
    model, method = nn.Linear(64, 4), dgr()
    output = method.loss(model, {"x": torch.rand(3, 64)}, classify, lambda m, b: Output(None, m(b["x"])))
    output.loss.backward()
    assert model.weight.grad is None
    assert method.generator.mean.weight.grad.any()
