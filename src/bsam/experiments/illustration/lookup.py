"""A table of a loss, close enough that lines between its points stand for the loss."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bsam.experiments.illustration.ranges import Ranges
from bsam.relaxation.arguments import Loss, Problem
from bsam.relaxation.growth import growth

STEPS_A_DEVIATION, FEWEST, MOST = 8, 1600, 6000
"""How dense points are where the loss is seen, by the smallest standard deviation; their number."""

GROWTH, FARTHEST = 1.03, 1e7
"""Ratio of steps beyond; how far they go out."""

MOST_POINTS, ROUNDS, TOLERANCE = 8000, 12, 1e-5
"""Points of the whole table; halvings of a step; allowed deviation, of the loss' range in view."""


class Lookup(NamedTuple):
    """A loss at points, and how it grows beyond them.

    Attributes:
        theta: points, rising, shape (n,), float64.
        loss: its values there, finite.
        growth: the larger limit of l / theta^2 as theta goes to either infinity; may be infinite.
    """

    theta: Tensor
    loss: Tensor
    growth: float


def lookup(loss: Loss, mean: float, sd: float, shown: Ranges, argument: str = "loss") -> Lookup:
    """Tabulate a loss.

    Args:
        loss: of one parameter.
        mean: of a Gaussian in view.
        sd: its standard deviation.
        shown: what the page shows.
        argument: what messages call the loss.

    Returns:
        The table.

    Raises:
        ValueError: if the loss is not a number somewhere, or not finite in view.
    """
    theta = _points(shown)
    values = _values(loss, theta)
    _check(theta, values, shown, argument)
    theta, values = _refined(loss, theta, values, shown)
    finite = values.isfinite()
    problem = Problem.of(loss, mean, sd * sd)
    limits = growth(problem, torch.tensor([[1.0], [-1.0]], dtype=torch.float64)) / sd**2
    return Lookup(theta[finite], values[finite], float(limits.max()))


def _values(loss: Loss, theta: Tensor) -> Tensor:
    with torch.no_grad():
        return loss(theta[:, None])


def _points(shown: Ranges) -> Tensor:
    """Return points in equal steps where the loss is seen, then geometric out to far."""
    low, high = shown.view
    width = 4.0 * shown.sd[1]
    steps = STEPS_A_DEVIATION * (high - low + 2.0 * width) / shown.sd[0]
    count = math.ceil(min(max(FEWEST, steps), MOST))
    core = torch.linspace(low - width, high + width, count + 1, dtype=torch.float64)
    step = float(core[1] - core[0])
    farthest = FARTHEST * max(1.0, abs(low), abs(high))
    count = math.ceil(math.log(farthest / step * (GROWTH - 1.0) + 1.0) / math.log(GROWTH))
    powers = GROWTH ** torch.arange(1, count + 1, dtype=torch.float64)
    away = step * (powers - 1.0) / (GROWTH - 1.0)
    round_numbers = torch.arange(-20, 21, dtype=torch.float64) / 2.0  # poles and kinks like them
    core = core[(core[:, None] - round_numbers).abs().amin(1) > step / 100.0]
    return torch.cat([core[0] - away.flip(0), core, core[-1] + away, round_numbers]).unique()


def _check(theta: Tensor, values: Tensor, shown: Ranges, argument: str) -> None:
    """Refuse a loss that is not a number somewhere, or not finite where it is seen."""
    seen = (theta >= shown.view[0]) & (theta <= shown.view[1])
    wrong = values.isnan() | (seen & values.isinf())
    if wrong.any():
        where = theta[wrong][theta[wrong].abs().argmin()].item()
        value = values[theta == where].item()
        raise ValueError(
            f"{argument}: is {value} at theta = {where:.3g}: must be a number everywhere, finite "
            f"between {shown.view[0]:.3g} and {shown.view[1]:.3g}; use what is, such as "
            "log(1 + theta**2), sqrt(abs(theta)), softplus or sigmoid."
        )


def _refined(loss: Loss, theta: Tensor, values: Tensor, shown: Ranges) -> tuple[Tensor, Tensor]:
    """Halve steps within reach of the sliders until lines between points are close to the loss."""
    seen = values[(theta >= shown.view[0]) & (theta <= shown.view[1])]
    extent, middle_value = float(seen.max() - seen.min()), float(seen.median())
    margin = 8.0 * shown.sd[1]
    for _ in range(ROUNDS):
        middle = (theta[1:] + theta[:-1]) / 2
        between = _values(loss, middle)
        near = (middle > shown.view[0] - margin) & (middle < shown.view[1] + margin)
        beyond = 10.0 * ((between - middle_value).abs() - extent)
        allowed = TOLERANCE * beyond.clamp(min=extent) + 1e-12
        off = (between - (values[1:] + values[:-1]) / 2).abs() / allowed
        off = torch.where(near & between.isfinite(), off, 0.0)
        room = min(MOST_POINTS - len(theta), int((off > 1.0).sum()))
        worst = off.nan_to_num(0.0, posinf=0.0).topk(max(room, 0)).indices
        if not len(worst):
            break
        theta, order = torch.cat([theta, middle[worst]]).sort()
        values = torch.cat([values, between[worst]])[order]
    return theta, values
