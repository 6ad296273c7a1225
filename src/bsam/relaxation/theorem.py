"""Theorem 1 on a trained model: is what SAM found a minimum of relaxed Bayes?"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy import optimize
from torch import Tensor

from bsam import gaussian, options
from bsam.relaxation.arguments import Problem, checked_mean
from bsam.relaxation.ball import ball_maximizers, gradient, unit
from bsam.relaxation.bayes import minimize_over_mean
from bsam.relaxation.radius import summed_loss, variance_of
from bsam.relaxation.supremum import max_loss

STARTS = 12
FAR_ROUNDS = 60


@dataclass(frozen=True)
class SamIsBayes:
    """How well a point that SAM found is one of relaxed Bayes, and whether theorem 1 applies.

    Attributes:
        rho: radius of SAM.
        variance: v of the site that goes with it.
        decay: d', the factor of ``|m|^2 / 2`` beside the sum of losses.
        prior_precision: d with d' = 1 / (v + 1/d); infinite or negative if v d' >= 1, where
            there is no such prior.
        stationarity: ``|grad l(m + eps) + d' m| / |d' m|``: is m a minimum of SAM at all? Where
            maximizers are tied the smallest over averages of their gradients.
        alignment: ``|eps + rho m / |m|| / rho``: at a minimum eps points towards the origin.
        curvature: v times the largest eigenvalue of the loss' Hessian at m + eps: below 1, eps is a
            local maximizer of the loss less its penalty too.
        ties: how many maximizers in the ball have the same loss, up to a relative 1e-6.
        excess: how much higher the penalized loss is at another eps, relatively; inf if it is
            unbounded. Above two parameters 0 means that none was found, from near and far.
        distance: ``|m' - m| / |m|`` for the minimum m' of relaxed Bayes that a descent from m
            reaches at the same v; nan if there is no such prior, or no minimum since the penalized
            loss is unbounded.
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
        """The assumptions of theorem 1 that do not hold here, in words; empty if all do.

        Stationarity counts as failed from .01 on (train longer, or mind that weight_decay is
        N delta beside a sum of losses), curvature from 1 on, excess from 1e-6 on.
        """
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
    ``mean`` at that v; if the assumptions hold the minimum is the same point. For a network trained
    on N examples with the mean loss and a weight decay delta, :func:`loss_of` gives the sum, so::

        loss = relaxation.loss_of(model, loss_fn, inputs, targets)
        relaxation.sam_is_bayes(loss, loss.mean, rho, weight_decay=len(inputs) * delta)

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
    summed, mean = summed_loss(loss, num_data), checked_mean(mean)
    Problem.of(summed, mean, 1.0)
    # d' = N delta is the precision of a prior, or d' itself where the loss is the sum.
    decay = gaussian.prior_precision(
        1.0 if num_data is None else float(num_data), float(weight_decay)
    )
    eps, ties = ball_maximizers(summed, mean, rho)
    variance = variance_of(rho, eps[0], gradient(summed, mean + eps[0]))
    inverse = 1.0 / decay - variance
    prior_precision = math.inf if inverse == 0.0 else 1.0 / inverse
    distance, arrived = _distance(summed, mean, variance, prior_precision)
    return SamIsBayes(
        rho=float(rho),
        variance=variance,
        decay=decay,
        prior_precision=prior_precision,
        stationarity=_stationarity(summed, mean, decay, eps[ties]),
        alignment=float((eps[0] + rho * mean / mean.norm().clamp(min=1e-300)).norm()) / rho,
        curvature=variance * _largest_eigenvalue(summed, mean + eps[0]),
        ties=len(ties),
        excess=_excess(summed, mean, variance, eps[0]),
        distance=distance,
        bayes_stationarity=arrived,
    )


def _stationarity(loss: Any, mean: Tensor, decay: float, eps: Tensor) -> float:
    """Return how far -d' m is from the nearest average of the gradients at these eps."""
    slopes = torch.stack([gradient(loss, mean + each) for each in eps])
    scale = 1e4 * float(slopes.norm())  # of the equation that the shares add up to 1
    sides = torch.cat([slopes.T, torch.full((1, len(eps)), scale, dtype=torch.float64)])
    target = torch.cat([-decay * mean, torch.tensor([scale], dtype=torch.float64)])
    shares = torch.from_numpy(optimize.nnls(sides.numpy(), target.numpy())[0])
    return _relative(shares / shares.sum() @ slopes + decay * mean, decay * mean)


def _relative(residual: Tensor, scale: Tensor) -> float:
    return float(residual.norm() / scale.norm().clamp(min=1e-300))


def _largest_eigenvalue(loss: Any, theta: Tensor, rounds: int = 300) -> float:
    """Return the largest eigenvalue of the Hessian, by power iterations.

    Shifted by a bound on the size of all, so that the largest is the one of largest size.
    """
    _, size = _power(loss, theta, 0.0, rounds)
    shift = 1.1 * size
    return _power(loss, theta, shift, rounds)[0] - shift


def _power(loss: Any, theta: Tensor, shift: float, rounds: int) -> tuple[float, float]:
    """Return the Rayleigh quotient of a shifted Hessian, and how much it stretches."""
    point = theta.detach()[None].requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(point).sum(), point, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(1, len(theta), generator=generator, dtype=torch.float64)
    value = size = 0.0
    for _ in range(rounds):
        direction = direction / direction.norm()
        if not slope.requires_grad:
            return shift, 0.0
        (product,) = torch.autograd.grad(slope, point, direction, retain_graph=True)
        product = product + shift * direction
        value, size = float((product * direction).sum()), float(product.norm())
        if not size > 0.0:
            break
        direction = product
    return value, size


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
    directions = unit(torch.cat([mean[None], -mean[None], draws, -draws]))
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
