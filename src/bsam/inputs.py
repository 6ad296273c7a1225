"""What users predict on: tensors or batches; and how a model is called on one."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from torch import Tensor, nn

from bsam import options

Forward = Callable[[nn.Module, Any], Any]
"""Returns a model's outputs for a batch."""


def call(model: nn.Module, batch: Any) -> Any:
    """Return the outputs for a batch: a tensor, or a sequence whose first entry is the inputs.

    The inputs go to the device of the model's first parameter.

    Args:
        model: any module.
        batch: a tensor, or what a loader over (inputs, targets) gives.

    Raises:
        TypeError: for a batch of another kind.
        RuntimeError: if the model changes its inputs.
    """
    inputs = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"inputs: a batch is {type(batch).__name__}: must be a tensor, or a tuple or list that "
            "begins with one; for others pass forward=lambda model, batch: ..."
        )
    inputs = inputs.to(next(model.parameters(), inputs).device)
    before = _version(inputs)
    outputs = model(inputs)
    if _version(inputs) != before:
        raise RuntimeError(
            "inputs: the model changes them in place, so every draw would see others: give it a "
            "copy with forward=lambda model, batch: model(batch.clone())."
        )
    return outputs


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def batches_of(inputs: Any, batch_size: int | None) -> Iterable[Any]:
    """Return inputs as batches: those of an iterable, or pieces of a tensor.

    Args:
        inputs: a tensor, shape (n, ...), or an iterable of batches.
        batch_size: rows of a piece; None takes a tensor whole. Not for an iterable.

    Raises:
        TypeError, ValueError: for inputs that are neither, or a batch size that is not allowed.
    """
    if batch_size is not None:
        advice = "None takes all rows at once"
        batch_size = options.integer("batch_size", batch_size, at_least=1, advice=advice)
    if isinstance(inputs, Tensor):
        if inputs.dim() == 0:
            raise ValueError("inputs: a 0-d tensor: must have examples in its first dimension.")
        return inputs.split(batch_size or max(len(inputs), 1))
    if not isinstance(inputs, Iterable) or isinstance(inputs, str | bytes | Mapping):
        raise TypeError(
            f"inputs: {type(inputs).__name__}: must be a tensor or an iterable of batches, such as "
            "a DataLoader."
        )
    if hasattr(inputs, "__array__"):
        raise TypeError(
            f"inputs: {type(inputs).__name__}: must be a tensor; pass torch.as_tensor(inputs)."
        )
    if batch_size is not None:
        raise ValueError(
            f"batch_size={batch_size}: must be left out where inputs are batches already."
        )
    return inputs


def blocks_of(batches: Iterable[Any], length: int) -> Iterator[list[Any]]:
    """Yield the batches in lists of a length, the last maybe shorter; one list, used anew.

    Args:
        batches: an iterable, read once.
        length: how many in a list.
    """
    block: list[Any] = []
    for batch in batches:
        block.append(batch)
        if len(block) == length:
            yield block
            block.clear()  # not held while the next ones come
    if block:
        yield block


def rows(batch: Any) -> int:
    """Return the number of examples in a batch, as far as it shows; else 1.

    Args:
        batch: a tensor, a sequence or mapping of such, or anything else.
    """
    if isinstance(batch, Mapping):
        return rows(next(iter(batch.values()), None))
    if isinstance(batch, list | tuple):
        return rows(batch[0]) if batch else 1
    return len(batch) if isinstance(batch, Tensor) and batch.dim() else 1


def count(batches: Iterable[Any]) -> int | None:
    """Return how many batches there are, None where that does not show before the end.

    Args:
        batches: an iterable.
    """
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a loader over a data set that is only iterable
        return None
