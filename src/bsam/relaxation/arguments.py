"""What users pass: a loss, a mean, a variance; brought to standard coordinates x.

With theta = mean + sd x the Gaussian is N(0, I) in both families, so that every search has the
same scale, whatever that of the problem.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]
"""A function of theta, shape (..., P), that gives the losses, shape (...)."""

ROWS = 1 << 16
"""Largest number of points that a loss is asked for at once."""


@dataclass(frozen=True)
class Problem:
    """A loss and a Gaussian.

    Attributes:
        loss: the loss as a function of theta, as given.
        mean: m, shape (P,), float64.
        variance: v per coordinate, shape (P,), float64; all equal in the isotropic family.
        isotropic: whether |theta|^2 is the one quadratic statistic, rather than each theta^2.
    """

    loss: Loss
    mean: Tensor
    variance: Tensor
    isotropic: bool

    @classmethod
    def of(cls, loss: Any, mean: Any, variance: Any) -> Self:
        """Check the arguments.

        Raises:
            TypeError: if the loss is not a function, or mean or variance are not numbers.
            ValueError: for shapes and ranges that are not allowed, or a loss that gives other
                shapes or NaN.
        """
        if not callable(loss):
            raise TypeError(
                f"loss={loss!r}: must be a function of a tensor (..., P) that gives (...)."
            )
        mean = checked_mean(mean)
        variance, isotropic = checked_variance(variance, len(mean))
        problem = cls(loss, mean, variance, isotropic)
        _check_shape(loss, mean)
        return problem

    @property
    def num_parameters(self) -> int:
        """P."""
        return len(self.mean)

    @property
    def sd(self) -> Tensor:
        """Standard deviations, shape (P,)."""
        return self.variance.sqrt()

    @property
    def second_moments(self) -> Tensor:
        """E[x^2] in standard coordinates: ones, or P alone in the isotropic family."""
        return self.squares(torch.ones_like(self.mean))

    def theta(self, x: Tensor) -> Tensor:
        """Return the points theta of standard coordinates x."""
        return self.mean + self.sd * x

    def squares(self, x: Tensor) -> Tensor:
        """Return the quadratic statistics of x (..., P): (..., 1) if isotropic, else (..., P)."""
        squares = x.square()
        return squares.sum(-1, keepdim=True) if self.isotropic else squares

    def at(self, x: Tensor) -> Tensor:
        """Return the loss at standard coordinates x (n, P), shape (n,), without gradients."""
        with torch.no_grad():
            return evaluated(self.loss, self.theta(x))


def evaluated(loss: Loss, theta: Tensor) -> Tensor:
    """Return the loss at theta (n, P) in float64, in chunks that fit in memory."""
    width = max(1, theta.shape[-1] // 8)
    chunks = [loss(chunk).to(torch.float64) for chunk in theta.split(max(1, ROWS // width))]
    return torch.cat(chunks)


def checked_mean(mean: Any) -> Tensor:
    """Return the mean as a float64 tensor (P,); a number is P = 1."""
    mean = _tensor("mean", mean)
    mean = mean.reshape(1) if mean.dim() == 0 else mean
    if mean.dim() != 1 or not len(mean):
        raise ValueError(
            f"mean: of shape {tuple(mean.shape)}: must be (P,) with P >= 1; flatten the parameters."
        )
    if not mean.isfinite().all():
        raise ValueError("mean: is not finite everywhere; pass finite numbers.")
    return mean


def checked_variance(variance: Any, num_parameters: int) -> tuple[Tensor, bool]:
    """Return the variance per coordinate, and whether the family is isotropic."""
    value = _tensor("variance", variance)
    isotropic = value.dim() == 0
    if not isotropic and value.shape != (num_parameters,):
        raise ValueError(
            f"variance: of shape {tuple(value.shape)}: must be a number (isotropic) or of the "
            f"mean's shape, ({num_parameters},) (diagonal)."
        )
    if not (value > 0).all() or not value.isfinite().all():
        raise ValueError(
            f"variance={variance!r}: must be positive and finite; it is sd^2, not a precision."
        )
    return value.expand(num_parameters).clone(), isotropic


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float64).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name}={value!r}: must be a number, or a tensor of them; try a float."
        ) from None


def _check_shape(loss: Loss, mean: Tensor) -> None:
    with torch.no_grad():
        result = loss(mean.expand(2, -1))
    if not isinstance(result, Tensor) or result.shape != (2,):
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"loss: gave {found} for theta of shape (2, {len(mean)}): must map (..., P) to (...), "
            "here to (2,); sum over the last dimension, or take theta[..., 0] if P is 1."
        )
    if result.isnan().any():
        raise ValueError("loss: is NaN at the mean; it must be a number everywhere.")


def warn_of_overflow(radius: float) -> None:
    """Tell that a loss is not finite far out, where its growth says that it should be."""
    warnings.warn(
        f"loss: is not finite at a distance of {radius:.0e} standard deviations though it grows no "
        "faster than a square before: taken for an overflow and ignored; write it with functions "
        "that do not overflow, such as softplus or logaddexp.",
        stacklevel=6,
    )
