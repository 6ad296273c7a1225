"""The algorithm's lines without compilation: on lists of tensors, or on pieces that stay in cache.

Each line is several steps, and each step passes over what it is given. On a CPU a large tensor is
therefore cut into pieces, and small ones are gathered, so that all steps of a line find their piece
in cache. On an accelerator a call costs more than memory does: there a list is worked on whole.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bsam import algorithm, noise
from bsam.dtypes import state_dtype
from bsam.layout import flat_alike, room_like

PIECE = 1 << 18
"""Elements worked on at a time; a multiple of the noise's blocks."""

Tensors = Sequence[Tensor]


class Lines:
    """The lines of :mod:`bsam.algorithm`, from the mean at one place to weights at another.

    Args:
        in_pieces: cut and gather tensors as a cache likes them.
    """

    def __init__(self, *, in_pieces: bool) -> None:
        self._cut = _in_pieces if in_pieces else _whole

    def room(self, params: Tensors, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return uninitialized tensors for what lasts: state of parameters, or of another dtype."""
        return room_like(params, dtype or state_dtype(params[0])) if params else []

    def scratch(self, params: Tensors, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return them for a step alone: pieces that an allocator hands out again and again.

        New large pages may take a system five times as long to find.
        """
        return [torch.empty_like(p, dtype=dtype or state_dtype(p)) for p in params]

    def sample(
        self, weights: Tensors, mean: Tensors, drawn: Tensors, s: Tensors, *, num_data: float
    ) -> None:
        """Move weights to a draw, by noise that is given."""
        for _, at, start, e, each in self._cut([0] * len(weights), weights, mean, drawn, s):
            _begin(at, start)
            algorithm.sample(at, e, each, num_data=num_data)

    def sample_stream(
        self,
        weights: Tensors,
        mean: Tensors,
        s: Tensors,
        first: Sequence[int],
        *,
        key: int | Tensor,
        num_data: float,
    ) -> None:
        """Move weights to a draw whose noise is made on the way.

        Args:
            weights: where to.
            mean: where from; may be the weights.
            s: state of them.
            first: number of each tensor's first element in the stream.
            key: of the stream, what :func:`bsam.noise.stream_key` gave.
            num_data: N.
        """
        for begin, at, start, each in self._cut(first, weights, mean, s):
            _begin(at, start)
            e = noise.standard_normal_like(at, begin, key)
            algorithm.sample(at, e, each, num_data=num_data)

    def perturb(
        self, weights: Tensors, mean: Tensors, gradients: Tensors, s: Tensors, *, rho: float
    ) -> None:
        """Move weights uphill."""
        for _, at, start, g, each in self._cut([0] * len(weights), weights, mean, gradients, s):
            _begin(at, start)
            algorithm.perturb(at, _wide(g, each), each, rho=rho)

    def perturb_and_scale(
        self,
        weights: Tensors,
        mean: Tensors,
        gradients: Tensors,
        s: Tensors,
        scales: Tensors,
        *,
        rho: float,
        share: float,
    ) -> None:
        r"""Move weights uphill, and fold :math:`\sqrt s |g|` into its mean over sub-batches.

        Args:
            weights: where to.
            mean: where from; may be the weights.
            gradients: g.
            s: state.
            scales: the mean over the sub-batches so far.
            rho: size of the perturbation.
            share: of this sub-batch in that mean; 1 for the first, whatever scales hold.
        """
        lists = (weights, mean, gradients, s, scales)
        for _, at, start, g, each, so_far in self._cut([0] * len(weights), *lists):
            _begin(at, start)
            wide = _wide(g, each)
            algorithm.perturb(at, wide, each, rho=rho)
            now = algorithm.gradient_scales(wide, each)
            if share == 1.0:
                torch._foreach_copy_(so_far, now)
            else:
                torch._foreach_lerp_(so_far, now, share)

    def update(
        self,
        weights: Tensors,
        mean: Tensors,
        exp_avg: Tensors,
        s: Tensors,
        gradients: Tensors,
        scales: Tensors,
        *,
        scaled: bool = True,
        **numbers: Any,
    ) -> None:
        """Make the last three lines; see :func:`bsam.algorithm.update`.

        Without ``scaled``, scales are the first gradients themselves.
        """
        lists = (weights, mean, exp_avg, s, gradients, scales)
        for _, at, start, m, each, g, scale in self._cut([0] * len(weights), *lists):
            _begin(at, start)
            if not scaled:
                scale = algorithm.gradient_scales(_wide(scale, each), each)
            algorithm.update(at, m, each, _wide(g, each), scale, **numbers)


def _begin(weights: list[Tensor], mean: list[Tensor]) -> None:
    if any(w.data_ptr() != m.data_ptr() for w, m in zip(weights, mean, strict=True)):
        torch._foreach_copy_(weights, mean)


def _wide(gradients: list[Tensor], s: list[Tensor]) -> list[Tensor]:
    return [gradient.to(each.dtype) for gradient, each in zip(gradients, s, strict=True)]


def _whole(first: Sequence[int], *lists: Tensors) -> Iterator[tuple[Any, ...]]:
    yield list(first), *(list(each) for each in lists)


def _in_pieces(first: Sequence[int], *lists: Tensors) -> Iterator[tuple[Any, ...]]:
    """Yield numbers of first elements and lists of tensors, about PIECE elements together."""
    gathered: list[tuple[Any, ...]] = []
    size = 0
    for start, *tensors in zip(first, *lists, strict=True):
        count = tensors[0].numel()
        flat = flat_alike(tensors) if count > PIECE else None
        if flat is None:
            gathered.append((start, *tensors))
            size += count
            if size >= PIECE:
                yield tuple(map(list, zip(*gathered, strict=True)))
                gathered, size = [], 0
            continue
        edge = 0
        while edge < count:
            end = min(count, edge + PIECE - (start + edge) % noise.BLOCK)
            yield [start + edge], *([each[edge:end]] for each in flat)
            edge = end
    if gathered:
        yield tuple(map(list, zip(*gathered, strict=True)))


LOOP, FOREACH = Lines(in_pieces=True), Lines(in_pieces=False)
"""The two ways that ``foreach`` chooses between."""
