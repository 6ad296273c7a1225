"""The relaxation, the expected loss and the worst cases of losses whose truth is known."""

import math

import pytest
import torch
from relaxation import laws
from relaxation.losses import LINE, PLANE, absolute, double_well, logistic

from bsam import relaxation

ALL = LINE + PLANE


@pytest.mark.parametrize("known", ALL, ids=str)
def test_the_relaxed_loss_and_its_worst_case(known):
    worst = relaxation.worst_case_distribution(*known.arguments)
    value = worst.value
    laws.same(value, known.relaxed)
    assert value.kind == "value"
    assert value.lower <= value <= value.upper
    laws.at_most(value.lower, known.relaxed)
    laws.at_most(known.relaxed, value.upper)
    laws.worst_case_has_the_moments(*known.arguments, worst)
    laws.worst_case_attains_its_value(*known.arguments, worst)
    laws.paraboloid_lies_above_and_touches(*known.arguments, worst)


@pytest.mark.parametrize("known", [LINE[0], LINE[4], PLANE[2]], ids=str)
def test_all_names_give_the_same_number(known):
    value = relaxation.relaxed_loss(*known.arguments)
    turned = relaxation.biconjugate(*known.arguments)
    assert (turned, turned.lower, turned.upper) == (-value, -value.upper, -value.lower)
    assert relaxation.worst_case_distribution(*known.arguments).value == value


@pytest.mark.parametrize("known", [one for one in ALL if one.expected is not None], ids=str)
def test_the_expected_loss(known):
    value = relaxation.expected_loss(*known.arguments)
    assert abs(value - known.expected) <= max(value.error, 1e-8 * max(1, abs(known.expected)))


@pytest.mark.parametrize(
    ("loss", "mean", "sd", "expected", "relaxed"),
    [
        (logistic, 0.5, 0.7, 0.529053, 0.532928),
        (logistic, -1.0, 1.0, 1.406856, 1.424728),
        (absolute, 0.5, 0.7, 0.695236, 0.860233),
        (double_well, 0.5, 0.7, 0.349527, 0.740000),
    ],
)
def test_the_printed_numbers(loss, mean, sd, expected, relaxed):
    assert round(relaxation.expected_loss(loss, mean, sd**2), 6) == expected
    assert relaxation.relaxed_loss(loss, mean, sd**2) == pytest.approx(relaxed, abs=1e-6)


def test_two_points_are_the_worst_for_the_logistic_loss():
    worst = relaxation.worst_case_distribution(logistic, 0.5, 0.49)
    r = math.sqrt(0.74)
    assert sorted(worst.atoms[:, 0].tolist()) == pytest.approx([-r, r], abs=1e-3)
    up = worst.weights[worst.atoms[:, 0] > 0].item()
    assert up == pytest.approx((1 + 0.5 / r) / 2, abs=1e-3)
    assert worst.attained


def test_cantelli_is_reached_from_the_other_side():
    """An atom on the jump's high side and one at m - v / (t - m), where t is 2."""
    worst = relaxation.worst_case_distribution(lambda t: (t[..., 0] >= 2).double(), 0.5, 0.49)
    atoms = sorted(worst.atoms[:, 0].tolist())
    assert atoms == pytest.approx([0.5 - 0.49 / 1.5, 2.0], abs=1e-5)


def test_mass_that_escapes_is_told():
    """(|theta| - 1)_+^2 with |m| <= 1: all of the variance goes to infinity."""

    def loss(theta):
        return (theta[..., 0].abs() - 1).clamp(min=0).square()

    worst = relaxation.worst_case_distribution(loss, 0.5, 0.49)
    assert not worst.attained
    assert worst.escaping.item() == pytest.approx(0.49, rel=1e-6)
    assert worst.atoms[:, 0].abs().max() <= 1.0
    assert worst.value == pytest.approx(0.49)


@pytest.mark.parametrize(
    "loss", [lambda t: t[..., 0] ** 4, lambda t: t[..., 0].exp(), lambda t: t[..., 0].abs() ** 2.1]
)
def test_faster_than_a_square_is_infinite(loss):
    for method in ("linear_program", "inf_sup", "transform", "atoms"):
        assert math.isinf(relaxation.relaxed_loss(loss, 0.5, 0.49, method=method))
    worst = relaxation.worst_case_distribution(loss, 0.5, 0.49)
    assert not worst.attained
    assert worst.paraboloid is None


def test_the_isotropic_family_gives_a_loss_of_one_coordinate_all_variance():
    two = torch.tensor([0.3, -0.5], dtype=torch.float64)
    assert relaxation.relaxed_loss(absolute, two, 0.49) == pytest.approx(
        relaxation.relaxed_loss(absolute, 0.3, 0.98), rel=1e-7
    )


def test_a_separable_loss_is_a_sum_in_the_diagonal_family_only():
    def loss(theta):
        return theta[..., 0].abs() + 2 * (1 - torch.exp(-theta[..., 1].square()))

    mean = torch.tensor([0.3, -0.5], dtype=torch.float64)
    variance = torch.tensor([0.49, 0.49], dtype=torch.float64)
    parts = math.sqrt(0.09 + 0.49) + 2 * (1 - math.exp(-0.25 - 0.49))
    assert relaxation.relaxed_loss(loss, mean, variance) == pytest.approx(parts, abs=1e-6)
    assert relaxation.relaxed_loss(loss, mean, 0.49) > parts + 1e-3
