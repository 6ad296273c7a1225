"""The largest value of loss minus paraboloid: where the expected loss turns into SAM's maximum.

The supremum over Gaussians of an expectation is reached at point masses, so the conjugate of the
expected negative loss is a supremum over theta (Moellenhoff and Khan, ICLR 2023, section 3):

    f*(lam) = sup_mu <lam, mu> - f(mu) = sup_theta [<lam, T(theta)> + l(theta)].
"""

import math
from typing import Any

import torch
from torch import Tensor

from bsam.relaxation import search
from bsam.relaxation.arguments import Problem
from bsam.relaxation.ascent import ascend
from bsam.relaxation.growth import growth, steepest
from bsam.relaxation.results import Maximum

FAR = (10.0, 100.0)
"""How many times farther than the Gaussian an ascent starts too: maxima may lie out there."""
TIE = 1e-7
"""Local maxima whose values differ by less, relatively, are tied."""


def max_loss(loss: Any, mean: Any, variance: Any) -> Maximum:
    r"""Return the largest loss around the mean, at a price for the distance: the side of SAM.

    .. math:: \sup_\epsilon \; \ell(m + \epsilon) - \tfrac{1}{2} \sum_i \epsilon_i^2 / v_i

    This is minus the Moreau envelope of the negative loss. It is infinite where the loss grows at
    least as fast as the penalty. It is not an upper bound of the expected loss;
    :func:`relaxed_loss` is.

    Args:
        loss: a function of a tensor (..., P) that gives (...).
        mean: m, shape (P,); a number if P is 1.
        variance: v > 0, a number for all coordinates or a tensor (P,).

    Returns:
        A :class:`Maximum`: a float, ``math.inf`` if there is no bound, with ``maximizers``, the
        points m + eps where it is attained. In one and two dimensions the search is global; above,
        it climbs from many starts and the value is a lower bound, as ``kind`` says.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, section 3: the
        supremum inside the conjugate of the expected loss.

    Example:
        >>> from bsam import relaxation
        >>> found = relaxation.max_loss(lambda theta: theta[..., 0].abs(), mean=0.5, variance=0.49)
        >>> round(found, 6), round(found.maximizers[0].item(), 6)
        (0.745, 0.99)
    """
    return _penalized(Problem.of(loss, mean, variance))


def conjugate(loss: Any, mean: Any, variance: Any) -> Maximum:
    r"""Return the conjugate f* of the expected negative loss, at natural parameters of a Gaussian.

    .. math:: f^*(\lambda) = \sup_\mu \langle \lambda, \mu \rangle - f(\mu)
              = \sup_\theta \; \langle \lambda, T(\theta) \rangle + \ell(\theta)
              = \sum_i \frac{m_i^2}{2 v_i}
                + \sup_\epsilon \; \ell(m + \epsilon) - \sum_i \frac{\epsilon_i^2}{2 v_i}

    with :math:`f(\mu) = E_q[-\ell(\theta)]`, :math:`\lambda = (m / v, -1 / (2 v))` and
    :math:`T(\theta) = (\theta, |\theta|^2)`, or :math:`(\theta, \theta^2)` by coordinate.

    Args:
        loss: a function of a tensor (..., P) that gives (...).
        mean: m, shape (P,); a number if P is 1.
        variance: v > 0, a number (the isotropic family) or a tensor (P,) (the diagonal one).

    Returns:
        A :class:`Maximum`, as :func:`max_loss` gives it.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, section 3.

    Example:
        >>> from bsam import relaxation
        >>> round(relaxation.conjugate(lambda theta: theta[..., 0].abs(), 0.5, 0.49), 6)
        1.000102
    """
    problem = Problem.of(loss, mean, variance)
    return moved(_penalized(problem), float((problem.mean.square() / problem.variance).sum()) / 2)


def _penalized(problem: Problem) -> Maximum:
    """Return what :func:`max_loss` does, for what is checked already."""
    halves = torch.full_like(problem.second_moments, 0.5)
    return supremum(problem, torch.zeros_like(problem.mean), halves)


def supremum(problem: Problem, linear: Tensor, quadratic: Tensor) -> Maximum:
    """Return sup over standard x of loss - <linear, x> - <quadratic, squares(x)>."""
    if problem.num_parameters > search.GRID_DIMENSIONS:
        return _by_ascent(problem, linear, quadratic)

    def below(x: Tensor, losses: Tensor) -> Tensor:
        slope, penalty = x @ linear, problem.squares(x) @ quadratic
        size = losses.abs() + slope.abs() + penalty.abs()
        return losses - slope - penalty - search.ROUNDING * size

    if _outgrows(problem, quadratic):
        return infinite(problem, "the loss outgrows the penalty far out")
    cover = search.Cover.of(problem)
    points = cover.highest(below, problem)
    values = below(points, problem.at(points))
    if _rises_far_out(points[0], values[0], below, problem):
        return infinite(problem, "rises without bound far out")
    return _maximum(problem, points, values, "value", "search over the whole space")


def infinite(problem: Problem, why: str) -> Maximum:
    """Return an infinite supremum, which no point attains."""
    found = Maximum(math.inf, method=why)
    found.maximizers = problem.mean.new_empty(0, problem.num_parameters)
    return found


def moved(found: Maximum, by: float) -> Maximum:
    """Return the same maximum with a constant added."""
    result = Maximum(found + by, kind=found.kind, upper=found.upper + by, method=found.method)
    result.maximizers = found.maximizers
    return result


def _outgrows(problem: Problem, quadratic: Tensor) -> bool:
    excess = steepest(problem, quadratic, warn=True)[-1]
    return bool((excess > 1e-9 * (1.0 + quadratic.abs().max())).any())


def _rises_far_out(best: Tensor, value: Tensor, below: search.Change, problem: Problem) -> bool:
    """Whether the best point lies at the end of the search and its ray rises more than a little."""
    if best.norm() < search.FARTHEST / 2:
        return False
    nearer = best[None] / 1e3
    rise = value - below(nearer, problem.at(nearer))[0]
    return bool(rise > 1e-2 * (1.0 + value.abs()))


def _maximum(problem: Problem, points: Tensor, values: Tensor, kind: Any, method: str) -> Maximum:
    best = values.max()
    tied = (values >= best - TIE * best.abs().clamp(min=1.0)) & (
        points.norm(dim=1) < search.FARTHEST / 2
    )
    points, values = points[tied], values[tied]
    chosen = search.distinct(points, values, tolerance=1e-3)
    upper = best.item() if kind == "value" else math.inf
    found = Maximum(best.item(), kind=kind, upper=upper, method=method)
    found.maximizers = problem.theta(points[chosen])
    return found


def _by_ascent(problem: Problem, linear: Tensor, quadratic: Tensor) -> Maximum:
    def objective(x: Tensor) -> Tensor:
        losses = problem.loss(problem.theta(x)).to(torch.float64)
        return losses - x @ linear - problem.squares(x) @ quadratic

    starts = _starts(problem, objective)
    points, values = ascend(objective, starts)
    finite = values.isfinite() & points.isfinite().all(1)
    ways = torch.cat([points[finite], starts, torch.eye(problem.num_parameters)[:8]])
    ways = ways[ways.norm(dim=1) > 0]
    unit = ways / ways.norm(dim=1, keepdim=True)
    unit = torch.cat([unit, -unit])
    excess = growth(problem, unit, warn=True) - problem.squares(unit) @ quadratic
    if (excess > 1e-9 * (1.0 + quadratic.abs().max())).any() or not finite.any():
        return infinite(problem, "the loss outgrows the penalty in some direction")
    return _maximum(
        problem, points[finite], values[finite], "lower bound", "ascents from several starts"
    )


def _starts(problem: Problem, objective: search.Objective, count: int = 16) -> Tensor:
    """Return the mean, steps along the gradient, draws of the Gaussian, and some far out."""
    origin = torch.zeros(1, problem.num_parameters, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(objective(origin).sum(), origin)
    slope = slope.nan_to_num(nan=0.0)  # as of a norm at zero
    step = slope / slope.norm().clamp(min=1e-300) * math.sqrt(problem.num_parameters)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(count, problem.num_parameters, generator=generator, dtype=torch.float64)
    near = torch.cat([origin.detach(), step / 10, -step / 10, step, -step, draws])
    far = torch.cat([step, -step, draws[:4]])
    return torch.cat([near, *(reach * far for reach in FAR)])
