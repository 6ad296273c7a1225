"""The expected loss in its three regimes, against closed forms, with errors that hold."""

import math

import pytest
import torch
from relaxation.losses import absolute, absolute_expected, bump, bump_expected, jump, upper_tail

from bsam.relaxation import expected_loss


def vector(count, value):
    return torch.full((count,), value, dtype=torch.float64)


def holds(found, wanted, slack=1e-9):
    assert abs(found - wanted) <= found.error + slack * max(1.0, abs(wanted)), (found, wanted)
    assert found.lower <= found <= found.upper
    assert found.kind == "estimate"


@pytest.mark.parametrize(
    ("loss", "mean", "variance", "wanted"),
    [
        (absolute, 0.5, 0.49, absolute_expected(0.5, 0.49)),
        (absolute, 1e3, 1e-6, 1e3),
        (absolute, 0.0, 1e6, 1e3 * math.sqrt(2 / math.pi)),
        (jump, 0.5, 0.49, upper_tail(1.5 / 0.7)),
        (lambda t: (t[..., 0] > 0.123).double(), 0.0, 1.0, upper_tail(0.123)),
        (lambda t: t[..., 0].exp(), 0.5, 0.49, math.exp(0.745)),
        (lambda t: (3 * t[..., 0]).exp(), 0.0, 1.0, math.exp(4.5)),
        (lambda t: t[..., 0] ** 4, 0.5, 0.49, 0.5**4 + 6 * 0.25 * 0.49 + 3 * 0.49**2),
        (lambda t: torch.cos(20 * t[..., 0]), 0.1, 1.0, math.cos(2) * math.exp(-200)),
        (lambda t: t[..., 0].abs().log(), 0.0, 1.0, -(0.5772156649015329 + math.log(2)) / 2),
    ],
)
def test_one_parameter(loss, mean, variance, wanted):
    holds(expected_loss(loss, mean, variance), wanted)


def test_a_feature_far_from_the_mean_is_not_overlooked():
    """A jump of size 1e8 at 6 standard deviations carries weight."""
    found = expected_loss(lambda t: 1e8 * (t[..., 0] > 6).double(), 0.0, 1.0)
    assert found == pytest.approx(1e8 * upper_tail(6), rel=1e-6)


def test_a_narrow_feature_is_found_between_the_nodes():
    width = 0.01
    found = expected_loss(lambda t: torch.exp(-(((t[..., 0] - 0.3) / width) ** 2)), 0.0, 1.0)
    variance = 1 + width**2 / 2
    wanted = width / math.sqrt(2 * variance) * math.exp(-0.09 / (2 * variance))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_what_overflows_where_there_is_no_mass_counts_nothing():
    found = expected_loss(lambda t: (100 * t[..., 0]).exp(), 0.0, 1e-4)
    assert found == pytest.approx(math.exp(0.5))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinite_expectation_is_infinite(sign):
    found = expected_loss(lambda t: sign * t[..., 0].square().exp(), 0.0, 1.0)
    assert found == sign * math.inf
    finite = expected_loss(lambda t: sign * (0.4 * t[..., 0].square()).exp(), 0.0, 1.0)
    assert finite == pytest.approx(sign / math.sqrt(0.2), rel=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_two_and_three_parameters(count):
    mean, v = vector(count, 0.3), 0.49
    one = 1 - bump_expected(0.3, v)
    holds(expected_loss(bump, mean, v), 1 - one**count, 1e-6)
    total = expected_loss(lambda t: t.sum(-1).exp(), mean, v)
    holds(total, math.exp(count * (0.3 + v / 2)), 1e-6)
    sizes = expected_loss(lambda t: t.abs().sum(-1), mean, v)
    holds(sizes, count * absolute_expected(0.3, v), 1e-3)


def test_variances_of_their_own_in_the_plane():
    variance = torch.tensor([0.25, 4.0], dtype=torch.float64)
    found = expected_loss(lambda t: t[..., 0] ** 2 + 10 * t[..., 1] ** 2, vector(2, 1.0), variance)
    holds(found, 1.25 + 50)


@pytest.mark.parametrize("count", [4, 10])
def test_many_parameters(count):
    mean, v = vector(count, 0.3), 0.2
    found = expected_loss(lambda t: t.abs().sum(-1), mean, v, tolerance=1e-3)
    wanted = count * absolute_expected(0.3, v)
    assert abs(found - wanted) <= 3 * found.error + 1e-9
    assert found.error < 1e-2
    squares = expected_loss(lambda t: t.square().sum(-1), mean, v, tolerance=1e-4)
    assert abs(squares - count * (0.09 + v)) <= 3 * squares.error


def test_the_error_of_sobol_points_holds_about_as_often_as_two_standard_errors_should():
    mean, v = vector(5, 0.1), 0.5
    wanted = 5 * absolute_expected(0.1, 0.5)
    hits = 0
    for seed in range(20):
        found = expected_loss(lambda t: t.abs().sum(-1), mean, v, tolerance=1e-2, seed=seed)
        hits += abs(found - wanted) <= found.error
    assert hits >= 15


def test_seeds():
    mean = vector(4, 0.0)

    def loss(theta):
        return theta.abs().max(-1).values

    first, again, other = (
        expected_loss(loss, mean, 1.0, tolerance=1e-2, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize("count", [1, 2, 5])
def test_nan_is_refused(count):
    with pytest.raises(ValueError, match="loss: is NaN"):
        expected_loss(lambda t: (t[..., 0] + 0.5).sqrt(), vector(count, 0.0), 1.0)
