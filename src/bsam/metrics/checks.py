"""What the metrics accept, the messages for what they do not, and the dtype they compute in."""

import numbers
from typing import Any

import torch
from torch import Tensor


def computing_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on Apple's mps, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def real_tensor(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Return values in the dtype to compute in, on their own device unless another is given.

    They are contiguous, as torch.searchsorted warns of others.
    """
    if isinstance(values, Tensor):
        tensor = values.detach()
    else:
        tensor = _converted(name, values, dtype=torch.float64)
    if tensor.is_complex():
        raise TypeError(f"{name}: {tensor.dtype}: must be real numbers; pass real parts or sizes.")
    if device is not None and device != tensor.device:
        tensor = tensor.cpu()  # The CPU knows every dtype, so the next line can go both ways.
    device = device or tensor.device
    return tensor.to(computing_dtype(device)).to(device).contiguous()


_HALF = {"float16": torch.finfo(torch.float16), "bfloat16": torch.finfo(torch.bfloat16)}


def checked_probs(probs: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Return probabilities (n, classes) and labels (n,) on one device, or say what is wrong."""
    # Rows of half precision, a tensor's or an array's, sum to one only so far.
    kind = str(getattr(probs, "dtype", "")).removeprefix("torch.")
    tolerance = max(1e-4, 2 * _HALF[kind].eps if kind in _HALF else 0.0)
    probs = real_tensor("probs", probs)
    if probs.dim() != 2 or 0 in probs.shape:
        raise ValueError(
            f"probs: shape {tuple(probs.shape)}: must be (n, classes) with n and classes at least "
            "1; pass one row of probabilities for each example."
        )
    labels = labels.detach() if isinstance(labels, Tensor) else _converted("labels", labels)
    if labels.shape != probs.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"labels: shape {tuple(labels.shape)}, {labels.dtype}: must be integers of shape "
            f"({len(probs)},); pass one class number for each row of probs."
        )
    labels = labels.long().to(probs.device)
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
    return probs, labels


def confidence_and_correct(probs: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Return each row's largest probability, and whether its first position is the label."""
    probs, labels = checked_probs(probs, labels)
    confidence = probs.amax(1)
    # argmax may return any of several maxima; the first is the definition.
    is_top = probs == confidence[:, None]
    return confidence, is_top.int().cumsum(1).eq(0).sum(1) == labels


def checked_scores(name: str, scores: Any, device: torch.device | None = None) -> Tensor:
    """Return scores of shape (n,), n at least 1, infinite ones too, or say what is wrong."""
    scores = real_tensor(name, scores, device)
    if scores.dim() != 1 or len(scores) == 0:
        raise ValueError(
            f"{name}: shape {tuple(scores.shape)}: must be (n,) with n at least 1; pass one score "
            "for each example."
        )
    missing = int(scores.isnan().sum())
    if missing:
        raise ValueError(
            f"{name}: {missing} of {len(scores)} are NaN: must be numbers, infinite ones included; "
            "look for the inputs on which the model gives NaN."
        )
    return scores


def checked_gaussian(mean: Any, variance: Any, targets: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and targets in the shape of mean, or say what is wrong."""
    mean = real_tensor("mean", mean)
    variance = real_tensor("variance", variance, mean.device)
    targets = real_tensor("targets", targets, mean.device)
    shape = tuple(mean.shape)
    if mean.numel() == 0:
        raise ValueError(f"mean: shape {shape}: must not be empty; pass at least one prediction.")
    if targets.shape != mean.shape:
        raise ValueError(
            f"targets: shape {tuple(targets.shape)}: must be that of mean, {shape}; reshape one of "
            "them, as broadcasting would pair every target with every prediction."
        )
    try:
        variance = variance.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"variance: shape {tuple(variance.shape)}: must broadcast to that of mean, {shape}; "
            "pass one variance for each prediction, or one number for all."
        ) from None
    for name, values in (("mean", mean), ("targets", targets)):
        if not values.isfinite().all():
            raise ValueError(
                f"{name}: {int((~values.isfinite()).sum())} of {values.numel()} are not finite: "
                "must be finite numbers; remove missing targets, and see whether training diverged."
            )
    if not ((variance > 0) & variance.isfinite()).all():
        raise ValueError(
            f"variance: from {variance.min():.3g} to {variance.max():.3g}: must be positive and "
            "finite; pass variances with the noise of the targets included, not their logarithms."
        )
    return mean, variance, targets


def checked_num_bins(num_bins: Any) -> int:
    """Return a number of bins, or say what is wrong."""
    if isinstance(num_bins, bool) or not isinstance(num_bins, numbers.Integral) or num_bins < 1:
        raise ValueError(f"num_bins={num_bins!r}: must be an integer of at least 1; 15 is usual.")
    return int(num_bins)


def checked_level(level: Any) -> float:
    """Return the probability that an interval is to hold, or say what is wrong."""
    message = f"level={level!r}: must be a number in (0, 1); 0.95 is usual, and 95 % is 0.95."
    if not isinstance(level, numbers.Real):
        raise TypeError(message)
    if not 0 < float(level) < 1:
        raise ValueError(message)
    return float(level)


def _converted(name: str, values: Any, dtype: torch.dtype | None = None) -> Tensor:
    # A copy, as torch refuses arrays with negative strides and warns of those it may not write to.
    if hasattr(values, "__array__"):
        values = values.__array__().copy()
    try:
        return torch.as_tensor(values, dtype=dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError | RuntimeError) else ValueError
        raise kind(
            f"{name}: {type(values).__name__}: must be a tensor, a NumPy array or a list of real "
            "numbers, rows of equal length; pass numbers only."
        ) from error
