"""Faults planted in the relaxation: a test or a law must catch each.

A bug that is found there becomes one more entry.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from relaxation import (
    laws,
    losses,
    test_bayes,
    test_bounds,
    test_closed_forms,
    test_expectation,
    test_networks,
    test_radius,
    test_supremum,
)

from bsam import relaxation
from bsam.relaxation import (
    atoms,
    bayes,
    certified,
    moments,
    networks,
    radius,
    search,
    supremum,
)
from bsam.relaxation.arguments import Problem


def known(name):
    return next(one for one in losses.LINE + losses.PLANE if one.name == name)


closed_form = test_closed_forms.test_the_relaxed_loss_and_its_worst_case


def without_infinity(with_points):
    def wrong(self, points, values, *, at_infinity=False):
        return self if at_infinity else with_points(self, points, values)

    return wrong


def opening_upwards(solve):
    def wrong(problem, columns):
        solution = solve(problem, columns)
        return replace(solution, quadratic=solution.quadratic.clamp(min=0.0))

    return wrong


def any_mean(solve):
    def wrong(costs, matrix, wanted):
        free = matrix.clone()
        free[1] = 0.0
        return solve(costs, free, wanted)

    return wrong


def twice_the_penalty(largest):
    return lambda problem, linear, quadratic: largest(problem, linear, 2 * quadratic)


def decay_of_the_prior(mean, variance, d):
    return float((d * mean.square()).sum() - (variance * d).log().sum()) / 2


def trace_of_the_gaussian(problem, hessian):
    return (hessian.diagonal() * problem.variance).sum() / 2


def worst_of_few(worst_case):
    """Atoms and weights of the first linear program, without what it lacks."""

    def wrong(problem, columns, solution, upper, paraboloid):
        flat = replace(paraboloid, quadratic=0 * paraboloid.quadratic)
        return worst_case(problem, columns, solution, upper, flat)

    return wrong


def ones(problem):
    count = 1 if problem.isotropic else problem.num_parameters
    return torch.ones(count, dtype=torch.float64)


FAULTS = {
    "variance taken for standard deviation": (
        (Problem, "theta", lambda self, x: self.mean + self.variance * x),
        closed_form,
        (known("logistic"),),
    ),
    "the second moment is v, not P v": (
        (Problem, "second_moments", property(ones)),
        closed_form,
        (known("length"),),
    ),
    "the sum of squares in the diagonal family": (
        (Problem, "squares", lambda _, x: x.square().sum(-1, keepdim=True).expand(x.shape)),
        laws.worst_case_has_the_moments,
        known("separable").arguments,
    ),
    "no mass at infinity": (
        (moments.Columns, "with_points", without_infinity(moments.Columns.with_points)),
        test_closed_forms.test_mass_that_escapes_is_told,
        (),
    ),
    "k is positive": (
        (moments, "solve", opening_upwards(moments.solve)),
        closed_form,
        (known("minus square"),),
    ),
    "any mean": (
        (moments, "_linear_program", any_mean(moments._linear_program)),
        closed_form,
        (known("logistic"),),
    ),
    "a paraboloid without its curvature": (
        (moments, "_read_off", worst_of_few(moments._read_off)),
        laws.paraboloid_lies_above_and_touches,
        known("bump").arguments,
    ),
    "eps^2 / v for eps^2 / (2 v)": (
        (supremum, "supremum", twice_the_penalty(supremum.supremum)),
        test_supremum.test_the_value_of_a_size,
        (),
    ),
    "the conjugate without its constant": (
        (supremum, "moved", lambda found, _: found),
        test_supremum.test_the_conjugate_is_the_supremum_of_its_definition,
        (0.5,),
    ),
    "only one of tied maximizers": (
        (search, "distinct", lambda _, values, **__: values.argmax()[None]),
        test_supremum.test_ties_are_told,
        (),
    ),
    "nodes for another weight": (
        (np.polynomial.hermite_e, "hermegauss", np.polynomial.hermite.hermgauss),
        test_expectation.test_two_and_three_parameters,
        (2,),
    ),
    "the largest loss taken for an upper bound": (
        (relaxation, "relaxed_loss", relaxation.max_loss),
        laws.relaxed_is_above_expected,
        (losses.times(0.5, losses.square), 0.0, 0.5),
    ),
    "the expected loss taken for the relaxed": (
        (relaxation, "relaxed_loss", relaxation.expected_loss),
        laws.jaakkola_jordan,
        (0.5, 0.49),
    ),
    "the sum taken for the mean": (
        (radius, "summed_loss", lambda loss, _: loss),
        test_radius.test_a_mean_loss_with_num_data_is_the_sum,
        (10,),
    ),
    "the decay is the prior's": (
        (bayes, "_prior_terms", decay_of_the_prior),
        test_bayes.test_the_objective_is_its_formula,
        (losses.logistic, 1.0),
    ),
    "the site taken for the posterior": (
        (bayes, "implied_posterior", lambda mean, variance, **_: (mean, variance)),
        test_bayes.test_a_minimum_over_the_mean,
        (losses.logistic, 1, 0.25, 0.7),
    ),
    "atoms without the moments": (
        (atoms, "normalized", lambda _problem, points, _weights: points),
        test_bounds.test_atoms_have_the_moments_and_their_value,
        (5, "isotropic"),
    ),
    "the Gaussian's trace taken for the worst": (
        (certified, "worst_trace", trace_of_the_gaussian),
        test_bounds.test_a_quadratic_in_the_isotropic_family,
        (3,),
    ),
    "a network's mean loss for its sum": (
        (networks.NetworkLoss, "scale", property(lambda _: 1, lambda *_: None)),
        test_networks.test_it_is_the_sum_of_the_plain_losses,
        ("mean",),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught(name, monkeypatch):
    (place, attribute, wrong), test, arguments = FAULTS[name]
    test(*arguments)
    monkeypatch.setattr(place, attribute, wrong, raising=False)
    with pytest.raises(AssertionError):
        test(*arguments)
