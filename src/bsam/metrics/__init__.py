"""Numbers from predicted probabilities and labels: how right, how sure, how well those agree.

Every function takes full arrays (tensors, NumPy arrays or lists), not batches: ``probs`` of shape
(n, classes), each row a distribution, and integer ``labels`` of shape (n,) in ``[0, classes)``;
for out-of-distribution detection scores of shapes (n,) and (m,); for regression the ``mean`` and
``variance`` of Gaussian predictions and their ``targets``. Each computes in float64 on the device
of its first argument (float32 on Apple's mps, which has no float64) and returns a Python float;
:func:`risk_coverage` returns two tensors. Nothing is clipped. The order of rows does not matter,
ties or not.

=========================  ================================================================
how right                  :func:`accuracy`
right and well calibrated  :func:`negative_log_likelihood`, :func:`brier_score`
calibrated                 :func:`expected_calibration_error`,
                           :func:`adaptive_calibration_error`
does doubt find errors     :func:`misclassification_auroc`, :func:`risk_coverage`, :func:`aurc`
... and foreign inputs     :func:`ood_auroc`, :func:`ood_aupr`, :func:`ood_fpr95`
regression                 :func:`gaussian_nll`, :func:`interval_coverage`
=========================  ================================================================
"""

from bsam.metrics.calibration import adaptive_calibration_error, expected_calibration_error
from bsam.metrics.classification import accuracy, brier_score, negative_log_likelihood
from bsam.metrics.detection import misclassification_auroc, ood_aupr, ood_auroc, ood_fpr95
from bsam.metrics.regression import gaussian_nll, interval_coverage
from bsam.metrics.selective import aurc, risk_coverage

__all__ = [
    "accuracy",
    "negative_log_likelihood",
    "brier_score",
    "expected_calibration_error",
    "adaptive_calibration_error",
    "misclassification_auroc",
    "ood_auroc",
    "ood_aupr",
    "ood_fpr95",
    "risk_coverage",
    "aurc",
    "gaussian_nll",
    "interval_coverage",
]
