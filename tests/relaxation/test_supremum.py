"""The side of SAM: the largest loss, its maximizers, and the conjugate."""

import math

import pytest
import torch
from relaxation import laws
from relaxation.losses import M, absolute, double_well, logistic, square, times, two_examples, wave

from bsam import relaxation
from bsam.relaxation import conjugate, max_loss


def by_grid(loss, mean, variance):
    theta = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    values = loss(theta[:, None]) - (theta - mean).square() / (2 * variance)
    best = values.argmax()
    return values[best].item(), theta[best].item()


@pytest.mark.parametrize("loss", [absolute, logistic, wave, double_well], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("mean", "variance"), [(0.5, 0.3), (-1.2, 0.05), (0.1, 0.4)])
def test_it_is_what_a_fine_grid_finds(loss, mean, variance):
    found = max_loss(loss, mean, variance)
    value, place = by_grid(loss, mean, variance)
    assert found == pytest.approx(value, abs=1e-7)
    assert (found.maximizers[:, 0] - place).abs().min() < 1e-3
    assert found.kind == "value"


def test_the_value_of_a_size():
    """|theta| is largest v farther out: |m| + v / 2."""
    found = max_loss(absolute, -0.5, 0.49)
    assert found == pytest.approx(0.745)
    assert found.maximizers.tolist() == [[pytest.approx(-0.99, abs=1e-6)]]
    assert found.is_unique


def test_ties_are_told():
    found = max_loss(absolute, 0.0, 0.49)
    assert sorted(found.maximizers[:, 0].tolist()) == pytest.approx([-0.49, 0.49], abs=1e-6)
    assert not found.is_unique


@pytest.mark.parametrize(
    "loss",
    [lambda t: t[..., 0] ** 4, lambda t: t[..., 0].exp(), square, lambda t: -(t[..., 0] ** 3)],
)
def test_a_loss_that_outgrows_the_penalty_has_no_largest(loss):
    found = max_loss(loss, 0.5, 0.6)
    assert math.isinf(found)
    assert len(found.maximizers) == 0


def test_a_square_with_the_weight_of_the_penalty():
    """theta^2 / (2 v) less the penalty is linear: infinite unless m = 0, where it is 0."""
    assert math.isinf(max_loss(square, 0.5, 0.5))
    assert max_loss(square, 0.0, 0.5) == pytest.approx(0.0, abs=1e-9)


def test_variances_of_their_own():
    """Of b theta: sum b^2 v / 2 above l(m), at m + v b."""
    b = torch.tensor([1.0, -2.0], dtype=torch.float64)
    v = torch.tensor([0.3, 0.7], dtype=torch.float64)
    found = max_loss(lambda t: t @ b, torch.tensor(M, dtype=torch.float64), v)
    assert found == pytest.approx(1.3 + (0.3 + 4 * 0.7) / 2, abs=1e-8)
    assert found.maximizers[0].tolist() == pytest.approx([0.3 + 0.3, -0.5 - 1.4], abs=1e-4)


@pytest.mark.parametrize("mean", [0.5, [0.3, -0.5]])
def test_the_conjugate_is_the_supremum_of_its_definition(mean):
    """sup over Gaussians of <lam, mu> - f(mu), near point masses and wide ones."""
    loss = logistic if mean == 0.5 else two_examples
    m = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
    v = 0.5
    star = conjugate(loss, m, v)
    for centre in (m, star.maximizers[0]):
        values = []
        for width in (1e-8, 0.05, 0.5):
            expected = relaxation.expected_loss(loss, centre, width)
            squares = centre.square().sum().item() + len(m) * width
            values.append((m @ centre).item() / v - squares / (2 * v) + expected)
        assert max(values) <= star + 1e-6
    laws.same(values[0], star, 1e-6)


def test_the_conjugate_adds_a_constant_to_the_largest_loss():
    mean = torch.tensor(M, dtype=torch.float64)
    v = torch.tensor([0.3, 0.7], dtype=torch.float64)
    added = (mean.square() / (2 * v)).sum().item()
    assert conjugate(two_examples, mean, v) == pytest.approx(
        max_loss(two_examples, mean, v) + added
    )


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_scales(factor):
    """c |theta| at m with variance v / c is c times the same."""
    found = max_loss(times(factor, absolute), 0.5, 0.49 / factor)
    assert found == pytest.approx(factor * 0.745, rel=1e-7)


def test_many_parameters_give_a_lower_bound():
    torch.manual_seed(0)
    slope = torch.randn(7, dtype=torch.float64)
    found = max_loss(lambda t: t @ slope, torch.zeros(7), 0.3)
    assert found == pytest.approx(0.15 * slope.square().sum().item(), rel=1e-8)
    assert found.kind == "lower bound"
    assert math.isinf(found.upper)
    assert math.isinf(max_loss(lambda t: t.square().sum(-1), torch.ones(7), 0.6))


def test_a_plateau_has_its_value():
    found = max_loss(lambda t: (t[..., 0] > 0).double(), 0.5, 0.3)
    assert found == pytest.approx(1.0, abs=1e-12)
    assert found.maximizers[0].item() == pytest.approx(0.5)
