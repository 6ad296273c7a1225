"""Expected and relaxed loss against the mean, quickly: from a table of the loss."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bsam.experiments.illustration.lookup import Lookup
from bsam.experiments.illustration.ranges import Ranges
from bsam.relaxation.named import NamedLoss

POINTS, NODES, REACH = 61, 16001, 10.0
"""Means along a curve; nodes of an average over the Gaussian; how many sd they reach."""

MAX_TURNS = 500

FACTORS = (0.5, 1.0, 2.0)
"""Of the standard deviation: one pair of curves each."""


def curves(loss: NamedLoss, known: Lookup, shown: Ranges, sd: float) -> list[dict[str, Any]]:
    """Return expected and relaxed loss against the mean, right to about 1e-3 of the loss' range.

    Args:
        loss: of one parameter.
        known: its table.
        shown: ends of the means.
        sd: standard deviation; half and twice of it are the others.
    """
    means = torch.linspace(*shown.mean, POINTS, dtype=torch.float64).tolist()
    return [
        {
            "sd": factor * sd,
            "mean": means,
            "expected_loss": [expected(loss, mean, factor * sd) for mean in means],
            "relaxed_loss": [relaxed(loss, known, mean, factor * sd) for mean in means],
        }
        for factor in FACTORS
    ]


def expected(loss: NamedLoss, mean: float, sd: float) -> float:
    """Return the average over a Gaussian by the trapezoid rule.

    Args:
        loss: of one parameter.
        mean: of the Gaussian.
        sd: its standard deviation.
    """
    x = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64)
    density = torch.exp(-x.square() / 2.0)
    parts = density * _values(loss, mean + sd * x)
    total, tails = float(parts.sum()), float(parts[x.abs() > 0.9 * REACH].abs().sum())
    if tails > 1e-3 * float(parts.abs().sum()) and tails > 1e-9:  # it does not end there
        return math.copysign(math.inf, total)
    return total / float(density.sum())


def relaxed(loss: NamedLoss, known: Lookup, mean: float, sd: float) -> float:
    """Return the relaxed loss by a linear program over the points of the table.

    In x = (theta - mean) / sd it is: max sum w l such that sum w = 1, sum w x = 0, sum w x^2 = 1.
    With three rows the simplex method is much quicker than the search of ``bsam.relaxation``.

    Args:
        loss: of one parameter.
        known: its table.
        mean: of the Gaussian.
        sd: its standard deviation.
    """
    if known.growth == math.inf:
        return math.inf
    start = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64)
    values = torch.cat([_values(loss, mean + sd * start), known.loss])
    x = torch.cat([start, (known.theta - mean) / sd]).numpy()
    base = float(_values(loss, torch.tensor([mean], dtype=torch.float64)))
    scale = 1.0 + x * x  # so that a point at infinity is (0, 0, 1) with the growth of the loss
    columns = np.stack([1.0 / scale, x / scale, x * x / scale])
    columns = np.concatenate([columns, [[0.0], [0.0], [1.0]]], axis=1)
    costs = np.append((values.numpy() - base) / scale, known.growth * sd * sd)
    size = float(np.abs(costs).max()) or 1.0  # so that a loss of any size is resolved
    return base + size * _simplex(columns, costs / size)


def _simplex(columns: np.ndarray, costs: np.ndarray) -> float:
    """Return the largest costs @ w with columns @ w = (1, 0, 1), w >= 0; starts at 0, 1 and 2."""
    basis, moments = [0, 1, 2], np.array([1.0, 0.0, 1.0])
    above_zero = moments - [0.0, 0.0, 1e-10]  # the third weight is not quite 0: no cycles
    for _ in range(MAX_TURNS):
        inverse = np.linalg.inv(columns[:, basis])
        dual = costs[basis] @ inverse
        rise = costs - dual @ columns
        enters = int(rise.argmax())
        if rise[enters] <= 1e-10 * (1.0 + np.abs(costs[basis]).max()):
            break
        weights, move = inverse @ above_zero, inverse @ columns[:, enters]
        ratios = np.where(move > 1e-12, weights.clip(min=0.0) / move.clip(min=1e-12), math.inf)
        basis[int(ratios.argmin())] = enters
    return float(dual @ moments)


def _values(loss: NamedLoss, theta: Tensor) -> Tensor:
    with torch.no_grad():
        return loss(theta[:, None])
