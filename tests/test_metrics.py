"""Metrics against the reference values, scikit-learn, and laws."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.cases import PREDICTION_METRICS
from sklearn.metrics import accuracy_score, log_loss

from bsam import metrics

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(Path(os.environ.get("BSAM_CONFORMANCE", GOLDEN)).glob("metrics_*.json"))
ALL = PREDICTION_METRICS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference_values(path):
    case = json.loads(path.read_text())
    probs, labels, values = case["probs"], case["labels"], case["values"]
    assert metrics.accuracy(probs, labels) == pytest.approx(values["accuracy"], abs=1e-12)
    nll = metrics.negative_log_likelihood(probs, labels)
    assert nll == pytest.approx(values["nll"], abs=1e-10)
    for bins in (15, 20):
        ece = metrics.expected_calibration_error(probs, labels, bins)
        assert ece == pytest.approx(values[f"ece_{bins}"], abs=1e-10)


def random_case(seed, n=300, classes=4):
    draw = np.random.default_rng(seed)
    return draw.dirichlet(np.ones(classes) / 2, n), draw.integers(classes, size=n)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_against_scikit_learn_and_a_loop(seed):
    probs, labels = random_case(seed)
    assert metrics.accuracy(probs, labels) == pytest.approx(
        accuracy_score(labels, probs.argmax(1)), abs=1e-12
    )
    clipped = log_loss(labels, probs, labels=range(4))
    assert metrics.negative_log_likelihood(probs, labels) == pytest.approx(clipped, rel=1e-6)
    confidence, right = probs.max(1), probs.argmax(1) == labels
    ece = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            ece += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert metrics.expected_calibration_error(probs, labels, 10) == pytest.approx(ece, abs=1e-12)


@pytest.mark.parametrize("metric", ALL)
def test_order_and_container_do_not_matter(metric):
    probs, labels = random_case(0)
    order = np.random.default_rng(1).permutation(len(labels))
    value = metric(probs, labels)
    assert isinstance(value, float)
    assert metric(probs[order], labels[order]) == pytest.approx(value, abs=1e-14)
    assert metric(torch.tensor(probs), torch.tensor(labels)) == value
    assert metric(probs.tolist(), labels.tolist()) == value


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_taken_as_it_is(dtype):
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    probs, labels = logits.to(dtype).softmax(1), logits.argmax(1)
    assert metrics.accuracy(probs, labels) > 0.95


def test_certain_and_wrong_is_infinite():
    assert metrics.negative_log_likelihood([[1.0, 0.0]], [1]) == math.inf


def test_the_first_of_equal_probabilities_is_the_prediction():
    assert metrics.accuracy([[0.25, 0.25, 0.25, 0.25]], [0]) == 1.0
    assert metrics.accuracy([[0.2, 0.4, 0.4]], [2]) == 0.0


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        ([0.5, 0.5], [0], r"probs: shape \(2,\): must be \(n, classes\)"),
        (np.ones((0, 3)), [], r"probs: shape \(0, 3\): must be \(n, classes\)"),
        (
            [[0.5, 0.5]],
            [0, 1],
            r"labels: shape \(2,\), torch.int64: must be integers of shape \(1,",
        ),
        ([[0.5, 0.5]], [0.0], r"labels: shape \(1,\), torch.float32: must be integers"),
        ([[0.5, 0.5]], [2], r"labels: from 2 to 2: must be in \[0, 2\), the columns of probs"),
        ([[0.5, 0.5]], [-1], r"labels: from -1 to -1: must be in \[0, 2\)"),
        ([[0.5, 0.6]], [0], r"row sums from 1.1 to 1.1: rows must be nonnegative and sum to one"),
        ([[1.5, -0.5]], [0], r"probs: smallest -0.5, .*pass softmax outputs, not logits"),
        ([[math.nan, 1.0]], [0], r"probs: smallest nan"),
    ],
)
def test_bad_input(metric, probs, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(probs, labels)


@pytest.mark.parametrize("bins", [0, -1, 1.5, True])
def test_bad_bins(bins):
    with pytest.raises(ValueError, match=f"num_bins={bins!r}: must be an integer of at least 1"):
        metrics.expected_calibration_error([[0.5, 0.5]], [0], bins)
