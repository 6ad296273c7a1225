"""Borrowing a model: its weights and its mode are changed for a while and put back."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of tensors, for :func:`restored`.

    Args:
        tensors: any.
    """
    return [tensor.detach().clone() for tensor in tensors]


@contextmanager
def restored(
    tensors: Sequence[Tensor], before: Sequence[Tensor] | None = None
) -> Generator[None, None, None]:
    """Have tensors hold after the block, bit for bit, what they held before, however it ends.

    Values are copied in place: storage never moves, so views of it survive.

    Args:
        tensors: any; the copies cost their memory while the block lasts.
        before: copies of what they hold now, if there are some already.
    """
    before = copies(tensors) if before is None else before
    try:
        yield
    finally:
        try:
            move(tensors, before)
        except BaseException:  # Ctrl-C in the middle of it
            move(tensors, before)
            raise


@torch.no_grad()
def move(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into tensors in place.

    Autocast keeps casts of weights that it has seen; whoever moves weights clears them, or a
    forward pass goes on at the weights as they were.

    Args:
        tensors: where to.
        values: what, one for each, of its shape.
    """
    for tensor, value in zip(tensors, values, strict=True):
        # An expanded tensor, whose elements share memory, cannot be copied into; it is a constant.
        if not (_shares_memory(tensor) and torch.equal(tensor, value)):
            tensor.copy_(value)
    torch.clear_autocast_cache()


def _shares_memory(tensor: Tensor) -> bool:
    return any(
        length > 1 and step == 0 for length, step in zip(tensor.shape, tensor.stride(), strict=True)
    )


@contextmanager
def evaluating(model: nn.Module) -> Generator[None, None, None]:
    """Have the model in evaluation mode inside the block, and each module as it was afterwards.

    Args:
        model: any module.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
