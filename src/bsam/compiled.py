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
from bsam.layout import as_one, flat, flat_alike, room_like

_LARGE_ON_CPU, _LARGE_ELSEWHERE = 1 << 16, 1 << 22

Kernel = Callable[..., None]
Tensors = Sequence[Tensor]


def large(device: torch.device) -> int:
    """Return from how many elements on a tensor is worked on alone: a call costs as much as these.

    Args:
        device: of the tensor.
    """
    return _LARGE_ON_CPU if device.type == "cpu" else _LARGE_ELSEWHERE


# ------------------------------------------------------------------ the lines, on flat tensors


def _sample(weights: Tensor, mean: Tensor, drawn: Tensor, s: Tensor, numbers: Tensor) -> None:
    (deviations,) = gaussian.deviations([drawn], [s], numbers[0])
    weights.copy_(mean + deviations)


def _sample_elements(
    weights: Tensor, mean: Tensor, elements: Tensor, s: Tensor, numbers: Tensor, key: Tensor
) -> None:
    _sample(weights, mean, noise.standard_normal_at(elements, key, s.dtype), s, numbers)


def _sample_blocks(
    weights: Tensor,
    weights_2: Tensor,
    mean: Tensor,
    mean_2: Tensor,
    s: Tensor,
    s_2: Tensor,
    numbers: Tensor,
    key: Tensor,
    first_pair: Tensor,
) -> None:
    """Both halves of each block of the noise at once: a pair shares its logarithm and its bits."""
    halves = noise.standard_normal_blocks(len(weights), key, first_pair, s.dtype)
    _sample(weights, mean, halves[0], s, numbers)
    _sample(weights_2, mean_2, halves[1], s_2, numbers)


def _perturb(
    weights: Tensor, scales: Tensor, mean: Tensor, gradients: Tensor, s: Tensor, numbers: Tensor
) -> None:
    first = gradients.to(s.dtype)
    weights.copy_(mean + first * numbers[0] / s)
    scales.copy_(s.sqrt() * first.abs())


def _perturb_again(
    weights: Tensor, scales: Tensor, mean: Tensor, gradients: Tensor, s: Tensor, numbers: Tensor
) -> None:
    first = gradients.to(s.dtype)
    weights.copy_(mean + first * numbers[0] / s)
    scales.add_((s.sqrt() * first.abs() - scales) * numbers[1])


def _update_precision_first(*tensors: Tensor) -> None:
    _update(*tensors, by_new_precision=True)


def _update_mean_first(*tensors: Tensor) -> None:
    _update(*tensors, by_new_precision=False)


def _update(
    weights: Tensor,
    exp_avg: Tensor,
    s: Tensor,
    mean: Tensor,
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
    weights.copy_(mean - step)
    exp_avg.copy_(momentum)
    s.copy_(precision)


# ------------------------------------------------------------------ on lists of tensors


def room(params: Tensors, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Return uninitialized tensors for state of parameters, laid out as kernels like them."""
    if not params:
        return []
    dtype = state_dtype(params[0]) if dtype is None else dtype
    return room_like(params, dtype, large=large(params[0].device))


def sample(weights: Tensors, mean: Tensors, drawn: Tensors, s: Tensors, *, num_data: float) -> None:
    """Move weights to a draw, by noise that is given; see :class:`bsam.eager.Lines` for all."""
    numbers = _numbers(weights[0].device, num_data)
    _over(_sample, [weights], [], [mean, drawn, s], numbers)


def sample_stream(
    weights: Tensors,
    mean: Tensors,
    s: Tensors,
    first: Sequence[int],
    *,
    key: int | Tensor,
    num_data: float,
) -> None:
    """Move weights to a draw whose noise is made on the way and never stored."""
    device = weights[0].device
    numbers, key = _numbers(device, num_data), _integer(key, device)
    rest: list[list[Tensor]] = []
    begin: list[int] = []  # the number of the first element of each of the rest
    for tensors, start in zip(zip(weights, mean, s, strict=True), first, strict=True):
        count = tensors[0].numel()
        if count < large(device) or not all(t.is_contiguous() for t in tensors):
            rest.append(list(tensors))
            begin.append(start)
            continue
        runs = [flat(t) for t in tensors]
        before = -start % noise.BLOCK
        after = count - (count - before) % noise.BLOCK
        halves = [half for run in runs for half in _halves(run[before:after])]
        apart = (halves[0], *map(_apart, halves[1:]))  # as in _over
        pair = _integer((start + before) // 2, device)
        _call(_sample_blocks, *apart, numbers, key, pair)
        for edge, end in ((0, before), (after, count)):
            if edge < end:
                rest.append([run[edge:end] for run in runs])
                begin.append(start + edge)
    if rest:
        at, start_at, precision = (list(each) for each in zip(*rest, strict=True))
        elements = _elements(begin, [t.numel() for t in at], device)
        _joined(_sample_elements, [at], [], [start_at, elements, precision], numbers, key)


def perturb_and_scale(
    weights: Tensors,
    mean: Tensors,
    gradients: Tensors,
    s: Tensors,
    scales: Tensors,
    *,
    rho: float,
    share: float,
) -> None:
    r"""Move weights uphill, and fold :math:`\sqrt s |g|` into its mean over sub-batches."""
    numbers = _numbers(weights[0].device, rho, share)
    if share == 1.0:
        _over(_perturb, [weights, scales], [], [mean, gradients, s], numbers)
    else:
        _over(_perturb_again, [weights], [scales], [mean, gradients, s], numbers)


def update(
    weights: Tensors,
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
    """Make the last three lines in one pass; see :func:`bsam.algorithm.update`."""
    shares = (1.0 - beta1, 1.0 - beta2)
    floor = weight_decay + damping
    numbers = _numbers(weights[0].device, lr, *shares, weight_decay, floor)
    kernel = _update_precision_first if order == "precision_first" else _update_mean_first
    _over(kernel, [weights], [exp_avg, s], [mean, gradients, scales], numbers)


def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether kernels can be compiled for weights of a kind; warn once where not.

    Args:
        device: of the weights.
        dtype: of the weights.
    """
    return _works(device.type, dtype)


# ------------------------------------------------------------------ how tensors become flat


def _over(
    kernel: Kernel,
    written: Sequence[Tensors],
    changed: Sequence[Tensors],
    read: Sequence[Tensors],
    *rest: Tensor,
) -> None:
    """Run a kernel over lists of tensors: large ones one by one, small ones joined.

    What is read may share memory with what is written: the compiler must not know, as it would
    compile anew, and need not, as an element depends on that same element alone.
    """
    small = []
    for i, tensors in enumerate(zip(*written, *changed, *read, strict=True)):
        runs = None
        if tensors[0].numel() >= large(tensors[0].device):
            runs = flat_alike(tensors)
        if runs is None:
            small.append(i)
            continue
        outputs = len(written) + len(changed)
        _call(kernel, *runs[:outputs], *map(_apart, runs[outputs:]), *rest)
    if small:
        some = [[[each[i] for i in small] for each in lists] for lists in (written, changed, read)]
        _joined(kernel, some[0], some[1], some[2], *rest)


def _joined(
    kernel: Kernel,
    written: Sequence[Tensors],
    changed: Sequence[Tensors],
    read: Sequence[Tensors],
    *rest: Tensor,
) -> None:
    sizes = [t.numel() for t in written[0]]
    places = [as_one(each) for each in (*written, *changed)]
    outputs = [
        (each[0].new_empty(sum(sizes)) if number < len(written) else _end_to_end(each))
        if place is None
        else place
        for number, (each, place) in enumerate(zip((*written, *changed), places, strict=True))
    ]
    inputs = [_end_to_end(each) if (one := as_one(each)) is None else _apart(one) for each in read]
    if len(outputs[0]) == 1:
        kernel(*outputs, *inputs, *rest)  # length 1 is special to a compiler; uncompiled will do
    elif len(outputs[0]):
        _call(kernel, *outputs, *inputs, *rest)
    for tensors, values, place in zip((*written, *changed), outputs, places, strict=True):
        if place is None:
            _scatter(values, tensors, sizes)


def _end_to_end(tensors: Tensors) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def _scatter(values: Tensor, tensors: Tensors, sizes: list[int]) -> None:
    pieces = zip(values.split(sizes), tensors, strict=True)
    torch._foreach_copy_(list(tensors), [piece.view(t.shape) for piece, t in pieces])


def _halves(run: Tensor) -> tuple[Tensor, Tensor]:
    """Return the halves of the noise's blocks in a run of whole blocks."""
    first, second = run.view(-1, 2, noise.PAIRS).unbind(1)
    return first.detach(), second.detach()


def _apart(tensor: Tensor) -> Tensor:
    """Return the same memory as a tensor that nothing connects with others there."""
    return torch.from_dlpack(tensor)


def _elements(first: Sequence[int], counts: Sequence[int], device: torch.device) -> list[Tensor]:
    """Return the numbers in the stream of tensors' elements, in as few runs as can be."""
    runs: list[list[int]] = []
    for start, count in zip(first, counts, strict=True):
        if runs and runs[-1][1] == start:
            runs[-1][1] = start + count
        else:
            runs.append([start, start + count])
    return [torch.arange(start, end, device=device) for start, end in runs]


def _numbers(device: torch.device, *values: float | Tensor) -> Tensor:
    """Return hyperparameters as an input of a kernel, without waiting for a device."""
    if device.type == "cpu":
        return torch.tensor([float(value) for value in values], dtype=torch.float64)
    wide = [
        value.to(device, torch.float64)
        if isinstance(value, Tensor)
        else torch.full((), value, device=device, dtype=torch.float64)
        for value in values
    ]
    return torch.stack(wide)


def _integer(value: int | Tensor, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(device)
    return torch.full((), value, device=device, dtype=torch.int64)


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
            others = (torch.empty_like(s), weights.clone(), weights.clone(), s)
            _call(_perturb, weights, *others, _numbers(weights.device, 0.0, 1.0))
    except Exception as error:  # whatever a missing or broken compiler raises
        reason = " ".join(str(error).split()[:30]) or type(error).__name__
        warnings.warn(
            f"compiled=True: no kernel could be compiled for {device} ({reason}); the steps "
            "go on uncompiled, with the same numbers. Install a C++ compiler, or leave it out.",
            stacklevel=2,
        )
        return False
    return True
