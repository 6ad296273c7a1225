"""Ascents with autograd, for dimensions that no grid covers."""

from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 200


def ascend(
    objective: Callable[[Tensor], Tensor], starts: Tensor, iterations: int = ITERATIONS
) -> tuple[Tensor, Tensor]:
    """Climb from each start to a local maximum.

    Args:
        objective: a function of points (n, ...) that gives values (n,), each of its own point.
        starts: shape (n, ...).
        iterations: of L-BFGS, at most.

    Returns:
        The points and the values there; no value is below that of its start.
    """
    ends = [_ascend_one(objective, start, iterations) for start in starts]
    return torch.stack([point for point, _ in ends]), torch.stack([value for _, value in ends])


def _ascend_one(
    objective: Callable[[Tensor], Tensor], start: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    point = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=iterations,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )
    best = [start.clone(), objective(start[None]).detach()[0]]

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(point[None])[0]
        if value.detach() > best[1] or (best[1].isnan() and not value.isnan()):
            best[:] = [point.detach().clone(), value.detach()]
        if value.requires_grad:
            (-value).backward()
        if point.grad is not None:
            point.grad.nan_to_num_(nan=0.0)  # as of a norm at zero
        return -value

    optimizer.step(closure)  # type: ignore[arg-type]
    return best[0], best[1]
