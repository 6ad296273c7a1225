"""Global maximization over standard coordinates: candidates everywhere, then local refinement.

In one and two dimensions the candidates cover the plane densely near the Gaussian and near the
origin, and geometrically out to a million standard deviations, so that every feature which carries
weight in a moment problem has candidates beside it. In higher dimension there is no such cover, and
ascents from many starts give local maxima.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor

from bsam.relaxation.arguments import Problem
from bsam.relaxation.growth import circle

GRID_DIMENSIONS = 2
"""The largest P that candidates cover."""

FARTHEST = 1e6
ROUNDING = 8 * torch.finfo(torch.float64).eps

Objective = Callable[[Tensor], Tensor]
"""A function of points x (n, P) that gives values (n,)."""


Change = Callable[[Tensor, Tensor], Tensor]
"""Gives the objective (...) from points x (..., P) and the loss there (...)."""


@dataclass(frozen=True)
class Cover:
    """Points everywhere, with the loss at them; neighbours in a grid are neighbours in space.

    Attributes:
        grids: points x, each of shape (..., P).
        losses: the loss at them, each of shape (...); minus infinity where it is not finite.
    """

    grids: tuple[Tensor, ...]
    losses: tuple[Tensor, ...]

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """Evaluate the loss near the mean, near the origin and far out, for P of 1 or 2."""
        origin = -problem.mean / problem.sd
        near = _cover(problem.num_parameters)
        grids = (*near, *(origin + grid / problem.sd for grid in near))
        return cls(grids, tuple(_losses(problem, grid) for grid in grids))

    def every(self, step: int) -> tuple[Tensor, Tensor]:
        """Return each step-th point and its loss, shapes (n, P) and (n,)."""
        points = torch.cat([grid.flatten(0, -2) for grid in self.grids])
        losses = torch.cat([values.flatten() for values in self.losses])
        return points[::step], losses[::step]

    def highest(self, change: Change, problem: Problem, keep: int = 32) -> Tensor:
        """Return local maxima of an objective, refined, the best first, shape (<= keep, P)."""
        values = [change(*pair) for pair in zip(self.grids, self.losses, strict=True)]

        def objective(x: Tensor) -> Tensor:
            return change(x, _losses(problem, x))

        points = refined(objective, local_maxima(self.grids, values, keep))
        return points[objective(points).argsort(descending=True)]


def _losses(problem: Problem, x: Tensor) -> Tensor:
    losses = problem.at(x.reshape(-1, x.shape[-1])).reshape(x.shape[:-1])
    return losses.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)


@cache
def _cover(num_parameters: int) -> tuple[Tensor, Tensor]:
    if num_parameters == 1:
        dense = torch.linspace(-10.0, 10.0, 4001, dtype=torch.float64)
        far = torch.logspace(-4, math.log10(FARTHEST), 1200, dtype=torch.float64)
        return dense[:, None], torch.cat([-far.flip(0), far])[:, None]
    line = torch.linspace(-6.0, 6.0, 97, dtype=torch.float64)
    radii = torch.logspace(-3, math.log10(FARTHEST), 160, dtype=torch.float64)
    square = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    return square, circle(64) * radii[:, None, None]


def local_maxima(grids: Sequence[Tensor], values: Sequence[Tensor], keep: int) -> Tensor:
    """Return the points of grids that are no lower than their neighbours, the best, (<= keep, P).

    Args:
        grids: points, each of shape (..., P).
        values: the objective at them, each of shape (...).
        keep: how many at most.
    """
    peaks, heights = [], []
    for grid, value in zip(grids, values, strict=True):
        peak = (value >= _highest_neighbour(value)) & (value > -math.inf)
        peaks.append(grid[peak])
        heights.append(value[peak])
    best = torch.cat(heights).argsort(descending=True)[:keep]
    return torch.cat(peaks)[best]


def _highest_neighbour(values: Tensor) -> Tensor:
    pool = torch.nn.functional.max_pool1d if values.dim() == 1 else torch.nn.functional.max_pool2d
    return pool(values[None], 3, stride=1, padding=1)[0]


def refined(objective: Objective, starts: Tensor, reach: Tensor | float = 0.1) -> Tensor:
    """Climb from each start (n, P) by grids that shrink around their best point; P of 1 or 2.

    Needs no derivative, so kinks are as good as smooth maxima. Grids turn between rounds, so that
    ridges which lie across the axes do not hold it.
    """
    best, dimensions = starts.clone(), starts.shape[1]
    offsets = _offsets(dimensions)
    radius = torch.as_tensor(reach, dtype=torch.float64) * (starts.norm(dim=1) + 0.1)
    rows = torch.arange(len(starts))
    for turn in range(45):
        local = offsets if dimensions == 1 else offsets @ _rotation(0.7 * turn)
        trial = best[:, None] + radius[:, None, None] * local
        values = objective(trial.flatten(0, 1)).reshape(len(starts), -1)
        winner = values.argmax(1)
        best = trial[rows, winner]
        radius = radius * torch.where(_at_edge(local)[winner], 1.0, 0.5)
    return best


@cache
def _offsets(dimensions: int) -> Tensor:
    line = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)
    offsets = torch.cartesian_prod(*[line] * dimensions).reshape(-1, dimensions)
    return offsets[offsets.norm(dim=1).argsort(stable=True)]  # of equal values the nearest wins


def _at_edge(offsets: Tensor) -> Tensor:
    return offsets.norm(dim=1) > 0.999


def _rotation(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


def distinct(points: Tensor, values: Tensor, tolerance: float) -> Tensor:
    """Return indices of points, best first, that are farther apart than a relative tolerance."""
    order = values.argsort(descending=True)
    return order[apart(points[order], tolerance * (1.0 + points[order].norm(dim=1)))]


def apart(points: Tensor, reach: Tensor) -> list[int]:
    """Return the numbers of points (n, P) farther than their reach from all that are kept."""
    kept: list[int] = []
    for number, point in enumerate(points):
        if all(float((point - points[other]).norm()) > reach[number] for other in kept):
            kept.append(number)
    return kept
