"""Losses whose relaxation is known in closed form, and the forms.

A nondecreasing concave function of theta^2 has its worst case at the two points +-sqrt(m^2 + v):
with |m| below that some weights give the mean, and by Jensen nothing is worse.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

softplus = torch.nn.functional.softplus


@dataclass(frozen=True)
class Known:
    """A loss, a Gaussian, and the truth.

    Attributes:
        name: for the reports of pytest.
        loss: a function of theta (..., P).
        mean: a number or a list.
        variance: a number (isotropic) or a list (diagonal).
        relaxed: -f**.
        expected: E_q[l], or None where it is not known in closed form.
        by_transform: whether the grids of the transform can see it (not a jump).
    """

    name: str
    loss: Callable[[torch.Tensor], torch.Tensor]
    mean: float | list[float]
    variance: float | list[float]
    relaxed: float
    expected: float | None = None
    by_transform: bool = True

    def __str__(self):
        return f"{self.name} at {self.mean}, {self.variance}"

    @property
    def arguments(self):
        mean, variance = (
            torch.tensor(each, dtype=torch.float64) if isinstance(each, list) else each
            for each in (self.mean, self.variance)
        )
        return self.loss, mean, variance


# ------------------------------------------------------------------ losses of one parameter


def logistic(theta):
    return softplus(-theta[..., 0])


def absolute(theta):
    return theta[..., 0].abs()


def square(theta):
    return theta[..., 0].square()


def wave(theta):
    return 0.5 * torch.sin(3 * theta[..., 0]) + 0.1 * theta[..., 0].square()


def bump(theta):
    return 1 - torch.exp(-theta.square().sum(-1))


def double_well(theta):
    return torch.minimum((theta[..., 0] - 1).square(), (theta[..., 0] + 1).square())


def hinge(theta):
    return (1 - theta[..., 0]).clamp(min=0)


def dead_zone(theta):
    return (theta[..., 0].abs() - 1).clamp(min=0).square()


def jump(theta):
    return (theta[..., 0] > 2).to(theta.dtype)


def two_jumps(theta):
    return (theta[..., 0].abs() > 2).to(theta.dtype)


def cosine(theta):
    return torch.cos(theta[..., 0])


def ramp(theta):
    return theta[..., 0].clamp(-1, 1)


def times(factor, loss):
    return lambda theta: factor * loss(theta)


# ------------------------------------------------------------------ what is known of them


def logistic_relaxed(m, v):
    r = math.sqrt(m * m + v)
    return (
        math.log1p(math.exp(-r)) + v / (2 * (r + m))
        if m > 0
        else (math.log1p(math.exp(-r)) + (r - m) / 2)
    )


def absolute_expected(m, v):
    sd = math.sqrt(v)
    tail = math.erfc(m / sd / math.sqrt(2)) / 2
    return sd * math.sqrt(2 / math.pi) * math.exp(-m * m / (2 * v)) + m * (1 - 2 * tail)


def bump_expected(m, v):
    return 1 - math.exp(-m * m / (1 + 2 * v)) / math.sqrt(1 + 2 * v)


def upper_tail(x):
    return math.erfc(x / math.sqrt(2)) / 2


def hinge_expected(m, v):
    z = (1 - m) / math.sqrt(v)
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(v) * (density + z * (1 - upper_tail(z)))


def scarf(m, v):
    """Scarf 1958: the largest E(1 - theta)_+."""
    return (math.sqrt(v + (1 - m) ** 2) + 1 - m) / 2


LINE = [
    Known("logistic", logistic, 0.5, 0.49, logistic_relaxed(0.5, 0.49)),
    Known("logistic", logistic, -1.0, 1.0, logistic_relaxed(-1.0, 1.0)),
    Known("absolute", absolute, 0.5, 0.49, math.sqrt(0.74), absolute_expected(0.5, 0.49)),
    Known("absolute", absolute, -2.0, 0.3, math.sqrt(4.3), absolute_expected(-2.0, 0.3)),
    Known("square", square, 0.5, 0.49, 0.74, 0.74),
    Known("minus square", times(-1, square), 0.5, 0.49, -0.74, -0.74),
    Known(
        "wave",
        wave,
        0.5,
        9.0,
        0.5 + 0.1 * 9.25,
        0.5 * math.exp(-4.5 * 9) * math.sin(1.5) + 0.1 * 9.25,
    ),
    Known("bump", bump, 0.5, 0.49, 1 - math.exp(-0.74), bump_expected(0.5, 0.49)),
    Known("bump", bump, -1.0, 1.0, 1 - math.exp(-2), bump_expected(-1.0, 1.0)),
    Known("double well", double_well, 0.5, 0.49, 0.74),
    Known("hinge", hinge, 0.5, 0.49, scarf(0.5, 0.49), hinge_expected(0.5, 0.49)),
    Known("hinge", hinge, 2.0, 1.0, scarf(2.0, 1.0), hinge_expected(2.0, 1.0)),
    Known("dead zone: mass escapes", dead_zone, 0.5, 0.49, 0.49),
    Known("dead zone: mass escapes", dead_zone, -0.2, 2.0, 2.0),
    Known(
        "jump (Cantelli)",
        jump,
        0.5,
        0.49,
        0.49 / (0.49 + 2.25),
        upper_tail(1.5 / 0.7),
        by_transform=False,
    ),
    Known("two jumps (Chebyshev)", two_jumps, 0.0, 0.49, 0.49 / 4, by_transform=False),
    Known("power 1.5", lambda t: t[..., 0].abs() ** 1.5, 0.5, 0.49, 0.74**0.75),
    Known("power 0.5", lambda t: t[..., 0].abs() ** 0.5, -0.5, 0.49, 0.74**0.25),
    Known("heavy tail", lambda t: torch.log1p(t[..., 0] ** 2), 0.5, 0.49, math.log(1.74)),
    Known(
        "minus fourth power",
        lambda t: -(t[..., 0] ** 4),
        0.5,
        0.49,
        -(0.74**2),
        -(0.5**4 + 6 * 0.25 * 0.49 + 3 * 0.49**2),
    ),
    Known("logarithm", lambda t: t[..., 0].abs().log(), 0.5, 0.49, math.log(0.74) / 2),
    Known("logarithm of 0", lambda t: t[..., 0].abs().log(), 0.0, 0.49, math.log(0.7)),
    Known("constant", lambda t: 0 * t[..., 0] + 3, 0.5, 0.49, 3.0, 3.0),
    Known("linear", lambda t: 2 * t[..., 0] + 3, 0.5, 0.49, 4.0, 4.0),
    Known(
        "fourth power",
        lambda t: t[..., 0] ** 4,
        0.5,
        0.49,
        math.inf,
        (0.5**4 + 6 * 0.25 * 0.49 + 3 * 0.49**2),
    ),
    Known("exponential", lambda t: t[..., 0].exp(), 0.5, 0.49, math.inf, math.exp(0.745)),
    # odd scales
    Known("logistic x 1e6", times(1e6, logistic), 0.5, 0.49, 1e6 * logistic_relaxed(0.5, 0.49)),
    Known("logistic x 1e-6", times(1e-6, logistic), 0.5, 0.49, 1e-6 * logistic_relaxed(0.5, 0.49)),
    Known("logistic, wide", logistic, 0.5, 1e6, logistic_relaxed(0.5, 1e6)),
    Known("logistic, narrow", logistic, 0.5, 1e-12, logistic_relaxed(0.5, 1e-12)),
    Known("logistic, far", logistic, 1e3, 1e-6, logistic_relaxed(1e3, 1e-6)),
    Known(
        "kink far away",
        lambda t: (t[..., 0] - 1e3).abs(),
        1e3,
        1e-6,
        1e-3,
        (1e-3 * math.sqrt(2 / math.pi)),
    ),
    Known("narrow well", lambda t: -torch.exp(-(((t[..., 0] - 0.3) / 1e-4) ** 2)), 0.5, 0.49, 0.0),
    Known("fast wave", lambda t: torch.cos(100 * t[..., 0]), 0.5, 0.49, 1.0),
    Known(
        "one side only",
        lambda t: torch.where(t[..., 0] > 0, -t[..., 0], -math.inf),
        0.5,
        0.49,
        -0.5,
        by_transform=False,
    ),
]

M = [0.3, -0.5]
SQUARED = 0.34
HESSIAN = torch.tensor([[2.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
AT_M = (2 * 0.09 + 2 * 0.3 * -0.5 - 0.25) / 2


def saddle(theta):
    return ((theta @ HESSIAN) * theta).sum(-1) / 2


def largest_eigenvalue():
    return float(np.linalg.eigvalsh(HESSIAN.numpy())[-1])


def separable(theta):
    return absolute(theta) + softplus(-theta[..., 1])


def two_examples(theta):
    """Logistic regression on two examples."""
    first, second = theta[..., 0], theta[..., 1]
    return softplus(-first - 2 * second) + softplus(first - second)


def two_waves(theta):
    waves = torch.sin(3 * theta[..., 0]) * torch.cos(2 * theta[..., 1])
    return waves + 0.1 * theta.square().sum(-1)


def unit_network(theta):
    """One tanh unit, squared error."""
    return (torch.tanh(theta[..., 0]) * theta[..., 1] - 1).square()


def half_plane(theta):
    return (theta.sum(-1) > 2).to(theta.dtype)


PLANE = [
    Known("length", lambda t: t.norm(dim=-1), M, 0.49, math.sqrt(SQUARED + 0.98)),
    Known("bump", bump, M, 0.49, 1 - math.exp(-SQUARED - 0.98)),
    Known("saddle", saddle, M, 0.49, AT_M + 0.49 * largest_eigenvalue(), AT_M + 0.245),
    Known(
        "saddle", saddle, M, [0.49, 0.2], AT_M + 0.49 - 0.1 + math.sqrt(0.098), AT_M + 0.49 - 0.1
    ),
    Known("separable", separable, M, [0.49, 0.2], math.sqrt(0.58) + logistic_relaxed(-0.5, 0.2)),
    Known("one coordinate", absolute, M, [0.49, 0.2], math.sqrt(0.58)),
    Known("one coordinate takes all", absolute, M, 0.49, math.sqrt(0.09 + 0.98)),
    Known("mass escapes", lambda t: (t.norm(dim=-1) - 3).clamp(min=0) ** 2, M, 0.49, 0.98),
    # its variance is that of the sum: at most 2 (P v), all of it along (1, 1)
    Known("half plane (Cantelli)", half_plane, M, 0.49, 1.96 / (1.96 + 2.2**2)),
    Known("outside a circle", lambda t: (t.norm(dim=-1) > 2).double(), M, 0.49, 1.32 / 4),
    Known("constant", lambda t: 0 * t[..., 0] + 1, M, 0.49, 1.0, 1.0),
    Known("third power", lambda t: t.norm(dim=-1) ** 3, M, 0.49, math.inf),
]

AGREE = [  # where there is no closed form the routes are compared
    *[one for one in PLANE if one.name in ("length", "saddle", "mass escapes")],
    *[one for one in PLANE if one.name in ("half plane (Cantelli)", "one coordinate takes all")],
    Known("two examples", two_examples, M, 0.49, math.nan),
    Known("two examples", two_examples, M, [0.49, 0.2], math.nan),
    Known("two waves", two_waves, M, 0.49, math.nan),
    Known("one unit", unit_network, M, 0.49, math.nan),
    Known("largest", lambda t: t.max(-1).values, M, 0.49, math.nan),
    Known("sum of sizes", lambda t: t.abs().sum(-1), M, [0.49, 2.0], math.nan),
]
