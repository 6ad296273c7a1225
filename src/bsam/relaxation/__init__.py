"""The relaxation: why SAM is Bayes, in numbers.

Bayes chooses, among Gaussians q = N(m, V), the one of largest E_q[-loss] - KL(q || prior). SAM is
what this becomes when the expected negative loss, a function of the Gaussian's expectation
parameters, is replaced by its best convex lower bound, the biconjugate. The functions here compute
both, and what lies between, for any loss of a few parameters, and bounds for losses of many.

===============================  ===================================================================
the side of Bayes                :func:`expected_loss`
the side of SAM                  :func:`max_loss`, :func:`conjugate`
the relaxation                   :func:`relaxed_loss`, :func:`biconjugate`,
                                 :func:`worst_case_distribution`
the whole objective              :func:`relaxed_bayes_objective`, :func:`minimize_over_mean`,
                                 :func:`minimize_jointly`, :func:`implied_posterior`
rho of SAM, variance of Bayes    :func:`sam_radius`, :func:`sam_variance`, :func:`sam_is_bayes`
losses with upper bounds         :class:`Quadratic`, :class:`LogisticRegression`, :class:`Lipschitz`
a loss from a network            :func:`loss_of`
===============================  ===================================================================

A ``loss`` is a function of a tensor theta of shape (..., P) that gives the losses, shape (...); it
is the *sum* over examples where there are some. ``mean`` is a tensor (P,), or a number if P is 1;
``variance`` is a number (isotropic Gaussians, with statistics theta and the square of its length)
or a tensor (P,) (diagonal ones, with theta and theta^2). All is computed in float64. Needs scipy:
``pip install 'bsam[relaxation]'``.
"""

import importlib.util

if importlib.util.find_spec("scipy") is None:
    raise ImportError("bsam.relaxation needs scipy; pip install 'bsam[relaxation]'.")

from bsam.relaxation.bayes import (
    RelaxedBayesMinimum,
    implied_posterior,
    minimize_jointly,
    minimize_over_mean,
    relaxed_bayes_objective,
)
from bsam.relaxation.certified import Lipschitz, LogisticRegression, Quadratic
from bsam.relaxation.expectation import expected_loss
from bsam.relaxation.networks import loss_of
from bsam.relaxation.radius import sam_radius, sam_variance
from bsam.relaxation.relaxed import biconjugate, relaxed_loss, worst_case_distribution
from bsam.relaxation.results import Maximum, Paraboloid, Value, WorstCase
from bsam.relaxation.supremum import conjugate, max_loss
from bsam.relaxation.theorem import SamIsBayes, sam_is_bayes

__all__ = [
    "expected_loss",
    "max_loss",
    "conjugate",
    "biconjugate",
    "relaxed_loss",
    "worst_case_distribution",
    "relaxed_bayes_objective",
    "minimize_over_mean",
    "minimize_jointly",
    "implied_posterior",
    "sam_radius",
    "sam_variance",
    "sam_is_bayes",
    "loss_of",
    "Quadratic",
    "LogisticRegression",
    "Lipschitz",
    "Value",
    "Maximum",
    "WorstCase",
    "Paraboloid",
    "RelaxedBayesMinimum",
    "SamIsBayes",
]
