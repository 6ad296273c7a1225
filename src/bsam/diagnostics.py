"""What a run has done with s: a short account to see whether the variances were learned."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bsam import gaussian
from bsam.dtypes import widest_dtype


class ParameterDiagnostics(NamedTuple):
    """The account of one parameter, or of all together."""

    name: str
    """Its name, or its number and shape where the optimizer was given no names."""
    size: int
    """Number of weights."""
    at_floor: float
    """Share of s at its floor, damping + weight_decay, in [0, 1]."""
    at_start: float
    """Share of s still at s_init, in [0, 1]."""
    unlearned: float
    """Share of s where it would be if all gradients had been zero: on its way from s_init to the
    floor, or at either end; in [0, 1]. What is left has learned from the data."""
    prior_deviation: float
    """Standard deviation of the prior, 1/sqrt(num_data * weight_decay); infinite if flat."""
    deviation: float
    """Root mean square of the posterior's standard deviations."""
    relative_deviation: float
    """The same divided by the root mean square of the means."""


class Diagnostics(NamedTuple):
    """An account of all parameters; ``print`` shows it as a table."""

    total: ParameterDiagnostics
    parameters: tuple[ParameterDiagnostics, ...]

    def __str__(self) -> str:
        wide = max(len(each.name) for each in (self.total, *self.parameters))
        columns = (
            f"{'weights':>11}  at floor  at s_init  unlearned  prior sd  posterior sd  sd/|mean|"
        )
        lines = [
            f"{each.name:{wide}}  {each.size:11,}  {each.at_floor:8.1%}  {each.at_start:9.1%}"
            f"  {each.unlearned:9.1%}"
            f"  {each.prior_deviation:8.3g}  {each.deviation:12.3g}  {each.relative_deviation:9.3g}"
            for each in (*self.parameters, self.total)
        ]
        return "\n".join([f"{'':{wide}}  {columns}", *lines])


class _Sums(NamedTuple):
    """What is added up over parameters."""

    size: int
    at_floor: int
    at_start: int
    unlearned: int
    variance: float
    squared_mean: float


def diagnose(
    parameters: Iterable[tuple[str, Tensor, Mapping[str, Any], Mapping[str, Any]]],
    tolerance: float,
) -> Diagnostics:
    """Return the account.

    Args:
        parameters: for each its name, mean, state and the hyperparameters of its group.
        tolerance: how far from a value, relative to it, s still counts as being there.
    """
    accounts, sums, priors = [], [], []
    for name, mean, state, group in parameters:
        sums.append(_sums(mean, state, group, tolerance))
        priors.append(gaussian.prior_deviation(group["num_data"], group["weight_decay"]))
        accounts.append(_account(name, sums[-1], priors[-1]))
    prior = priors[0] if len(set(priors)) == 1 else float("nan")  # no one number for all
    total = _Sums(*(sum(column) for column in zip(*sums, strict=True))) if sums else _Sums(*[0] * 6)
    return Diagnostics(_account("all", total, prior), tuple(accounts))


@torch.no_grad()
def _sums(
    mean: Tensor, state: Mapping[str, Any], group: Mapping[str, Any], tolerance: float
) -> _Sums:
    s = state["s"]
    wide = widest_dtype(s.device)
    precision = gaussian.precision(s.to(wide), group["num_data"])
    floor = group["damping"] + group["weight_decay"]
    # Each update without a gradient takes the distance to the floor times beta2.
    decayed = floor + (group["s_init"] - floor) * group["betas"][1] ** float(state["step"])
    return _Sums(
        s.numel(),
        int(_near(s, floor, tolerance).sum()),
        int(_near(s, group["s_init"], tolerance).sum()),
        int(_near(s, decayed, tolerance).sum()),
        precision.reciprocal().sum().item(),
        mean.to(wide).square().sum().item(),
    )


def _near(s: Tensor, value: float, tolerance: float) -> Tensor:
    # In float32 a value that "is" at 0.1 may be some units of rounding beside it.
    rounding = 8.0 * torch.finfo(s.dtype).eps
    return (s - value).abs() <= (tolerance + rounding) * value


def _account(name: str, sums: _Sums, prior_deviation: float) -> ParameterDiagnostics:
    size = max(sums.size, 1)
    deviation = (sums.variance / size) ** 0.5
    magnitude = (sums.squared_mean / size) ** 0.5
    return ParameterDiagnostics(
        name,
        sums.size,
        sums.at_floor / size,
        sums.at_start / size,
        sums.unlearned / size,
        prior_deviation,
        deviation,
        deviation / magnitude if magnitude > 0.0 else float("inf"),
    )
