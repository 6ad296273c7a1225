"""The laws of the relaxation at drawn Gaussians."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from relaxation import laws, losses

from bsam import relaxation

MEANS = st.floats(-2, 2).map(lambda x: round(x, 3))
VARIANCES = st.floats(0.05, 4).map(lambda x: round(x, 3))
few = settings(max_examples=2)

LINE = [
    losses.logistic,
    losses.absolute,
    losses.bump,
    losses.wave,
    losses.hinge,
    losses.double_well,
    losses.jump,
    losses.ramp,
]
names = {"ids": lambda loss: loss.__name__}
FEWER = [losses.logistic, losses.absolute, losses.bump, losses.wave, losses.jump]
SMOOTH = [losses.logistic, losses.bump, losses.wave]


@pytest.mark.parametrize("loss", LINE, **names)
@few
@given(mean=MEANS, variance=VARIANCES)
def test_order_and_worst_case(loss, mean, variance):
    worst = relaxation.worst_case_distribution(loss, mean, variance)
    laws.relaxed_is_above_expected(loss, mean, variance)
    laws.relaxed_is_above_the_loss(loss, mean, variance)
    laws.worst_case_has_the_moments(loss, mean, variance, worst)
    laws.worst_case_attains_its_value(loss, mean, variance, worst)
    laws.paraboloid_lies_above_and_touches(loss, mean, variance, worst)


@pytest.mark.parametrize("loss", FEWER, **names)
@few
@given(mean=MEANS, variance=VARIANCES, site_mean=MEANS, site_variance=VARIANCES)
def test_young_fenchel(loss, mean, variance, site_mean, site_variance):
    laws.young_fenchel(loss, mean, variance, site_mean, site_variance)


@pytest.mark.parametrize("loss", [losses.logistic, losses.absolute, losses.bump], **names)
@few
@given(mean=MEANS, variance=VARIANCES)
def test_young_fenchel_is_an_equality_where_lam_attains(loss, mean, variance):
    laws.young_fenchel_is_an_equality_at_the_paraboloid(loss, mean, variance)


@pytest.mark.parametrize("loss", [losses.logistic, losses.bump, losses.absolute], **names)
@few
@given(site_mean=MEANS, site_variance=VARIANCES)
def test_the_third_conjugate_is_the_first(loss, site_mean, site_variance):
    """f*** = f*: the sup over mu of <lam, mu> - f**(mu) is reached at the maximizing theta.

    There, with nearly no variance, it comes close; at other Gaussians it is not exceeded.
    """
    star = relaxation.conjugate(loss, site_mean, site_variance)
    tops = star.maximizers[:, 0].tolist()
    found = []
    for mean, variance in [(t, 1e-9) for t in tops] + [
        (t + 0.3, v) for t in tops for v in (0.1, 2)
    ]:
        product = (site_mean * mean - (mean**2 + variance) / 2) / site_variance
        found.append(product + relaxation.relaxed_loss(loss, mean, variance))
    laws.same(max(found), star, 1e-5, of="f*** = f*")


@pytest.mark.parametrize("loss", FEWER, **names)
@settings(max_examples=1)
@given(mean=MEANS, variance=VARIANCES)
def test_changes_of_the_loss(loss, mean, variance):
    laws.a_constant_and_a_factor(loss, mean, variance)
    laws.a_linear_term(loss, mean, variance)
    laws.translation(loss, mean, variance)
    laws.scaling(loss, mean, variance)
    laws.a_quadratic_statistic(loss, mean, variance, -0.8)


@pytest.mark.parametrize("family", ["isotropic", "diagonal"])
def test_changes_of_the_loss_in_the_plane(family):
    mean = torch.tensor(losses.M, dtype=torch.float64)
    variance = 0.49 if family == "isotropic" else torch.tensor([0.49, 0.2], dtype=torch.float64)
    if family == "isotropic":
        laws.a_linear_term(losses.two_examples, mean, variance)
        laws.translation(losses.two_examples, mean, variance)
    else:
        laws.scaling(losses.two_examples, mean, variance)
        laws.a_quadratic_statistic(losses.two_examples, mean, variance, -0.8)


@pytest.mark.parametrize("loss", FEWER, **names)
@few
@given(first=st.tuples(MEANS, VARIANCES), second=st.tuples(MEANS, VARIANCES))
def test_concavity_in_the_moments(loss, first, second):
    laws.concavity(loss, first, second)


# ------------------------------------------------------------------ where it is exact


@few
@given(a=MEANS, b=MEANS, mean=MEANS, variance=VARIANCES)
def test_quadratics_of_one_parameter_are_exact(a, b, mean, variance):
    def loss(theta):
        return a * theta[..., 0].square() + b * theta[..., 0]

    relaxed = relaxation.relaxed_loss(loss, mean, variance)
    laws.same(relaxed, relaxation.expected_loss(loss, mean, variance))


@pytest.mark.parametrize(
    ("hessian", "isotropic_is_exact", "diagonal_is_exact"),
    [
        ([[1.5, 0.0], [0.0, 1.5]], True, True),
        ([[-1.0, 0.0], [0.0, -1.0]], True, True),
        ([[1.5, 0.0], [0.0, 0.5]], False, True),
        ([[1.5, 0.0], [0.0, -2.0]], False, True),
        ([[1.5, 0.4], [0.4, 1.5]], False, False),
        ([[-1.0, -0.3], [-0.3, 0.5]], False, False),
    ],
)
@pytest.mark.parametrize("family", ["isotropic", "diagonal"])
def test_quadratics_of_two_parameters(hessian, isotropic_is_exact, diagonal_is_exact, family):
    mean = torch.tensor(losses.M, dtype=torch.float64)
    v = [0.49, 0.2]
    variance = v[0] if family == "isotropic" else torch.tensor(v, dtype=torch.float64)
    (a, b), (_, c) = hessian
    loss = relaxation.Quadratic(hessian)
    relaxed = relaxation.relaxed_loss(loss, mean, variance)
    at_mean = loss(mean).item()
    if family == "isotropic":
        wanted, gaussian = v[0] * np.linalg.eigvalsh(hessian)[-1], v[0] * (a + c) / 2
    else:
        wanted = (a * v[0] + c * v[1]) / 2 + abs(b) * math.sqrt(v[0] * v[1])
        gaussian = (a * v[0] + c * v[1]) / 2
    laws.same(relaxed, at_mean + wanted)
    laws.same(relaxation.expected_loss(loss, mean, variance), at_mean + gaussian)
    exact = isotropic_is_exact if family == "isotropic" else diagonal_is_exact
    assert (relaxed - at_mean - gaussian < 1e-6) == exact


@few
@given(mean=MEANS, variance=VARIANCES)
def test_other_losses_are_not_exact(mean, variance):
    for loss in (losses.logistic, losses.absolute, losses.bump):
        gap = relaxation.relaxed_loss(loss, mean, variance) - relaxation.expected_loss(
            loss, mean, variance
        )
        assert gap > 1e-7


# ------------------------------------------------------------------ the side of SAM


@few
@given(mean=MEANS, variance=VARIANCES)
def test_the_logistic_loss_gives_the_bound_of_jaakkola_and_jordan(mean, variance):
    laws.jaakkola_jordan(mean, variance)


@pytest.mark.parametrize("loss", SMOOTH, **names)
@pytest.mark.parametrize("mean", [0.3, -0.9])
def test_small_variances(loss, mean):
    laws.expansion_of_max(loss, mean, 2e-3)
    laws.expansion_of_expected(loss, mean, 2e-3)


def test_small_variances_in_the_plane():
    mean = torch.tensor(losses.M, dtype=torch.float64)
    laws.expansion_of_max(losses.two_examples, mean, 1e-3)
    laws.expansion_of_expected(losses.two_examples, mean, 1e-3)


@few
@given(h=st.floats(-3, 3), mean=st.floats(0.1, 2), variance=VARIANCES)
def test_the_moreau_envelope_of_a_quadratic(h, mean, variance):
    assume(abs(h * variance - 1) > 0.05)
    laws.max_side_is_the_moreau_envelope(h, mean, variance)


@pytest.mark.parametrize("loss", [losses.logistic, losses.wave, losses.absolute], **names)
def test_tilting_leads_from_the_expected_to_the_largest(loss):
    """(1/t) log E_q[exp(t l)] rises with t from E_q[l]; along N(m, v/t) it ends at the maximum."""
    mean, variance = 0.5, 0.1

    def tilted(t, spread):
        shift = loss(torch.tensor([mean])).item()
        inside = relaxation.expected_loss(
            lambda theta: torch.exp(t * (loss(theta) - shift)), mean, spread
        )
        return shift + math.log(inside) / t

    levels = [tilted(t, variance) for t in (1e-3, 0.1, 0.5, 1.0, 2.0, 4.0)]
    assert all(a < b for a, b in pairwise(levels))
    laws.same(levels[0], relaxation.expected_loss(loss, mean, variance), 1e-3)
    largest = relaxation.max_loss(loss, mean, variance)
    gaps = [abs(tilted(t, variance / t) - largest) for t in (10.0, 100.0, 1000.0)]
    assert gaps[0] >= gaps[1] >= gaps[2]
    assert gaps[2] < 1e-3


def test_the_largest_loss_bounds_no_expected_loss_and_the_relaxed_does():
    """A minimum of a parabola: the penalty is steeper, so the maximum is l(m) = 0."""
    loss = losses.times(0.5, losses.square)
    assert relaxation.max_loss(loss, 0.0, 0.5) == pytest.approx(0.0, abs=1e-12)
    expected = relaxation.expected_loss(loss, 0.0, 0.5)
    assert expected == pytest.approx(0.25)
    assert relaxation.relaxed_loss(loss, 0.0, 0.5) == pytest.approx(0.25, abs=1e-9)
