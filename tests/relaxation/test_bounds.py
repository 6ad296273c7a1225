"""Many parameters: what is certain from below and from above, against the truth."""

import math

import pytest
import torch

from bsam import relaxation
from bsam.relaxation import relaxed_loss, worst_case_distribution
from bsam.relaxation.arguments import Problem


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def symmetric(count, seed=0):
    matrix = random(count, count, seed=seed)
    return (matrix + matrix.T) / 2


def inside(value, truth, tolerance=1e-6):
    scale = tolerance * max(1.0, abs(truth))
    assert value.lower <= truth + scale, f"lower bound {value.lower} above {truth}"
    assert value.upper >= truth - scale, f"upper bound {value.upper} below {truth}"


@pytest.mark.parametrize("count", [3, 8, 20])
def test_a_quadratic_in_the_isotropic_family(count):
    """P v / 2 times the largest eigenvalue: both bounds meet there."""
    hessian, mean, v = symmetric(count), random(count, seed=1), 0.3
    loss = relaxation.Quadratic(hessian, linear=random(count, seed=2), constant=0.7)
    truth = loss(mean).item() + count * v / 2 * torch.linalg.eigvalsh(hessian)[-1].item()
    assert loss.upper_bound(Problem.of(loss, mean, v)) >= truth - 1e-9
    value = relaxed_loss(loss, mean, v)
    inside(value, truth)
    assert value.upper == pytest.approx(truth, rel=1e-9)
    assert value == pytest.approx(truth, rel=1e-3)
    assert value.kind in ("value", "lower bound")


def largest_trace(hessian, v):
    """Brute force: S = R R^T with rows of length sqrt(v), from several starts."""

    def traces(rows):
        unit = rows / rows.norm(dim=-1, keepdim=True) * v.sqrt()[:, None]
        return (hessian * (unit @ unit.mT)).sum((-1, -2)) / 2

    rows = random(6, len(v), len(v)).requires_grad_(True)
    optimizer = torch.optim.LBFGS([rows], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -traces(rows).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return traces(rows).max().item()


@pytest.mark.parametrize("count", [3, 5])
def test_a_quadratic_in_the_diagonal_family(count):
    hessian, mean = symmetric(count, seed=5), random(count, seed=1)
    v = 0.1 + random(count, seed=3).square()
    loss = relaxation.Quadratic(hessian)
    value = relaxed_loss(loss, mean, v)
    truth = loss(mean).item() + largest_trace(hessian, v)
    inside(value, truth, 1e-5)
    assert value.upper == pytest.approx(truth, rel=1e-3)
    assert value.lower == pytest.approx(truth, rel=1e-2)


def test_a_diagonal_hessian_is_exact_in_the_diagonal_family():
    h, v = random(6, seed=1), 0.1 + random(6, seed=3).square()
    loss = relaxation.Quadratic(torch.diag(h))
    value = relaxed_loss(loss, torch.zeros(6), v)
    inside(value, (h * v).sum().item() / 2)
    assert value.upper == pytest.approx((h * v).sum().item() / 2, rel=1e-5)


@pytest.mark.parametrize("family", ["isotropic", "diagonal"])
def test_logistic_regression_in_the_plane_lies_between_its_bounds(family):
    loss = relaxation.LogisticRegression(random(6, 2), [1, -1, 1, 1, -1, 1])
    mean = torch.tensor([0.3, -0.5], dtype=torch.float64)
    v = 0.49 if family == "isotropic" else torch.tensor([0.49, 0.2], dtype=torch.float64)
    exact = relaxed_loss(loss, mean, v, method="linear_program")
    value = relaxed_loss(loss, mean, v, method="atoms")
    inside(value, exact)
    assert value.kind == "lower bound"
    assert value.upper < exact + 0.1
    assert value.lower > exact - 0.01


def test_one_example_of_logistic_regression_is_known_in_any_dimension():
    """Only |x| times the coordinate along x counts, which takes all of the variance P v."""
    x = random(5)
    loss = relaxation.LogisticRegression(x[None], [1.0])
    mean, v = random(5, seed=1), 0.2
    along, spread = (x @ mean).item(), 5 * v * x.square().sum().item()
    r = math.sqrt(along**2 + spread)
    truth = math.log1p(math.exp(-r)) + (r - along) / 2
    value = relaxed_loss(loss, mean, v)
    inside(value, truth)
    assert value.upper == pytest.approx(truth, abs=1e-5)
    assert value == pytest.approx(truth, abs=1e-3)


def test_a_lipschitz_loss():
    """|theta| at 0: its bound l(m) + L sqrt(P v) is the truth; anywhere it is above."""
    loss = relaxation.Lipschitz(lambda t: t.norm(dim=-1), 1.0)
    value = relaxed_loss(loss, torch.zeros(4), 0.25)
    assert (value.upper, value.lower) == (pytest.approx(1.0), pytest.approx(1.0, abs=1e-4))
    mean = random(6)
    value = relaxed_loss(loss, mean, 0.1)
    inside(value, math.sqrt(mean.square().sum().item() + 0.6))


def test_a_certificate_that_is_refuted_is_no_certificate():
    loss = relaxation.Lipschitz(lambda t: 2 * t.norm(dim=-1), 1.0)
    with pytest.raises(ValueError, match=r"Lipschitz gives 1 .*has (2|1\.99).*larger constant"):
        relaxed_loss(loss, torch.zeros(4), 0.25)


def test_without_a_certificate_there_is_no_upper_bound():
    value = relaxed_loss(lambda t: t.norm(dim=-1), torch.zeros(4), 0.25)
    assert value.kind == "lower bound"
    assert math.isinf(value.upper)
    assert value.lower == value


@pytest.mark.parametrize("family", ["isotropic", "diagonal"])
@pytest.mark.parametrize("count", [5, 20])
def test_atoms_have_the_moments_and_their_value(count, family):
    mean, v = random(count), 0.1 + random(count, seed=1).square()
    given = 0.3 if family == "isotropic" else v

    def loss(theta):
        return theta.norm(dim=-1) + torch.cos(theta[..., 0])

    worst = worst_case_distribution(loss, mean, given)
    assert worst.weights.sum().item() == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(worst.mean, mean, atol=1e-8, rtol=1e-8)
    spread = worst.second_moment - mean.square()
    if family == "isotropic":
        assert spread.sum().item() == pytest.approx(0.3 * count, rel=1e-8)
    else:
        torch.testing.assert_close(spread, v, atol=1e-8, rtol=1e-8)
    assert (worst.weights @ loss(worst.atoms)).item() == pytest.approx(worst.value, rel=1e-8)
    assert worst.attained


LOSSES = {
    "length": lambda t: t.norm(dim=-1),
    "logistic": lambda t: torch.nn.functional.softplus(t.sum(-1)),
    "saturating": lambda t: 1 - torch.exp(-t.square().sum(-1) / 5),
    "wave": lambda t: torch.sin(2 * t).sum(-1),
    "sizes": lambda t: t.abs().sum(-1),
}


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize("name", LOSSES)
def test_the_relaxed_is_above_the_expected(name, count):
    loss, mean = LOSSES[name], 0.3 * random(count)
    expected = relaxation.expected_loss(loss, mean, 0.4, tolerance=1e-3)
    assert relaxed_loss(loss, mean, 0.4) >= expected - expected.error


@pytest.mark.parametrize(
    "loss", [lambda t: (t**4).sum(-1), lambda t: (t.sum(-1)).exp(), lambda t: t[..., 0].abs() ** 3]
)
def test_faster_than_a_square_is_infinite(loss):
    value = relaxed_loss(loss, random(6), 0.2)
    assert math.isinf(value)
    assert not worst_case_distribution(loss, random(6), 0.2).attained
