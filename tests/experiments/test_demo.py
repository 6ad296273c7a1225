"""The demo: honest splits, the same start for all, a table and a file that agree."""

import io
import json
import math

import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits

import bsam
from bsam.experiments import demo
from bsam.experiments.data import digits, turned
from bsam.experiments.evaluation import posterior_draws, sampled_probabilities
from bsam.experiments.methods import METHODS
from bsam.experiments.models import mlp
from bsam.experiments.results import write_json
from bsam.experiments.training import train
from bsam.noise import standard_normal

SHORT = demo.Plan(seeds=range(2), epochs=2, num_samples=3)


def in_order(images):
    return images[torch.tensor(sorted(range(len(images)), key=lambda i: images[i].tolist()))]


def rows(plan=SHORT):
    return [row for run in demo.runs(plan) for row in run]


@pytest.fixture(scope="module")
def short_rows():
    return rows()


def test_split_shares_nothing_and_is_stratified():
    split = digits(seed=3)
    everything = torch.from_numpy(load_digits().images).float().flatten(1) / 16
    images = torch.cat([part.images for part in split]).flatten(1)
    assert torch.equal(in_order(images), in_order(everything)), "each image in exactly one part"
    for part in split:
        share = torch.bincount(part.labels, minlength=10) / len(part.labels)
        assert (share - 0.1).abs().max() < 0.01
        assert part.images.min() == 0.0
        assert part.images.max() == 1.0
    assert not torch.equal(split.test.labels, digits(seed=4).test.labels)
    assert torch.equal(split.test.images, digits(seed=3).test.images)


def test_turned_by_four_quarters_is_the_same():
    part = digits(seed=0).test
    quarter = turned(part, 90).images
    torch.testing.assert_close(quarter, torch.rot90(part.images, 1, (1, 2)))
    assert not torch.equal(turned(part, 45).images, part.images)


def test_runs_give_a_row_for_each_prediction(short_rows):
    kinds = [(row["method"], row["prediction"], row["seed"]) for row in short_rows]
    expected = ["SGD", "Adam", "SAM", "bSAM", "bSAM"]
    assert [kind[0] for kind in kinds] == expected * 2
    assert kinds[4] == ("bSAM", "3 samples", 0)
    for row in short_rows:
        for name in ("accuracy", "ece", "turned_confidence", "turned_accuracy"):
            assert 0 <= row[name] <= 1
        assert row["nll"] > 0


def test_the_same_seed_gives_the_same_numbers(short_rows):
    again = rows()
    for a, b in zip(short_rows, again, strict=True):
        assert {**a, "training_seconds": 0} == {**b, "training_seconds": 0}


def test_summary_is_mean_and_standard_error(short_rows):
    summary = demo.summary(short_rows)
    sgd = [row["nll"] for row in short_rows if row["method"] == "SGD"]
    assert summary[0]["runs"] == 2
    assert summary[0]["nll"]["mean"] == pytest.approx(sum(sgd) / 2)
    assert summary[0]["nll"]["standard_error"] == pytest.approx(abs(sgd[0] - sgd[1]) / 2)
    single = demo.summary(short_rows[:1])
    assert single[0]["nll"]["standard_error"] is None
    assert demo.summary([]) == []


def test_a_diverged_run_does_not_lose_the_others(short_rows, tmp_path):
    rows = [dict(row) for row in short_rows]
    rows[0]["nll"] = math.inf
    assert demo.summary(rows)[0]["nll"] == {"mean": math.inf, "standard_error": None}
    demo.show(rows, SHORT, Console(file=io.StringIO()))
    write_json(tmp_path / "results.json", demo.record(rows, SHORT))
    assert json.loads((tmp_path / "results.json").read_text())["runs"][0]["nll"] == "inf"


def test_samples_for_prediction_are_not_the_noise_of_training():
    model, optimizer, _, _ = trained("bSAM", epochs=1)
    weight, seed = model[1].weight, optimizer.param_groups[0]["seed"]
    s = optimizer.state[weight]["s"]
    for number, draw in enumerate(posterior_draws(model, optimizer, num_samples=3, seed=seed)):
        noise = standard_normal(0, weight.numel(), seed=seed, call=number, sub_batch=0)
        drawn = ((draw["1.weight"] - weight) * (718 * s).sqrt()).flatten()
        assert abs(torch.corrcoef(torch.stack([drawn, noise]))[0, 1]) < 0.1


@pytest.mark.parametrize("width", [30, 80, 200])
def test_table_shows_whole_numbers_and_says_what_was_tuned(short_rows, width):
    out = io.StringIO()
    demo.show(short_rows, SHORT, Console(file=out, width=width))
    text = " ".join(out.getvalue().split())
    for words in ("accuracy %", "NLL", "ECE", "3 samples", "Tuned: the learning rate", "Not tuned"):
        assert words in text
    assert "…" not in text
    assert "Fewer than 3 seeds are no evidence" in text
    nll = demo.summary(short_rows)[0]["nll"]
    assert f"{nll['mean']:.3f}±{nll['standard_error']:.3f}" in text


def trained(name, epochs=15):
    split = digits(seed=0)
    torch.manual_seed(0)
    model = mlp(64, 32, 10)
    method = METHODS[name]
    optimizer = method.make(model, method.lr, len(split.train.labels), 0)
    loss = train(model, optimizer, split.train, epochs=epochs, batch_size=64, seed=0)
    return model, optimizer, split, loss


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name):
    model, _, split, loss = trained(name)
    assert loss < 0.5
    right = model(split.test.images).argmax(1) == split.test.labels
    assert right.float().mean() > 0.9


def test_posterior_draws_have_the_posterior_moments():
    model, optimizer, split, _ = trained("bSAM", epochs=2)
    weight = model[3].weight
    draws = posterior_draws(model, optimizer, num_samples=2000, seed=1)
    draws = torch.stack([each["3.weight"] for each in draws])
    variance = 1 / (len(split.train.labels) * optimizer.state[weight]["s"])
    standardized = (draws - weight) / variance.sqrt()
    assert abs(standardized.mean()) < 5 / standardized.numel() ** 0.5
    assert abs(standardized.var() - 1) < 5 * (2 / standardized.numel()) ** 0.5
    torch.testing.assert_close(draws.var(0), variance, rtol=0.25, atol=0)


def test_sampled_probabilities_leave_the_mean_alone():
    model, optimizer, split, _ = trained("bSAM", epochs=2)
    before = [p.clone() for p in model.parameters()]
    predict = {"num_samples": 4, "seed": 1}
    probs = sampled_probabilities(model, optimizer, split.test.images, **predict)
    again = sampled_probabilities(model, optimizer, split.test.images, **predict)
    assert torch.equal(probs, again)
    torch.testing.assert_close(probs.sum(1), torch.ones(len(probs), dtype=torch.float64))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert isinstance(optimizer, bsam.BSAM)
