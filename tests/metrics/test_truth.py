"""Metrics against plain loops, the reference values, scikit-learn, SciPy and torchmetrics."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics import loops
from metrics.cases import CASES, GAUSSIANS, PREDICTIONS, SEEDS, name_of, predictions, risks, scores
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional import classification as torchmetrics

from bsam import metrics

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(Path(os.environ.get("BSAM_CONFORMANCE", GOLDEN)).glob("metrics_*.json"))


def test_there_are_reference_values():
    assert len(FILES) >= 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference_value_of_auroc(path):
    case = json.loads(path.read_text())
    auroc = metrics.misclassification_auroc(case["probs"], case["labels"])
    assert auroc == pytest.approx(case["values"]["auroc"], abs=1e-12)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_metric_on_the_reference_predictions(path):
    case = json.loads(path.read_text())
    probs, labels = case["probs"], case["labels"]
    for metric in (metrics.brier_score, metrics.adaptive_calibration_error, metrics.aurc):
        truth = getattr(loops, metric.__name__)(probs, labels)
        assert metric(probs, labels) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize(("metric", "arguments"), CASES, ids=name_of)
@settings(max_examples=50)
@given(data=st.data())
def test_against_loops(metric, arguments, data):
    values = data.draw(arguments)
    truth = getattr(loops, metric.__name__)(*(array.tolist() for array in values))
    assert metric(*values) == pytest.approx(truth, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("num_bins", [1, 2, 7, 16, 100])
@pytest.mark.parametrize("name", ["expected_calibration_error", "adaptive_calibration_error"])
@settings(max_examples=20)
@given(case=PREDICTIONS)
def test_calibration_against_loops_for_any_number_of_bins(name, num_bins, case):
    truth = getattr(loops, name)(*(array.tolist() for array in case), num_bins)
    assert getattr(metrics, name)(*case, num_bins) == pytest.approx(truth, abs=1e-12)


@settings(max_examples=60)
@given(seed=SEEDS, n=st.integers(2, 6))
def test_risk_is_the_mean_over_all_orders_of_ties(seed, n):
    probs, labels = predictions(seed, n)
    confidence = np.random.default_rng(seed).choice([-np.inf, 0.0, 1.0, np.inf], n)
    truth = loops.risks_by_enumeration(probs.tolist(), labels, confidence)
    assert risks(probs, labels, confidence) == pytest.approx(truth, abs=1e-12)


@settings(max_examples=30)
@given(case=GAUSSIANS, level=st.floats(0.01, 0.99))
def test_coverage_against_a_loop_for_any_level(case, level):
    truth = loops.interval_coverage(*(array.tolist() for array in case), level)
    assert metrics.interval_coverage(*case, level=level) == truth


@settings(max_examples=30)
@given(seed=SEEDS, ties=st.booleans(), classes=st.integers(2, 5))
def test_predictions_against_scikit_learn(seed, ties, classes):
    probs, labels = predictions(seed, classes=classes, ties=ties)
    all_labels = list(range(classes))
    brier = sklearn_metrics.brier_score_loss(labels, probs, labels=all_labels, scale_by_half=False)
    assert metrics.brier_score(probs, labels) == pytest.approx(brier, abs=1e-12)
    right = probs.argmax(1) == labels
    assert metrics.accuracy(probs, labels) == pytest.approx(right.mean(), abs=1e-12)
    auroc = sklearn_metrics.roc_auc_score(right, probs.max(1))
    assert metrics.misclassification_auroc(probs, labels) == pytest.approx(auroc, abs=1e-12)
    if not ties:  # Its logarithm clips zeros.
        nll = sklearn_metrics.log_loss(labels, probs, labels=all_labels)
        assert metrics.negative_log_likelihood(probs, labels) == pytest.approx(nll, rel=1e-9)


@settings(max_examples=50)
@given(seed=SEEDS, ties=st.booleans(), n=st.integers(1, 90), m=st.integers(1, 90))
def test_scores_against_scikit_learn(seed, ties, n, m):
    inside, outside = (np.clip(s, -9, 9) for s in scores(seed, n, m, ties))  # It refuses inf.
    is_out, both = np.repeat([0, 1], [n, m]), np.concatenate([inside, outside])
    auroc = sklearn_metrics.roc_auc_score(is_out, both)
    assert metrics.ood_auroc(inside, outside) == pytest.approx(auroc, abs=1e-12)
    aupr = sklearn_metrics.average_precision_score(is_out, both)
    assert metrics.ood_aupr(inside, outside) == pytest.approx(aupr, abs=1e-12)
    false, true, _ = sklearn_metrics.roc_curve(1 - is_out, -both, drop_intermediate=False)
    fpr95 = false[np.argmax(true >= 0.95)]
    assert metrics.ood_fpr95(inside, outside) == pytest.approx(fpr95, abs=1e-12)


@settings(max_examples=20)
@given(case=GAUSSIANS)
def test_gaussians_against_scipy(case):
    mean, variance, targets = case
    nll = -norm(mean, np.sqrt(variance)).logpdf(targets).mean()
    assert metrics.gaussian_nll(*case) == pytest.approx(nll, rel=1e-12, abs=1e-12)
    low, high = norm(mean, np.sqrt(variance)).interval(0.9)
    inside = ((low <= targets) & (targets <= high)).mean()
    assert metrics.interval_coverage(*case, level=0.9) == pytest.approx(inside, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_against_torchmetrics_in_its_float32(seed):
    probs, labels = predictions(seed, n=1000)
    arguments = torch.tensor(probs, dtype=torch.float32), torch.tensor(labels)
    accuracy = torchmetrics.multiclass_accuracy(*arguments, num_classes=4, average="micro")
    assert metrics.accuracy(probs, labels) == pytest.approx(accuracy.item(), abs=1e-6)
    for bins in (10, 15):
        ece = torchmetrics.multiclass_calibration_error(*arguments, num_classes=4, n_bins=bins)
        value = metrics.expected_calibration_error(probs, labels, bins)
        assert value == pytest.approx(ece.item(), abs=1e-5)
    right = arguments[0].argmax(1) == arguments[1]
    auroc = torchmetrics.binary_auroc(arguments[0].amax(1), right.long())
    value = metrics.misclassification_auroc(*arguments)
    assert value == pytest.approx(auroc.item(), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_scores_against_torchmetrics_in_its_float32(seed):
    inside, outside = (torch.tensor(s).sigmoid() for s in scores(seed))
    both = torch.cat([inside, outside]).float()
    is_out = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))]).long()
    auroc = torchmetrics.binary_auroc(both, is_out).item()
    assert metrics.ood_auroc(inside, outside) == pytest.approx(auroc, abs=1e-5)
    aupr = torchmetrics.binary_average_precision(both, is_out).item()
    assert metrics.ood_aupr(inside, outside) == pytest.approx(aupr, abs=1e-5)
