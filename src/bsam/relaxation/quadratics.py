"""The relaxation of a quadratic: the largest tr(H S) / 2 over the second moments that are allowed.

The isotropic family fixes tr S = P v: the largest is (P v / 2) lambda_max(H). The diagonal family
fixes diag S = v, which is a semidefinite program; its dual is

    min over k of  <k, v>  so that  diag(k) - H / 2 is positive semidefinite,

and any k that is allowed is an upper bound. Compare E_q[l] - l(m) = tr(H diag v) / 2, which the
first equals only for multiples of I, and the second only for diagonal H.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bsam.relaxation.arguments import Problem

ITERATIONS = 300
SMOOTHING = (1.0, 0.1, 0.01, 1e-3, 1e-4)


def worst_trace(problem: Problem, hessian: Tensor) -> Tensor:
    """Return an upper bound of the largest tr(H S) / 2, 0-d.

    It is exact in the isotropic family, and in the diagonal one up to how far the dual descends.
    """
    start = torch.zeros(problem.num_parameters, dtype=torch.float64)
    best = shifted_trace(problem, hessian, start)
    if problem.isotropic:
        return best
    shift = _scaled(problem, hessian).diagonal().clone()
    for temperature in temperatures(problem, hessian):
        shift = descend(shift, lambda k, t=temperature: shifted_trace(problem, hessian, k, t))
        best = torch.minimum(best, shifted_trace(problem, hessian, shift))
    return best


def shifted_trace(
    problem: Problem, hessian: Tensor, shift: Tensor, temperature: float = 0.0
) -> Tensor:
    """Return sum k + P lambda_max(scaled H / 2 - diag k), an upper bound for any shift k.

    Args:
        problem: gives the family and the variances; k is zero in the isotropic one.
        hessian: H, shape (P, P).
        shift: k, shape (P,).
        temperature: above 0 the largest eigenvalue is smoothed, by the log-sum-exp of all.
    """
    shift = torch.zeros_like(shift) if problem.isotropic else shift
    values = torch.linalg.eigvalsh(_scaled(problem, hessian) - torch.diag(shift))
    if temperature > 0.0:
        return shift.sum() + len(shift) * temperature * torch.logsumexp(values / temperature, 0)
    return shift.sum() + len(shift) * values[-1]


def temperatures(problem: Problem, hessian: Tensor) -> list[float]:
    """Return temperatures for descents one after the other, in the unit of the eigenvalues."""
    scale = float(torch.linalg.eigvalsh(_scaled(problem, hessian)).abs().max().clamp(min=1e-300))
    return [smoothing * scale for smoothing in SMOOTHING]


def _scaled(problem: Problem, hessian: Tensor) -> Tensor:
    return problem.sd[:, None] * hessian * problem.sd / 2


def descend(start: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a point to which L-BFGS descends from the start."""
    point = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([point], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(point)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return point.detach()
