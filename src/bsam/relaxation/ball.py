"""The largest loss in SAM's ball: where its gradient is taken."""

import math
from typing import Any

import torch
from torch import Tensor

from bsam.relaxation.ascent import ascend
from bsam.relaxation.search import apart

STARTS = 12
COARSE = 15
"""Iterations of the ascents that look where the maxima are."""

FINE = 4
"""How many of them are continued to the end, at most, inside the ball and on its surface."""


def ball_maximizers(loss: Any, mean: Tensor, rho: float) -> tuple[Tensor, list[int]]:
    """Return eps of largest loss with |eps| <= rho, shape (n, P), best first, and which tie.

    Ascents from several starts, on the sphere and inside; in one dimension the two ends are tried.
    """
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(STARTS, len(mean), generator=generator, dtype=torch.float64)
    slope = gradient(loss, mean)
    starts = torch.cat([slope[None], draws]) if float(slope.norm()) > 0.0 else draws
    starts = unit(torch.cat([starts, -starts[:1]]))
    eps = torch.stack([rho * starts[0], -rho * starts[0]])
    if len(mean) > 1:
        eps = torch.cat([eps, _climbed(loss, mean, rho, _onto_sphere, starts)])
    surface = float(loss(mean + eps).detach().max())
    eps = torch.cat([eps, _climbed(loss, mean, rho, _into_ball, starts / 2, surface)])
    values = loss(mean + eps).detach().to(torch.float64)
    eps = eps[values.argsort(descending=True, stable=True)]
    return eps, _tied(eps, values.sort(descending=True).values, rho)


def _tied(eps: Tensor, values: Tensor, rho: float) -> list[int]:
    """Return which eps, sorted best first, share the highest loss and lie apart."""
    count = int((values >= values[0] - 1e-6 * values[0].abs().clamp(min=1e-6)).sum())
    return apart(eps[:count], eps.new_full((count,), 0.05 * rho))


def _climbed(
    loss: Any, mean: Tensor, rho: float, place: Any, points: Tensor, surface: float = math.inf
) -> Tensor:
    """Climb a little from all points, then to the end from the highest that lie apart.

    Inside the ball those are left out that are on their way to its surface, which takes for ever.
    """

    def objective(z: Tensor) -> Tensor:
        return loss(mean + place(z, rho)).to(torch.float64)

    points, values = ascend(objective, points, COARSE)
    eps = place(points, rho)
    if surface < math.inf:
        within = (values > surface) | (eps.norm(dim=1) < 0.9 * rho)
        points, values, eps = points[within], values[within], eps[within]
    order = values.argsort(descending=True, stable=True)
    kept = order[apart(eps[order], eps.new_full((len(order),), 0.3 * rho))[:FINE]]
    if not len(kept):
        return eps
    points, _ = ascend(objective, points[kept])
    return place(points, rho)


def gradient(loss: Any, theta: Tensor) -> Tensor:
    """Return the gradient of the loss at theta (P,), float64."""
    theta = theta.detach()[None].requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(theta).sum(), theta)
    return slope[0].to(torch.float64)


def _into_ball(z: Tensor, rho: float) -> Tensor:
    return rho * z / (1.0 + z.square().sum(-1, keepdim=True)).sqrt()


def _onto_sphere(z: Tensor, rho: float) -> Tensor:
    return rho * unit(z)


def unit(z: Tensor) -> Tensor:
    """Return points (..., P) moved to the unit sphere."""
    return z / z.norm(dim=-1, keepdim=True)
