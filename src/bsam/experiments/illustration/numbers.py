"""The numbers of the relaxation for one loss of one parameter, as data."""

import math
from typing import Any

import torch

from bsam import relaxation
from bsam.relaxation.named import NamedLoss
from bsam.version import __version__

LARGEST = 1e50
"""What is above this is taken to be infinite."""


def numbers(loss: NamedLoss, mean: float, sd: float) -> dict[str, Any]:
    """Return everything that is printed and drawn.

    Args:
        loss: of one parameter.
        mean: of the Gaussian.
        sd: its standard deviation.

    Returns:
        Numbers, lists and texts under the names of ``bsam.relaxation``.
    """
    center, variance = torch.tensor([mean], dtype=torch.float64), sd * sd
    expected = relaxation.expected_loss(loss, center, variance)
    largest = relaxation.max_loss(loss, center, variance)
    peak = _finite_or_infinite(largest)
    points = largest.maximizers[:, 0].tolist() if math.isfinite(peak) else []
    worst = relaxation.worst_case_distribution(loss, center, variance)
    value = _finite_or_infinite(expected)
    with torch.no_grad():
        at_mean, *away = loss(mean + sd * torch.tensor([[0.0], [-1.0], [1.0]]).double()).tolist()
    return {
        "version": __version__,
        "arguments": {
            "loss": loss.name,
            "expression": loss.expression.text,
            "mean": mean,
            "sd": sd,
        },
        "variance": variance,
        "loss_at_mean": at_mean,
        "loss_one_sd_away": away,
        "expected_loss": _bounds(expected) | {"value": value},
        "relaxed_loss": _bounds(worst.value),
        "gap": max(0.0, worst.value - value) if math.isfinite(value) else math.nan,
        "max_loss": _bounds(largest) | {"value": peak, "maximizers": points},
        "sam_radius": _radius(loss, center, variance, peak),
        "worst_case": _distribution(worst),
        "paraboloid": _paraboloid(worst.paraboloid),
    }


def _finite_or_infinite(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > LARGEST else float(value)


def _bounds(value: relaxation.Value) -> dict[str, Any]:
    bounds = {"value": float(value), "lower": value.lower, "upper": value.upper}
    return bounds | {"method": value.method}


def _radius(loss: NamedLoss, mean: torch.Tensor, variance: float, largest: float) -> float:
    if not math.isfinite(largest):
        return math.nan
    return float(relaxation.sam_radius(loss, mean, variance))


def _distribution(worst: relaxation.WorstCase) -> dict[str, Any]:
    """Return the atoms from left to right."""
    infinite = math.isinf(worst.value)
    order = worst.atoms[:, 0].argsort()
    return {
        "atoms": [] if infinite else worst.atoms[order, 0].tolist(),
        "weights": [] if infinite else worst.weights[order].tolist(),
        "attained": worst.attained,
        "escaping": float(worst.escaping.sum()),
    }


def _paraboloid(paraboloid: relaxation.Paraboloid | None) -> dict[str, float] | None:
    if paraboloid is None:
        return None
    return {
        "constant": float(paraboloid.constant),
        "linear": float(paraboloid.linear[0]),
        "quadratic": float(paraboloid.quadratic[0]),
    }
