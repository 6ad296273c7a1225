"""How a loss grows far out: the limit of l / |x|^2 along a direction.

Mass that escapes to infinity with a vanishing probability w = 1 / R^2 carries a second moment of 1
and an expected loss of lim l(R d) / R^2. So the limit enters the moment problem like an atom, and
where it is infinite no paraboloid lies above the loss and the relaxed loss is infinite.
"""

import math

import torch
from torch import Tensor

from bsam.relaxation.arguments import Problem, warn_of_overflow

EXPONENTS = torch.tensor([*range(-2, 13), 25, 50, 100], dtype=torch.float64)
RADII = 10.0**EXPONENTS
DIRECTIONS = 360
BEYOND = 1e20
"""No search goes so far: an overflow there, as of losses in float32, changes nothing."""
SUBQUADRATIC = 1.9
"""A loss that overflows far out, and grows with a smaller exponent before, has limit 0."""


def directions(problem: Problem) -> Tensor:
    """Return unit vectors in standard coordinates all around, shape (n, P), for P of 1 or 2.

    In the plane some are equally spaced in standard coordinates, some in theta.
    """
    if problem.num_parameters == 1:
        return torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    in_theta = circle(DIRECTIONS) / problem.sd
    return torch.cat([circle(DIRECTIONS), in_theta / in_theta.norm(dim=1, keepdim=True)])


def steepest(
    problem: Problem, quadratic: Tensor, *, warn: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return directions in which the loss outgrows a paraboloid most, its growth, and by how much.

    Args:
        problem: of one or two parameters.
        quadratic: factors of the quadratic statistics in standard coordinates.
        warn: of a loss that overflows.
    """

    def excess(unit: Tensor, limits: Tensor) -> Tensor:
        return limits - problem.squares(unit) @ quadratic

    found = directions(problem)
    limits = growth(problem, found, warn=warn)
    if problem.num_parameters > 1:
        starts = found[excess(found, limits).topk(4).indices]
        angles = torch.atan2(starts[:, 1], starts[:, 0])
        for width in 2 * math.pi / DIRECTIONS * 0.25 ** torch.arange(12, dtype=torch.float64):
            trial = angles[:, None] + width * torch.linspace(-1, 1, 9, dtype=torch.float64)
            unit = _unit(trial).flatten(0, 1)
            winner = excess(unit, growth(problem, unit)).reshape(trial.shape).argmax(1)
            angles = trial[torch.arange(len(angles)), winner]
        found = _unit(angles)
        limits = growth(problem, found)
    return found, limits, excess(found, limits)


def circle(count: int) -> Tensor:
    """Return unit vectors in the plane, the axes and diagonals among them, shape (count, 2)."""
    return _unit(torch.arange(count, dtype=torch.float64) * (2 * math.pi / count))


def _unit(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], -1)


def growth(problem: Problem, directions: Tensor, *, warn: bool = False) -> Tensor:
    """Return lim l(m + sd R d) / R^2 for unit vectors d, shape (n, P) -> (n,).

    ``inf`` where the loss grows faster than a square, ``-inf`` where it falls faster.
    """
    points = (RADII[:, None, None] * directions).flatten(0, 1)
    losses = problem.at(points).reshape(len(RADII), -1)
    limits = _limits_of_finite(*(losses / RADII.square()[:, None])[-3:])
    for index in (~losses[-3:].isfinite()).any(0).nonzero().flatten().tolist():
        limits[index], overflow = _limit_of_overflowing(losses[:, index].tolist())
        if warn and 0.0 < overflow < BEYOND:
            warn_of_overflow(overflow)
            warn = False
    return limits


def _limits_of_finite(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Return the limits of ratios at 1e25, 1e50, 1e100: those that go on growing have none."""
    change, before = third - second, (second - first).abs()
    settled = (change.abs() <= 1e-9 * second.abs().clamp(min=1.0)) | (change.abs() <= before / 2)
    return torch.where(settled | (change * third <= 0.0), third, math.inf * change.sign())


def _limit_of_overflowing(losses: list[float]) -> tuple[float, float]:
    """Return the limit, and the radius where the loss overflowed if it should not have, else 0."""
    radii = RADII.tolist()
    end = [math.isfinite(value) for value in losses].index(False)
    ratios = [loss / radius**2 for loss, radius in zip(losses[:end], radii, strict=False)]
    if end < 3:
        return losses[end] if losses[end] == -math.inf else math.inf, 0.0
    rises = ratios[-1] - ratios[-2]
    if losses[end] == math.inf and rises > 1e-3 * abs(ratios[-2]):
        return math.inf, 0.0
    if losses[end] == -math.inf and rises < -1e-3 * abs(ratios[-2]):
        return -math.inf, 0.0
    sizes = [max(abs(loss), 1e-300) for loss in losses[end - 2 : end]]
    exponent = math.log(sizes[1] / sizes[0]) / math.log(radii[end - 1] / radii[end - 2])
    return (0.0 if exponent < SUBQUADRATIC else ratios[-1]), radii[end]
