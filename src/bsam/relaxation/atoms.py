"""Lower bounds of the relaxed loss in any dimension: distributions on a few atoms, made worse.

Any distribution with the moments of the Gaussian has an expected loss of at most -f**. Atoms and
their weights are free parameters; centring and scaling gives them the moments exactly, whatever
they are; the expected loss climbs with autograd. One start is a sample of the Gaussian itself, so
that what is found is no less than a sample's expected loss; others are pairs of atoms on either
side of the mean, along the gradient and at the corners where both have a large loss.
"""

import math

import torch
from torch import Tensor

from bsam.relaxation.arguments import Problem
from bsam.relaxation.ascent import ascend
from bsam.relaxation.growth import growth
from bsam.relaxation.results import Value, WorstCase

DRAWS = 16
ITERATIONS = 150
SIDE_BY_SIDE = 4
CORNERS = 4
LOGITS = 10.0
"""Bound of the logits of weights: atoms of tiny weight lie so far that rounding moves the mean."""


def worst_atoms(problem: Problem, seed: int = 0, iterations: int = ITERATIONS) -> WorstCase:
    """Return the worst distribution that was found, with the moments to rounding.

    Its value's ``lower`` is certain; ``upper`` is unknown, infinite.
    """
    starts = _starts(problem, torch.Generator().manual_seed(seed))
    if _is_outgrown(problem, torch.cat([atoms[:4] for atoms, _ in starts])):
        return unbounded(problem)
    found = [_climb(problem, start, iterations) for start in starts]
    atoms, weights, value = max(found, key=lambda one: one[2])
    if not math.isfinite(value) or _is_outgrown(problem, atoms[:4]):
        return unbounded(problem)
    kept = weights * (1.0 + atoms.square().sum(1)) > 1e-12  # far ones have small weights
    result = Value(
        value,
        kind="lower bound",
        upper=math.inf,
        method=f"{int(kept.sum())} atoms with the moments of the Gaussian, moved uphill",
    )
    return WorstCase(
        problem.theta(atoms[kept]), weights[kept], result, torch.zeros_like(problem.second_moments)
    )


def normalized(problem: Problem, atoms: Tensor, weights: Tensor) -> Tensor:
    """Return atoms (n, P) moved and scaled to mean 0 and the second moments of N(0, I)."""
    centred = atoms - weights @ atoms
    present = weights @ problem.squares(centred)
    return centred * (problem.second_moments / present.clamp(min=1e-300)).sqrt()


def _climb(
    problem: Problem, start: tuple[Tensor, Tensor], iterations: int
) -> tuple[Tensor, Tensor, float]:
    """Move atoms and logits of weights uphill; return atoms, weights and the expected loss."""
    atoms, logits = start
    shape = atoms.shape

    def split(flat: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.softmax(LOGITS * torch.tanh(flat[: len(logits)] / LOGITS), 0)
        return normalized(problem, flat[len(logits) :].reshape(shape), weights), weights

    def expected(flat: Tensor) -> Tensor:
        values = []
        for row in flat:
            points, weights = split(row)
            values.append(weights @ problem.loss(problem.theta(points)).to(torch.float64))
        return torch.stack(values)

    flat = torch.cat([logits, atoms.flatten()])[None]
    points, values = ascend(expected, flat, iterations)
    return *split(points[0]), float(values[0])


def _starts(problem: Problem, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Return atoms and logits: a sample, pairs along the gradient and at random, and corners."""
    count = problem.num_parameters
    sample = torch.randn(DRAWS, count, generator=generator, dtype=torch.float64)
    near = 0.3 * sample[: 2 * SIDE_BY_SIDE]
    corners = torch.stack([_corner(problem, row) for row in sample[:CORNERS]])
    sets = [torch.cat([sample, -sample]), torch.cat([corners, -corners]) + near[: 2 * CORNERS]]
    for direction in (_gradient(problem), corners[0], sample[0]):
        if float(direction.norm()) > 0.0:
            unit = direction / direction.norm() * math.sqrt(count)
            sets.append(torch.cat([unit + near[:SIDE_BY_SIDE], -unit + near[SIDE_BY_SIDE:]]))
    return [(atoms, torch.zeros(len(atoms), dtype=torch.float64)) for atoms in sets]


def _gradient(problem: Problem) -> Tensor:
    x = torch.zeros(1, problem.num_parameters, dtype=torch.float64, requires_grad=True)
    value = problem.loss(problem.theta(x)).to(torch.float64).sum()
    if not value.requires_grad:
        return torch.zeros(problem.num_parameters, dtype=torch.float64)
    return torch.autograd.grad(value, x)[0][0]


def _corner(problem: Problem, start: Tensor, rounds: int = 30) -> Tensor:
    """Climb in l(m + sd u) + l(m - sd u) from one u with the moments to that along its gradient.

    In the diagonal family these are the corners, vectors of signs; in the isotropic one all of
    length sqrt(P), and the climb is a power method for the direction of largest curvature.
    """
    best, kept = -math.inf, start
    u = _outermost(problem, start)
    for _ in range(rounds):
        x = torch.stack([u, -u]).requires_grad_(True)
        value = problem.loss(problem.theta(x)).to(torch.float64).sum()
        if not value.requires_grad or not value.item() > best:
            break
        best, kept = value.item(), u
        slopes = torch.autograd.grad(value, x)[0]
        pull = slopes[0] - slopes[1]
        if not float(pull.norm()) > 0.0:
            break
        u = _outermost(problem, pull)
    return kept


def _outermost(problem: Problem, direction: Tensor) -> Tensor:
    """Return the u that lies farthest along a direction of all for which +-u has the moments."""
    if problem.isotropic:
        return direction / direction.norm() * math.sqrt(len(direction))
    return direction.sign()


def _is_outgrown(problem: Problem, atoms: Tensor) -> bool:
    """Whether the loss outgrows a square towards an atom or along one of the first axes."""
    axes = torch.eye(problem.num_parameters, dtype=torch.float64)[:8]
    atoms = torch.cat([atoms, axes, -axes])
    lengths = atoms.norm(dim=1, keepdim=True)
    limits = growth(problem, (atoms / lengths)[lengths[:, 0] > 0], warn=True)
    return bool((limits == math.inf).any())


def unbounded(problem: Problem) -> WorstCase:
    """Return what is left where the loss grows faster than a square."""
    value = Value(math.inf, method="grows faster than a square: no upper bound")
    escaping = problem.variance.sum() if problem.isotropic else problem.variance
    return WorstCase(
        problem.mean[None].clone(), torch.ones(1, dtype=torch.float64), value, escaping
    )
