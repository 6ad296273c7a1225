"""Metrics on cases that can be done by hand: perfect, worst, constant, tied, infinite."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from metrics.cases import PREDICTION_METRICS, risks
from sklearn.metrics import roc_auc_score

from bsam import metrics

INF = math.inf
NAMES = [metric.__name__ for metric in PREDICTION_METRICS if metric.__name__[:3] != "mis"]


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([0, 0, 1], (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
        ([1, 1, 0], (0.0, INF, 2.0, 1.0, 1.0, 1.0)),
    ],
    ids=["perfect", "worst"],
)
def test_certain_predictions(labels, values):
    probs = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert [getattr(metrics, name)(probs, labels) for name in NAMES] == list(values)


def test_uniform_predictions():
    probs, labels = np.full((8, 4), 0.25), [0, 0, 1, 1, 2, 2, 3, 3]
    assert metrics.negative_log_likelihood(probs, labels) == pytest.approx(math.log(4))
    assert metrics.brier_score(probs, labels) == 0.75
    assert metrics.expected_calibration_error(probs, labels) == 0.0
    assert metrics.adaptive_calibration_error(probs, labels) == 0.0
    assert metrics.misclassification_auroc(probs, labels) == 0.5
    assert risks(probs, labels) == [0.75] * 8


def test_auroc_of_errors_that_are_least_and_most_confident():
    probs = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]
    assert metrics.misclassification_auroc(probs, [0, 0, 0, 1]) == 1.0
    assert metrics.misclassification_auroc(probs, [1, 1, 1, 0]) == 0.0


@pytest.mark.parametrize("right", [True, False])
def test_auroc_needs_right_and_wrong_rows(right):
    labels = [0, 1] if right else [1, 0]
    message = (
        f"labels: all 2 rows are {'right' if right else 'wrong'}: must have rows of both kinds, as "
        "AUROC is undefined with only one class; evaluate on more rows"
    )
    with pytest.raises(ValueError, match=message):
        metrics.misclassification_auroc([[0.9, 0.1], [0.2, 0.8]], labels)


@pytest.mark.parametrize(
    ("inside", "outside", "auroc", "aupr", "fpr95"),
    [
        ([0, 1, 2], [3, 4], 1, 1, 0),
        ([3, 4], [0, 1, 2], 0, (1 / 3 + 2 / 4 + 3 / 5) / 3, 1),
        ([1, 1, 1], [1], 0.5, 1 / 4, 1),
        ([-INF, 0], [0, INF], 0.875, 1 / 2 + 2 / 3 / 2, 0.5),
        ([INF], [INF, INF], 0.5, 2 / 3, 1),
        ([-INF], [INF], 1, 1, 0),
    ],
)
def test_scores(inside, outside, auroc, aupr, fpr95):
    inside, outside = np.array(inside, float), np.array(outside, float)
    assert metrics.ood_auroc(inside, outside) == auroc
    assert metrics.ood_aupr(inside, outside) == pytest.approx(aupr, abs=1e-15)
    assert metrics.ood_fpr95(inside, outside) == fpr95


@pytest.mark.parametrize(("n", "accepted"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95)])
def test_threshold_of_fpr95_accepts_the_fewest_that_are_enough(n, accepted):
    """The n-th of n scores is n; foreign scores at k + 1/2 are accepted when k + 1 is."""
    fpr95 = metrics.ood_fpr95(np.arange(1, n + 1), np.arange(n) + 0.5)
    assert fpr95 * n == pytest.approx(accepted, abs=1e-9)


def test_risk_coverage_with_ties_by_hand():
    probs = [[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.7, 0.3], [0.6, 0.4]]
    coverage, risk = metrics.risk_coverage(probs, [0, 1, 1, 0, 1])
    assert coverage.dtype == risk.dtype == torch.float64
    assert coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    truth = [0, 1 / 3 / 2, 2 / 3 / 3, 1 / 4, 2 / 5]
    assert risk.tolist() == pytest.approx(truth, abs=1e-15)
    assert metrics.aurc(probs, [0, 1, 1, 0, 1]) == pytest.approx(sum(truth) / 5, abs=1e-15)


def test_confidence_decides_the_order():
    probs, labels = [[0.9, 0.1], [0.4, 0.6]], [0, 0]
    assert risks(probs, labels, [0, 1]) == [1.0, 0.5]
    assert risks(probs, labels, [INF, -INF]) == [0.0, 0.5]
    assert risks(probs, labels, [7.0, 7.0]) == [0.5, 0.5]


def test_bins_of_equal_mass():
    probs = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    probs, labels = np.stack([1 - probs, probs], 1), [0, 1, 0, 1, 1, 1]
    # Pairs of rows for class 1, the same pairs for class 0: gaps of mean and frequency.
    truth = (abs(0.15 - 0.5) + abs(0.35 - 0.5) + abs(0.7 - 1)) / 3
    value = metrics.adaptive_calibration_error(probs, labels, 3)
    assert value == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.75, 0.9375])
def test_bounds_belong_to_the_interval(level):
    bound = NormalDist().inv_cdf((1 + level) / 2)
    beyond = math.nextafter(bound, INF)
    for sign in (1, -1):
        assert metrics.interval_coverage([0.0], 1.0, [sign * bound], level) == 1.0
        assert metrics.interval_coverage([0.0], 1.0, [sign * beyond], level) == 0.0


def test_interval_of_the_usual_level():
    targets = [1.95, 1.97, -1.95, -1.97]
    assert metrics.interval_coverage(np.zeros(4), 1.0, targets) == 0.5
    # (1 + level) / 2 would round to one, and its quantile to infinity.
    assert metrics.interval_coverage([0.0], 1.0, [9.0], level=1 - 2**-53) == 0.0


def test_gaussian_density_by_hand():
    assert metrics.gaussian_nll(0.0, 1.0, 0.0) == pytest.approx(0.5 * math.log(2 * math.pi))
    value = 0.5 * (math.log(2 * math.pi * 4) + 9 / 4)
    assert metrics.gaussian_nll([[1.0]], [[4.0]], [[-2.0]]) == pytest.approx(value, abs=1e-14)
    assert metrics.gaussian_nll([0.0], 1e-300, [1e10]) == pytest.approx(5e319, rel=1) == INF
    assert metrics.gaussian_nll([0.0], 1e300, [1e200]) < INF


def test_variance_is_broadcast_to_the_mean_as_numpy_does():
    mean, targets = np.zeros((3, 2)), np.arange(6.0).reshape(3, 2)
    for variance in (2.0, [1.0, 3.0], [[1.0], [2.0], [3.0]]):
        full = np.broadcast_to(variance, (3, 2))
        for metric in (metrics.gaussian_nll, metrics.interval_coverage):
            assert metric(mean, variance, targets) == metric(mean, full, targets)


def test_many_rows():
    """Pairs of these rows would fill 80 GB, and loops over them take minutes."""
    draw = np.random.default_rng(0)
    probs = draw.dirichlet(np.ones(3), 100_000).round(3)
    probs[:, 0] += 1 - probs.sum(1)
    probs, labels = probs.clip(0, 1), draw.integers(3, size=100_000)
    for metric in PREDICTION_METRICS:
        assert metric(probs[:, :], labels) > 0
    inside, outside = draw.normal(size=100_000).round(2), draw.normal(size=100_000).round(2) + 0.5
    auroc = roc_auc_score(np.repeat([0, 1], 100_000), np.concatenate([inside, outside]))
    assert metrics.ood_auroc(inside, outside) == pytest.approx(auroc, abs=1e-12)
    assert 0.6 < metrics.ood_aupr(inside, outside) < 0.7
    assert metrics.ood_fpr95(inside, outside) == (outside <= np.sort(inside)[94_999]).mean()
