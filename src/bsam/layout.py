"""How tensors lie in memory: as one run of numbers each, or end to end in one.

What works element by element need not know shapes. Seen as flat runs, tensors can be cut into
pieces that stay in cache, or taken together, so that thousands of small ones cost about as much as
one of their size.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy
import torch
from torch import Tensor

_ALIGNED = 16  # numbers, to begin where vectors of a CPU do
_LARGE_PAGES = 1 << 22  # bytes from which on NumPy asks for them


def in_order(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor with its dimensions in the order in which another one lies in memory.

    Args:
        tensor: any.
        like: of its shape.

    Example:
        >>> import torch
        >>> from bsam.layout import in_order
        >>> image = torch.arange(8.0).view(1, 2, 2, 2).to(memory_format=torch.channels_last)
        >>> in_order(image, image).reshape(-1)
        tensor([0., 4., 1., 5., 2., 6., 3., 7.])
    """
    if like.is_contiguous():
        return tensor
    strides = like.stride()
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    return tensor.permute(order) if like.permute(order).is_contiguous() else tensor


def lie_alike(tensors: Sequence[Tensor]) -> bool:
    """Return whether tensors of one shape lie alike in memory, and without gaps.

    Args:
        tensors: of one shape.

    Example:
        >>> import torch
        >>> from bsam.layout import lie_alike
        >>> image = torch.zeros(1, 2, 2, 2)
        >>> turned = image.to(memory_format=torch.channels_last)
        >>> lie_alike([image, image]), lie_alike([turned, turned]), lie_alike([image, turned])
        (True, True, False)
    """
    if all(t.is_contiguous() for t in tensors):
        return True
    return all(in_order(t, tensors[0]).is_contiguous() for t in tensors)


def overlap(tensors: Sequence[Tensor]) -> bool:
    """Return whether any two tensors may share memory.

    Args:
        tensors: any.

    Example:
        >>> import torch
        >>> from bsam.layout import overlap
        >>> whole = torch.zeros(6)
        >>> overlap([whole[:3], whole[3:]]), overlap([whole[:4], whole[3:]])
        (False, True)
    """
    spans = sorted((t.data_ptr(), t.data_ptr() + _extent(t)) for t in tensors if t.numel())
    return any(start < end for (_, end), (start, _) in pairwise(spans))


def _extent(tensor: Tensor) -> int:
    """How many bytes lie between a tensor's first and last element, with them."""
    if tensor.is_contiguous():
        return tensor.nbytes
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.itemsize


def flat_alike(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Return tensors of one shape as they lie in memory, each 1-d and sharing its memory.

    Args:
        tensors: of one shape.

    Returns:
        None if they do not lie alike, such as one by rows and one ``channels_last``, or have gaps.
    """
    return [flat(in_order(t, tensors[0])) for t in tensors] if lie_alike(tensors) else None


def flat(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor as a 1-d one that shares its memory, with no history."""
    # Detached last: a compiler would look at what a view is a view of, and compile for each kind.
    return tensor.view(-1).detach()


def room_like(tensors: Sequence[Tensor], dtype: torch.dtype, *, large: int = 0) -> list[Tensor]:
    """Return uninitialized tensors laid out like those given, all pieces of one.

    Args:
        tensors: shapes and devices of the result; on one device.
        dtype: of the result.
        large: those with fewer elements come first and end to end.
    """
    room = list(tensors)
    small = [i for i, t in enumerate(tensors) if t.numel() < large]
    rest = [i for i, t in enumerate(tensors) if t.numel() >= large]
    sizes = [tensors[i].numel() for i in small]
    sizes += [-(-tensors[i].numel() // _ALIGNED) * _ALIGNED for i in rest]
    device = tensors[0].device if tensors else torch.device("cpu")
    for i, piece in zip(small + rest, _empty(sum(sizes), dtype, device).split(sizes), strict=True):
        room[i] = shaped_like(piece[: tensors[i].numel()], tensors[i])
    return room


def shaped_like(run: Tensor, like: Tensor) -> Tensor:
    """Return a 1-d tensor seen as another one lies in memory; by rows if that one has gaps.

    Args:
        run: of as many elements.
        like: whose shape and order of dimensions the result has.
    """
    dense = in_order(like, like).is_contiguous() and not like.is_contiguous()
    return run.as_strided(like.shape, like.stride()) if dense else run.view(like.shape)


def _empty(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return uninitialized memory; on a CPU, if it is much, in large pages, as NumPy asks for them.

    Each page that is new to a process is a fault: with small ones that took five times as long as
    filling the memory.
    """
    size = count * dtype.itemsize
    if device.type != "cpu" or size < _LARGE_PAGES:
        return torch.empty(count, dtype=dtype, device=device)
    return torch.from_numpy(numpy.empty(size, numpy.uint8)).view(dtype)


def as_one(tensors: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor | None:
    """Return the 1-d tensor in whose memory tensors lie end to end, None where they do not.

    Args:
        tensors: at least one; pieces of one, as :func:`room_like` gives them.
        like: in whose order of dimensions each must lie.
    """
    whole, first = tensors[0]._base, tensors[0].storage_offset()
    if whole is None or whole.dim() != 1 or whole.dtype != tensors[0].dtype:
        return None
    if not whole.is_contiguous():
        return None
    end = first
    for t, other in zip(tensors, like, strict=True):
        in_line = t._base is whole and t.storage_offset() == end
        if not (in_line and in_order(t, other).is_contiguous()):
            return None
        end += t.numel()
    skipped = first - whole.storage_offset()
    return whole[skipped : skipped + end - first].detach()
