r"""SAM's radius and the variance of relaxed Bayes: which rho goes with which sigma.

At a fixed sigma the two problems

    SAM             min_m  sup over |eps| <= rho of l(m + eps)           + (d'/2) |m|^2
    relaxed Bayes   min_m  sup over eps of l(m + eps) - |eps|^2 / (2 v)  + (d'/2) |m|^2

have the same stationary points if rho = v |grad l(m + eps)| at the maximizer: there
eps = v grad l(m + eps) solves both. l is the sum over examples; for a mean loss over N of them,
v = rho / (N |grad|).
"""

import math
from typing import Any

from torch import Tensor

from bsam import options
from bsam.relaxation.arguments import Problem, checked_mean
from bsam.relaxation.ball import ball_maximizers, gradient
from bsam.relaxation.networks import NetworkLoss
from bsam.relaxation.supremum import max_loss

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
    problem = Problem.of(summed_loss(loss, num_data), mean, variance)
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

    The other direction of :func:`sam_radius`, where the largest penalized loss at v is the one in
    this ball: :func:`sam_is_bayes` looks whether it is.

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
    summed, mean = summed_loss(loss, num_data), checked_mean(mean)
    Problem.of(summed, mean, 1.0)
    eps, _ = ball_maximizers(summed, mean, rho)
    return variance_of(rho, eps[0], gradient(summed, mean + eps[0]))


def summed_loss(loss: Any, num_data: float | None) -> Any:
    """Return the sum of losses, where the loss given is the mean over num_data examples."""
    if num_data is None or not callable(loss):
        return loss
    if isinstance(loss, NetworkLoss):
        raise ValueError(
            f"num_data={num_data!r}: must be left out with a loss of loss_of(), which is the sum "
            "over examples already; multiply a weight decay beside the mean loss by num_data."
        )
    scale = options.real("num_data", num_data, above=0.0, advice="pass len(train_set)")
    return lambda theta: scale * loss(theta)


def _require_number(problem: Problem, variance: Any) -> None:
    if not problem.isotropic:
        raise ValueError(
            f"variance={variance!r}: must be a number; SAM's ball has one radius for all."
        )


def variance_of(rho: float, eps: Tensor, slope: Tensor) -> float:
    """Return rho over the length of the gradient; refuse a maximum inside the ball."""
    length = float(slope.norm())
    if not length > FLAT or float(eps.norm()) < rho * (1.0 - 1e-6):
        raise ValueError(
            f"rho={rho!r}: the loss is largest inside this ball, where its gradient is zero, "
            "and no variance goes with it; try a smaller one."
        )
    return rho / length
