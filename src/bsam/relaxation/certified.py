"""Losses whose relaxation has an upper bound in any dimension: the certificate travels with them.

Each is a loss like any other, a function of theta (..., P); besides, its ``upper_bound`` bounds
-f** from above. :func:`bsam.relaxation.relaxed_loss` asks for it.
"""

import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bsam import options
from bsam.relaxation.arguments import Loss, Problem
from bsam.relaxation.quadratics import descend, shifted_trace, temperatures, worst_trace


@runtime_checkable
class Certified(Protocol):
    """A loss that knows an upper bound of its relaxation."""

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the losses."""
        ...

    def upper_bound(self, problem: Problem) -> float:
        """Return an upper bound of -f** that holds for certain."""
        ...


class Quadratic:
    r"""The loss :math:`\tfrac12 \theta^T H \theta + b^T \theta + c`.

    Args:
        hessian: H, symmetric, shape (P, P).
        linear: b, shape (P,); zero if left out.
        constant: c.

    Raises:
        ValueError: if H is not square and symmetric, or b does not fit.

    Example:
        >>> from bsam import relaxation
        >>> loss = relaxation.Quadratic([[2.0, 0.0], [0.0, 1.0]])
        >>> value = relaxation.relaxed_loss(loss, [0.0, 0.0], 0.5)  # P v / 2 times the largest
        >>> round(value, 6)
        1.0
    """

    def __init__(self, hessian: Any, linear: Any = None, constant: float = 0.0) -> None:
        hessian = torch.as_tensor(hessian, dtype=torch.float64)
        if hessian.dim() != 2 or not torch.equal(hessian, hessian.T):
            raise ValueError(
                f"hessian: of shape {tuple(hessian.shape)}: must be a symmetric matrix (P, P); "
                "use (H + H.T) / 2."
            )
        zeros = torch.zeros(len(hessian), dtype=torch.float64)
        linear = zeros if linear is None else torch.as_tensor(linear, dtype=torch.float64)
        if linear.shape != zeros.shape:
            raise ValueError(f"linear: of shape {tuple(linear.shape)}: must be ({len(hessian)},).")
        self.hessian, self.linear, self.constant = hessian, linear, constant

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the losses at theta (..., P), shape (...)."""
        curved = ((theta @ self.hessian) * theta).sum(-1) / 2
        return curved + theta @ self.linear + self.constant

    def upper_bound(self, problem: Problem) -> float:
        """Return l(m) plus the largest tr(H S) / 2 over second moments S that are allowed."""
        return float(self(problem.mean) + worst_trace(problem, self.hessian))


class LogisticRegression:
    r"""The loss :math:`\sum_n \log(1 + e^{-y_n x_n^T \theta})`, a sum over examples.

    Args:
        features: x, shape (n, P).
        labels: y, shape (n,), each -1 or 1.

    Raises:
        ValueError: for shapes that do not fit, or labels other than -1 and 1.

    References:
        T. Jaakkola and M. Jordan, "Bayesian parameter estimation via variational methods",
        Statistics and Computing 10, 2000: the quadratic upper bound of each example.

    Example:
        >>> from bsam import relaxation
        >>> loss = relaxation.LogisticRegression([[1.0]], [1.0])
        >>> round(relaxation.relaxed_loss(loss, 0.5, 0.49), 6)
        0.532928
    """

    def __init__(self, features: Any, labels: Any) -> None:
        features = torch.as_tensor(features, dtype=torch.float64)
        labels = torch.as_tensor(labels, dtype=torch.float64)
        if features.dim() != 2 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features: of shape {tuple(features.shape)} with labels {tuple(labels.shape)}: "
                "must be (n, P) and (n,)."
            )
        if not bool((labels.abs() == 1.0).all()):
            raise ValueError("labels: must be -1 or 1 each; map 0 to -1.")
        self.signed = features * labels[:, None]

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the losses at theta (..., P), shape (...)."""
        return torch.nn.functional.softplus(-(theta @ self.signed.T)).sum(-1)

    def upper_bound(self, problem: Problem) -> float:
        """Return the relaxation of the best Jaakkola-Jordan bound that a descent finds.

        With any variational parameters xi the bound is a quadratic above the loss, so that its
        relaxation, which is known, is above the loss' relaxation.
        """
        margins = self.signed @ problem.mean
        spread = (self.signed.square() @ problem.variance).sqrt()
        log_xi = (margins.square() + spread.square()).sqrt().clamp(min=1e-6).log()
        # The shift of the dual of the quadratic's relaxation descends together with xi.
        point = torch.cat([log_xi, torch.zeros(problem.num_parameters, dtype=torch.float64)])
        best = float(self._quadratic_bound(problem, point))
        for temperature in temperatures(problem, self._hessian(log_xi.exp())):
            point = descend(
                point, lambda z, t=temperature: self._quadratic_bound(problem, z, temperature=t)
            )
            best = min(best, float(self._quadratic_bound(problem, point)))
        return best

    def _hessian(self, xi: Tensor) -> Tensor:
        return 2 * (self.signed.T * _curvature(xi)) @ self.signed

    def _quadratic_bound(self, problem: Problem, point: Tensor, temperature: float = 0.0) -> Tensor:
        """Return the relaxation of the sum of the quadratics that touch each example at +-xi."""
        log_xi, shift = point.split([len(self.signed), problem.num_parameters])
        xi = log_xi.exp()
        margins = self.signed @ problem.mean
        at_mean = torch.nn.functional.softplus(-xi) + (xi - margins) / 2
        at_mean = (at_mean + _curvature(xi) * (margins.square() - xi.square())).sum()
        return at_mean + shifted_trace(problem, self._hessian(xi), shift, temperature)


def _curvature(xi: Tensor) -> Tensor:
    """Return lambda(xi) of the reference."""
    return torch.tanh(xi / 2) / (4 * xi)


class Lipschitz:
    r"""A loss with a known Lipschitz constant: ``|l(a) - l(b)| <= constant |a - b|``.

    Then :math:`-f^{**} \le \ell(m) + L \sqrt{\sum_i v_i}`.

    Args:
        loss: a function of theta (..., P) that gives (...).
        constant: L; it is taken on trust, and the bound is as certain as it is.

    Raises:
        TypeError, ValueError: for a constant that is not a number of at least 0.

    Example:
        >>> import torch
        >>> from bsam import relaxation
        >>> loss = relaxation.Lipschitz(lambda theta: theta.norm(dim=-1), 1.0)
        >>> round(relaxation.relaxed_loss(loss, torch.zeros(4), 0.25).upper, 6)
        1.0
    """

    def __init__(self, loss: Loss, constant: float) -> None:
        self.loss = loss
        self.constant = options.real("constant", constant, at_least=0.0, advice="try a larger one")

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the losses at theta (..., P), shape (...)."""
        return self.loss(theta)

    def upper_bound(self, problem: Problem) -> float:
        """Return l(m) + L times the root of the mean squared distance from m."""
        distance = math.sqrt(float(problem.variance.sum()))
        return float(self.loss(problem.mean[None])[0]) + self.constant * distance
