"""A run's folder: complete, resumed bit for bit, evaluated again to the same, honest in failure."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from short_runs import SETTINGS, short

import bsam
from bsam.experiments import runs
from bsam.experiments.comparison import probabilities
from bsam.experiments.data import digits
from bsam.experiments.evaluation import best_noise, best_temperature, isotropic, ways_of
from bsam.experiments.methods import METHODS
from bsam.experiments.models import mlp
from bsam.experiments.recipes import recipe, tuned
from bsam.experiments.shifts import SHIFTED
from bsam.experiments.training import train


def made(recipe, folder, stop_after=None):
    """Make a run, or stop it after so many epochs as a kill would."""
    runs.prepare(folder, recipe)
    steps = runs.run(recipe, folder, checkpoint_every=1)
    for epoch, _ in steps:
        if epoch == stop_after:
            steps.close()
            return None
    return runs.load(folder)


def same(a, b):
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        np.testing.assert_array_equal(array, b.arrays[name], err_msg=name)


available = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            bool(method.needs) and importlib.util.find_spec(method.needs) is None,
            reason=f"{method.needs} is not installed",
        ),
    )
    for name, method in METHODS.items()
]


@pytest.mark.parametrize("name", available)
def test_a_folder_holds_all_there_is(name, tmp_path):
    run = made(short(name), tmp_path)
    assert runs.read_recipe(tmp_path) == run.recipe == short(name)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["loss"] < lines[0]["loss"]
    environment = runs.read_environment(tmp_path)
    assert environment["torch"] == torch.__version__
    assert environment["bsam"] == bsam.__version__
    sampled = ways_of(name)[0] == "samples"
    assert (tmp_path / "posterior.safetensors").exists() == sampled
    steps = 2 * (718 // 64)
    assert run.evaluation["gradient_passes"] == steps * METHODS[name].gradients_per_step
    for way in ways_of(name):
        for test in (*SHIFTED, runs.UNKNOWN):
            probs = probabilities(run, way, test)
            assert probs.shape == (719, 10)
            np.testing.assert_allclose(probs.sum(1), 1)
    assert (run.arrays["labels"] == digits(0).test.labels.numpy()).all()
    assert ("diagnostics" in run.evaluation) == (name == "bSAM")


@pytest.mark.parametrize("name", ["bSAM", "SAM-Adam", "SGD"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(name, tmp_path):
    whole = made(short(name, epochs=3), tmp_path / "whole")
    assert made(short(name, epochs=3), tmp_path / "cut", stop_after=2) is None
    assert not runs.is_finished(tmp_path / "cut")
    with pytest.raises(ValueError, match="holds no finished run"):
        runs.load(tmp_path / "cut")
    resumed = made(short(name, epochs=3), tmp_path / "cut")
    same(whole, resumed)
    lines = [(f / "metrics.jsonl").read_text() for f in (tmp_path / "whole", tmp_path / "cut")]
    losses = [[json.loads(each)["loss"] for each in text.splitlines()] for text in lines]
    assert losses[0] == losses[1]


def test_the_same_recipe_gives_the_same_numbers(tmp_path):
    same(made(short("bSAM"), tmp_path / "a"), made(short("bSAM"), tmp_path / "b"))


def test_evaluated_again_it_is_the_same(tmp_path):
    before = made(short("bSAM"), tmp_path)
    (tmp_path / "predictions.npz").write_bytes(b"")
    runs.evaluate_again(tmp_path)
    after = runs.load(tmp_path)
    same(before, after)
    assert before.evaluation["diagnostics"] == after.evaluation["diagnostics"]


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    runs.prepare(tmp_path, short("SGD"))
    runs.prepare(tmp_path, short("SGD"))
    with pytest.raises(ValueError, match=r"other settings \(epochs differ\); name another folder"):
        runs.prepare(tmp_path, short("SGD", epochs=9))


def test_what_the_method_is_not_to_blame_for_is_an_error(tmp_path, monkeypatch):
    def disk_full(*_, **__):
        raise RuntimeError("no space left")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(RuntimeError, match="no space left"):
        made(short("SGD"), tmp_path)
    assert not runs.is_finished(tmp_path)


@pytest.mark.parametrize("name", ["SGD", "Adam-2x", "SAM"])
def test_weights_that_are_not_finite_are_a_failure(name, tmp_path):
    broken = short(name)._replace(settings={**SETTINGS[name], "lr": 1e20})
    run = made(broken, tmp_path)
    assert "failed" in run.evaluation
    with pytest.raises(ValueError, match=r"the run failed .*: there is nothing to predict with"):
        runs.evaluate_again(tmp_path)


def test_seconds_go_on_after_a_resume(tmp_path):
    made(short("SGD", epochs=3), tmp_path, stop_after=2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines[-1]["seconds"] = 100.0
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert made(short("SGD", epochs=3), tmp_path).evaluation["training_seconds"] > 100


def test_a_run_that_diverges_is_recorded(tmp_path):
    broken = short("bSAM")._replace(settings={**SETTINGS["bSAM"], "lr": 1e30})
    run = made(broken, tmp_path)
    assert "non-finite" in run.evaluation["failed"] or "finite" in run.evaluation["failed"]
    assert run.arrays == {}


@pytest.mark.parametrize("name", available)
def test_every_method_learns(name):
    split = digits(seed=0)
    torch.manual_seed(0)
    model = mlp(64, 32, 10)
    optimizer = METHODS[name].make(model, SETTINGS[name], len(split.train.labels), 0)
    train(model, optimizer, split.train, epochs=12, batch_size=64, seed=0)
    right = model(split.test.images).argmax(1) == split.test.labels
    assert right.float().mean() > 0.85


def test_recipes_have_what_the_search_found():
    found = tuned("digits")
    for name, method in METHODS.items():
        settings = found["methods"][name]["settings"]
        assert settings.keys() == method.search.keys()
        for key, value in settings.items():
            low, high = method.search[key]
            assert low <= value <= high
        made = recipe("digits", name, 4, epochs=10)
        assert made.settings == settings
        assert made.epochs == 10 * method.epochs


# ------------------------------------------------------------------ the cheap rivals


def trained():
    split = digits(seed=0)
    torch.manual_seed(0)
    model = mlp(64, 32, 10)
    optimizer = METHODS["SGD"].make(model, SETTINGS["SGD"], 718, 0)
    train(model, optimizer, split.train, epochs=10, batch_size=64, seed=0)
    return model, split


def nll(model, part, temperature):
    logits = model(part.images).double() / temperature
    return torch.nn.functional.cross_entropy(logits, part.labels).item()


def test_temperature_is_where_the_validation_nll_is_least():
    model, split = trained()
    best = best_temperature(model, split.validation)
    least = nll(model, split.validation, best)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert nll(model, split.validation, factor * best) > least
    with torch.no_grad():
        for p in model[3].parameters():
            p.mul_(3.0)
    assert best_temperature(model, split.validation) == pytest.approx(3 * best, rel=1e-3)


def test_noise_is_isotropic_and_chosen_on_validation_images():
    model, split = trained()
    posterior = isotropic(model, 0.05)
    for variance in posterior.variance.values():
        torch.testing.assert_close(variance, torch.full_like(variance, 0.0025))
    assert 1e-3 <= best_noise(model, split.validation, 4, seed=0) < 0.3
