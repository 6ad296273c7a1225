r"""Standard normal noise that is a pure function of (seed, call, sub-batch, element).

A generator with hidden state must be saved, restored and kept in step on every device. A
counter-based stream has none of that: the number asked for *is* the address. The stream is

.. math::
    k &= \mathrm{mix}(\mathrm{mix}(\mathrm{mix}(\text{seed}+\gamma) \oplus \text{call} + \gamma)
         \oplus \text{sub-batch} + \gamma) \\
    z_i &= \mathrm{mix}(k + \gamma (i + 1)), \quad i = 1024\, b + r,\ 0 \le r < 1024 \\
    (n_{2048 b + r}, n_{2048 b + 1024 + r}) &= \sqrt{-2 \log u_i}\,(\cos 2\pi v_i, \sin 2\pi v_i)

with mix and :math:`\gamma` those of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), :math:`u_i` and :math:`v_i` the upper and lower 32
bits of :math:`z_i` as fractions, and the last line Box and Muller's: each pair lies half a block of
2,048 numbers apart, so that both halves are written in long runs. The integers are the same
everywhere; the floating point part is the same on one device for any way of cutting the range
into pieces, and agrees between devices to rounding. ``|n| < 6.77`` (32 bits hold no more).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from bsam.dtypes import state_dtype
from bsam.layout import shaped_like

_MASK = 2**64 - 1
_LOWER = 2**32 - 1
_GAMMA = 0x9E3779B97F4A7C15
_QUARTER = 1 << 30  # of a turn
_SQRT_HALF = 0x3F3504F3  # the bits of sqrt(1/2) as a float32

# Chebyshev interpolants: (log(1 + f) - f + f^2 / 2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1], error
# 3e-8, and sin(pi x) / x as a function of x^2 on [0, 1/4], error 6e-11.
_LOG = (
    0.3333333118,
    -0.2499999696,
    0.2000071575,
    -0.1666780232,
    0.1424905765,
    -0.1242568731,
    0.1168541990,
    -0.1147973396,
    0.0697161168,
)
_SINE = (3.1415926535, -5.1677127646, 2.5501633189, -0.5992521978, 0.0820504018, -0.0070283864)
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB

PAIRS = 1 << 10
"""Pairs in a block; the cosines of all come first, then the sines."""

BLOCK = 2 * PAIRS
"""Numbers in a block."""

# On a CPU the dozen passes over a piece stay in cache, and a piece still feeds two threads.
_BLOCKS_PER_PIECE_ON_CPU = 128

SEEDS = 2**63
"""Seeds are integers in ``[0, SEEDS)``."""


def standard_normal(
    first: int,
    count: int,
    *,
    seed: int,
    call: int,
    sub_batch: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return elements ``first`` to ``first + count - 1`` of one stream.

    Args:
        first: number of the first element, >= 0.
        count: how many elements, >= 0.
        seed: which family of streams, in ``[0, 2**63)``.
        call: which update the noise is for, >= 0.
        sub_batch: which sub-batch of that update, >= 0.
        dtype: ``torch.float32`` or ``torch.float64``.
        device: where the tensor is made.

    Returns:
        Tensor of shape ``(count,)``, standard normal.

    Example:
        >>> from bsam.noise import standard_normal
        >>> whole = standard_normal(0, 6, seed=1, call=0, sub_batch=0)
        >>> part = standard_normal(3, 3, seed=1, call=0, sub_batch=0)
        >>> bool((whole[3:] == part).all())
        True
    """
    return _run(first, count, stream_key(seed, call, sub_batch), dtype, torch.device(device))


def standard_normal_at(elements: Tensor, key: int | Tensor, dtype: torch.dtype) -> Tensor:
    """Return the stream's elements with these numbers, each made from its own number alone.

    The same numbers as :func:`standard_normal` to rounding, without steps in place: for kernels
    that make noise where it is used.

    Args:
        elements: numbers of elements, int64, any shape.
        key: what :func:`stream_key` gave.
        dtype: ``torch.float32`` or ``torch.float64``.

    Example:
        >>> import torch
        >>> from bsam import noise
        >>> key = noise.stream_key(1, 0, 0)
        >>> alone = noise.standard_normal_at(torch.tensor([3, 4]), key, torch.float64)
        >>> run = noise.standard_normal(3, 2, seed=1, call=0, sub_batch=0, dtype=torch.float64)
        >>> torch.allclose(alone, run, rtol=1e-12)
        True
    """
    pairs = ((elements >> 11) << 10) | (elements & (PAIRS - 1))
    z = _word_of(pairs, key)
    quarter = ((elements >> 10) & 1) * _QUARTER  # a sine is the cosine a quarter turn back
    return _radius(z, dtype) * _cosine(z - quarter, dtype)


def standard_normal_blocks(
    blocks: int, key: int | Tensor, first_pair: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the first and the second halves of blocks of the stream, without steps in place.

    Args:
        blocks: how many.
        key: what :func:`stream_key` gave.
        first_pair: number of the first pair, a multiple of ``PAIRS``; 0-d, int64, on the device
            where the result is made.
        dtype: ``torch.float32`` or ``torch.float64``.

    Returns:
        Cosines and sines, each of shape ``(blocks, PAIRS)``.
    """
    device = first_pair.device
    rows = PAIRS * torch.arange(blocks, device=device).unsqueeze(1)
    z = _word_of(rows + torch.arange(PAIRS, device=device) + first_pair, key)
    radius = _radius(z, dtype)
    return radius * _cosine(z, dtype), radius * _cosine(z - _QUARTER, dtype)


def stream_key(seed: int, call: int | Tensor, sub_batch: int) -> int | Tensor:
    """Return the key k of a stream, a signed 64-bit integer.

    Args:
        seed: as for :func:`standard_normal`, as are the rest.
        call: which update; a 0-d int64 tensor makes the key one, with no look at its value.
        sub_batch: which sub-batch of that update.
    """
    key = _mix(seed + _GAMMA)
    if isinstance(call, Tensor):
        key_of_call = _mix_tensor((call ^ _signed(key)) + _signed(_GAMMA))
        return _mix_tensor((key_of_call ^ sub_batch) + _signed(_GAMMA))
    for word in (call, sub_batch):
        key = _mix((key ^ word) + _GAMMA)
    return _signed(key)


def standard_normal_like(
    tensors: Sequence[Tensor], first: Sequence[int], key: int | Tensor, *, by_rows: bool = False
) -> list[Tensor]:
    """Return standard normal tensors like those given, each from its own place in one stream.

    Args:
        tensors: their shapes and devices are those of the result; its dtype is that of state for
            them, never narrower than float32.
        first: for each tensor the number of its first element, >= 0.
        key: of the stream, what :func:`stream_key` gave.
        by_rows: number the elements of each by rows, even of one that does not lie so in memory.
    """
    noise: list[Tensor] = []
    for run in _runs(tensors, first):
        sizes = [tensors[i].numel() for i in run]
        one = tensors[run[0]]
        flat = _run(first[run[0]], sum(sizes), key, state_dtype(one), one.device)
        pieces = zip(flat.split(sizes), run, strict=True)
        noise += [
            piece.view(tensors[i].shape) if by_rows else shaped_like(piece, tensors[i])
            for piece, i in pieces
        ]
    return noise


def first_elements(tensors: Iterable[Tensor]) -> list[int]:
    """Return the number of each tensor's first element, all laid end to end in one stream.

    Args:
        tensors: in the order of the stream.

    Example:
        >>> import torch
        >>> from bsam.noise import first_elements
        >>> first_elements([torch.zeros(2, 3), torch.zeros(()), torch.zeros(4)])
        [0, 6, 7]
    """
    return list(accumulate((tensor.numel() for tensor in tensors), initial=0))[:-1]


def _run(
    first: int, count: int, key: int | Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor:
    first_block, end_block = first // BLOCK, -(-(first + count) // BLOCK)
    blocks = end_block - first_block
    noise = torch.empty(blocks, 2, PAIRS, dtype=dtype, device=device)
    step = _BLOCKS_PER_PIECE_ON_CPU if noise.device.type == "cpu" else max(blocks, 1)
    for start in range(0, blocks, step):
        length = min(step, blocks - start)
        words = _words(PAIRS * (first_block + start), length, key, noise.device)
        _box_muller(words, out=noise[start : start + length])
    skipped = first - BLOCK * first_block
    return noise.view(-1)[skipped : skipped + count]


def _runs(tensors: Sequence[Tensor], first: Sequence[int]) -> list[list[int]]:
    """Cut into runs that lie end to end on one device in one dtype: one long draw is faster."""
    runs: list[list[int]] = []
    for i, tensor in enumerate(tensors):
        if runs:
            last = tensors[i - 1]
            follows = first[i] == first[i - 1] + last.numel()
            kinds = [(each.device, state_dtype(each)) for each in (tensor, last)]
            if follows and kinds[0] == kinds[1]:
                runs[-1].append(i)
                continue
        runs.append([i])
    return runs


def _mix(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def _words(first: int, blocks: int, key: int | Tensor, device: torch.device) -> Tensor:
    """``_mix(key + gamma * (i + 1))`` for blocks of i, in 64-bit integers that wrap around."""
    start = _signed(_GAMMA * (first + 1) & _MASK)
    rows = torch.arange(blocks, device=device).mul_(_signed(_GAMMA * PAIRS & _MASK)).add_(start)
    rows.add_(key.to(device) if isinstance(key, Tensor) else key)
    z = rows.unsqueeze(1) + torch.arange(PAIRS, device=device).mul_(_signed(_GAMMA))
    shifted = torch.empty_like(z)
    _xor_shift_(z, 30, shifted)
    z.mul_(_signed(_MIX_1))
    _xor_shift_(z, 27, shifted)
    z.mul_(_signed(_MIX_2))
    _xor_shift_(z, 31, shifted)
    return z


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _xor_shift_(z: Tensor, bits: int, shifted: Tensor) -> None:
    # torch shifts signed integers arithmetically; the mask clears the copies of the sign bit.
    torch.bitwise_right_shift(z, bits, out=shifted)
    z.bitwise_xor_(shifted.bitwise_and_((1 << (64 - bits)) - 1))


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix_tensor(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shifted(z, 27)) * _signed(_MIX_2)
    return z ^ _shifted(z, 31)


def _word_of(pairs: Tensor, key: int | Tensor) -> Tensor:
    return _mix_tensor((pairs + 1) * _signed(_GAMMA) + key)


def _radius(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Box and Muller's radius from the upper 32 bits.

    In float32 by a polynomial that a compiler puts into vector instructions, where the library's
    logarithm is a call: with mantissa 1 + f in [sqrt(1/2), sqrt(2)) its error is below 1e-7.
    """
    # Half a unit keeps the logarithm away from zero; near one it rounds to log(1) = 0.
    x = ((words >> 32) & _LOWER).to(dtype) + 0.5
    if dtype != torch.float32:
        return ((x * 2.0**-32).log() * -2.0).sqrt()
    bits = x.view(torch.int32) - _SQRT_HALF
    exponent = ((bits >> 23) - 32).to(dtype)
    f = ((bits & 0x7FFFFF) + _SQRT_HALF).view(dtype) - 1.0
    log = f - 0.5 * f * f + f * f * f * _horner(f, _LOG)
    return ((log + exponent * math.log(2.0)) * -2.0).sqrt()


def _cosine(words: Tensor, dtype: torch.dtype) -> Tensor:
    """The cosine of the lower 32 bits as a fraction of a turn; in float32 by a polynomial, too."""
    if dtype != torch.float32:
        return ((words & _LOWER).to(dtype) * (2.0 * math.pi * 2.0**-32)).cos()
    half_turns = (((words & _LOWER) ^ 2**31) - 2**31).to(dtype) * 2.0**-31  # from -1 to 1
    x = 0.5 - half_turns.abs()
    return x * _horner(x * x, _SINE)  # sin(pi x)


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """A polynomial, its coefficients from the constant on."""
    value = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value = value * x + coefficient
    return value


def _box_muller(words: Tensor, *, out: Tensor) -> None:
    # In the place of the result and of the words, as memory that is new would cost more.
    radius, angle = out.unbind(1)
    angle.copy_(words & _LOWER).mul_(2.0 * math.pi * 2.0**-32)
    radius.copy_(words.bitwise_right_shift_(32).bitwise_and_(_LOWER))
    radius.add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    cosine = angle.cos()
    angle.sin_().mul_(radius)
    radius.mul_(cosine)
