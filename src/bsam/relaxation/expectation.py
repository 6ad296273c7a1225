"""The expected loss under a Gaussian: the side of Bayes."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import integrate, stats
from torch import Tensor

from bsam import options
from bsam.relaxation.arguments import Problem
from bsam.relaxation.results import Value

TAIL = 38.0
"""Standard deviations beyond which the density is zero in float64."""

BREAKS = (-TAIL, -16.0, *(0.25 * i for i in range(-32, 33)), 16.0, TAIL)
MAX_TENSOR_DIMENSION = 3
MAX_NODES = 1 << 21
SCRAMBLES = 16
FIRST_DRAWS = 64
MAX_DRAWS = 1 << 14
MAX_NUMBERS = 1 << 24
"""Coordinates of all draws together."""


def expected_loss(
    loss: Any, mean: Any, variance: Any, *, tolerance: float = 1e-6, seed: int = 0
) -> Value:
    r"""Return the expected loss :math:`E_q[\ell(\theta)]` under a Gaussian q = N(mean, variance).

    In one dimension by adaptive quadrature, which finds kinks and jumps that are farther
    apart than a fiftieth of a standard deviation; in two and three by
    Gauss-Hermite rules on a grid, with twice the nodes until two rules agree or there are two
    million nodes; above by scrambled Sobol points, twice as many until two standard errors over 16
    scrambles are below the tolerance, or there are a quarter of a million points.

    Args:
        loss: a function of a tensor (..., P) that gives (...).
        mean: m, shape (P,); a number if P is 1.
        variance: v > 0, a number for all coordinates or a tensor (P,).
        tolerance: wanted absolute error, relative where the value is larger than 1; positive.
        seed: of the scrambles; used from four dimensions on.

    Returns:
        A :class:`Value`: a float with ``error``, the estimated absolute error (two standard errors
        for Sobol points), and ``lower`` and ``upper`` that far below and above. The error may be
        larger than the tolerance: look at it.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed, or a loss that is NaN somewhere.

    References:
        R. Piessens et al., "QUADPACK", 1983; A. Owen, "Scrambling Sobol' and Niederreiter-Xing
        points", J. Complexity 14, 1998.

    Example:
        >>> from bsam import relaxation
        >>> value = relaxation.expected_loss(lambda theta: theta[..., 0].abs(), 0.5, 0.49)
        >>> round(value, 6), value.error < 1e-6
        (0.695236, True)
    """
    options.real("tolerance", tolerance, above=0.0, advice="try 1e-6")
    options.integer("seed", seed, below=2**63, advice="the default is 0")
    problem = Problem.of(loss, mean, variance)
    if problem.num_parameters == 1:
        return _by_quadrature(problem, tolerance)
    if problem.num_parameters <= MAX_TENSOR_DIMENSION:
        return _by_tensor_rule(problem, tolerance)
    return _by_sobol_points(problem, tolerance, seed)


def _by_quadrature(problem: Problem, tolerance: float) -> Value:
    """Integrate in standard x, piece by piece; the tails where the density is zero count zero."""
    infinite = sum(_divergence(problem, side) for side in (1.0, -1.0))
    if infinite != 0.0:
        return _estimate(infinite, 0.0, "grows faster than the density falls")
    value = error = 0.0
    share = min(tolerance, 1e-8) / len(BREAKS)
    for start, end in pairwise(BREAKS):
        piece, piece_error, *_ = integrate.quad(
            lambda x: _weighted(problem, x),
            start,
            end,
            epsabs=share,
            epsrel=1e-9,
            limit=500,
            full_output=1,
        )
        value, error = value + piece, error + piece_error
    return _estimate(value, error, "adaptive quadrature")


def _divergence(problem: Problem, side: float) -> float:
    """Return the infinite expectation of a loss that overflows while its product with q rises."""
    x = torch.arange(1.0, TAIL, dtype=torch.float64)
    losses = problem.at(side * x[:, None])
    overflow = losses.isinf().nonzero().flatten().tolist()
    if not overflow or overflow[0] < 2:
        return 0.0
    last = slice(overflow[0] - 2, overflow[0])
    before, at_end = (losses[last].abs().log() - x[last].square() / 2).tolist()
    return float(losses[overflow[0]]) if at_end > before else 0.0


def _weighted(problem: Problem, x: float) -> float:
    density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    loss = float(problem.at(torch.tensor([[x]], dtype=torch.float64))[0])
    if math.isnan(loss) and density > 1e-100:
        theta = float(problem.theta(torch.tensor([x], dtype=torch.float64)))
        raise ValueError(f"loss: is NaN at theta={theta:g}; it must be a number everywhere.")
    return loss * density if density > 1e-100 or abs(loss) < 1e200 else 0.0


def _by_tensor_rule(problem: Problem, tolerance: float) -> Value:
    count, value = 8, _tensor_rule(problem, 8)
    while True:
        count, before = 2 * count, value
        value = _tensor_rule(problem, count)
        # A rule of odd size has a node at the mean: two even ones can agree by symmetry.
        error = max(abs(value - before), abs(value - _tensor_rule(problem, count + 1)))
        if error <= tolerance * max(1.0, abs(value)) / 2 or not math.isfinite(error):
            break
        if (2 * count) ** problem.num_parameters > MAX_NODES or 2 * count > 256:
            break
    return _estimate(value, error, f"Gauss-Hermite rule with {count} nodes a dimension")


def _tensor_rule(problem: Problem, count: int) -> float:
    line, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(count))
    dimensions = problem.num_parameters
    points = torch.cartesian_prod(*[line] * dimensions)
    products = torch.cartesian_prod(*[weights / weights.sum()] * dimensions).prod(1)
    return float(_checked(problem.at(points)) @ products)


def _by_sobol_points(problem: Problem, tolerance: float, seed: int) -> Value:
    generators = [np.random.default_rng([seed, scramble]) for scramble in range(SCRAMBLES)]
    engines = [_engine(problem.num_parameters, generator) for generator in generators]
    sums, done, draws = np.zeros(SCRAMBLES), 0, FIRST_DRAWS
    most = max(FIRST_DRAWS, MAX_NUMBERS // (SCRAMBLES * problem.num_parameters))
    while True:
        sums += [_sum_over(problem, random(draws)) for random in engines]
        done += draws
        means = sums / done
        error = 2.0 * float(means.std(ddof=1)) / math.sqrt(SCRAMBLES)
        if error <= tolerance * max(1.0, abs(means.mean())) or 2 * done > min(most, MAX_DRAWS):
            break
        draws = done  # twice as many: Sobol points are balanced in powers of two
    return _estimate(float(means.mean()), error, f"{SCRAMBLES} scrambles of {done} Sobol points")


def _engine(num_parameters: int, generator: np.random.Generator) -> Callable[[int], np.ndarray]:
    if num_parameters <= stats.qmc.Sobol.MAXDIM:
        return stats.qmc.Sobol(num_parameters, rng=generator).random
    return lambda draws: generator.random((draws, num_parameters))  # plain draws beyond


def _sum_over(problem: Problem, uniform: np.ndarray) -> float:
    tiny = np.finfo(float).tiny
    normal = torch.from_numpy(stats.norm.ppf(np.clip(uniform, tiny, 1 - 1e-16)))
    return float(_checked(problem.at(normal)).sum())


def _checked(losses: Tensor) -> Tensor:
    if losses.isnan().any():
        raise ValueError("loss: is NaN at some theta; it must be a number everywhere.")
    return losses


def _estimate(value: float, error: float, method: str) -> Value:
    error = error if math.isfinite(value) else 0.0
    return Value(value, kind="estimate", lower=value - error, upper=value + error, method=method)
