"""SAM's radius and the variance of relaxed Bayes; minima of SAM that were found without them."""

import math

import numpy as np
import pytest
import torch
from relaxation.losses import absolute, bump, logistic, softplus, square, times, two_examples
from scipy import optimize

from bsam.relaxation import sam_is_bayes, sam_radius, sam_variance

POINTS = [
    (logistic, [0.7], 0.3),
    (absolute, [1.2], 0.2),
    (bump, [0.6], 0.2),
    (two_examples, [0.8, 0.4], 0.1),
    (lambda t: softplus(t.square().sum(-1) - 1), [0.3, -0.5, 0.4], 0.05),
]


@pytest.mark.parametrize(("loss", "mean", "variance"), POINTS)
def test_radius_and_variance_are_inverses(loss, mean, variance):
    mean = torch.tensor(mean, dtype=torch.float64)
    rho = sam_radius(loss, mean, variance)
    assert rho > 0
    assert sam_variance(loss, mean, rho) == pytest.approx(variance, rel=1e-5)


@pytest.mark.parametrize(("loss", "mean", "variance"), POINTS)
def test_the_radius_is_v_times_the_slope_at_the_perturbed_point(loss, mean, variance):
    mean = torch.tensor(mean, dtype=torch.float64)
    rho = sam_radius(loss, mean, variance)
    v = sam_variance(loss, mean, rho)
    angles = torch.randn(20_000, len(mean), dtype=torch.float64)
    sphere = mean + rho * angles / angles.norm(dim=1, keepdim=True)
    best = sphere[loss(sphere).argmax()][None].requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(best).sum(), best)
    assert rho / slope.norm().item() == pytest.approx(v, rel=0.02)


@pytest.mark.parametrize("num_data", [1, 10, 1000])
def test_a_mean_loss_with_num_data_is_the_sum(num_data):
    mean = torch.tensor([0.8, 0.4], dtype=torch.float64)
    averaged = times(1 / num_data, two_examples)
    assert sam_radius(averaged, mean, 0.1, num_data=num_data) == pytest.approx(
        sam_radius(two_examples, mean, 0.1)
    )
    rho = 0.2
    assert sam_variance(averaged, mean, rho, num_data=num_data) == pytest.approx(
        sam_variance(two_examples, mean, rho), rel=1e-6
    )
    if num_data > 1:
        assert sam_variance(averaged, mean, rho) > 2 * sam_variance(two_examples, mean, rho)


def test_no_radius_where_the_loss_outgrows_the_penalty():
    with pytest.raises(ValueError, match=r"variance=1.0: has no radius.*try a smaller one"):
        sam_radius(square, 0.3, 1.0)


def test_no_variance_where_the_loss_is_largest_inside():
    with pytest.raises(ValueError, match=r"rho=0.5: the loss is largest inside this ball"):
        sam_variance(lambda t: -t.square().sum(-1), torch.tensor([0.1, 0.1]), 0.5)


# ------------------------------------------------------------------ minima of SAM, by scipy alone


def minimum_of_sam(loss, rho, decay, count, start):
    """Minimize sup over the ball of l(m + eps) + decay/2 |m|^2; the ball is points on circles."""
    if count == 1:
        ball = np.linspace(-rho, rho, 2001)[:, None]
    else:
        angles = np.linspace(0, 2 * np.pi, 1001)
        circle = np.stack([np.cos(angles), np.sin(angles)], 1)
        ball = np.concatenate([rho * circle, 0.5 * rho * circle[::10]])

    def objective(mean):
        values = loss(torch.from_numpy(mean + ball))
        return values.max().item() + decay / 2 * float(mean @ mean)

    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 2000}
    for _ in range(2):
        start = optimize.minimize(objective, start, method="Nelder-Mead", options=options).x
    return torch.from_numpy(start)


CONVERGED = [
    (times(20.0, logistic), 1, 0.1, 0.5, [1.0]),
    (times(5.0, logistic), 1, 0.2, 0.5, [1.0]),
    (lambda t: 3 * softplus(-t[..., 0] - 2 * t[..., 1]), 2, 0.1, 1.0, [0.5, 0.8]),
]


@pytest.mark.parametrize(("loss", "count", "rho", "decay", "start"), CONVERGED)
def test_a_minimum_of_sam_is_one_of_relaxed_bayes(loss, count, rho, decay, start):
    mean = minimum_of_sam(loss, rho, decay, count, np.array(start, dtype=float))
    result = sam_is_bayes(loss, mean, rho, weight_decay=decay)
    assert result.failures == ()
    assert result.stationarity < 1e-3
    assert result.alignment < 1e-2
    assert result.distance < 1e-3
    assert result.decay == decay
    assert 1 / (result.variance + 1 / result.prior_precision) == pytest.approx(decay)
    assert result.variance * decay == pytest.approx(rho / mean.norm().item(), rel=1e-2)


def test_with_the_mean_loss_the_decay_is_num_data_times_deltas():
    loss, count, rho, decay, start = CONVERGED[0]
    mean = minimum_of_sam(loss, rho, decay, count, np.array(start, dtype=float))
    whole = sam_is_bayes(loss, mean, rho, weight_decay=decay)
    part = sam_is_bayes(times(1 / 50, loss), mean, rho, weight_decay=decay / 50, num_data=50)
    assert part.variance == pytest.approx(whole.variance)
    assert part.decay == pytest.approx(whole.decay)
    assert part.failures == ()


def failing(words, result):
    assert any(words in failure for failure in result.failures), result.failures


def test_a_point_that_is_no_minimum_is_detected():
    failing("stationarity", sam_is_bayes(logistic, 1.5, 0.2, weight_decay=0.5))


def test_a_kink_with_two_maximizers_is_detected():
    """|theta| + decay: SAM ends at the origin, where both ends of the ball are equal."""
    result = sam_is_bayes(absolute, 1e-9, 0.3, weight_decay=0.1)
    failing("ties", result)
    assert result.ties == 2


def test_an_unbounded_supremum_is_detected():
    """A fourth power is bounded in any ball, and by no penalty."""
    result = sam_is_bayes(lambda t: 0.1 * (t[..., 0] - 3) ** 4, 1.5, 0.2, weight_decay=0.5)
    failing("excess", result)
    assert math.isinf(result.excess)


def test_a_decay_that_no_prior_has_is_detected():
    """V d' >= 1 where rho is as large as |m|."""
    result = sam_is_bayes(times(0.01, logistic), 0.3, 0.5, weight_decay=10.0)
    failing("v d' >= 1", result)
    assert math.isnan(result.distance)


def test_a_perturbation_that_is_no_maximum_of_the_penalized_loss_is_detected():
    """Curvature: v l'' at m + eps is rho l'' / l', here 3 rho / (m + rho)."""
    result = sam_is_bayes(lambda t: t[..., 0] ** 4, 0.3, 0.3, weight_decay=0.5)
    failing("curvature", result)
    assert result.curvature == pytest.approx(1.5, rel=1e-3)
