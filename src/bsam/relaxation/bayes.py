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
from bsam.relaxation.arguments import Problem, checked_mean, checked_variance, evaluated
from bsam.relaxation.ascent import ascend
from bsam.relaxation.results import Maximum, Value
from bsam.relaxation.supremum import max_loss

LOG_VARIANCES = np.linspace(math.log(1e-3), math.log(1e3), 49)
GRADIENT_TOLERANCE = 1e-9
DESCENTS = 3
"""From how many points of the grid a descent starts in one and two dimensions."""

ROUNDS = 3
"""How often a descent in more dimensions starts anew because the largest loss lies elsewhere."""


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
        A :class:`RelaxedBayesMinimum`. In one and two dimensions the best of several descents from
        a grid that covers four prior standard deviations around zero: a valley narrower than its
        spacing can be missed. Above, what a descent from ``mean`` reaches; the largest loss is
        looked for anew at its end. Where maximizers tie a descent can stop short of the minimum.

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
    starts = _coarse(problem, d)
    if not len(starts):
        return _minimum(problem, problem.mean, d)
    ends = [*starts, *(_descended(_at(problem, start), None, d) for start in starts)]
    best = min(ends, key=lambda mean: _objective(_at(problem, mean), d))
    return _minimum(problem, _simplex(problem, best, d), d)


def minimize_jointly(
    loss: Any, mean: Any, variance: Any, *, prior_precision: float = 1.0
) -> RelaxedBayesMinimum:
    """Minimize the relaxed Bayes objective over mean and isotropic variance of the site, P <= 2.

    With one smooth maximizer the derivative in v is -(P/2) (1/v - d') < 0, so that at a minimum
    several maximizers are tied, or the variance is the largest for which the supremum is finite, or
    the largest that is looked at: another problem than SAM's, where one maximizer is assumed.

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
        if not LOG_VARIANCES[0] <= z[-1] <= LOG_VARIANCES[-1]:
            return math.inf
        there = _at(problem, torch.from_numpy(z[:-1]), base * math.exp(z[-1]))
        return _objective(there, d)

    start = np.append(mean_there.numpy(), log_v)
    best = _nelder_mead(objective, start, np.full(len(start), 0.1), steps=400)
    variance_there = base * math.exp(best[-1])
    return _minimum(_at(problem, torch.from_numpy(best[:-1]), variance_there), None, d)


def _profile(problem: Problem, variance: float, d: float) -> tuple[float, Tensor] | None:
    there = _at(problem, problem.mean, variance)
    means = _coarse(there, d, fewer=7)
    if not len(means):
        return None
    return _objective(_at(problem, means[0], variance), d), means[0]


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


def _coarse(problem: Problem, d: float, fewer: int = 1) -> Tensor:
    """Return the best means of a grid around zero and the start; none if all are infinite."""
    if math.isinf(_supremum(problem)):
        return problem.mean.new_empty(0, problem.num_parameters)
    points, losses = search.Cover.of(problem).every(1 if problem.num_parameters == 1 else 4)
    theta, spread = problem.theta(points), problem.variance
    means = torch.cat([_means(problem, d)[::fewer], problem.mean[None]])
    values = torch.stack([(losses - _penalty(theta, mean, spread)).max() for mean in means])
    # Where sd is small no point of the cover is near: look around each mean too.
    for step in _nearby(problem.num_parameters):
        there = means + problem.sd * step
        values = torch.maximum(values, evaluated(problem.loss, there) - step.square().sum() / 2)
    values += torch.stack([torch.tensor(_prior_terms(mean, spread, d)) for mean in means])
    chosen = search.distinct(means, -values, tolerance=0.1 / math.sqrt(d))
    return means[chosen[:DESCENTS]]


def _penalty(theta: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return ((theta - mean).square() / variance).sum(-1) / 2


def _means(problem: Problem, d: float) -> Tensor:
    count = problem.num_parameters
    line = torch.linspace(-4.0, 4.0, 801 if count == 1 else 41, dtype=torch.float64) / math.sqrt(d)
    return torch.cartesian_prod(*[line] * count).reshape(-1, count)


def _nearby(num_parameters: int) -> Tensor:
    """Return steps in standard coordinates around a mean, shape (n, P)."""
    line = torch.linspace(-4.0, 4.0, 17, dtype=torch.float64)
    return torch.cartesian_prod(*[line] * num_parameters).reshape(-1, num_parameters)


def _simplex(problem: Problem, start: Tensor, d: float) -> Tensor:
    def objective(z: np.ndarray) -> float:
        return _objective(_at(problem, torch.from_numpy(z)), d)

    width = np.full(problem.num_parameters, 0.01 / d**0.5)
    return torch.from_numpy(_nelder_mead(objective, start.numpy(), width, steps=200))


def _nelder_mead(objective: Any, start: np.ndarray, width: np.ndarray, steps: int) -> np.ndarray:
    """Minimize without derivatives, which ties do not have; twice, from a fresh simplex."""
    for size in (width, width / 100):
        simplex = np.vstack([start, start + np.diag(size)])
        options_ = {"initial_simplex": simplex, "xatol": 1e-9, "fatol": 1e-12, "maxiter": steps}
        start = optimize.minimize(objective, start, method="Nelder-Mead", options=options_).x
    return start


def _descend(problem: Problem, d: float) -> RelaxedBayesMinimum:
    """Descend, with the maximizer in sight; where another is higher at the end, go on with it."""
    best = _minimum(problem, problem.mean, d)
    here, maximizer = best, torch.zeros(1, problem.num_parameters, dtype=torch.float64)
    for _ in range(ROUNDS):
        mean = _descended(_at(problem, here.mean), maximizer, d)
        here = _minimum(problem, mean, d)
        if not here.value < best.value:
            break
        best = here
        if len(here.maximizers):
            maximizer = (here.maximizers[:1] - mean) / problem.sd
    return best


def _descended(problem: Problem, maximizer: Tensor | None, d: float) -> Tensor:
    """Minimize by gradients: that of a supremum is the gradient at its maximizer."""
    decay = 1.0 / (problem.variance + 1.0 / d)
    if maximizer is None:
        found = _supremum(problem).maximizers[:1]
        maximizer = ((found if len(found) else problem.mean[None]) - problem.mean) / problem.sd
    state: dict[str, Tensor] = {"x": maximizer}

    def value_and_gradient(z: np.ndarray) -> tuple[float, np.ndarray]:
        there = _at(problem, torch.from_numpy(z.copy()))
        state["x"], value = _nearby_maximum(there, state["x"])
        theta = there.theta(state["x"]).requires_grad_(True)
        losses = there.loss(theta).sum()
        slope = torch.autograd.grad(losses, theta)[0] if losses.requires_grad else 0.0 * theta
        total = value + _prior_terms(there.mean, there.variance, d)
        return total, (slope.detach()[0].to(torch.float64) + decay * there.mean).numpy()

    return torch.from_numpy(
        optimize.minimize(
            value_and_gradient,
            problem.mean.numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500, "gtol": GRADIENT_TOLERANCE, "ftol": 1e-15},
        ).x
    )


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
