"""How well predicted probabilities agree with frequencies."""

from typing import Any

import torch

from bsam.metrics.checks import checked_num_bins, checked_probs, confidence_and_correct


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
    num_bins = checked_num_bins(num_bins)
    confidence, correct = confidence_and_correct(probs, labels)
    gap = confidence - correct.to(confidence.dtype)
    # Upper edges without the last: bucketize then gives the number of the bin (lo, hi].
    edges = torch.arange(1, num_bins, dtype=gap.dtype, device=gap.device) / num_bins
    sums = gap.new_zeros(num_bins).index_add_(0, torch.bucketize(confidence, edges), gap)
    return (sums.abs().sum() / len(gap)).item()


def adaptive_calibration_error(probs: Any, labels: Any, num_bins: int = 15) -> float:
    r"""Return the gap between probability and frequency over bins of equal mass, in [0, 1].

    .. math:: \frac{1}{K} \sum_k \sum_b \frac{n_{kb}}{n}
              |\text{mean probability}_{kb} - \text{frequency}_{kb}|

    For each of the K classes, all rows are sorted by the probability of that class into bins with
    equal numbers of rows: a row with r rows below it is in bin floor(r num_bins / n). Rows of equal
    probability thus share a bin, whatever their order, and bins may differ in size; with bins of
    one size this is the mean over bins of the paper.

    Args:
        probs: probabilities, shape (n, classes).
        labels: integers, shape (n,).
        num_bins: number of bins for each class, at least 1; with n or more, distinct probabilities
            are all alone in their bins and the value says little.

    Raises:
        ValueError: for shapes, probabilities, labels or num_bins that are not allowed.

    References:
        J. Nixon et al., "Measuring calibration in deep learning", CVPR Workshops 2019: ACE.

    Example:
        >>> from bsam import metrics
        >>> round(metrics.adaptive_calibration_error([[0.9, 0.1], [0.2, 0.8]], [0, 0]), 4)
        0.45
    """
    num_bins = checked_num_bins(num_bins)
    probs, labels = checked_probs(probs, labels)
    columns = probs.T.contiguous()
    rows_below = torch.searchsorted(columns.sort(1).values, columns)
    gap = columns.scatter_add(0, labels[None], -torch.ones_like(columns[:1]))
    sums = torch.zeros(len(gap), num_bins, dtype=gap.dtype, device=gap.device)
    sums.scatter_add_(1, rows_below * num_bins // len(labels), gap)
    return (sums.abs().sum() / gap.numel()).item()
