"""The moment problem as a linear program: the worst distribution with given moments.

    -f**(mu) = sup { E_r[l(theta)] : r any distribution with E_r[T(theta)] = mu }

On finitely many points it is a linear program in their weights. Its dual variables are a paraboloid
c + <a, x> + k |x|^2 that lies above the loss at these points; wherever else the loss lies above it
is a point that the program lacks. Points are added until there are none left, up to a tolerance:
then the weights are a distribution that attains the value (lower bound), and the lifted paraboloid
proves that none exceeds it (upper bound). Points at infinity are among the columns, see
:mod:`bsam.relaxation.growth`.

References:
    Moellenhoff and Khan, ICLR 2023, section 3 and appendix (f** as the best lower bound); strong
    duality of the generalised moment problem: Isii, Ann. Inst. Statist. Math. 14, 1962.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from scipy.optimize import linprog
from torch import Tensor

from bsam.relaxation import search
from bsam.relaxation.arguments import Problem
from bsam.relaxation.atoms import unbounded
from bsam.relaxation.growth import directions, growth, steepest
from bsam.relaxation.results import Paraboloid, Value, WorstCase

TOLERANCE = 1e-9
SLACK = 1e-8
"""What the tolerances of the linear program may add to the upper bound."""
MAX_ROUNDS = 60
NEAR = 30.0
"""Distance, in standard deviations, within which worst cases are looked for first."""
CANDIDATES = (32, 200)
"""How many local maxima on the cover are refined, at first and in case of doubt."""
MOST = 2000
KEEP = 300
"""Columns that are left where there are more than the most."""
START = 5
"""One in so many candidates is in the first linear program."""
SOLVERS = (("highs", 1e-10), ("highs-ipm", 1e-10), ("highs", 1e-8), ("highs-ipm", 1e-8))
"""Methods of scipy and their tolerances, tried in this order."""
NEGLIGIBLE = 1e-9
"""Weights, times 1 + |x|^2, below this are rounding of the linear program."""


@dataclass
class Columns:
    """The points of the linear program, each column divided by its scale so that far ones count.

    Attributes:
        points: x, shape (n, P); unit vectors for those at infinity.
        losses: l at the points, or its growth towards infinity, shape (n,).
        at_infinity: which are at infinity, shape (n,).
    """

    points: Tensor
    losses: Tensor
    at_infinity: Tensor

    def only(self, which: Tensor) -> "Columns":
        """Return some of the columns."""
        return Columns(self.points[which], self.losses[which], self.at_infinity[which])

    def with_points(
        self, points: Tensor, losses: Tensor, *, at_infinity: bool = False
    ) -> "Columns":
        """Return these columns and more; losses of minus infinity are left out."""
        keep = losses > -math.inf
        flags = torch.full((int(keep.sum()),), at_infinity)
        return Columns(
            torch.cat([self.points, points[keep]]),
            torch.cat([self.losses, losses[keep]]),
            torch.cat([self.at_infinity, flags]),
        )


@dataclass
class Solution:
    """Weights of the columns, their expected loss, and the paraboloid that is their dual."""

    weights: Tensor
    value: float
    constant: float
    linear: Tensor
    quadratic: Tensor

    def above(self, problem: Problem, x: Tensor, losses: Tensor) -> Tensor:
        """Return by how much the loss exceeds the paraboloid at x, less what rounding may do."""
        squares = problem.squares(x) @ self.quadratic
        linear = x @ self.linear
        size = losses.abs() + squares.abs() + linear.abs() + abs(self.constant)
        return losses - self.constant - linear - squares - search.ROUNDING * size

    def excess(self, problem: Problem, x: Tensor, losses: Tensor) -> Tensor:
        """Return e for which the paraboloid needs e (1 + |x|^2) more to lie above the loss at x."""
        return self.above(problem, x, losses) / (1.0 + x.square().sum(-1))


def worst_case(problem: Problem) -> WorstCase:
    """Solve the moment problem for P of 1 or 2, with a certificate."""
    around = directions(problem)
    limits = growth(problem, around, warn=True)
    if (limits == math.inf).any():
        return unbounded(problem)
    cover = search.Cover.of(problem)
    start = _feasible(problem)
    columns = Columns(start[:0], start[:0, 0], torch.zeros(0, dtype=torch.bool))
    columns = columns.with_points(start, problem.at(start)).with_points(*cover.every(START))
    columns = columns.with_points(around, limits, at_infinity=True)
    return _exchange(problem, columns, cover)


def _feasible(problem: Problem) -> Tensor:
    """Return points of which some weights have the moments: on the axes, and the mean."""
    count = problem.num_parameters
    axes = math.sqrt(count) * torch.eye(count, dtype=torch.float64)
    return torch.cat([axes, -axes, torch.zeros(1, count, dtype=torch.float64)])


def _exchange(problem: Problem, columns: Columns, cover: search.Cover) -> WorstCase:
    """Add points to the columns until no point lies above the paraboloid; read the result off."""
    for _ in range(MAX_ROUNDS):
        solution = solve(problem, columns)
        *steeper, outgrown = steepest(problem, solution.quadratic)
        shortfall = outgrown.clamp(min=0.0).max().item()
        above, lift = _highest_above(problem, solution, cover)
        shortfall = max(lift, shortfall)
        gap = lift + shortfall * float(problem.second_moments.sum())
        if gap <= TOLERANCE * max(1.0, abs(solution.value)):
            break
        solved = columns
        columns = _pruned(problem, columns, solution).with_points(*above)
        if shortfall > 0.0:
            columns = columns.with_points(*steeper, at_infinity=True)
    else:
        columns = solved
    paraboloid = _paraboloid(problem, solution, lift, shortfall)
    nearer, solution = _nearer(problem, columns, solution)
    upper = solution.value + gap + SLACK * max(1.0, abs(solution.value))
    return _read_off(problem, nearer, solution, upper, paraboloid)


def _pruned(problem: Problem, columns: Columns, solution: Solution) -> Columns:
    """Drop columns far below the paraboloid: the cover brings them back if they matter."""
    if len(columns.losses) <= MOST:
        return columns
    below = -solution.excess(problem, columns.points, columns.losses)
    needed = columns.at_infinity | (solution.weights > 0)
    needed[: len(_feasible(problem))] = True
    needed[below.argsort()[:KEEP]] = True
    return columns.only(needed)


def _nearer(problem: Problem, columns: Columns, solution: Solution) -> tuple[Columns, Solution]:
    """Return a solution on points near the mean if it is as good, rather than on far ones.

    Where the loss grows like a square, mass that sits anywhere along a direction, or escapes along
    it, can do the same harm.
    """
    distant = columns.at_infinity | (columns.points.norm(dim=1) > NEAR)
    if not (solution.weights[distant] > 0).any():
        return columns, solution
    used = columns.points[distant & (solution.weights > 0)]
    unit = used / used.norm(dim=1, keepdim=True)
    ring = math.sqrt(problem.num_parameters) * torch.cat([unit, -unit])
    near = columns.only(~distant).with_points(ring, problem.at(ring))
    found = solve(problem, near)
    slack = 1e-8 * max(1.0, abs(solution.value))
    return (near, found) if found.value >= solution.value - slack else (columns, solution)


def solve(problem: Problem, columns: Columns) -> Solution:
    """Solve the linear program over the columns."""
    far = columns.at_infinity
    squares = problem.squares(columns.points)
    ones = torch.where(far, 0.0, 1.0)
    matrix = torch.cat([ones[:, None], columns.points * ones[:, None], squares], 1)
    scale = torch.where(far, 1.0, 1.0 + columns.points.square().sum(1))
    moments = torch.cat(
        [torch.ones(1), torch.zeros(problem.num_parameters), problem.second_moments]
    )
    costs = -columns.losses / scale
    unit = _unit(costs)
    result = _linear_program(costs / unit, (matrix / scale[:, None]).T, moments)
    dual = -unit * torch.from_numpy(result.eqlin.marginals)
    count = problem.num_parameters
    weights = torch.from_numpy(result.x) / scale
    value = float(weights @ columns.losses)
    return Solution(weights, value, float(dual[0]), dual[1 : count + 1], dual[count + 1 :])


def _linear_program(costs: Tensor, matrix: Tensor, moments: Tensor) -> Any:
    """Minimize the costs; a solver that breaks down, as HiGHS can, is tried in other ways."""
    for method, tolerance in SOLVERS:
        result = linprog(
            costs.numpy(),
            A_eq=matrix.numpy(),
            b_eq=moments.numpy(),
            method=method,
            options={
                "primal_feasibility_tolerance": tolerance,
                "dual_feasibility_tolerance": tolerance,
            },
        )
        if result.status == 0:
            return result
    raise RuntimeError(f"the linear program of the moment problem failed: {result.message}")


def _unit(costs: Tensor) -> float:
    """Return the size of the costs that matter, which the solver's tolerances refer to."""
    size = max(float(-costs.min()), float(costs.abs().median()))
    return size if size > 0.0 else 1.0


def _highest_above(
    problem: Problem, solution: Solution, cover: search.Cover
) -> tuple[tuple[Tensor, Tensor], float]:
    """Return the points where the loss exceeds the paraboloid most, the loss there, and the excess.

    Candidates are those highest above it, among which near ones are first, then those of largest
    excess, where far ones are. If they lie below, many more are tried before that is believed.
    """
    found = problem.mean.new_empty(0, problem.num_parameters)
    for keep, measure in product(CANDIDATES, (solution.above, solution.excess)):
        points = cover.highest(partial(measure, problem), problem, keep)
        found = torch.cat([found, points])
        if solution.excess(problem, points, problem.at(points)).max() > TOLERANCE:
            break
    losses = problem.at(found)
    excess = solution.excess(problem, found, losses)
    return (found[excess > 0.0], losses[excess > 0.0]), max(excess.max().item(), 0.0)


def _read_off(
    problem: Problem,
    columns: Columns,
    solution: Solution,
    upper: float,
    paraboloid: Paraboloid,
) -> WorstCase:
    weights, far = solution.weights, columns.at_infinity
    kept = (weights * (1.0 + columns.points.square().sum(1)) > NEGLIGIBLE) & ~far
    escaping = (weights[far, None] * problem.squares(columns.points[far])).sum(0)
    escaping = torch.where(escaping > NEGLIGIBLE, escaping, 0.0)
    carried = float(weights[far] @ columns.losses[far]) if (escaping > 0).any() else 0.0
    atoms, masses = _merged(problem, columns.points[kept], weights[kept], escaping)
    lower = float(masses @ problem.at(atoms)) + carried
    if lower < solution.value - 1e-8 * max(1.0, abs(solution.value)):  # merging crossed a jump
        atoms, masses, lower = columns.points[kept], weights[kept], solution.value
    value = Value(
        lower,
        kind="value" if upper - lower <= 1e-6 * max(1.0, abs(lower)) else "lower bound",
        lower=lower,
        upper=max(lower, upper),
        method="linear programs over points that are added until a paraboloid lies above the loss",
    )
    escaping = escaping * problem.variance[: len(escaping)]
    escaping = escaping.squeeze(0) if problem.isotropic else escaping
    return WorstCase(problem.theta(atoms), masses, value, escaping, paraboloid)


def _merged(
    problem: Problem, atoms: Tensor, weights: Tensor, escaping: Tensor
) -> tuple[Tensor, Tensor]:
    """Join atoms that lie so close together that the program split one between them.

    The joined ones are scaled so that they have the moments again.
    """
    groups: list[list[int]] = []
    for index in weights.argsort(descending=True).tolist():
        near = [
            group
            for group in groups
            if (atoms[group[0]] - atoms[index]).norm() <= 1e-3 * (1.0 + atoms[index].norm())
        ]
        near[0].append(index) if near else groups.append([index])
    masses = torch.stack([weights[group].sum() for group in groups])
    joined = torch.stack([weights[group] @ atoms[group] for group in groups]) / masses[:, None]
    masses = masses / masses.sum()
    joined = joined - masses @ joined
    missing = problem.second_moments - escaping
    present = masses @ problem.squares(joined)
    scale = torch.where((present > 0) & (missing > 0), missing / present, 1.0).sqrt()
    return joined * scale, masses


def _paraboloid(problem: Problem, solution: Solution, lift: float, shortfall: float) -> Paraboloid:
    """Return the paraboloid in theta, lifted so that it lies above the loss everywhere."""
    quadratic = (solution.quadratic + shortfall).expand(problem.num_parameters) / problem.variance
    linear = solution.linear / problem.sd - 2 * quadratic * problem.mean
    at_mean = solution.constant + lift
    constant = at_mean - float(linear @ problem.mean + quadratic @ problem.mean.square())
    return Paraboloid(constant, linear, quadratic)
