"""The relaxed loss: the least upper bound of the expected loss that is concave in the moments."""

import math
from dataclasses import replace
from typing import Any

from bsam import options
from bsam.relaxation.arguments import Problem
from bsam.relaxation.atoms import worst_atoms
from bsam.relaxation.certified import Certified
from bsam.relaxation.inf_sup import minimize_over_paraboloids
from bsam.relaxation.moments import worst_case
from bsam.relaxation.results import Kind, Value, WorstCase
from bsam.relaxation.search import GRID_DIMENSIONS
from bsam.relaxation.transform import twice_transformed

METHODS = ("auto", "linear_program", "inf_sup", "transform", "atoms")


def relaxed_loss(loss: Any, mean: Any, variance: Any, *, method: str = "auto") -> Value:
    r"""Return -f**, the optimal convex relaxation of the expected loss, in the loss' sign.

    f is the expected negative loss :math:`E_q[-\ell]` as a function of the expectation parameters
    :math:`\mu = E_q[T(\theta)]` of the Gaussian, and f** its biconjugate, the largest convex
    function below it. So :math:`-f^{**}(\mu) \ge E_q[\ell]` always, and no other upper bound that
    is concave in the moments is smaller. Three equal forms:

    .. math::
        -f^{**}(\mu) &= -\sup_\lambda \; \langle \lambda, \mu \rangle - f^*(\lambda) \\
        &= \inf_{a, k} \; \sup_\theta \left[ \ell(\theta) - \langle a, \theta \rangle
           - k |\theta|^2 \right] + \langle a, m \rangle + k \, (|m|^2 + P v) \\
        &= \sup \, \{ E_r[\ell(\theta)] : r \text{ any distribution with } E_r[T(\theta)] = \mu \}

    Args:
        loss: a function of a tensor (..., P) that gives (...).
        mean: m, shape (P,); a number if P is 1.
        variance: v > 0: a number is the isotropic family, with statistics theta and
            :math:`|\theta|^2`; a tensor (P,) the diagonal one, with theta and :math:`\theta^2`.
        method: which form is solved. ``"transform"``: the first, on grids, P = 1.
            ``"inf_sup"``: the second, P of 1 or 2. ``"linear_program"``: the third, P of 1 or 2.
            ``"atoms"``: a lower bound by distributions on a few points, any P. ``"auto"`` is the
            linear program where it can be, otherwise atoms.

    Returns:
        A :class:`Value`, ``math.inf`` if the loss grows faster than a square. In one and two
        dimensions it is right to 1e-6, with bounds in ``lower`` and ``upper``; ``upper`` is as
        certain as the search, which sees features wider than a fiftieth of their distance to the
        mean or the origin. ``"transform"`` gives an estimate with an error. Above, it is a lower
        bound, as ``kind`` says; ``upper`` is finite for losses that know a certificate
        (:class:`Quadratic`, :class:`LogisticRegression`, :class:`Lipschitz`).

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed, or a method that P does not allow.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, section 3.

    Example:
        >>> import torch
        >>> from bsam import relaxation
        >>> logistic = lambda theta: torch.nn.functional.softplus(-theta[..., 0])
        >>> round(relaxation.relaxed_loss(logistic, mean=0.5, variance=0.49), 6)
        0.532928
        >>> round(relaxation.expected_loss(logistic, mean=0.5, variance=0.49), 6)
        0.529053
    """
    options.one_of("method", method, METHODS, advice="leave it out")
    problem = Problem.of(loss, mean, variance)
    if method == "inf_sup":
        _require_dimensions(problem, method, GRID_DIMENSIONS)
        return minimize_over_paraboloids(problem)
    if method == "transform":
        _require_dimensions(problem, method, 1)
        return twice_transformed(problem)
    return _worst_case(problem, method).value


def biconjugate(loss: Any, mean: Any, variance: Any, *, method: str = "auto") -> Value:
    r"""Return f**, the biconjugate of the expected negative loss: minus :func:`relaxed_loss`.

    .. math:: f^{**}(\mu) = \sup_\lambda \; \langle \lambda, \mu \rangle - f^*(\lambda) \le f(\mu)

    Args:
        loss: a function of a tensor (..., P) that gives (...).
        mean: m, shape (P,); a number if P is 1.
        variance: v > 0, a number (isotropic) or a tensor (P,) (diagonal).
        method: as for :func:`relaxed_loss`.

    Returns:
        A :class:`Value`; lower and upper bounds change places with the sign.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed, or a method that P does not allow.

    References:
        Moellenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, section 3.

    Example:
        >>> from bsam import relaxation
        >>> round(relaxation.biconjugate(lambda theta: theta[..., 0].abs(), 0.5, 0.49), 6)
        -0.860233
    """
    value = relaxed_loss(loss, mean, variance, method=method)
    turned: dict[Kind, Kind] = {"lower bound": "upper bound", "upper bound": "lower bound"}
    kind = turned.get(value.kind, value.kind)
    return Value(-value, kind=kind, lower=-value.upper, upper=-value.lower, method=value.method)


def worst_case_distribution(loss: Any, mean: Any, variance: Any) -> WorstCase:
    r"""Return the distribution of largest expected loss with the Gaussian's moments.

    .. math:: \sup \, \{ E_r[\ell(\theta)] : E_r[T(\theta)] = \mu \} = -f^{**}(\mu)

    Relaxed Bayes is Bayes against it. It may be attained by a few atoms, or only approached, as
    mass escapes to infinity with a vanishing probability and a part of the second moment.

    Args:
        loss: a function of a tensor (..., P) that gives (...).
        mean: m, shape (P,); a number if P is 1.
        variance: v > 0: a number fixes E[theta] and E|theta|^2, a tensor (P,) each E[theta_i^2].

    Returns:
        A :class:`WorstCase`: ``atoms`` (n, P), ``weights`` (n,), ``value``, ``escaping``,
        ``attained``; in one and two dimensions a ``paraboloid`` above the loss that touches it at
        the atoms and proves that no distribution does worse. It need not be the only one.

    Raises:
        TypeError: for a loss that is no function, or what is not a number.
        ValueError: for shapes or ranges that are not allowed.

    References:
        K. Isii, "On sharpness of Tchebycheff-type inequalities", Ann. Inst. Statist. Math. 14,
        1962: strong duality of the moment problem.

    Example:
        >>> from bsam import relaxation
        >>> worst = relaxation.worst_case_distribution(lambda theta: theta[..., 0].abs(), 0.0, 1.0)
        >>> [round(atom, 3) for atom in sorted(worst.atoms[:, 0].tolist())], worst.attained
        ([-1.0, 1.0], True)
    """
    return _worst_case(Problem.of(loss, mean, variance), "auto")


def _worst_case(problem: Problem, method: str) -> WorstCase:
    if method == "linear_program":
        _require_dimensions(problem, method, GRID_DIMENSIONS)
    if method != "atoms" and problem.num_parameters <= GRID_DIMENSIONS:
        return worst_case(problem)
    found = worst_atoms(problem)
    bound = _certified_bound(problem)
    if bound < found.value - 1e-6 * max(1.0, abs(bound)):
        raise ValueError(
            f"loss: the upper bound of {type(problem.loss).__name__} gives {bound:g} where a "
            f"distribution has {found.value:g}: must not be below it; pass a larger constant."
        )
    upper = max(bound, found.value)
    if math.isfinite(found.value) and math.isfinite(upper):
        close = upper - found.value <= 1e-6 * max(1.0, abs(upper))
        value = Value(
            found.value,
            kind="value" if close else "lower bound",
            upper=upper,
            method=f"{found.value.method}; upper bound of {type(problem.loss).__name__}",
        )
        return replace(found, value=value)
    return found


def _certified_bound(problem: Problem) -> float:
    return problem.loss.upper_bound(problem) if isinstance(problem.loss, Certified) else math.inf


def _require_dimensions(problem: Problem, method: str, most: int) -> None:
    if problem.num_parameters > most:
        raise ValueError(
            f"method={method!r}: must be 'auto' or 'atoms' for P={problem.num_parameters}; "
            f"it covers at most {most}."
        )
