"""The algorithm's lines by compiled kernels, on lists of tensors of any shape.

A tensor of many elements goes into a kernel as it lies in memory; small ones are joined, so that
thousands of them cost about as much as one of their size.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bsam import kernels, noise
from bsam.dtypes import state_dtype
from bsam.layout import as_one, flat_alike, in_order, room_like

_LARGE_ON_CPU, _LARGE_ELSEWHERE = 1 << 17, 1 << 22

Tensors = Sequence[Tensor]


def large(device: torch.device) -> int:
    """Return from how many elements on a tensor is worked on alone: a call costs as much as these.

    Args:
        device: of the tensor.
    """
    return _LARGE_ON_CPU if device.type == "cpu" else _LARGE_ELSEWHERE


def room(params: Tensors, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Return uninitialized tensors for state of parameters, laid out as kernels like them."""
    if not params:
        return []
    dtype = state_dtype(params[0]) if dtype is None else dtype
    return room_like(params, dtype, large=large(params[0].device))


scratch = room


def sample(weights: Tensors, mean: Tensors, drawn: Tensors, s: Tensors, *, num_data: float) -> None:
    """Move weights to a draw, by noise that is given; see :class:`bsam.eager.Lines` for all."""
    numbers = _numbers(weights[0].device, num_data)
    _over(kernels.sample, [weights], [], [mean, drawn, s], numbers)


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
    edges: list[list[Tensor]] = []
    begin: list[int] = []  # the number of the first element of each edge
    finish = []
    for tensors, start in _consecutive(list(zip(weights, mean, s, strict=True)), first):
        runs, joined = _as_runs(tensors)
        if joined:
            finish.append((runs[0], tensors))
        count = len(runs[0])
        before = min(-start % noise.BLOCK, count)
        after = count - (count - before) % noise.BLOCK
        if after - before < 2 * noise.BLOCK:  # lengths 0 and 1 are special to a compiler
            before = after = count
        else:
            halves = [half for run in runs for half in _halves(run[before:after])]
            pair = _integer((start + before) // 2, device)
            kernels.call(kernels.sample_blocks, *halves, numbers, key, pair)
        for edge, end in ((0, before), (after, count)):
            if edge < end:
                edges.append([run[edge:end] for run in runs])
                begin.append(start + edge)
    if edges:
        at, start_at, precision = (list(each) for each in zip(*edges, strict=True))
        elements = _elements(begin, [t.numel() for t in at], device)
        _joined(kernels.sample_elements, [at], [], [start_at, elements, precision], numbers, key)
    for values, tensors in finish:
        places = [at for at, *_ in tensors]
        _scatter(values, places, places)


def perturb(weights: Tensors, mean: Tensors, gradients: Tensors, s: Tensors, *, rho: float) -> None:
    """Move weights uphill."""
    numbers = _numbers(weights[0].device, rho)
    _over(kernels.perturb, [weights], [], [mean, gradients, s], numbers)


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
        _over(kernels.perturb_and_scale, [weights, scales], [], [mean, gradients, s], numbers)
    else:
        _over(kernels.perturb_and_scale_again, [weights], [scales], [mean, gradients, s], numbers)


def update(
    weights: Tensors,
    mean: Tensors,
    exp_avg: Tensors,
    s: Tensors,
    gradients: Tensors,
    scales: Tensors,
    *,
    scaled: bool = True,
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
    kernel = kernels.UPDATES[order == "precision_first", scaled]
    _over(kernel, [weights], [exp_avg, s], [mean, gradients, scales], numbers)


# ------------------------------------------------------------------ how tensors become flat


def _over(
    kernel: kernels.Kernel,
    written: Sequence[Tensors],
    changed: Sequence[Tensors],
    read: Sequence[Tensors],
    *rest: Tensor,
) -> None:
    """Run a kernel over lists of tensors: large ones one by one, small ones joined."""
    small = []
    for i, tensors in enumerate(zip(*written, *changed, *read, strict=True)):
        runs = None
        if tensors[0].numel() >= large(tensors[0].device):
            runs = flat_alike(tensors)
        if runs is None:
            small.append(i)
        else:
            kernels.call(kernel, *runs, *rest)
    for part in _parcels([written[0][i] for i in small]):
        chosen = [small[k] for k in part]
        some = [[[each[i] for i in chosen] for each in lists] for lists in (written, changed, read)]
        _joined(kernel, some[0], some[1], some[2], *rest)


def _parcels(tensors: Tensors) -> Iterator[range]:
    """Cut a list where as much as a large tensor is full: what is joined is held twice."""
    start = size = 0
    for i, t in enumerate(tensors):
        size += t.numel()
        if size >= large(t.device) or i + 1 == len(tensors):
            yield range(start, i + 1)
            start, size = i + 1, 0


def _joined(
    kernel: kernels.Kernel,
    written: Sequence[Tensors],
    changed: Sequence[Tensors],
    read: Sequence[Tensors],
    *rest: Tensor,
) -> None:
    like = written[0]  # in whose order of dimensions all are taken
    count = sum(t.numel() for t in like)
    places = [as_one(each, like) for each in (*written, *changed)]
    outputs = []
    for number, (each, place) in enumerate(zip((*written, *changed), places, strict=True)):
        if place is None:
            only_written = number < len(written)
            place = each[0].new_empty(count) if only_written else _end_to_end(each, like)
        outputs.append(place)
    inputs = [_as_run(each, like) for each in read]
    if count == 1:
        kernel(*outputs, *inputs, *rest)  # length 1 is special to a compiler; uncompiled will do
    elif count:
        kernels.call(kernel, *outputs, *inputs, *rest)
    for tensors, values, place in zip((*written, *changed), outputs, places, strict=True):
        if place is None:
            _scatter(values, tensors, like)


def _consecutive(
    tensors: list[tuple[Tensor, ...]], first: Sequence[int]
) -> list[tuple[list[tuple[Tensor, ...]], int]]:
    """Group what is small and follows one another in the stream; what is large stands alone.

    With each group the number of its first element.
    """
    groups: list[tuple[list[tuple[Tensor, ...]], int]] = []
    end = -1
    for each, start in zip(tensors, first, strict=True):
        size = each[0].numel()
        if not size:
            continue
        alone = size >= large(each[0].device)
        if start == end and not alone:
            groups[-1][0].append(each)
        else:
            groups.append(([each], start))
        end = -1 if alone else start + size
    return groups


def _as_runs(tensors: list[tuple[Tensor, ...]]) -> tuple[list[Tensor], bool]:
    """Return (weights, mean, s) as one run each, and whether the weights are a copy to scatter."""
    if len(tensors) == 1 and (runs := flat_alike(tensors[0])):
        return runs, False
    at, mean, s = (list(each) for each in zip(*tensors, strict=True))
    inputs = [_as_run(each, at) for each in (mean, s)]
    return [at[0].new_empty(len(inputs[0])), *inputs], True


def _as_run(tensors: Tensors, like: Tensors) -> Tensor:
    """Return tensors as one, to be read: where they lie end to end, or a copy."""
    one = as_one(tensors, like)
    return _end_to_end(tensors, like) if one is None else one


def _end_to_end(tensors: Tensors, like: Tensors) -> Tensor:
    pairs = zip(tensors, like, strict=True)
    return torch.cat([in_order(t.detach(), other).reshape(-1) for t, other in pairs])


def _scatter(values: Tensor, tensors: Tensors, like: Tensors) -> None:
    places = [in_order(t.detach(), other) for t, other in zip(tensors, like, strict=True)]
    pieces = values.split([t.numel() for t in tensors])
    shaped = [piece.view(place.shape) for piece, place in zip(pieces, places, strict=True)]
    torch._foreach_copy_(places, shaped)


def _halves(run: Tensor) -> tuple[Tensor, Tensor]:
    """Return the halves of the noise's blocks in a run of whole blocks."""
    first, second = run.view(-1, 2, noise.PAIRS).unbind(1)
    return first.detach(), second.detach()


def _elements(first: Sequence[int], counts: Sequence[int], device: torch.device) -> list[Tensor]:
    """Return the numbers in the stream of tensors' elements, made in as few runs as can be."""
    runs: list[list[int]] = []
    for start, count in zip(first, counts, strict=True):
        if runs and runs[-1][1] == start:
            runs[-1][1] = start + count
        else:
            runs.append([start, start + count])
    numbers = torch.cat([torch.arange(start, end, device=device) for start, end in runs])
    return list(numbers.split(list(counts)))


def _numbers(device: torch.device, *values: float | Tensor) -> Tensor:
    """Return hyperparameters as an input of a kernel, without waiting for a device."""
    if device.type == "cpu":
        numbers = [float(value) for value in values]
        return torch.tensor(numbers, dtype=torch.float64, device=device)
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
