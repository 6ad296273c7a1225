"""How right predicted probabilities are."""

from typing import Any

import torch

from bsam.metrics.checks import checked_probs, confidence_and_correct


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
    confidence, correct = confidence_and_correct(probs, labels)
    return correct.to(confidence.dtype).mean().item()


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
    probs, labels = checked_probs(probs, labels)
    return -probs.gather(1, labels[:, None]).log().mean().item()


def brier_score(probs: Any, labels: Any) -> float:
    r"""Return the mean of :math:`\sum_k (p_k - [k = \text{label}])^2`, in [0, 2].

    The sum is over all classes. For two classes many count one of them only, as scikit-learn does
    unless told otherwise, which gives half.

    Args:
        probs: probabilities, shape (n, classes).
        labels: integers, shape (n,).

    Raises:
        ValueError: for shapes, probabilities or labels that are not allowed.

    References:
        G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
        Review 78, 1950.

    Example:
        >>> from bsam import metrics
        >>> metrics.brier_score([[0.5, 0.5], [1.0, 0.0]], [0, 1])
        1.25
    """
    probs, labels = checked_probs(probs, labels)
    onehot = torch.zeros_like(probs).scatter_(1, labels[:, None], 1.0)
    return (probs - onehot).square().sum(1).mean().item()
