"""How well doubt finds wrong predictions and foreign inputs."""

from typing import Any

import torch
from torch import Tensor

from bsam.metrics.checks import checked_scores, confidence_and_correct


def misclassification_auroc(probs: Any, labels: Any) -> float:
    r"""Return the area under the ROC curve of confidence as a detector of correct rows, in [0, 1].

    .. math:: P(c_\text{right} > c_\text{wrong}) + \tfrac12 P(c_\text{right} = c_\text{wrong})

    for a row predicted right and one predicted wrong, with confidence c the largest probability.
    The value is exact; 0.5 is chance. Its wrong rows differ from model to model: a model that is
    right more often may have the lower area.

    Args:
        probs: probabilities, shape (n, classes).
        labels: integers, shape (n,).

    Raises:
        ValueError: for shapes, probabilities or labels that are not allowed, and where all rows are
            right or all wrong.

    References:
        D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and out-of-distribution
        examples in neural networks", ICLR 2017.

    Example:
        >>> from bsam import metrics
        >>> metrics.misclassification_auroc([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]], [0, 0, 0])
        0.5
    """
    confidence, correct = confidence_and_correct(probs, labels)
    if correct.all() or not correct.any():
        raise ValueError(
            f"labels: all {len(correct)} rows are {'right' if correct.all() else 'wrong'}: must "
            "have rows of both kinds, as AUROC is undefined with only one class; evaluate on more "
            "rows, or report accuracy and aurc."
        )
    return _auroc(confidence[~correct], confidence[correct])


def ood_auroc(in_scores: Any, out_scores: Any) -> float:
    """Return the area under the ROC curve of a score that detects foreign inputs, in [0, 1].

    Out-of-distribution is the positive class: it is the probability that a foreign input has the
    larger score of two, ties counted 1/2. The value is exact; 0.5 is chance.

    Args:
        in_scores: scores of inputs like those of training, shape (n,); larger means more foreign:
            entropy, mutual information, or one minus the largest probability. May be infinite.
        out_scores: the same of out-of-distribution inputs, shape (m,).

    Raises:
        ValueError: for shapes that are not allowed, no scores, or scores that are NaN.

    References:
        D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and out-of-distribution
        examples in neural networks", ICLR 2017.

    Example:
        >>> from bsam import metrics
        >>> metrics.ood_auroc([0.1, 0.3], [0.3, 0.7])
        0.875
    """
    return _auroc(*_checked_pair(in_scores, out_scores))


def ood_aupr(in_scores: Any, out_scores: Any) -> float:
    r"""Return the average precision of a score that detects foreign inputs, in (0, 1].

    .. math:: \sum_t (R_t - R_{t-1}) P_t

    over all values t of the scores, from the largest; :math:`P_t` and :math:`R_t` are precision and
    recall when scores of at least t count as foreign, so equal scores are one threshold. Chance is
    m / (n + m): compare only values with the same numbers of rows.

    Args:
        in_scores: scores of inputs like those of training, shape (n,); larger means more foreign.
            May be infinite.
        out_scores: the same of out-of-distribution inputs, shape (m,), the positive class.

    Raises:
        ValueError: for shapes that are not allowed, no scores, or scores that are NaN.

    References:
        D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and out-of-distribution
        examples in neural networks", ICLR 2017: AUPR, their positive class "Out".

    Example:
        >>> from bsam import metrics
        >>> round(metrics.ood_aupr([0.1, 0.5], [0.3, 0.7]), 4)
        0.8333
    """
    in_scores, out_scores = (s.sort().values for s in _checked_pair(in_scores, out_scores))
    found = len(out_scores) - torch.searchsorted(out_scores, out_scores)
    alarms = found + len(in_scores) - torch.searchsorted(in_scores, out_scores)
    # Recall rises by 1/m with each foreign row, so the sum is the mean of their precisions.
    return (found.to(out_scores.dtype) / alarms).mean().item()


def ood_fpr95(in_scores: Any, out_scores: Any) -> float:
    """Return the fraction of foreign inputs accepted when 95 % of the others are, in [0, 1].

    The threshold t is the smallest value with at least 95 % of in_scores <= t; an input with a
    score <= t is accepted.

    Args:
        in_scores: scores of inputs like those of training, shape (n,); larger means more foreign.
            May be infinite. With fewer than 20 the largest of them is the threshold.
        out_scores: the same of out-of-distribution inputs, shape (m,).

    Raises:
        ValueError: for shapes that are not allowed, no scores, or scores that are NaN.

    References:
        S. Liang, Y. Li and R. Srikant, "Enhancing the reliability of out-of-distribution image
        detection in neural networks", ICLR 2018: FPR at 95 % TPR.

    Example:
        >>> from bsam import metrics
        >>> metrics.ood_fpr95([0.1, 0.2, 0.4], [0.3, 0.4, 0.5, 0.6])
        0.5
    """
    in_scores, out_scores = _checked_pair(in_scores, out_scores)
    accepted = -(-95 * len(in_scores) // 100)
    threshold = in_scores.sort().values[accepted - 1]
    return int((out_scores <= threshold).sum()) / len(out_scores)


def _checked_pair(in_scores: Any, out_scores: Any) -> tuple[Tensor, Tensor]:
    in_scores = checked_scores("in_scores", in_scores)
    return in_scores, checked_scores("out_scores", out_scores, in_scores.device)


def _auroc(negative: Tensor, positive: Tensor) -> float:
    """P(positive > negative) + P(equal) / 2 over all pairs, counted in integers."""
    negative = negative.sort().values
    below = torch.searchsorted(negative, positive).sum()
    not_above = torch.searchsorted(negative, positive, right=True).sum()
    return int(below + not_above) / (2 * len(negative) * len(positive))
