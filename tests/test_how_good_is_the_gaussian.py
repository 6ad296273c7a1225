"""The example runs, what it takes for exact is exact, and its theory holds."""

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "how_good_is_the_gaussian.py"
SEEDS = 4
LINEAR, LOGISTIC = slice(0, SEEDS), slice(SEEDS, 2 * SEEDS)


@pytest.fixture(scope="module")
def example():
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


@pytest.fixture(scope="module")
def data(example):
    return example.make_data(SEEDS)


@pytest.fixture(scope="module")
def exact(example, data):
    return example.exact_posterior(data)


@pytest.fixture(scope="module")
def best(example, data, exact):
    return example.best_diagonal(data, exact)


def diagonal_of(matrices):
    return matrices.diagonal(dim1=-2, dim2=-1)


def conjugate(data, row):
    """Mean and precision of linear regression's posterior, from the textbook's formula."""
    x, y = data.inputs[row].numpy(), data.targets[row].numpy()
    precision = x.T @ x + np.eye(2)
    return np.linalg.solve(precision, x.T @ y), precision


def test_quick_form_makes_table_picture_and_numbers(example, tmp_path, capsys):
    picture, numbers = tmp_path / "gaussian.png", tmp_path / "gaussian.json"
    example.main(["--quick", "--output", str(picture), "--json", str(numbers)])
    out = capsys.readouterr().out
    assert f"written: {picture}" in out
    read = json.loads(numbers.read_text())
    expected = {
        "exact", "best diagonal", "Laplace, full", "Laplace, diagonal", "bSAM, defaults",
        "bSAM, full batch", "bSAM, one example",
    }  # fmt: skip
    assert set(read["table"]) - {"IVON"} == expected
    for name, row in (read["table"] | read["sweep"]).items():
        lines = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert len(lines) == 2  # one for each problem
        for number, line in enumerate(lines):
            assert f"{np.mean(next(iter(row.values()))[2 * number :][:2]):.3f}±" in line
        assert all(len(values) == 4 for values in row.values())
        assert np.isfinite(list(row.values())).all()
    assert read["grid halved"] < 1e-8
    with Image.open(picture) as image:
        assert image.width == 1100
        assert len(image.convert("RGB").getcolors(10**6)) > 100


@pytest.mark.parametrize("wrong", [["--seeds", "1"], ["--steps", "5"], ["--output", "plot.xyz"]])
def test_refuses_wrong_options_before_training(example, wrong, capsys):
    with pytest.raises(SystemExit) as end:
        example.main(wrong)
    assert end.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_does_without_ivon(example, data, exact, monkeypatch, capsys):
    monkeypatch.setitem(example.fit.__globals__, "ivon", None)
    assert "IVON" not in example.fit(data, exact, 20)
    assert "pip install 'bsam[rivals]'" in capsys.readouterr().out


def test_gradient_is_that_of_the_energy(example, data):
    weights = torch.randn(2 * SEEDS, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(example.energy(data, weights.unsqueeze(1)).sum(), weights)
    everything = torch.arange(example.N).expand(2 * SEEDS, -1)
    mean = example.gradient(data, weights.detach(), everything)
    torch.testing.assert_close(example.N * mean + weights, slope)
    pieces = [example.gradient(data, weights.detach(), each) for each in everything.split(4, 1)]
    torch.testing.assert_close(torch.stack(pieces).mean(0), mean)


def test_linear_regression_agrees_with_the_conjugate_formulas(data, exact):
    for row in range(SEEDS):
        mean, precision = conjugate(data, row)
        np.testing.assert_allclose(exact.mean[row], mean, atol=1e-9)
        np.testing.assert_allclose(exact.covariance[row], np.linalg.inv(precision), atol=1e-9)
        x, y = data.inputs[row].numpy(), data.targets[row].numpy()
        marginal = np.eye(len(x)) + x @ x.T
        log_density = -(
            y @ np.linalg.solve(marginal, y) + np.linalg.slogdet(2 * np.pi * marginal)[1]
        )
        np.testing.assert_allclose(exact.log_evidence[row], log_density / 2, atol=1e-9)


def test_logistic_regression_agrees_with_another_grid(data, exact):
    for row in range(SEEDS, 2 * SEEDS):
        x, y = data.inputs[row].numpy(), data.targets[row].numpy()
        first = np.linspace(-8, 8, 401)
        w = np.stack(np.meshgrid(first, first, indexing="ij"), -1).reshape(-1, 2)
        log = -(w**2).sum(1) / 2 - np.log(2 * np.pi)
        for inputs, label in zip(x, y, strict=True):
            log -= np.logaddexp(0, (1 - 2 * label) * (w @ inputs))
        density = np.exp(log - log.max())
        mean = density @ w / density.sum()
        covariance = (w - mean).T @ (density[:, None] * (w - mean)) / density.sum()
        evidence = np.log(density.sum() * (first[1] - first[0]) ** 2) + log.max()
        np.testing.assert_allclose(exact.mean[row], mean, atol=1e-8)
        np.testing.assert_allclose(exact.covariance[row], covariance, atol=1e-8)
        np.testing.assert_allclose(exact.log_evidence[row], evidence, atol=1e-8)


def test_divergence_is_that_of_two_gaussians(example, data, exact):
    generator = np.random.default_rng(0)
    q_mean, q_sd = exact.mean + 0.1, torch.tensor(generator.uniform(0.05, 0.5, (2 * SEEDS, 2)))
    found = example.divergence(data, exact, q_mean, torch.diag_embed(q_sd))
    for row in range(SEEDS):
        mean, precision = conjugate(data, row)
        q = np.diag(q_sd[row].numpy() ** 2)
        off = q_mean[row].numpy() - mean
        logs = np.linalg.slogdet(precision)[1] + np.linalg.slogdet(q)[1]
        by_hand = (np.trace(precision @ q) + off @ precision @ off - 2 - logs) / 2
        np.testing.assert_allclose(found[row], by_hand, rtol=1e-9)


def test_best_diagonal_is_best(example, data, exact, best):
    mean, precision = best
    least = example.divergence(data, exact, mean, torch.diag_embed(precision.rsqrt()))
    for row in range(SEEDS):
        conjugate_mean, conjugate_precision = conjugate(data, row)
        np.testing.assert_allclose(mean[row], conjugate_mean, atol=1e-6)
        np.testing.assert_allclose(precision[row], np.diag(conjugate_precision), rtol=1e-6)
    center, full = example.laplace(data)
    laplace = example.divergence(data, exact, center, torch.diag_embed(diagonal_of(full).rsqrt()))
    assert (least <= laplace + 1e-9).all()
    assert (least < laplace - 1e-4)[LOGISTIC].all()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        step = 0.02 * torch.randn(2, 2 * SEEDS, 2, generator=generator, dtype=torch.float64)
        nearby = torch.diag_embed(precision.rsqrt() * step[0].exp())
        assert (example.divergence(data, exact, mean + step[1], nearby) > least).all()
    none = example.divergence(data, exact, center, torch.linalg.cholesky(full.inverse()))
    assert (none.abs() < 1e-9)[LINEAR].all()  # the full Laplace is exact
    assert (none > 1e-4)[LOGISTIC].all()


def test_predictions(example, data, exact, best):
    predicted = example.predict_with_points(data, exact.points, exact.shares)
    for row in range(SEEDS):
        mean, precision = conjugate(data, row)
        fresh = data.fresh[row].numpy()
        variance = 1 + (fresh * np.linalg.solve(precision, fresh.T).T).sum(1)
        np.testing.assert_allclose(predicted[0][row], fresh @ mean, atol=1e-8)
        np.testing.assert_allclose(predicted[1][row], variance, atol=1e-8)
    least = example.nll(data, predicted, predicted)
    entropy = (2 * math.pi * math.e * predicted[1]).log() / 2
    torch.testing.assert_close(least[LINEAR], entropy.mean(1)[LINEAR])
    # the best diagonal Gaussian by 500 draws against many points
    mean, precision = best
    by_draws = example.nll(data, example.predict(data, mean, precision, 500), predicted)
    off = exact.points - mean.unsqueeze(1)
    shares = (-(off.square() @ precision.unsqueeze(-1)).squeeze(-1) / 2).softmax(1)
    by_points = example.predict_with_points(data, exact.points, shares)
    by_points = example.nll(data, by_points, predicted)
    assert (by_points > least).all()
    torch.testing.assert_close(by_draws, by_points, rtol=0, atol=3e-4)


@pytest.mark.parametrize(("size", "count"), [(1, 3), (12, 3), (60, 1)])
def test_s_ends_where_theory_says(example, size, count):
    data = example.make_data(10)
    ((_, precision, moved),) = example.train_bsam(data, [example.SMALL], size, count, 1000)
    predicted = example.N * example.theory(data, size, example.SMALL["damping"])
    ratio = (precision / predicted).log()
    assert moved.mean().abs() < 0.06
    assert ratio[:10].mean().abs() < 0.08  # in s: 4 % in standard deviations
    assert ratio[10:].mean().abs() < 0.08
    # It is no accident: with the next size of sub-batch theory says something else.
    other = example.theory(data, {1: 4, 12: 4, 60: 12}[size], example.SMALL["damping"])
    assert (precision / (example.N * other)).log().mean().abs() > 0.09


def test_theory_on_the_way(example, data):
    """After few steps with a large beta2, s is still near where it started; theory says where."""
    setting = {"damping": 1e-3, "betas": (0.9, 0.999), "s_init": 5.0}
    ((_, precision, _),) = example.train_bsam(data, [setting], 60, 1, 300)
    predicted = example.N * example.theory(data, 60, steps=300, **setting)
    torch.testing.assert_close(precision, predicted, rtol=0.03, atol=0)
    assert (predicted > 60).all()
