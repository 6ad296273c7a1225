r"""The relaxed Bayes objective, as a function of the site (m, v) whose posterior is q.

    sup_eps [ l(m + eps) - |eps|^2 / (2 v) ] + (d' / 2) |m|^2 - (P / 2) log(v d'),

with d' = 1 / (v + 1/d) and d the prior precision. The likelihood's part of the natural parameters
of q is (m/v, -1/(2v)), so q has precision 1/v + d and mean (m/v) / (1/v + d). Where the objective
is stationary in m, that mean is m + eps: SAM takes its gradient at the mean of the posterior.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from bsam import options
from bsam.relaxation import search
from bsam.relaxation.arguments import Problem, checked_mean, checked_variance
from bsam.relaxation.ascent import ascend
from bsam.relaxation.results import Maximum, Value
from bsam.relaxation.supremum import max_loss

LOG_VARIANCES = np.linspace(math.log(1e-3), math.log(1e3), 49)
GRADIENT_TOLERANCE = 1e-9


@dataclass(frozen=True)
class RelaxedBayesMinimum:
    """A minimum of the relaxed Bayes objective.

    Attributes:
        mean: m of the site, shape (P,).
        variance: v of the site, a number per coordinate, shape (P,).
        value: the objective; infinite if it is so everywhere.
        maximizers: points m + eps that attain the inner supremum, shape (n, P).
        posterior_mean: mean of q, shape (P,).
        posterior_variance: variance of q, shape (P,).
    """

    mean: Tensor
    variance: Tensor
    value: Value
    maximizers: Tensor
    posterior_mean: Tensor
    posterior_variance: Tensor

    @property
    def is_tied(self) -> bool:
        """Whether more than one point attains the supremum: then m need not be one of SAM's."""
        return len(self.maximizers) > 1


def relaxed_bayes_objective(
    loss: Any, mean: Any, variance: Any, *, prior_precision: float = 1.0
) -> Value:
    r"""Return the relaxed Bayes objective at a site with this mean and variance.

    .. math:: \sup_\epsilon \Big[ \ell(m + \epsilon) - \sum_i \frac{\epsilon_i^2}{2 v_i} \Big]
              + \frac12 \sum_i d_i' m_i^2 - \frac12 \sum_i \log(v_i d_i'),
              \qquad d_i' = \frac{1}{v_i + 1/d}

    For a fixed v its stationary points in m are those of SAM with weight decay d', see
    :func:`sam_radius`.

    Args:
        loss: the sum of the losses: a function of a tensor (..., P) that gives (...).
        mean: m of the site, shape (P,); a number if P is 1.
        variance: v > 0 of the site, a number or a tensor (P,).
        prior_precision: d > 0; the prior is N(0, I / d).

    Returns:
        A :class:`Value`, ``math.inf`` where the supremum is.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, theorem 1 and its
        proof.

    Example:
        >>> from bsam import relaxation
        >>> round(relaxation.relaxed_bayes_objective(lambda t: t[..., 0].abs(), 0.5, 0.49), 6)
        1.384956
    """
    d = _prior_precision(prior_precision)
    found = max_loss(loss, mean, variance)
    mean = checked_mean(mean)
    variance, _ = checked_variance(variance, len(mean))
    rest = _prior_terms(mean, variance, d)
    upper = found.upper + rest
    return Value(found + rest, kind=found.kind, upper=upper, method=found.method)


def implied_posterior(
    mean: Any, variance: Any, *, prior_precision: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""Return mean and variance of the posterior q that belongs to a site.

    .. math:: \frac{1}{v_q} = \frac{1}{v} + d, \qquad m_q = v_q \frac{m}{v}

    Args:
        mean: m of the site, shape (P,); a number if P is 1.
        variance: v > 0 of the site, a number or a tensor (P,).
        prior_precision: d > 0; the prior is N(0, I / d).

    Returns:
        The mean and the variance of q, each of shape (P,), float64.

    Raises:
        TypeError: for what is not a number.
        ValueError: for shapes or ranges that are not allowed.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, theorem 1.

    Example:
        >>> from bsam import relaxation
        >>> mean, variance = relaxation.implied_posterior(1.0, 1.0, prior_precision=1.0)
        >>> mean.item(), variance.item()
        (0.5, 0.5)
    """
    d = _prior_precision(prior_precision)
    mean = checked_mean(mean)
    variance, _ = checked_variance(variance, len(mean))
    posterior_variance = 1.0 / (1.0 / variance + d)
    return mean / variance * posterior_variance, posterior_variance


def minimize_over_mean(
    loss: Any, mean: Any, variance: Any, *, prior_precision: float = 1.0
) -> RelaxedBayesMinimum:
    """Minimize the relaxed Bayes objective over the mean of the site, at a fixed variance.

    Args:
        loss: the sum of the losses: a function of a tensor (..., P) that gives (...).
        mean: where to start, shape (P,); a number if P is 1.
        variance: v > 0 of the site, a number or a tensor (P,).
        prior_precision: d > 0; the prior is N(0, I / d).

    Returns:
        A :class:`RelaxedBayesMinimum`: the global one in one and two dimensions (within four prior
        standard deviations of zero), above the one that a descent from ``mean`` reaches.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, theorem 1.

    Example:
        >>> import torch
        >>> from bsam import relaxation
        >>> logistic = lambda theta: torch.nn.functional.softplus(-theta[..., 0])
        >>> found = relaxation.minimize_over_mean(logistic, 0.0, 0.25)
        >>> round(found.mean.item(), 4), found.is_tied
        (0.5013, False)
    """
    d = _prior_precision(prior_precision)
    problem = Problem.of(loss, mean, variance)
    if problem.num_parameters > search.GRID_DIMENSIONS:
        return _descend(problem, d)
    start = _coarse(problem, d)
    if start is None:
        return _minimum(problem, problem.mean, d)
    return _minimum(problem, _simplex(problem, start, d), d)


def minimize_jointly(
    loss: Any, mean: Any, variance: Any, *, prior_precision: float = 1.0
) -> RelaxedBayesMinimum:
    """Minimize the relaxed Bayes objective over mean and isotropic variance of the site, P <= 2.

    With one smooth maximizer the derivative in v is -(P/2) (1/v - d') < 0, so that at a minimum
    with a finite variance several maximizers are tied: another problem than SAM's, where one is
    assumed.

    Args:
        loss: the sum of the losses: a function of a tensor (..., P) that gives (...).
        mean: where to start, shape (P,); a number if P is 1.
        variance: where to start, a number > 0.
        prior_precision: d > 0; the prior is N(0, I / d).

    Returns:
        A :class:`RelaxedBayesMinimum`, of variances between a thousandth and a thousand times the
        given one.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed, or more than two parameters.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, theorem 1.

    Example:
        >>> import torch
        >>> from bsam import relaxation
        >>> logistic = lambda theta: torch.nn.functional.softplus(-theta[..., 0])
        >>> relaxation.minimize_jointly(logistic, 0.0, 1.0).is_tied
        True
    """
    d = _prior_precision(prior_precision)
    problem = Problem.of(loss, mean, variance)
    if problem.num_parameters > search.GRID_DIMENSIONS or not problem.isotropic:
        raise ValueError(
            f"mean: of {problem.num_parameters} parameters with variance={variance!r}: must be one "
            "or two with a number as variance; minimize_over_mean takes any."
        )
    base = float(problem.variance[0])
    profiles = ((_profile(problem, base * math.exp(v), d), v) for v in LOG_VARIANCES)
    scanned = [(*profile, v) for profile, v in profiles if profile]
    if not scanned:
        return _minimum(problem, None, d)
    _, mean_there, log_v = min(scanned, key=lambda one: one[0])

    def objective(z: np.ndarray) -> float:
        there = _at(problem, torch.from_numpy(z[:-1]), base * math.exp(z[-1]))
        return _objective(there, d)

    start = np.append(mean_there.numpy(), log_v)
    best = _nelder_mead(objective, start, np.full(len(start), 0.1))
    variance_there = base * math.exp(best[-1])
    return _minimum(_at(problem, torch.from_numpy(best[:-1]), variance_there), None, d)


def _profile(problem: Problem, variance: float, d: float) -> tuple[float, Tensor] | None:
    there = _at(problem, problem.mean, variance)
    mean = _coarse(there, d)
    if mean is None:
        return None
    return _objective(_at(problem, mean, variance), d), mean


def _at(problem: Problem, mean: Tensor, variance: float | None = None) -> Problem:
    given = problem.variance if variance is None else torch.full_like(problem.variance, variance)
    return Problem(problem.loss, mean, given, problem.isotropic)


def _supremum(problem: Problem) -> Maximum:
    variance = problem.variance[0] if problem.isotropic else problem.variance
    return max_loss(problem.loss, problem.mean, variance)


def _objective(problem: Problem, d: float) -> float:
    return _supremum(problem) + _prior_terms(problem.mean, problem.variance, d)


def _prior_terms(mean: Tensor, variance: Tensor, d: float) -> float:
    decay = 1.0 / (variance + 1.0 / d)
    return float((decay * mean.square()).sum() - (variance * decay).log().sum()) / 2


def _coarse(problem: Problem, d: float) -> Tensor | None:
    """Return the best mean of a grid around zero and the start; None if all are infinite."""
    if math.isinf(_supremum(problem)):
        return None
    points, losses = search.Cover.of(problem).every(1)
    theta = problem.theta(points)
    best, where = math.inf, problem.mean
    for mean in torch.cat([_means(problem, d), problem.mean[None]]):
        penalty = ((theta - mean).square() / problem.variance).sum(-1) / 2
        value = float((losses - penalty).max()) + _prior_terms(mean, problem.variance, d)
        if value < best:
            best, where = value, mean
    return where


def _means(problem: Problem, d: float) -> Tensor:
    count = problem.num_parameters
    line = torch.linspace(-4.0, 4.0, 161 if count == 1 else 17, dtype=torch.float64) / math.sqrt(d)
    return torch.cartesian_prod(*[line] * count).reshape(-1, count)


def _simplex(problem: Problem, start: Tensor, d: float) -> Tensor:
    def objective(z: np.ndarray) -> float:
        return _objective(_at(problem, torch.from_numpy(z)), d)

    width = np.full(problem.num_parameters, (0.05 if problem.num_parameters == 1 else 0.5) / d**0.5)
    return torch.from_numpy(_nelder_mead(objective, start.numpy(), width))


def _nelder_mead(objective: Any, start: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Minimize without derivatives, which ties do not have; twice, from a fresh simplex."""
    for size in (width, width / 100):
        simplex = np.vstack([start, start + np.diag(size)])
        options_ = {"initial_simplex": simplex, "xatol": 1e-9, "fatol": 1e-12, "maxiter": 400}
        start = optimize.minimize(objective, start, method="Nelder-Mead", options=options_).x
    return start


def _descend(problem: Problem, d: float) -> RelaxedBayesMinimum:
    """Minimize by gradients: that of a supremum is the gradient at its maximizer."""
    decay = 1.0 / (problem.variance + 1.0 / d)
    state = {"x": torch.zeros(1, problem.num_parameters, dtype=torch.float64)}

    def value_and_gradient(z: np.ndarray) -> tuple[float, np.ndarray]:
        there = _at(problem, torch.from_numpy(z.copy()))
        state["x"], value = _nearby_maximum(there, state["x"])
        theta = there.theta(state["x"]).requires_grad_(True)
        (slope,) = torch.autograd.grad(there.loss(theta).sum(), theta)
        total = value + _prior_terms(there.mean, there.variance, d)
        return total, (slope[0].to(torch.float64) + decay * there.mean).numpy()

    found = optimize.minimize(
        value_and_gradient,
        problem.mean.numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 500, "gtol": GRADIENT_TOLERANCE, "ftol": 1e-15},
    )
    return _minimum(_at(problem, torch.from_numpy(found.x)), None, d)


def _nearby_maximum(problem: Problem, start: Tensor) -> tuple[Tensor, float]:
    """Return the maximizer, in standard x, that an ascent from the last one reaches."""

    def below(x: Tensor) -> Tensor:
        losses = problem.loss(problem.theta(x)).to(torch.float64)
        return losses - x.square().sum(-1) / 2

    points, values = ascend(below, start)
    return points, float(values[0])


def _minimum(problem: Problem, mean: Tensor | None, d: float) -> RelaxedBayesMinimum:
    there = problem if mean is None else _at(problem, mean)
    found = _supremum(there)
    value = Value(found + _prior_terms(there.mean, there.variance, d), kind=found.kind)
    posterior = implied_posterior(there.mean, there.variance, prior_precision=d)
    return RelaxedBayesMinimum(there.mean, there.variance, value, found.maximizers, *posterior)


def _prior_precision(value: float) -> float:
    advice = "it is num_data times the weight decay"
    return options.real("prior_precision", value, above=0.0, advice=advice)
