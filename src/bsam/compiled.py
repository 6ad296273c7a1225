"""The algorithm's lines as compiled kernels: as few passes over memory as can be.

Each kernel is a line of :mod:`bsam.algorithm`, or two that read the same tensors, written for flat
tensors. A tensor of many elements goes in as it lies in memory; small ones are joined, so that
thousands of them cost about as much as one of their size. Lengths and hyperparameters are inputs,
so that a kernel is compiled once for each dtype and device, whatever the model and the schedule.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bsam import gaussian, noise
from bsam.dtypes import state_dtype

LARGE = 1 << 14
"""Tensors with fewer elements are joined: a call costs about as much as copying these."""

Kernel = Callable[..., None]
Tensors = Sequence[Tensor]


# ------------------------------------------------------------------ the lines, on flat tensors


def _sample(weights: Tensor, drawn: Tensor, s: Tensor, numbers: Tensor) -> None:
    (deviations,) = gaussian.deviations([drawn], [s], numbers[0])
    weights.add_(deviations)


def _sample_elements(
    weights: Tensor, elements: Tensor, s: Tensor, numbers: Tensor, key: Tensor
) -> None:
    _sample(weights, noise.standard_normal_at(elements, key, s.dtype), s, numbers)


def _sample_run(weights: Tensor, s: Tensor, numbers: Tensor, key: Tensor, first: Tensor) -> None:
    elements = torch.arange(len(weights), device=weights.device) + first
    _sample(weights, noise.standard_normal_at(elements, key, s.dtype), s, numbers)


def _perturb(
    weights: Tensor, scales: Tensor, gradients: Tensor, s: Tensor, numbers: Tensor
) -> None:
    first = gradients.to(s.dtype)
    weights.add_(first * numbers[0] / s)
    scales.copy_(s.sqrt() * first.abs())


def _update_precision_first(*tensors: Tensor) -> None:
    _update(*tensors, by_new_precision=True)


def _update_mean_first(*tensors: Tensor) -> None:
    _update(*tensors, by_new_precision=False)


def _update(
    mean: Tensor,
    exp_avg: Tensor,
    s: Tensor,
    gradients: Tensor,
    scales: Tensor,
    numbers: Tensor,
    by_new_precision: bool,
) -> None:
    lr, momentum_share, precision_share, weight_decay, floor = numbers.unbind()
    decayed = gradients.to(s.dtype) + mean.to(s.dtype) * weight_decay
    momentum = exp_avg + (decayed - exp_avg) * momentum_share
    precision = s + (scales + floor - s) * precision_share
    step = momentum / (precision if by_new_precision else s) * lr
    mean.sub_(step)
    exp_avg.copy_(momentum)
    s.copy_(precision)


# ------------------------------------------------------------------ on lists of tensors


def sample(weights: Tensors, drawn: Tensors, s: Tensors, *, num_data: float) -> None:
    r"""Move weights from the mean to a draw: :math:`\omega + e / \sqrt{N s}`."""
    _over(_sample, [weights], [drawn, s], _numbers(num_data))


def sample_stream(
    weights: Tensors, s: Tensors, first: Sequence[int], *, key: int, num_data: float
) -> None:
    """Move weights to a draw whose noise is made on the way and never stored.

    Args:
        weights: at the mean.
        s: state of them.
        first: number of each tensor's first element in the stream.
        key: of the stream, what :func:`bsam.noise.stream_key` gave.
        num_data: N.
    """
    numbers, key_tensor = _numbers(num_data), torch.tensor(key)
    rest = []
    for i, (p, precision) in enumerate(zip(weights, s, strict=True)):
        if p.numel() < LARGE or not (p.is_contiguous() and precision.is_contiguous()):
            rest.append(i)
            continue
        start = torch.tensor(first[i])
        _call(_sample_run, _flat(p), _flat(precision), numbers, key_tensor, start)
    if rest:
        others = [weights[i] for i in rest]
        elements = _elements(others, [first[i] for i in rest])
        _joined(_sample_elements, [others], [elements, [s[i] for i in rest]], numbers, key_tensor)


def perturb_and_scale(
    weights: Tensors, gradients: Tensors, s: Tensors, *, rho: float
) -> list[Tensor]:
    r"""Move weights uphill, to :math:`\omega + \rho g / s`; return :math:`\sqrt s |g|`."""
    scales = [torch.empty_like(each) for each in s]
    _over(_perturb, [weights, scales], [gradients, s], _numbers(rho))
    return scales


def update(
    mean: Tensors,
    exp_avg: Tensors,
    s: Tensors,
    gradients: Tensors,
    scales: Tensors,
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    damping: float,
    order: str,
) -> None:
    """The last three lines of the algorithm in one pass; see :func:`bsam.algorithm.update`."""
    numbers = _numbers(lr, 1.0 - beta1, 1.0 - beta2, weight_decay, weight_decay + damping)
    kernel = _update_precision_first if order == "precision_first" else _update_mean_first
    _over(kernel, [mean, exp_avg, s], [gradients, scales], numbers)


def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether kernels can be compiled for weights of a kind; warn once where not.

    Args:
        device: of the weights.
        dtype: of the weights.
    """
    return _works(device.type, dtype)


# ------------------------------------------------------------------ how tensors become flat


def _over(
    kernel: Kernel, changed: Sequence[Tensors], read: Sequence[Tensors], *rest: Tensor
) -> None:
    """Run a kernel over lists of tensors: large ones one by one, small ones joined."""
    small = []
    for i, tensors in enumerate(zip(*changed, *read, strict=True)):
        flat = _flat_alike(tensors) if tensors[0].numel() >= LARGE else None
        if flat is None:
            small.append(i)
        else:
            _call(kernel, *flat, *rest)
    if small:
        parts = [[[each[i] for i in small] for each in lists] for lists in (changed, read)]
        _joined(kernel, parts[0], parts[1], *rest)


def _joined(
    kernel: Kernel, changed: Sequence[Tensors], read: Sequence[Tensors], *rest: Tensor
) -> None:
    flat = [torch.cat([t.detach().reshape(-1) for t in tensors]) for tensors in (*changed, *read)]
    if len(flat[0]) == 1:
        kernel(*flat, *rest)  # lengths 0 and 1 are special to a compiler; uncompiled will do
    elif len(flat[0]):
        _call(kernel, *flat, *rest)
    for tensors, values in zip(changed, flat, strict=False):
        pieces = values.split([t.numel() for t in tensors])
        shaped = [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)]
        torch._foreach_copy_(list(tensors), shaped)


def _flat(tensor: Tensor) -> Tensor:
    # Detached last: a compiler would look at what a view is a view of, and compile for each kind.
    return tensor.view(-1).detach()


def _flat_alike(tensors: Tensors) -> list[Tensor] | None:
    """Return tensors as they lie in memory if all lie alike and without gaps, else None."""
    if all(t.is_contiguous() for t in tensors):
        return [_flat(t) for t in tensors]
    if tensors[0].dim() == 4 and all(
        t.is_contiguous(memory_format=torch.channels_last) for t in tensors
    ):
        return [_flat(t.permute(0, 2, 3, 1)) for t in tensors]
    return None


def _elements(tensors: Tensors, first: Sequence[int]) -> list[Tensor]:
    """Return the numbers in the stream of each tensor's elements."""
    device = tensors[0].device
    return [
        torch.arange(start, start + t.numel(), device=device)
        for t, start in zip(tensors, first, strict=True)
    ]


def _numbers(*values: float | Tensor) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


# ------------------------------------------------------------------ compilation


def _call(kernel: Kernel, *arguments: Tensor) -> None:
    _compiled(kernel)(*arguments)


@functools.cache
def _compiled(kernel: Kernel) -> Any:
    return torch.compile(kernel, dynamic=True, fullgraph=True)


@functools.cache
def _works(device: str, dtype: torch.dtype) -> bool:
    weights = torch.zeros(2, device=device, dtype=dtype)
    s = torch.ones(2, device=device, dtype=state_dtype(weights))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own, about itself
            _call(_perturb, weights, torch.empty_like(s), weights.clone(), s, _numbers(0.0))
    except Exception as error:  # whatever a missing or broken compiler raises
        reason = " ".join(str(error).split()[:30]) or type(error).__name__
        warnings.warn(
            f"compiled=True: no kernel could be compiled for {device} ({reason}); the steps "
            "go on uncompiled, with the same numbers. Install a C++ compiler, or leave it out.",
            stacklevel=2,
        )
        return False
    return True
