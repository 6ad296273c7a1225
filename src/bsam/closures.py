"""Closures: functions that compute a loss and its gradient, and what they return."""

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Closure = Callable[[], Any]
"""Computes a loss, calls backward or sets ``.grad`` itself, and returns the loss."""


def as_list(closure: Closure | Iterable[Closure]) -> list[Closure]:
    """Return one closure or many as a list.

    Raises:
        TypeError, ValueError: if there is none, or one cannot be called.
    """
    closures = [closure] if callable(closure) else closure
    advice = "pass a function that computes the loss and calls backward, or a list of such"
    if isinstance(closures, Tensor):
        raise TypeError(
            "closure=<tensor>: must be callable; pass the function itself, step(closure), not "
            "what it returns, step(closure())."
        )
    if not isinstance(closures, Iterable):
        raise TypeError(f"closure={closure!r}: must be callable; {advice}.")
    closures = list(closures)
    for each in closures:
        if not callable(each):
            raise TypeError(f"closure={each!r} in the list: must be callable; {advice}.")
    if not closures:
        raise ValueError(f"closure={closure!r}: must hold at least one function; {advice}.")
    return closures


def loss_of(value: Any) -> Tensor | None:
    """Return what a closure returned as a detached 0-d tensor, or None if it returned none.

    Raises:
        TypeError: if it is not a tensor or a number.
        ValueError: if it is not one number.
    """
    if value is None:
        return None
    if not isinstance(value, Tensor | Real):
        raise TypeError(
            f"the closure returned {type(value).__name__}: must be the loss, a tensor with one "
            "element or a number; return the loss alone."
        )
    loss = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    if loss.numel() != 1:
        raise ValueError(
            f"the closure returned a loss of shape {tuple(loss.shape)}: must be one number; "
            "return the mean over the examples."
        )
    loss = loss.detach().reshape(()).clone()  # a closure may reuse its tensor
    return loss if loss.is_floating_point() else loss.to(torch.get_default_dtype())


def mean_loss(losses: list[Tensor | None]) -> Tensor | None:
    """Return the mean of the losses, or None if a closure returned none."""
    given = [loss for loss in losses if loss is not None]
    return torch.stack(given).mean() if len(given) == len(losses) else None
