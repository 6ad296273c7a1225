"""Numbers from predicted probabilities and labels: how right, how sure, how well those agree.

Every function takes full arrays (tensors, NumPy arrays or lists): ``probs`` of shape (n, classes),
each row a distribution, and integer ``labels`` of shape (n,) in ``[0, classes)``. It computes in
float64 and returns a Python float.
"""

from typing import Any

import torch
from torch import Tensor


def accuracy(probs: Any, labels: Any) -> float:
    """Return the fraction of rows whose largest probability is that of the label, in [0, 1].

    Among equal probabilities the first counts as the prediction.

    Args:
        probs: probabilities, shape (n, classes).
        labels: integers, shape (n,).

    Raises:
        ValueError: for shapes, probabilities or labels that are not allowed.

    Example:
        >>> from bsam import metrics
        >>> metrics.accuracy([[0.9, 0.1], [0.4, 0.6]], [0, 0])
        0.5
    """
    probs, labels = _checked(probs, labels)
    return _correct(probs, labels).double().mean().item()


def negative_log_likelihood(probs: Any, labels: Any) -> float:
    """Return the mean of -log probs[label] in nats, in [0, inf]; nothing is clipped.

    Args:
        probs: probabilities, shape (n, classes).
        labels: integers, shape (n,).

    Raises:
        ValueError: for shapes, probabilities or labels that are not allowed.

    Example:
        >>> from bsam import metrics
        >>> round(metrics.negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 0]), 4)
        1.0397
    """
    probs, labels = _checked(probs, labels)
    return -probs.gather(1, labels[:, None]).log().mean().item()


def expected_calibration_error(probs: Any, labels: Any, num_bins: int = 15) -> float:
    r"""Return :math:`\sum_b \frac{n_b}{n} |\text{confidence}_b - \text{accuracy}_b|`, in [0, 1].

    Rows are sorted by confidence, their largest probability, into bins (lo, hi] of equal width
    over (0, 1].

    Args:
        probs: probabilities, shape (n, classes).
        labels: integers, shape (n,).
        num_bins: number of bins, at least 1.

    Raises:
        ValueError: for shapes, probabilities, labels or num_bins that are not allowed.

    References:
        C. Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.

    Example:
        >>> from bsam import metrics
        >>> round(metrics.expected_calibration_error([[0.9, 0.1], [0.2, 0.8]], [0, 0]), 4)
        0.45
    """
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 1:
        raise ValueError(f"num_bins={num_bins!r}: must be an integer of at least 1; 15 is usual.")
    probs, labels = _checked(probs, labels)
    confidence = probs.amax(1)
    gap = confidence - _correct(probs, labels).double()
    # Upper edges without the last: bucketize then gives the number of the bin (lo, hi].
    edges = torch.arange(1, num_bins, dtype=torch.float64, device=probs.device) / num_bins
    sums = torch.zeros(num_bins, dtype=torch.float64, device=probs.device)
    sums.index_add_(0, torch.bucketize(confidence, edges), gap)
    return (sums.abs().sum() / len(labels)).item()


def _correct(probs: Tensor, labels: Tensor) -> Tensor:
    # argmax may return any of several maxima; the first is the definition.
    is_top = probs == probs.amax(1, keepdim=True)
    return is_top.int().cumsum(1).eq(0).sum(1) == labels


def _checked(probs: Any, labels: Any) -> tuple[Tensor, Tensor]:
    # Rows of half precision sum to one only so far.
    narrow = isinstance(probs, Tensor) and probs.is_floating_point()
    tolerance = max(1e-4, 2 * torch.finfo(probs.dtype).eps if narrow else 0.0)
    probs = torch.as_tensor(probs, dtype=torch.float64).detach()
    labels = torch.as_tensor(labels, device=probs.device)
    if probs.dim() != 2 or 0 in probs.shape:
        raise ValueError(
            f"probs: shape {tuple(probs.shape)}: must be (n, classes) with n and classes at least "
            "1; pass one row of probabilities for each example."
        )
    if labels.shape != probs.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels: shape {tuple(labels.shape)}, {labels.dtype}: must be integers of shape "
            f"({len(probs)},); pass one class number for each row of probs."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= probs.shape[1]:
        raise ValueError(
            f"labels: from {low} to {high}: must be in [0, {probs.shape[1]}), the columns of probs."
        )
    sums = probs.sum(1)
    if not ((probs >= 0).all() and (sums - 1).abs().amax() <= tolerance):
        raise ValueError(
            f"probs: smallest {probs.min():.3g}, row sums from {sums.min():.4g} to "
            f"{sums.max():.4g}: rows must be nonnegative and sum to one; pass softmax outputs, "
            "not logits."
        )
    return probs, labels.long()
