r"""SAM's radius and the variance of relaxed Bayes: which rho goes with which sigma.

At a fixed sigma the two problems

    SAM             min_m  sup over |eps| <= rho of l(m + eps)           + (d'/2) |m|^2
    relaxed Bayes   min_m  sup over eps of l(m + eps) - |eps|^2 / (2 v)  + (d'/2) |m|^2

have the same stationary points if rho = v |grad l(m + eps)| at the maximizer: there
eps = v grad l(m + eps) solves both. l is the sum over examples; for a mean loss over N of them,
v = rho / (N |grad|).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy import optimize
from torch import Tensor

from bsam import gaussian, options
from bsam.relaxation.arguments import Problem, checked_mean
from bsam.relaxation.ascent import ascend
from bsam.relaxation.bayes import minimize_over_mean
from bsam.relaxation.supremum import max_loss

STARTS = 12
COARSE = 15
"""Iterations of the ascents that look where the maxima are."""
FINE = 4
"""How many of them are continued to the end, at most, inside the ball and on its surface."""
FAR_ROUNDS = 60
FLAT = 1e-12


def sam_radius(loss: Any, mean: Any, variance: Any, *, num_data: float | None = None) -> float:
    r"""Return the rho of SAM that goes with a variance: the length of the maximizing eps.

    .. math:: \rho = |\epsilon^*| = v \, |\nabla \ell(m + \epsilon^*)|, \qquad
              \epsilon^* = \arg\sup_\epsilon \, \ell(m + \epsilon) - |\epsilon|^2 / (2 v)

    Args:
        loss: a function of a tensor (..., P) that gives (...): the sum over examples, or their mean
            if num_data is given.
        mean: m, shape (P,); a number if P is 1.
        variance: v > 0 of the site, a number.
        num_data: number of examples N, if the loss is their mean.

    Returns:
        rho; of several maximizers that are tied the first one's, see :func:`max_loss`.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed, or if the supremum is infinite.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, theorem 1.

    Example:
        >>> from bsam import relaxation
        >>> round(relaxation.sam_radius(lambda theta: 2 * theta[..., 0].abs(), 1.0, 0.25), 6)
        0.5
    """
    problem = Problem.of(_summed(loss, num_data), mean, variance)
    _require_number(problem, variance)
    found = max_loss(problem.loss, mean, variance)
    if math.isinf(found) or not len(found.maximizers):
        raise ValueError(
            f"variance={variance!r}: has no radius: the loss outgrows |eps|^2 / (2 variance); "
            "try a smaller one."
        )
    return float((found.maximizers[0] - problem.mean).norm())


def sam_variance(loss: Any, mean: Any, rho: float, *, num_data: float | None = None) -> float:
    r"""Return the variance of relaxed Bayes that goes with a rho of SAM.

    .. math:: v = \rho \, / \, |\nabla \ell(m + \epsilon^*)|, \qquad
              \epsilon^* = \arg\max_{|\epsilon| \le \rho} \ell(m + \epsilon)

    The other direction of :func:`sam_radius`.

    Args:
        loss: a function of a tensor (..., P) that gives (...): the sum over examples, or their mean
            if num_data is given.
        mean: m, shape (P,); a number if P is 1.
        rho: radius of SAM, greater than 0.
        num_data: number of examples N, if the loss is their mean.

    Returns:
        v, the variance per parameter.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed, or where the loss is largest inside
            the ball, with gradient zero, so that no variance corresponds.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, theorem 1.

    Example:
        >>> from bsam import relaxation
        >>> round(relaxation.sam_variance(lambda theta: 2 * theta[..., 0].abs(), 1.0, 0.5), 6)
        0.25
    """
    options.real("rho", rho, above=0.0, advice="try 0.05")
    summed, mean = _summed(loss, num_data), checked_mean(mean)
    Problem.of(summed, mean, 1.0)
    eps, _ = ball_maximizers(summed, mean, rho)
    return _variance_of(rho, eps[0], gradient(summed, mean + eps[0]))


@dataclass(frozen=True)
class SamIsBayes:
    """How well a point that SAM found is one of relaxed Bayes, and whether theorem 1 applies.

    Attributes:
        rho: radius of SAM.
        variance: v of the site that goes with it.
        decay: d', the factor of |m|^2 / 2 beside the sum of losses.
        prior_precision: d with d' = 1 / (v + 1/d); infinite or negative if v d' >= 1, where
            there is no such prior.
        stationarity: |grad l(m + eps) + d' m| / |d' m|: is m a minimum of SAM at all? Where
            maximizers are tied the smallest over averages of their gradients.
        alignment: |eps + rho m / |m|| / rho: at a minimum eps points towards the origin.
        curvature: v times the largest eigenvalue of the loss' Hessian at m + eps: below 1, eps is a
            local maximizer of the loss less its penalty too.
        ties: how many maximizers in the ball have the same loss, up to a relative 1e-6.
        excess: how much higher the penalized loss is at another eps, relatively; inf if it is
            unbounded. Above two parameters 0 means that none was found, from near and far.
        distance: |m' - m| / |m| for the minimum m' of relaxed Bayes that a descent from m reaches
            at the same v; nan if there is no such prior, or no minimum since the penalized loss is
            unbounded.
        bayes_stationarity: the same as stationarity for m' and the maximizers of the penalized
            loss there: has that descent arrived? nan where distance is.
    """

    rho: float
    variance: float
    decay: float
    prior_precision: float
    stationarity: float
    alignment: float
    curvature: float
    ties: int
    excess: float
    distance: float
    bayes_stationarity: float = math.nan

    @property
    def failures(self) -> tuple[str, ...]:
        """The assumptions of theorem 1 that do not hold here, in words; empty if all do."""
        checks = {
            "the point is no minimum of SAM (stationarity)": self.stationarity < 1e-2,
            "several maximizers are tied (ties)": self.ties == 1,
            "eps is no maximum of the penalized loss (curvature)": self.curvature < 1.0,
            "the penalized loss is higher elsewhere (excess)": self.excess < 1e-6,
            "no prior has this weight decay: v d' >= 1": self.variance * self.decay < 1.0,
        }
        return tuple(words for words, holds in checks.items() if not holds)


def sam_is_bayes(
    loss: Any, mean: Any, rho: float, *, weight_decay: float, num_data: float | None = None
) -> SamIsBayes:
    r"""Measure how far a model that SAM trained is from a minimum of relaxed Bayes.

    Computes the variance v that goes with rho and minimizes the relaxed Bayes objective from
    ``mean`` at that v; if the assumptions hold the minimum is the same point.

    Args:
        loss: a function of a tensor (..., P) that gives (...): the sum over examples, or their mean
            if num_data is given. For a network see :func:`loss_of`, which gives the sum.
        mean: the trained parameters, shape (P,); a number if P is 1.
        rho: the radius that SAM was trained with, greater than 0.
        weight_decay: the factor delta of SAM's weight decay beside the *mean* loss if num_data is
            given (then d' = num_data delta), otherwise d' itself; greater than 0.
        num_data: number of examples N, if the loss is their mean.

    Returns:
        A :class:`SamIsBayes`, with the residuals and the assumptions that fail.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed, or where the loss is largest inside
            the ball, with gradient zero.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, theorem 1.

    Example:
        >>> import torch
        >>> from bsam import relaxation
        >>> logistic = lambda theta: torch.nn.functional.softplus(-theta[..., 0])
        >>> found = relaxation.minimize_over_mean(logistic, 0.0, 0.25)
        >>> rho = relaxation.sam_radius(logistic, found.mean, 0.25)
        >>> result = relaxation.sam_is_bayes(logistic, found.mean, rho, weight_decay=0.8)
        >>> round(result.variance, 4), result.distance < 1e-4, result.failures
        (0.25, True, ())
    """
    options.real("rho", rho, above=0.0, advice="try 0.05")
    options.real("weight_decay", weight_decay, above=0.0, advice="theorem 1 needs a prior")
    summed, mean = _summed(loss, num_data), checked_mean(mean)
    Problem.of(summed, mean, 1.0)
    # d' = N delta is the precision of a prior, or d' itself where the loss is the sum.
    decay = gaussian.prior_precision(
        1.0 if num_data is None else float(num_data), float(weight_decay)
    )
    eps, ties = ball_maximizers(summed, mean, rho)
    variance = _variance_of(rho, eps[0], gradient(summed, mean + eps[0]))
    inverse = 1.0 / decay - variance
    prior_precision = math.inf if inverse == 0.0 else 1.0 / inverse
    distance, arrived = _distance(summed, mean, variance, prior_precision)
    return SamIsBayes(
        rho=float(rho),
        variance=variance,
        decay=decay,
        prior_precision=prior_precision,
        stationarity=_stationarity(summed, mean, decay, eps[_tied(summed, mean, eps, rho)]),
        alignment=float((eps[0] + rho * mean / mean.norm().clamp(min=1e-300)).norm()) / rho,
        curvature=variance * _largest_eigenvalue(summed, mean + eps[0]),
        ties=ties,
        excess=_excess(summed, mean, variance, eps[0]),
        distance=distance,
        bayes_stationarity=arrived,
    )


def ball_maximizers(loss: Any, mean: Tensor, rho: float) -> tuple[Tensor, int]:
    """Return eps of largest loss with |eps| <= rho, shape (n, P), best first, and how many tie.

    Ascents from several starts, on the sphere and inside; in one dimension the two ends are tried.
    """
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(STARTS, len(mean), generator=generator, dtype=torch.float64)
    slope = gradient(loss, mean)
    starts = torch.cat([slope[None], draws]) if float(slope.norm()) > 0.0 else draws
    starts = _unit(torch.cat([starts, -starts[:1]]))
    eps = torch.stack([rho * starts[0], -rho * starts[0]])
    if len(mean) > 1:
        eps = torch.cat([eps, _climbed(loss, mean, rho, _onto_sphere, starts)])
    surface = float(loss(mean + eps).detach().max())
    eps = torch.cat([eps, _climbed(loss, mean, rho, _into_ball, starts / 2, surface)])
    values = loss(mean + eps).detach().to(torch.float64)
    eps = eps[values.argsort(descending=True, stable=True)]
    return eps, len(_tied(loss, mean, eps, rho))


def _tied(loss: Any, mean: Tensor, eps: Tensor, rho: float) -> list[int]:
    """Return which eps, sorted best first, share the highest loss and lie apart."""
    values = loss(mean + eps).detach().to(torch.float64)
    count = int((values >= values[0] - 1e-6 * values[0].abs().clamp(min=1e-6)).sum())
    return _apart(eps[:count], 0.05 * rho)


def _stationarity(loss: Any, mean: Tensor, decay: float, eps: Tensor) -> float:
    """Return how far -d' m is from the nearest average of the gradients at these eps."""
    slopes = torch.stack([gradient(loss, mean + each) for each in eps])
    scale = 1e4 * float(slopes.norm())  # of the equation that the shares add up to 1
    sides = torch.cat([slopes.T, torch.full((1, len(eps)), scale, dtype=torch.float64)])
    target = torch.cat([-decay * mean, torch.tensor([scale], dtype=torch.float64)])
    shares = torch.from_numpy(optimize.nnls(sides.numpy(), target.numpy())[0])
    return _relative(shares / shares.sum() @ slopes + decay * mean, decay * mean)


def _climbed(
    loss: Any, mean: Tensor, rho: float, place: Any, points: Tensor, surface: float = math.inf
) -> Tensor:
    """Climb a little from all points, then to the end from the highest that lie apart.

    Inside the ball those are left out that are on their way to its surface, which takes for ever.
    """

    def objective(z: Tensor) -> Tensor:
        return loss(mean + place(z, rho)).to(torch.float64)

    points, values = ascend(objective, points, COARSE)
    eps = place(points, rho)
    if surface < math.inf:
        within = (values > surface) | (eps.norm(dim=1) < 0.9 * rho)
        points, values, eps = points[within], values[within], eps[within]
    order = values.argsort(descending=True, stable=True)
    kept = order[_apart(eps[order], 0.3 * rho)[:FINE]]
    if not len(kept):
        return eps
    points, _ = ascend(objective, points[kept])
    return place(points, rho)


def gradient(loss: Any, theta: Tensor) -> Tensor:
    """Return the gradient of the loss at theta (P,), float64."""
    theta = theta.detach()[None].requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(theta).sum(), theta)
    return slope[0].to(torch.float64)


def _into_ball(z: Tensor, rho: float) -> Tensor:
    return rho * z / (1.0 + z.square().sum(-1, keepdim=True)).sqrt()


def _onto_sphere(z: Tensor, rho: float) -> Tensor:
    return rho * _unit(z)


def _unit(z: Tensor) -> Tensor:
    return z / z.norm(dim=-1, keepdim=True)


def _summed(loss: Any, num_data: float | None) -> Any:
    if num_data is None or not callable(loss):
        return loss
    scale = options.real("num_data", num_data, above=0.0, advice="pass len(train_set)")
    return lambda theta: scale * loss(theta)


def _require_number(problem: Problem, variance: Any) -> None:
    if not problem.isotropic:
        raise ValueError(
            f"variance={variance!r}: must be a number; SAM's ball has one radius for all."
        )


def _variance_of(rho: float, eps: Tensor, slope: Tensor) -> float:
    length = float(slope.norm())
    if not length > FLAT or float(eps.norm()) < rho * (1.0 - 1e-6):
        raise ValueError(
            f"rho={rho!r}: the loss is largest inside this ball, where its gradient is zero, "
            "and no variance goes with it; try a smaller one."
        )
    return rho / length


def _relative(residual: Tensor, scale: Tensor) -> float:
    return float(residual.norm() / scale.norm().clamp(min=1e-300))


def _apart(points: Tensor, reach: float) -> list[int]:
    """Return the numbers of points none of which is near an earlier one."""
    kept: list[int] = []
    for number, point in enumerate(points):
        if all(float((point - points[other]).norm()) > reach for other in kept):
            kept.append(number)
    return kept


def _largest_eigenvalue(loss: Any, theta: Tensor, rounds: int = 100) -> float:
    """Return the largest eigenvalue of the Hessian, by power iterations on a shifted one."""
    largest = _power(loss, theta, 0.0, rounds)
    if largest >= 0.0:
        return largest
    return _power(loss, theta, -largest, rounds) + largest


def _power(loss: Any, theta: Tensor, shift: float, rounds: int) -> float:
    point = theta.detach()[None].requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(point).sum(), point, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(1, len(theta), generator=generator, dtype=torch.float64)
    value = 0.0
    for _ in range(rounds):
        direction = direction / direction.norm()
        if not slope.requires_grad:
            return 0.0
        (product,) = torch.autograd.grad(slope, point, direction, retain_graph=True)
        product = product + shift * direction
        value = float((product * direction).sum())
        if not float(product.norm()) > 0.0:
            return 0.0
        direction = product
    return value


def _excess(loss: Any, mean: Tensor, variance: float, eps: Tensor) -> float:
    here = float(loss((mean + eps)[None]).detach()[0]) - float(eps.square().sum()) / (2 * variance)
    highest = float(max_loss(loss, mean, variance))
    if len(mean) > 2 and highest < math.inf:
        highest = max(highest, _highest_far_out(loss, mean, variance, float(eps.norm())))
    return max(highest - here, 0.0) / max(1.0, abs(here))


def _highest_far_out(loss: Any, mean: Tensor, variance: float, rho: float) -> float:
    """Return the highest penalized loss that climbs from 3 to 100 rho away reach.

    All at once: half way to v grad l(m + eps), again and again.
    """
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(STARTS, len(mean), generator=generator, dtype=torch.float64)
    directions = _unit(torch.cat([mean[None], -mean[None], draws, -draws]))
    eps = torch.cat([far * rho * directions for far in (3.0, 10.0, 30.0, 100.0)])
    highest = -math.inf
    for _ in range(FAR_ROUNDS):
        theta = (mean + eps).requires_grad_(True)
        losses = loss(theta)
        (slopes,) = torch.autograd.grad(losses.sum(), theta)
        penalized = losses.detach().to(torch.float64) - eps.square().sum(-1) / (2 * variance)
        highest = max(highest, float(penalized.nan_to_num(nan=-math.inf).max()))
        eps = (eps + variance * slopes.to(torch.float64)) / 2
    return highest


def _distance(
    loss: Any, mean: Tensor, variance: float, prior_precision: float
) -> tuple[float, float]:
    """Return how far the minimum of relaxed Bayes is, and how well it is stationary."""
    if not 0.0 < prior_precision < math.inf:
        return math.nan, math.nan
    found = minimize_over_mean(loss, mean, variance, prior_precision=prior_precision)
    if math.isinf(found.value) or not len(found.maximizers):
        return math.nan, math.nan
    decay = 1.0 / (variance + 1.0 / prior_precision)
    arrived = _stationarity(loss, found.mean, decay, found.maximizers - found.mean)
    return _relative(found.mean - mean, mean), arrived
