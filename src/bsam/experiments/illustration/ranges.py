"""What pictures of one loss show: ends and steps of axes and sliders."""

import math
from typing import NamedTuple

SMALLEST_SD = 14.0
"""The slider goes down to about this part of the standard deviation."""


class Ranges(NamedTuple):
    """Ends and steps of axes and sliders.

    Attributes:
        mean: lowest and highest mean.
        mean_step: of the slider; the mean that was asked for is on its grid.
        sd: lowest and highest standard deviation.
        sd_step: likewise.
        view: ends of the axis of theta.
    """

    mean: tuple[float, float]
    mean_step: float
    sd: tuple[float, float]
    sd_step: float
    view: tuple[float, float]


def ranges(mean: float, sd: float) -> Ranges:
    """Return ranges that show a Gaussian and what is around it, and 0 if that is near.

    Args:
        mean: of the Gaussian.
        sd: its standard deviation.
    """
    reach = max(4.0 * sd, min(3.0, 40.0 * sd))
    near = abs(mean) <= 2.0 * reach
    low, high = (min(-reach, mean - reach), max(reach, mean + reach)) if near else (
        mean - reach, mean + reach,
    )  # fmt: skip
    step, sd_step = _round_below(reach / 60.0), _round_below(sd / SMALLEST_SD)
    below, above = math.ceil((mean - low) / step), math.ceil((high - mean) / step)
    down = math.floor((sd - sd / SMALLEST_SD) / sd_step)
    means = (mean - below * step, mean + above * step)
    margin = 2.0 * sd
    return Ranges(
        mean=means,
        mean_step=step,
        sd=(sd - down * sd_step, sd + max(down, 1) * 2 * sd_step),
        sd_step=sd_step,
        view=(means[0] - margin, means[1] + margin),
    )


def _round_below(value: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= value * 1.000001)
