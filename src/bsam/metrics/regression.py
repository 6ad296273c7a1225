"""How well Gaussian predictions fit their targets."""

import math
from statistics import NormalDist
from typing import Any

from bsam.metrics.checks import checked_gaussian, checked_level


def gaussian_nll(mean: Any, variance: Any, targets: Any) -> float:
    r"""Return the mean negative log-density of the targets under Gaussian predictions, in nats.

    .. math:: \frac12 \log(2 \pi v) + \frac{(y - m)^2}{2 v}

    The variance is that of the target: of the predicted function plus that of the noise.

    Args:
        mean: predicted means m, any shape, such as (n,), finite.
        variance: predicted variances v > 0, finite; broadcast to the shape of mean, so a number
            serves all.
        targets: observed values y, the shape of mean, finite.

    Raises:
        ValueError: for shapes, variances or numbers that are not allowed.

    References:
        B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and scalable predictive uncertainty
        estimation using deep ensembles", NeurIPS 2017, equation 1.

    Example:
        >>> from bsam import metrics
        >>> round(metrics.gaussian_nll([0.0, 1.0], 1.0, [0.0, 3.0]), 4)
        1.9189
    """
    mean, variance, targets = checked_gaussian(mean, variance, targets)
    z = (targets - mean) / variance.sqrt()
    return 0.5 * (math.log(2 * math.pi) + variance.log() + z.square()).mean().item()


def interval_coverage(mean: Any, variance: Any, targets: Any, level: float = 0.95) -> float:
    r"""Return the fraction of targets inside the central intervals of the predictions, in [0, 1].

    An interval is :math:`m \pm q \sqrt v`, bounds included, with q the standard normal quantile of
    (1 + level) / 2, 1.96 for 0.95. For calibrated predictions the fraction is near the level.

    Args:
        mean: predicted means m, any shape, such as (n,), finite.
        variance: predicted variances v > 0, finite; broadcast to the shape of mean, so a number
            serves all.
        targets: observed values y, the shape of mean, finite.
        level: probability that an interval holds under its Gaussian, in (0, 1).

    Raises:
        TypeError: for a level that is no number.
        ValueError: for shapes, variances, numbers or a level that are not allowed.

    References:
        V. Kuleshov, N. Fenner and S. Ermon, "Accurate uncertainties for deep learning using
        calibrated regression", ICML 2018.

    Example:
        >>> from bsam import metrics
        >>> metrics.interval_coverage([0.0, 0.0], [1.0, 4.0], [3.0, 3.0])
        0.5
    """
    level = checked_level(level)
    mean, variance, targets = checked_gaussian(mean, variance, targets)
    # The lower tail keeps its digits where (1 + level) / 2 would round to one.
    quantile = -NormalDist().inv_cdf((1 - level) / 2)
    inside = (targets - mean).abs() <= quantile * variance.sqrt()
    return int(inside.sum()) / inside.numel()
