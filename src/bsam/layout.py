"""How tensors lie in memory: as one run of numbers each, or end to end in one.

What works element by element need not know shapes. Seen as flat runs, tensors can be cut into
pieces that stay in cache, or taken together, so that thousands of small ones cost about as much as
one of their size.
"""

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

_ALIGNED = 16  # numbers, to begin where vectors of a CPU do
_LARGE_PAGES = 1 << 22  # bytes from which on NumPy asks for them


def flat_alike(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Return tensors of one shape as they lie in memory, each 1-d and sharing its memory.

    Args:
        tensors: of one shape.

    Returns:
        None if they do not lie alike, such as one by rows and one ``channels_last``, or have gaps.

    Example:
        >>> import torch
        >>> from bsam.layout import flat_alike
        >>> image = torch.arange(8.0).view(1, 2, 2, 2)
        >>> flat_alike([image.to(memory_format=torch.channels_last)])
        [tensor([0., 4., 1., 5., 2., 6., 3., 7.])]
    """
    if all(t.is_contiguous() for t in tensors):
        return [flat(t) for t in tensors]
    strides = tensors[0].stride()
    if any(t.stride() != strides for t in tensors):
        return None
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    turned = [t.permute(order) for t in tensors]
    return [flat(t) for t in turned] if turned[0].is_contiguous() else None


def flat(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor as a 1-d one that shares its memory, with no history."""
    # Detached last: a compiler would look at what a view is a view of, and compile for each kind.
    return tensor.view(-1).detach()


def room_like(tensors: Sequence[Tensor], dtype: torch.dtype, *, large: int = 0) -> list[Tensor]:
    """Return uninitialized tensors laid out like those given, all pieces of one.

    Args:
        tensors: shapes and devices of the result; on one device.
        dtype: of the result.
        large: those with fewer elements come first and end to end, contiguous each.
    """
    room = list(tensors)
    small = [i for i, t in enumerate(tensors) if t.numel() < large]
    rest = [i for i, t in enumerate(tensors) if t.numel() >= large]
    sizes = [tensors[i].numel() for i in small]
    sizes += [-(-tensors[i].numel() // _ALIGNED) * _ALIGNED for i in rest]
    device = tensors[0].device if tensors else torch.device("cpu")
    for i, piece in zip(small + rest, _empty(sum(sizes), dtype, device).split(sizes), strict=True):
        run = piece[: tensors[i].numel()]
        dense = i in rest and not tensors[i].is_contiguous() and flat_alike([tensors[i]])
        strides = tensors[i].stride()
        room[i] = run.as_strided(tensors[i].shape, strides) if dense else run.view(tensors[i].shape)
    return room


def _empty(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return uninitialized memory; on a CPU, if it is much, in large pages, as NumPy asks for them.

    Each page that is new to a process is a fault: with small ones that took five times as long as
    filling the memory.
    """
    size = count * dtype.itemsize
    if device.type != "cpu" or size < _LARGE_PAGES:
        return torch.empty(count, dtype=dtype, device=device)
    return torch.from_numpy(numpy.empty(size, numpy.uint8)).view(dtype)


def as_one(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the 1-d tensor in whose memory tensors lie end to end, None where they do not.

    Args:
        tensors: at least one; pieces of one, as :func:`room_like` gives them.
    """
    whole, first = tensors[0]._base, tensors[0].storage_offset()
    if whole is None or whole.dim() != 1:
        return None
    end = first
    for t in tensors:
        if t._base is not whole or t.storage_offset() != end or not t.is_contiguous():
            return None
        end += t.numel()
    skipped = first - whole.storage_offset()
    return whole[skipped : skipped + end - first].detach()
