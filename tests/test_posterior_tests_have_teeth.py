"""Faults planted in the posterior, the prediction and the passes: a named test must catch each.

A bug that is found there becomes one more entry.
"""

import math

import pytest
import test_diagnostics
import test_normalization
import test_posterior
import test_posterior_file
import test_prediction
import test_scaling
import torch

from bsam import (
    diagnostics,
    engine,
    gaussian,
    naming,
    normalization,
    posterior,
    posterior_file,
    predictive,
    scaling,
)


def variance_for_deviation(noise, mean, precision):
    for e, m, each in zip(noise, mean, precision, strict=True):
        e.div_(each).add_(m)


def averages_logits(self, log_probs):
    first = self.count == 0
    self._log_sum = log_probs if first else self._log_sum + log_probs
    self._entropy_sum = predictive._entropy(log_probs)
    self.count += 1


def one_draw_for_all(draw):
    return lambda self, _number, *, seed: draw(self, 0, seed=seed)


def a_seed_of_its_own(draw):
    return lambda self, number, *, seed: draw(self, number, seed=seed + torch.randint(9, ()).item())


def spread_with_bessel(result):
    def wrong(self):
        right = result(self)
        epistemic = right.epistemic_variance * self.count / max(self.count - 1, 1)
        total = right.aleatoric_variance + epistemic
        return predictive.GaussianPredictive(right.mean, total, right.aleatoric_variance, epistemic)

    return wrong


def twice(unscaled):
    return lambda gradients, scale: unscaled(gradients, scale * scale)


FAULTS = {
    "N forgotten in the precision": (
        (gaussian, "precision", lambda s, _: s),
        test_posterior.test_it_holds_copies_of_the_mean_and_of_num_data_times_s,
        (),
    ),
    "variance taken for standard deviation": (
        (gaussian, "to_draws_", variance_for_deviation),
        test_posterior.test_draws_have_the_moments_of_the_posterior,
        (),
    ),
    "draws that training saw": (
        (posterior, "_PREDICTION", 0),
        test_posterior.test_draws_are_not_the_noise_of_training,
        (),
    ),
    "the same draw each time": (
        (posterior.GaussianPosterior, "draw", one_draw_for_all(posterior.GaussianPosterior.draw)),
        test_posterior.test_draws_have_the_moments_of_the_posterior,
        (),
    ),
    "another draw for the same seed": (
        (posterior.GaussianPosterior, "draw", a_seed_of_its_own(posterior.GaussianPosterior.draw)),
        test_prediction.test_the_same_seed_gives_the_same_predictions,
        (),
    ),
    "logarithms averaged for probabilities": (
        (predictive.CategoricalAccumulator, "_add", averages_logits),
        test_prediction.test_categorical_equals_the_plain_loop,
        ("loop", 3),
    ),
    "a sample's variance for that of the mixture": (
        (
            predictive.GaussianAccumulator,
            "result",
            spread_with_bessel(predictive.GaussianAccumulator.result),
        ),
        test_prediction.test_gaussian_adds_noise_and_spread,
        ("loop",),
    ),
    "buffers left out": (
        (naming, "own_buffers", lambda _: {}),
        test_posterior.test_sampled_moves_a_model_and_puts_everything_back,
        (),
    ),
    "statistics not put back": (
        (normalization, "_set", lambda *_: None),
        test_normalization.test_frozen_statistics_do_not_move,
        ("batch 1d",),
    ),
    "policies exchanged": (
        (
            normalization,
            "POLICIES",
            {**normalization.POLICIES, "sampled": ("perturbed",), "perturbed": ("sampled",)},
        ),
        test_normalization.test_only_the_passes_of_a_policy_move_statistics,
        (test_normalization.bsam_over, test_normalization.with_closures, "sampled"),
    ),
    "unscaled twice": (
        (scaling, "unscaled", twice(scaling.unscaled)),
        test_scaling.test_with_a_scaler_the_run_is_the_same,
        (test_scaling.bsam_over, 1),
    ),
    "not unscaled": (
        (scaling, "unscaled", lambda gradients, _: gradients),
        test_scaling.test_with_a_scaler_the_run_is_the_same,
        (test_scaling.bsam_over, 1),
    ),
    "an overflow of the first pass forgotten": (
        (scaling, "overflow_of", lambda gradient: gradient),
        test_scaling.test_an_overflow_in_either_pass_skips_the_step,
        (test_scaling.bsam_over, math.inf, 0, 1, 0, True),
    ),
    "a skipped step not forgotten": (
        (engine.TwoPassOptimizer, "_discard_if_skipped", lambda _: None),
        test_scaling.test_an_overflow_in_either_pass_skips_the_step,
        (test_scaling.bsam_over, math.inf, 0, 1, 0, False),
    ),
    "a floor without tolerance for float32": (
        (diagnostics, "_near", lambda s, value, tolerance: (s - value).abs() <= tolerance * value),
        test_diagnostics.test_shares_count_what_is_there,
        (),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught(name, monkeypatch):
    (place, attribute, wrong), test, arguments = FAULTS[name]
    test(*arguments)
    monkeypatch.setattr(place, attribute, wrong)
    with pytest.raises(AssertionError):
        test(*arguments)


def test_a_missing_checksum_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(posterior_file, "_checksum", lambda *_: "always")
    path = tmp_path / "posterior.safetensors"
    posterior = test_posterior.given_posterior()
    posterior.precision["m"] = posterior.mean["m"] = torch.ones(2)
    posterior.save(path)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_posterior_file.test_edited_numbers_are_refused(path)
