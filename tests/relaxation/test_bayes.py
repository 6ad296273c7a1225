"""The relaxed Bayes objective and its minima, against formulas, brute force and perturbations."""

import math

import pytest
import torch
from relaxation.losses import M, absolute, bump, logistic, square, times, two_examples

from bsam import relaxation
from bsam.relaxation import (
    implied_posterior,
    minimize_jointly,
    minimize_over_mean,
    relaxed_bayes_objective,
)


def regression(theta):
    """A smooth loss of any number of parameters with a minimum off the origin."""
    target = torch.linspace(-1.0, 1.0, theta.shape[-1], dtype=torch.float64) + 0.3
    return torch.nn.functional.softplus(3 * (theta - target).square().sum(-1).sqrt() - 1)


def prior_terms(mean, variance, d):
    mean, variance = (torch.as_tensor(each, dtype=torch.float64) for each in (mean, variance))
    mean = mean.reshape(-1)
    decay = 1 / (variance.expand(len(mean)) + 1 / d)
    return float((decay * mean**2).sum() / 2 - (variance * decay).log().sum() / 2)


@pytest.mark.parametrize("d", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("loss", [absolute, logistic, bump])
def test_the_objective_is_its_formula(loss, d):
    mean, variance = 0.4, 0.3
    theta = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    penalized = loss(theta[:, None]) - (theta - mean).square() / (2 * variance)
    d_prime = 1 / (variance + 1 / d)
    wanted = penalized.max().item() + d_prime / 2 * mean**2 - math.log(variance * d_prime) / 2
    found = relaxed_bayes_objective(loss, mean, variance, prior_precision=d)
    assert found == pytest.approx(wanted, abs=1e-7)


def test_the_objective_of_two_variances():
    mean, v = torch.tensor(M, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    found = relaxed_bayes_objective(two_examples, mean, v, prior_precision=2.0)
    wanted = relaxation.max_loss(two_examples, mean, v) + prior_terms(mean, v, 2.0)
    assert found == pytest.approx(wanted)


def test_the_objective_is_infinite_where_the_supremum_is():
    assert math.isinf(relaxed_bayes_objective(square, 0.3, 1.0))


def test_the_posterior_is_its_formula():
    """Precision 1/v + d, mean (m/v) / (1/v + d)."""
    mean, v = torch.tensor(M, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    found_mean, found_variance = implied_posterior(mean, v, prior_precision=2.0)
    torch.testing.assert_close(found_variance, 1 / (1 / v + 2.0))
    torch.testing.assert_close(found_mean, (mean / v) / (1 / v + 2.0))


@pytest.mark.parametrize(
    ("loss", "count", "variance", "d"),
    [
        (logistic, 1, 0.25, 0.7),
        (absolute, 1, 0.25, 1.0),
        (times(3.0, logistic), 1, 0.1, 2.0),
        (two_examples, 2, [0.2, 0.1], 1.0),
        (regression, 5, 0.02, 1.0),
    ],
)
def test_a_minimum_over_the_mean(loss, count, variance, d):
    """No mean beside it is better; its one maximizer, SAM's point, is the mean of the posterior."""
    if isinstance(variance, list):
        variance = torch.tensor(variance, dtype=torch.float64)
    found = minimize_over_mean(loss, torch.full((count,), 0.1), variance, prior_precision=d)
    generator = torch.Generator().manual_seed(0)
    for size in (0.0, 1e-3, 0.05):
        step = size * torch.randn(count, generator=generator, dtype=torch.float64)
        for mean in (found.mean + step, found.mean - step):
            there = relaxed_bayes_objective(loss, mean, variance, prior_precision=d)
            assert there >= found.value - 1e-9
    wanted = implied_posterior(found.mean, found.variance, prior_precision=d)
    torch.testing.assert_close((found.posterior_mean, found.posterior_variance), wanted)
    if loss is absolute:
        assert found.is_tied
    else:
        assert not found.is_tied
        torch.testing.assert_close(found.maximizers[0], found.posterior_mean, atol=1e-5, rtol=1e-5)


def test_off_a_minimum_it_is_not():
    star = relaxation.max_loss(logistic, 1.5, 0.25).maximizers[0]
    assert (star - implied_posterior(1.5, 0.25)[0]).abs().item() > 0.1


def test_a_prior_of_great_precision_holds_the_mean_at_zero():
    found = minimize_over_mean(logistic, 1.0, 0.25, prior_precision=1e6)
    assert abs(found.posterior_mean.item()) < 1e-5


def test_the_joint_minimum_has_tied_maximizers():
    """Of the logistic loss at +-r, where the bound of Jaakkola and Jordan touches."""
    found = minimize_jointly(logistic, 0.0, 1.0)
    assert found.is_tied
    low, high = sorted(found.maximizers[:, 0].tolist())
    assert low == pytest.approx(-high, abs=1e-3)
    theta = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    losses = logistic(theta[:, None])
    for variance in found.variance.item() * torch.logspace(-1, 1, 41, dtype=torch.float64):
        means = torch.linspace(-4, 4, 161, dtype=torch.float64)
        penalized = losses - (theta - means[:, None]).square() / (2 * variance)
        decay = 1 / (variance + 1)
        values = penalized.max(1).values + decay / 2 * means**2 - (variance * decay).log() / 2
        assert values.min() >= found.value - 1e-4


def test_with_one_smooth_maximizer_the_derivative_in_the_variance_is_known():
    """-(P/2) (1/v - d') < 0 at a minimum over the mean, by the envelope theorem."""
    variance, step = 0.25, 1e-3
    values = [minimize_over_mean(logistic, 0.0, variance + s).value for s in (step, -step)]
    d_prime = 1 / (variance + 1)
    wanted = -(1 / variance - d_prime) / 2
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(wanted, rel=1e-3)


def test_where_all_is_infinite_there_is_no_minimum():
    assert math.isinf(minimize_over_mean(square, 0.1, 1.0).value)
    assert math.isinf(minimize_jointly(lambda t: t[..., 0] ** 4, 0.1, 1.0).value)
