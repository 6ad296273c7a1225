"""What holds for the metrics whatever the data: order, scale of scores, bounds, copies, batches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.cases import (
    CASES,
    GAUSSIANS,
    PREDICTIONS,
    SCORE_METRICS,
    SCORES,
    SEEDS,
    gaussians,
    name_of,
    predictions,
    risks,
)

from bsam import metrics

COPIES = [case for case in CASES if case[0] is not metrics.aurc]  # It has more values to average.
MEANS_OVER_ROWS = [
    (metrics.accuracy, predictions),
    (metrics.negative_log_likelihood, predictions),
    (metrics.brier_score, predictions),
    (metrics.gaussian_nll, gaussians),
    (metrics.interval_coverage, gaussians),
]
INCREASING = [np.exp, np.arctan, lambda s: 3 * s - 7, lambda s: s**3]


@pytest.mark.parametrize(("metric", "arguments"), CASES, ids=name_of)
@settings(max_examples=50)
@given(data=st.data(), seed=SEEDS)
def test_the_order_of_rows_does_not_matter(metric, arguments, data, seed):
    values = data.draw(arguments)
    draw = np.random.default_rng(seed)
    if metric in SCORE_METRICS:
        shuffled = [draw.permutation(scores) for scores in values]
    else:
        order = draw.permutation(len(values[0]))
        shuffled = [array[order] for array in values]
    assert metric(*shuffled) == pytest.approx(metric(*values), rel=1e-13, abs=1e-13)


@settings(max_examples=50)
@given(case=PREDICTIONS, seed=SEEDS)
def test_the_order_of_rows_does_not_matter_with_a_confidence(case, seed):
    draw = np.random.default_rng(seed)
    confidence, order = draw.integers(3, size=len(case[0])), draw.permutation(len(case[0]))
    shuffled = [array[order] for array in (*case, confidence)]
    for metric in (risks, metrics.aurc):
        assert metric(*shuffled) == pytest.approx(metric(*case, confidence), abs=1e-13)


@pytest.mark.parametrize("increasing", INCREASING)
@settings(max_examples=20)
@given(case=SCORES)
def test_only_the_order_of_scores_matters(increasing, case):
    for metric in SCORE_METRICS:
        assert metric(*(increasing(scores) for scores in case)) == metric(*case)


@pytest.mark.parametrize("increasing", INCREASING)
@settings(max_examples=20)
@given(case=PREDICTIONS)
def test_only_the_order_of_confidence_matters(increasing, case):
    largest = case[0].max(1)
    assert metrics.aurc(*case, largest) == metrics.aurc(*case)
    assert metrics.aurc(*case, increasing(largest)) == metrics.aurc(*case)


@settings(max_examples=30)
@given(seed=SEEDS, power=st.sampled_from([0.5, 2.0, 3.0]))
def test_sharper_binary_predictions_have_the_same_auroc(seed, power):
    probs, labels = predictions(seed, classes=2, ties=True)
    sharper = probs**power / (probs**power).sum(1, keepdims=True)
    value = metrics.misclassification_auroc(probs, labels)
    assert metrics.misclassification_auroc(sharper, labels) == value
    assert metrics.aurc(sharper, labels) == metrics.aurc(probs, labels)


@settings(max_examples=50)
@given(case=SCORES)
def test_swapped_scores_give_the_other_side_of_the_curve(case):
    inside, outside = case
    forwards, backwards = metrics.ood_auroc(inside, outside), metrics.ood_auroc(outside, inside)
    assert forwards + backwards == pytest.approx(1, abs=1e-15)
    assert metrics.ood_auroc(-outside, -inside) == forwards


@settings(max_examples=50)
@given(case=PREDICTIONS)
def test_bounds_of_predictions(case):
    probs, labels = case
    accuracy, confidence = metrics.accuracy(*case), probs.max(1).mean()
    onehot = np.eye(probs.shape[1])[labels]
    assert 0 < accuracy < 1
    assert 0 <= metrics.brier_score(*case) <= 2
    # Jensen: the log of a mean; and a bin's gap is at least the gap of the bins it joins.
    likelihood = (probs * onehot).sum(1).mean()
    assert metrics.negative_log_likelihood(*case) >= -math.log(likelihood or 1e-300) - 1e-12
    ece = metrics.expected_calibration_error(*case)
    assert abs(confidence - accuracy) - 1e-12 <= ece <= 1 + 1e-12
    ace = metrics.adaptive_calibration_error(*case)
    mean_gap = np.abs(probs.mean(0) - onehot.mean(0)).mean()
    assert mean_gap - 1e-12 <= ace <= np.abs(probs - onehot).mean() + 1e-12
    # No order of rows is better than errors last, none worse than errors first.
    right = (probs.argmax(1) == labels).astype(float)
    best, worst = metrics.aurc(*case, right), metrics.aurc(*case, -right)
    assert 0 < best <= metrics.aurc(*case) + 1e-12 <= worst + 2e-12 <= 1 + 2e-12
    assert risks(*case)[-1] == pytest.approx(1 - accuracy, abs=1e-12)


@settings(max_examples=50)
@given(case=SCORES, shift=st.floats(0, 3))
def test_bounds_of_scores(case, shift):
    inside, outside = case
    values = [metric(inside, outside) for metric in SCORE_METRICS]
    assert all(0 <= value <= 1 for value in values)
    auroc, aupr, fpr95 = (metric(inside, outside + shift) for metric in SCORE_METRICS)
    assert auroc >= values[0]
    assert aupr >= values[1] - 1e-12
    assert fpr95 <= values[2]


@settings(max_examples=50)
@given(case=GAUSSIANS, more=st.floats(0.01, 0.99), less=st.floats(0.01, 0.99))
def test_bounds_of_gaussians(case, more, less):
    mean, variance, targets = case
    density_at_mean = metrics.gaussian_nll(mean, variance, mean)
    assert density_at_mean <= metrics.gaussian_nll(*case)
    less, more = sorted((less, more))
    narrow, wide = (metrics.interval_coverage(*case, level=level) for level in (less, more))
    assert 0 <= narrow <= wide <= 1
    # Units: scaling all adds log(scale) and leaves the intervals.
    scaled = 4 * mean, 16 * variance, 4 * targets
    nll = metrics.gaussian_nll(*case) + math.log(4)
    assert metrics.gaussian_nll(*scaled) == pytest.approx(nll, abs=1e-12)
    assert metrics.interval_coverage(*scaled, level=more) == wide


@pytest.mark.parametrize(("metric", "arguments"), COPIES, ids=name_of)
@settings(max_examples=30)
@given(data=st.data(), copies=st.integers(2, 4))
def test_copies_of_all_rows_change_nothing(metric, arguments, data, copies):
    values = data.draw(arguments)
    many = metric(*(np.concatenate([array] * copies) for array in values))
    if metric is risks:  # The copies of a row are ties; where all of them are in, nothing changes.
        many = many[copies - 1 :: copies]
    assert many == pytest.approx(metric(*values), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("metric", "draw"), MEANS_OVER_ROWS, ids=name_of)
@settings(max_examples=20)
@given(seed=SEEDS, batches=st.integers(1, 10), size=st.integers(2, 20))
def test_the_mean_over_equal_batches_is_the_value_of_all(metric, draw, seed, batches, size):
    values = draw(seed, batches * size)
    parts = [metric(*part) for part in zip(*(np.split(a, batches) for a in values), strict=True)]
    assert np.mean(parts) == pytest.approx(metric(*values), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize(("metric", "arguments"), CASES[:8], ids=name_of)
def test_predictions_made_in_batches_give_the_same_value(metric, arguments, size):
    del arguments
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(5, 4, dtype=torch.float64), torch.randn(150, 5).double()
    labels = torch.randint(4, (150,))
    whole = metric(model(inputs).softmax(1), labels)
    probs = torch.cat([model(batch).softmax(1) for batch in inputs.split(size)])
    assert metric(probs, torch.cat(labels.split(size))) == pytest.approx(whole, abs=1e-12)
