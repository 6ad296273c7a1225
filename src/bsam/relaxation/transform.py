"""The Legendre-Fenchel transform, done twice on grids, in one dimension.

First f*(lam) = sup_mu <lam, mu> - f(mu), where mu runs over a grid of Gaussians, wide ones and
point masses alike; then f**(mu) = sup_lam <lam, mu> - f*(lam), where lam runs over a grid that is
moved and made finer around its best point. Nothing but grids and maxima: the definition itself.
"""

import math

import numpy as np
import torch
from torch import Tensor

from bsam.relaxation import search
from bsam.relaxation.arguments import Problem
from bsam.relaxation.growth import directions, growth
from bsam.relaxation.results import Value

SDS = (0.0, 0.1, 0.5, 1.0)
"""Standard deviations of the Gaussians in the grid, in units of the one that is asked for."""

GRID = 15
ROUNDS = 100
NODES = 32
FEWER = 16
"""Of the wide Gaussians, which never are the worst, one in so many means is taken."""


def twice_transformed(problem: Problem) -> Value:
    """Return -f** by two transforms on grids; P is 1."""
    ends = growth(problem, directions(problem), warn=True)
    if (ends == math.inf).any():
        return Value(math.inf, method="grows faster than a square")
    steepest = max(float(ends.max()), -1e300)
    gaussians = _gaussians(problem)
    value = _twice(problem, gaussians, steepest)
    fewer = _twice(problem, tuple(column[::2] for column in gaussians), steepest)
    error = 2.0 * abs(value - fewer)
    return Value(
        value,
        kind="estimate",
        lower=value - error,
        upper=value + error,
        method="Legendre-Fenchel transform done twice on grids",
    )


def _twice(problem: Problem, gaussians: tuple[np.ndarray, ...], steepest: float) -> float:
    means, seconds, negative = gaussians
    centre, reach = np.array([0.0, -(max(steepest, 0.0) + 1.0)]), _reach(problem, steepest)
    best = -math.inf
    for _ in range(ROUNDS):
        first = centre[0] + reach[0] * np.linspace(-1, 1, GRID)
        second = np.minimum(centre[1] + reach[1] * np.linspace(-1, 1, GRID), -steepest)
        once = _transform(first, second, means, seconds, negative)
        values = second[None, :] - once  # <lam, mu> at mu = (0, 1)
        i, j = np.unravel_index(values.argmax(), values.shape)
        best = max(best, float(values[i, j]))
        centre = np.array([first[i], second[j]])
        inside = np.array([0 < i < GRID - 1, 0 < j < GRID - 1 or second[j] == -steepest])
        reach = reach * np.where(inside, 0.6, 1.5)
    return -best


def _gaussians(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return E[x], E[x^2] and the expected negative loss of many Gaussians in standard x."""
    means = torch.cat([grid.flatten() for grid in search.Cover.of(problem).grids])
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    parts = [_expected(problem, means, sd, nodes, weights) for sd in SDS]
    columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    finite = np.isfinite(columns[2])
    return columns[0][finite], columns[1][finite], columns[2][finite]


def _expected(
    problem: Problem, means: Tensor, sd: float, nodes: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if sd == 0.0:
        return means, means.square(), -problem.at(means[:, None])
    means = means[::FEWER]
    points = means[:, None] + sd * nodes
    losses = problem.at(points.reshape(-1, 1)).reshape(points.shape)
    return means, means.square() + sd**2, -(losses @ weights)


def _transform(
    first: np.ndarray, second: np.ndarray, means: np.ndarray, seconds: np.ndarray, f: np.ndarray
) -> np.ndarray:
    """Return sup over mu of <lam, mu> - f(mu), for a grid of lam; shape (first, second)."""
    linear = first[:, None] * means
    return np.stack([(linear + (value * seconds - f)).max(1) for value in second], 1)


def _reach(problem: Problem, steepest: float) -> np.ndarray:
    """Return how far from the start the first grid of natural parameters goes."""
    losses = problem.at(torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None])
    losses = losses[losses.isfinite()]  # minus infinity is allowed
    spread = float(losses.max() - losses.min()) + 1.0 + max(steepest, 0.0)
    return np.array([spread, spread])
