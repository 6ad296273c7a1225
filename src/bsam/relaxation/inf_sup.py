r"""The relaxed loss as a convex problem in the paraboloids that lie above the loss.

    -f**(mu) = inf over (a, k) of
               sup_theta [ l - <a, theta> - k |theta|^2 ] + <a, m> + k (|m|^2 + P v)

The function of (a, k) is convex, a supremum of linear ones; k may have either sign. It is minimized
by the ellipsoid method, which needs only that: each step cuts the ellipsoid that holds the minimum
through its centre. The smallest value seen is an upper bound, and what the cuts leave open is a
lower bound, with no use of the linear programs of :mod:`bsam.relaxation.moments`.

References:
    Moellenhoff and Khan, ICLR 2023, section 3: f**(mu) = sup_lam <lam, mu> - f*(lam). Ellipsoid
    method: Groetschel, Lovasz and Schrijver, "Geometric Algorithms and Combinatorial Optimization",
    1988, chapter 3.
"""

import math

import torch
from torch import Tensor

from bsam.relaxation import search
from bsam.relaxation.arguments import Problem
from bsam.relaxation.growth import directions, growth, steepest
from bsam.relaxation.results import Value

TOLERANCE = 1e-7
MAX_STEPS = 4000
MAX_ROUNDS = 10
KEEP = 8
THOROUGH = 200
"""Local maxima that are refined at each step, and for the best paraboloid."""


def minimize_over_paraboloids(problem: Problem) -> Value:
    """Return -f** with a lower and an upper bound, for P of 1 or 2."""
    around = directions(problem)
    limits = growth(problem, around, warn=True)
    if (limits == math.inf).any():
        return Value(math.inf, method="grows faster than a square: no paraboloid lies above")
    bound = _Bound(problem, search.Cover.of(problem), around, limits)
    for _ in range(MAX_ROUNDS):
        lower, upper, best = _shrink(bound)
        checked, _ = bound.at(best, keep=THOROUGH)
        if checked <= upper + TOLERANCE * max(1.0, abs(upper)):
            break
    # Between the directions looked at the loss may outgrow the paraboloid: steepen it there too.
    outgrown = steepest(problem, best[problem.num_parameters :])[-1].clamp(min=0.0).max().item()
    upper = max(checked, upper) + outgrown * float(problem.second_moments.sum())
    lower = min(lower, upper)
    middle = (upper + lower) / 2
    return Value(middle, lower=lower, upper=upper, method="ellipsoid method over paraboloids")


def _shrink(bound: "_Bound") -> tuple[float, float, Tensor]:
    """Shrink an ellipsoid around the minimum; return both bounds and the best paraboloid seen."""
    ellipsoid = bound.ellipsoid()
    lower, upper, best = -math.inf, math.inf, ellipsoid.centre
    for _ in range(MAX_STEPS):
        value, cut = bound.at(ellipsoid.centre)
        width = ellipsoid.width(cut)
        if math.isfinite(value):
            if value < upper:
                upper, best = value, ellipsoid.centre
            lower = max(lower, value - width)
            if upper - lower <= TOLERANCE * max(1.0, abs(upper)):
                break
        ellipsoid.cut(cut, depth=(value - upper) / width if math.isfinite(value) else 0.0)
    return lower, upper, best


class _Bound:
    """The convex function of (a, k): the height at the moments of the paraboloid above the loss.

    It remembers all points that a search found, so that a search which misses the highest one does
    not make the function smaller than it was seen to be.
    """

    def __init__(
        self, problem: Problem, cover: search.Cover, directions: Tensor, limits: Tensor
    ) -> None:
        self.problem, self.cover = problem, cover
        self.directions, self.limits = directions, limits
        self.moments = torch.cat([torch.zeros_like(problem.mean), problem.second_moments])
        self.seen = torch.zeros(0, len(self.moments), dtype=torch.float64)
        self.seen_losses = torch.zeros(0, dtype=torch.float64)

    def at(self, paraboloid: Tensor, keep: int = KEEP) -> tuple[float, Tensor]:
        """Return the value and a subgradient; infinity and a separating direction outside."""
        count = self.problem.num_parameters
        outgrown = self.limits - self.problem.squares(self.directions) @ paraboloid[count:]
        worst = int(outgrown.argmax())
        if outgrown[worst] > 0.0:
            slope = self.problem.squares(self.directions[worst])
            return math.inf, torch.cat([torch.zeros(count, dtype=torch.float64), -slope])
        self._search(paraboloid, keep)
        heights = self.seen_losses - self.seen @ paraboloid
        highest = int(heights.argmax())
        value = float(heights[highest] + paraboloid @ self.moments)
        return value, self.moments - self.seen[highest]

    def ellipsoid(self) -> "_Ellipsoid":
        """Return a ball that holds the minimum: the loss around the mean bounds (a, k)."""
        count = self.problem.num_parameters
        steps = torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=torch.float64)
        axes = (math.sqrt(count) * torch.eye(count, dtype=torch.float64))[:, None]
        around = (axes * steps[:, None]).flatten(0, 1)
        losses = self.problem.at(torch.cat([around, torch.zeros(1, count, dtype=torch.float64)]))
        losses = losses[losses.isfinite()]  # minus infinity is allowed
        finite = self.limits[self.limits > -math.inf]
        steepest = float(finite.max()) if len(finite) else 0.0
        start = torch.cat([torch.zeros(count), torch.full_like(self.problem.second_moments, 1.0)])
        start[count:] = max(steepest, 0.0) + 1.0
        value, _ = self.at(start)
        spread = max(value - float(losses.min()), 1.0) + abs(steepest)
        return _Ellipsoid(start, 10.0 * (1 + count) * spread)

    def _search(self, paraboloid: Tensor, keep: int) -> None:
        """Add the points where the loss lies highest above a paraboloid to those seen."""
        count = self.problem.num_parameters

        def above(x: Tensor, losses: Tensor) -> Tensor:
            return losses - x @ paraboloid[:count] - self.problem.squares(x) @ paraboloid[count:]

        points = self.cover.highest(above, self.problem, keep=keep)
        statistics = torch.cat([points, self.problem.squares(points)], -1)
        self.seen = torch.cat([self.seen, statistics])
        self.seen_losses = torch.cat([self.seen_losses, self.problem.at(points)])


class _Ellipsoid:
    """The points z with (z - centre)^T shape^-1 (z - centre) <= 1."""

    def __init__(self, centre: Tensor, radius: float) -> None:
        self.centre = centre
        self.shape = radius**2 * torch.eye(len(centre), dtype=torch.float64)

    def width(self, cut: Tensor) -> float:
        """Return how much a linear function with this slope falls from centre to edge."""
        return math.sqrt(max(float(cut @ self.shape @ cut), 0.0))

    def cut(self, cut: Tensor, depth: float) -> None:
        """Keep the smallest ellipsoid around where <cut, z - centre> <= -depth * width."""
        n = len(self.centre)
        step = self.shape @ cut / self.width(cut)
        self.centre = self.centre - (1 + n * depth) / (n + 1) * step
        shrink = 2 * (1 + n * depth) / ((n + 1) * (1 + depth))
        grow = n * n / (n * n - 1) * (1 - depth * depth)
        self.shape = grow * (self.shape - shrink * torch.outer(step, step))
        self.shape = (self.shape + self.shape.T) / 2
