"""How risk falls when the least certain predictions are left out."""

from typing import Any

import torch
from torch import Tensor

from bsam.metrics.checks import checked_scores, confidence_and_correct


def risk_coverage(probs: Any, labels: Any, confidence: Any = None) -> tuple[Tensor, Tensor]:
    r"""Return the error rate among the k most confident rows, for every k.

    .. math:: \text{coverage}_k = k / n, \qquad
              \text{risk}_k = \frac1k \sum_{i \le k} \text{error}_i

    with rows sorted by falling confidence. Rows of equal confidence are taken in random order and
    the risk is its expected value: their errors are spread evenly over them.

    Args:
        probs: probabilities, shape (n, classes).
        labels: integers, shape (n,).
        confidence: how sure each row is, shape (n,); any number where larger means surer, such as
            minus the entropy. May be infinite. The default is the largest probability.

    Returns:
        Two tensors of shape (n,): coverage, rising from 1/n to 1, and risk, in [0, 1], whose last
        value is one minus the accuracy.

    Raises:
        ValueError: for shapes, probabilities, labels or confidence that are not allowed.

    References:
        Y. Geifman and R. El-Yaniv, "Selective classification for deep neural networks",
        NeurIPS 2017.

    Example:
        >>> from bsam import metrics
        >>> coverage, risk = metrics.risk_coverage([[0.9, 0.1], [0.4, 0.6]], [0, 0])
        >>> coverage.tolist(), risk.tolist()
        ([0.5, 1.0], [0.0, 0.5])
    """
    default, correct = confidence_and_correct(probs, labels)
    if confidence is None:
        confidence = default
    else:
        confidence = checked_scores("confidence", confidence, default.device)
    if len(confidence) != len(correct):
        raise ValueError(
            f"confidence: shape {tuple(confidence.shape)}: must be ({len(correct)},); pass one "
            "number for each row of probs."
        )
    doubt, order = (-confidence).sort()
    errors = torch.zeros(len(order) + 1, dtype=torch.long, device=order.device)
    errors[1:] = (~correct[order]).cumsum(0)
    # Each row's group of ties is first ... last - 1; errors[i] is the number among the first i.
    first = torch.searchsorted(doubt, doubt)
    last = torch.searchsorted(doubt, doubt, right=True)
    k = torch.arange(1, len(order) + 1, device=order.device)
    share = (k - first).to(doubt.dtype) / (last - first)
    expected = errors[first] + share * (errors[last] - errors[first])
    return k.to(doubt.dtype) / len(order), expected / k


def aurc(probs: Any, labels: Any, confidence: Any = None) -> float:
    """Return the area under the risk-coverage curve, the mean of risk over k, in [0, 1].

    Small when the model makes few errors and doubts them: even the best order of the rows leaves a
    model with errors above zero.

    Args:
        probs: probabilities, shape (n, classes).
        labels: integers, shape (n,).
        confidence: how sure each row is, shape (n,), as for :func:`risk_coverage`.

    Raises:
        ValueError: for shapes, probabilities, labels or confidence that are not allowed.

    References:
        Y. Geifman, G. Uziel and R. El-Yaniv, "Bias-reduced uncertainty estimation for deep neural
        classifiers", ICLR 2019.

    Example:
        >>> from bsam import metrics
        >>> metrics.aurc([[0.9, 0.1], [0.4, 0.6]], [0, 0])
        0.25
    """
    return risk_coverage(probs, labels, confidence)[1].mean().item()
