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
    """Return an upper bound of the largest tr(H S) / 2, 0-d, differentiable in the Hessian.

    It is exact in the isotropic family, and in the diagonal one up to how far the dual descends.
    """
    scaled = problem.sd[:, None] * hessian * problem.sd / 2
    if problem.isotropic:
        return problem.num_parameters * torch.linalg.eigvalsh(scaled)[-1]
    shift = diagonal_shift(scaled.detach())
    excess = torch.linalg.eigvalsh(scaled - torch.diag(shift))[-1]
    return shift.sum() + len(shift) * excess


def diagonal_shift(matrix: Tensor) -> Tensor:
    """Return k that makes sum k + P lambda_max(matrix - diag k) small.

    The largest eigenvalue is smoothed by the log-sum-exp of all, less and less, for the descent.
    """
    shift = matrix.diagonal().clone()
    scale = float(torch.linalg.eigvalsh(matrix).abs().max().clamp(min=1e-300))
    best, value = shift, _dual(matrix, shift)
    for smoothing in SMOOTHING:
        shift = descend(shift, lambda k, t=smoothing * scale: _smoothed(matrix, k, t))
        if _dual(matrix, shift) < value:
            best, value = shift, _dual(matrix, shift)
    return best


def _dual(matrix: Tensor, shift: Tensor) -> float:
    excess = torch.linalg.eigvalsh(matrix - torch.diag(shift))[-1]
    return float(shift.sum() + len(shift) * excess)


def _smoothed(matrix: Tensor, shift: Tensor, temperature: float) -> Tensor:
    values = torch.linalg.eigvalsh(matrix - torch.diag(shift))
    return shift.sum() + len(shift) * temperature * torch.logsumexp(values / temperature, 0)


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
