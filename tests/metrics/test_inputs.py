"""What the metrics take: containers, dtypes, devices; and the messages for what they do not."""

import inspect
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from metrics import loops
from metrics.cases import (
    EXAMPLES,
    GAUSSIAN_METRICS,
    PREDICTION_METRICS,
    SCORE_METRICS,
    name_of,
    predictions,
)
from torch.utils._python_dispatch import TorchDispatchMode

from bsam import metrics
from bsam.metrics import checks

NAN, INF = math.nan, math.inf
ROWS, LABELS = [[0.5, 0.5], [0.9, 0.1]], [0, 1]
DEVICE = "cuda" if torch.cuda.is_available() else "mps"
HAS_DEVICE = torch.cuda.is_available() or torch.backends.mps.is_available()


@pytest.fixture(autouse=True)
def warn_every_time():
    """Torch gives some warnings once in a program, which would hide all but the first."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def test_every_metric_is_in_the_tables():
    named = {metric.__name__ for metric, _ in EXAMPLES} | {"risk_coverage"}
    assert named == set(metrics.__all__)
    assert named == {name for name, _ in inspect.getmembers(metrics, inspect.isfunction)}


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


CONTAINERS = {
    "list": lambda array: array.tolist(),
    "tuple": lambda array: tuple(map(tuple, array)) if array.ndim == 2 else tuple(array),
    "tensor": torch.tensor,
    "strided": lambda array: torch.tensor(np.repeat(array, 2, axis=0))[::2],
    "read-only": read_only,
    "reversed": lambda array: array[::-1].copy()[::-1],
    "Fortran": np.asfortranarray,
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize(("metric", "arguments"), EXAMPLES, ids=name_of)
def test_containers_do_not_matter(metric, arguments, container):
    value = metric(*arguments)
    assert isinstance(value, float)
    assert metric(*map(container, arguments)) == value


@pytest.mark.parametrize(("metric", "arguments"), EXAMPLES, ids=name_of)
def test_arguments_are_left_as_they_are_and_no_graph_is_recorded(metric, arguments):
    tensors = [torch.tensor(array) for array in arguments]
    for tensor in tensors:
        tensor.requires_grad_(tensor.is_floating_point())
    with torch.autograd.graph.saved_tensors_hooks(pytest.fail, pytest.fail):
        assert metric(*tensors) == metric(*arguments)
    for tensor, array in zip(tensors, arguments, strict=True):
        assert tensor.detach().equal(torch.tensor(array))


def test_risk_carries_no_gradient():
    probs = torch.tensor(ROWS, requires_grad=True)
    coverage, risk = metrics.risk_coverage(probs, LABELS, probs.sum(1))
    assert not coverage.requires_grad
    assert not risk.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", PREDICTION_METRICS)
def test_half_precision_is_computed_in_double(metric, dtype):
    probs = torch.tensor(predictions(0, classes=10)[0]).to(dtype)
    labels = torch.randint(10, (300,), generator=torch.Generator().manual_seed(0))
    truth = getattr(loops, metric.__name__)(probs.tolist(), labels.tolist())
    assert metric(probs, labels) == pytest.approx(truth, abs=1e-12)
    with pytest.raises(ValueError, match="rows must be nonnegative and sum to one"):
        metric(probs.double(), labels)  # So far from one only half precision may be.


@pytest.mark.parametrize(("metric", "arguments"), EXAMPLES, ids=name_of)
def test_devices_without_double_precision(metric, arguments, monkeypatch):
    class NoDouble(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                assert getattr(tensor, "dtype", None) != torch.float64, func
            return result

    monkeypatch.setattr(checks, "computing_dtype", lambda _: torch.float32)
    tensors = [torch.tensor(array) for array in arguments]
    tensors = [t.float() if t.is_floating_point() else t for t in tensors]
    with NoDouble():
        value = metric(*tensors)
    assert value == pytest.approx(metric(*arguments), abs=1e-5)


def test_only_mps_computes_in_single_precision():
    dtypes = [checks.computing_dtype(torch.device(name)) for name in ("mps", "cpu", "cuda", "xpu")]
    assert dtypes == [torch.float32, torch.float64, torch.float64, torch.float64]


@pytest.mark.skipif(not HAS_DEVICE, reason="no GPU here")
def test_the_first_argument_decides_the_device():
    dtype = checks.computing_dtype(torch.device(DEVICE))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for metric, arguments in EXAMPLES:
        first, *others = (torch.tensor(array) for array in arguments)
        value = metric(first.to(dtype).to(DEVICE), *others)
        assert value == pytest.approx(metric(*arguments), rel=tolerance, abs=tolerance), metric
    probs = torch.tensor(ROWS).to(DEVICE)
    for curve in metrics.risk_coverage(probs, LABELS, [1.0, 2.0]):
        assert curve.device == probs.device
        assert curve.dtype == dtype


@pytest.mark.parametrize("metric", [*PREDICTION_METRICS, metrics.risk_coverage])
@pytest.mark.parametrize(
    ("probs", "labels", "error", "message"),
    [
        ("text", LABELS, TypeError, "probs: str: must be a tensor, a NumPy array or a list of"),
        (None, LABELS, TypeError, "probs: NoneType: must be .*; pass numbers only"),
        (ROWS, None, TypeError, "labels: NoneType: must be a tensor"),
        ([[0.5, 0.5], [1.0]], LABELS, ValueError, "probs: list: must be .*rows of equal length"),
        (torch.tensor(ROWS) + 0j, LABELS, TypeError, "probs: torch.complex64: must be real"),
        (ROWS, [0j, 1], ValueError, r"labels: shape \(2,\), torch.complex64: must be integers"),
        (ROWS, [[0], [1]], ValueError, r"labels: shape \(2, 1\), torch.int64: must be integers of"),
        (ROWS, [0, 2], ValueError, r"labels: from 0 to 2: must be in \[0, 2\), the columns of"),
        ([[0.5, 0.6]] * 2, LABELS, ValueError, "row sums from 1.1 to 1.1: rows must be nonneg"),
        ([[INF, 0.0]] * 2, LABELS, ValueError, "row sums from inf to inf: rows must be nonneg"),
    ],
)
def test_bad_predictions(metric, probs, labels, error, message):
    with pytest.raises(error, match=message):
        metric(probs, labels)


@pytest.mark.parametrize("metric", SCORE_METRICS)
@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ([], ValueError, r"shape \(0,\): must be \(n,\) with n at least 1; pass one score"),
        ([[1.0]], ValueError, r"shape \(1, 1\): must be \(n,\) with n at least 1"),
        (1.0, ValueError, r"shape \(\): must be \(n,\) with n at least 1"),
        ([0.0, NAN, INF], ValueError, "1 of 3 are NaN: must be numbers, infinite ones included"),
        (["a"], ValueError, "list: must be a tensor, a NumPy array or a list of real numbers"),
        ({}, TypeError, "dict: must be a tensor, a NumPy array or a list of real numbers"),
        (torch.ones(2) * 1j, TypeError, "torch.complex64: must be real numbers"),
    ],
)
def test_bad_scores(metric, scores, error, message):
    with pytest.raises(error, match=f"^in_scores: {message}"):
        metric(scores, [1.0])
    with pytest.raises(error, match=f"^out_scores: {message}"):
        metric([1.0], scores)


@pytest.mark.parametrize("metric", [metrics.risk_coverage, metrics.aurc])
@pytest.mark.parametrize(
    ("confidence", "error", "message"),
    [
        ([1.0], ValueError, r"confidence: shape \(1,\): must be \(2,\); pass one number for each"),
        ([[1.0], [2.0]], ValueError, r"confidence: shape \(2, 1\): must be \(n,\)"),
        ([1.0, NAN], ValueError, "confidence: 1 of 2 are NaN: must be numbers"),
        ("sure", TypeError, "confidence: str: must be a tensor"),
    ],
)
def test_bad_confidence(metric, confidence, error, message):
    with pytest.raises(error, match=message):
        metric(ROWS, LABELS, confidence)


TWO, COLUMN = [0.0, 1.0], [[0.0], [1.0]]


@pytest.mark.parametrize("metric", GAUSSIAN_METRICS)
@pytest.mark.parametrize(
    ("mean", "variance", "targets", "error", "message"),
    [
        ([], 1.0, [], ValueError, r"mean: shape \(0,\): must not be empty; pass at least one"),
        (TWO, 1.0, COLUMN, ValueError, r"targets: shape \(2, 1\): must be that of mean, \(2,\); r"),
        (COLUMN, 1.0, TWO, ValueError, r"targets: shape \(2,\): must be that of mean, \(2, 1\); "),
        (TWO, 1.0, 0.0, ValueError, r"targets: shape \(\): must be that of mean, \(2,\); reshape"),
        (TWO, [[1.0], [1.0]], TWO, ValueError, r"variance: shape \(2, 1\): must broadcast to that"),
        (TWO, [1.0] * 3, TWO, ValueError, r"variance: shape \(3,\): must broadcast to .* \(2,\)"),
        (TWO, [1.0, 0.0], TWO, ValueError, "variance: from 0 to 1: must be positive and finite; p"),
        (TWO, -1.0, TWO, ValueError, "variance: from -1 to -1: must be positive and finite"),
        (TWO, INF, TWO, ValueError, "variance: from inf to inf: must be positive and finite"),
        (TWO, [1.0, NAN], TWO, ValueError, "variance: from nan to nan: must be positive and fi"),
        ([0.0, NAN], 1.0, TWO, ValueError, "mean: 1 of 2 are not finite: must be finite numbers"),
        (TWO, 1.0, [INF, NAN], ValueError, "targets: 2 of 2 are not finite: must be finite numb"),
        ("m", 1.0, TWO, TypeError, "mean: str: must be a tensor, a NumPy array or a list of real"),
        (TWO, None, TWO, TypeError, "variance: NoneType: must be a tensor"),
        (TWO, 1.0, object(), TypeError, "targets: object: must be a tensor"),
        (TWO, 1j, TWO, TypeError, "variance: complex: must be a tensor"),
    ],
)
def test_bad_gaussians(metric, mean, variance, targets, error, message):
    with pytest.raises(error, match=message):
        metric(mean, variance, targets)


@pytest.mark.parametrize(
    ("level", "error"),
    [(0, ValueError), (1.0, ValueError), (95, ValueError), (True, ValueError), (NAN, ValueError),
     (-INF, ValueError), ("0.9", TypeError), (None, TypeError), (1j, TypeError)],
)  # fmt: skip
def test_bad_level(level, error):
    message = re.escape(f"level={level!r}: must be a number in (0, 1); 0.95 is usual, and 95 %")
    with pytest.raises(error, match=message):
        metrics.interval_coverage(TWO, 1.0, TWO, level)


def test_level_may_be_any_real_number():
    for level in (0.5, np.float64(0.5), np.float32(0.5), Fraction(1, 2)):
        assert metrics.interval_coverage([0.0, 0.0], 1.0, [0.67, 0.68], level) == 0.5


@pytest.mark.parametrize("num_bins", [0, -1, 1.5, True, None])
def test_bad_bins(num_bins):
    message = f"num_bins={num_bins!r}: must be an integer of at least 1; 15 is usual"
    with pytest.raises(ValueError, match=message):
        metrics.adaptive_calibration_error(ROWS, LABELS, num_bins)
