"""The algorithm's lines on flat tensors, as a compiler likes them, and the compiling of them.

Each is a line of :mod:`bsam.algorithm`, or two that read the same tensors. Lengths and
hyperparameters are inputs, so that a kernel is compiled once for each dtype and device, whatever
the model and the schedule.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bsam import gaussian, noise
from bsam.dtypes import state_dtype

Kernel = Callable[..., None]


def sample(weights: Tensor, mean: Tensor, drawn: Tensor, s: Tensor, numbers: Tensor) -> None:
    """Write a draw; numbers are (N,)."""
    (deviations,) = gaussian.deviations([drawn], [s], numbers[0])
    weights.copy_(mean + deviations)


def sample_elements(
    weights: Tensor, mean: Tensor, elements: Tensor, s: Tensor, numbers: Tensor, key: Tensor
) -> None:
    """Write a draw by the noise of these elements of the stream with this key."""
    sample(weights, mean, noise.standard_normal_at(elements, key, s.dtype), s, numbers)


def sample_blocks(
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
    sample(weights, mean, halves[0], s, numbers)
    sample(weights_2, mean_2, halves[1], s_2, numbers)


def perturb(weights: Tensor, mean: Tensor, gradients: Tensor, s: Tensor, numbers: Tensor) -> None:
    """Write the perturbed weights; numbers are (rho,)."""
    weights.copy_(mean + gradients.to(s.dtype) * numbers[0] / s)


def perturb_and_scale(
    weights: Tensor, scales: Tensor, mean: Tensor, gradients: Tensor, s: Tensor, numbers: Tensor
) -> None:
    """Write sqrt(s)|g|, too; numbers are (rho, 1)."""
    perturb(weights, mean, gradients, s, numbers)
    scales.copy_(_scales(gradients, s))


def perturb_and_scale_again(
    weights: Tensor, scales: Tensor, mean: Tensor, gradients: Tensor, s: Tensor, numbers: Tensor
) -> None:
    """Fold it into the mean so far; numbers are (rho, share of this sub-batch)."""
    perturb(weights, mean, gradients, s, numbers)
    scales.add_((_scales(gradients, s) - scales) * numbers[1])


def _scales(gradients: Tensor, s: Tensor) -> Tensor:
    return s.sqrt() * gradients.to(s.dtype).abs()


def _update(
    by_new_precision: bool,
    scaled: bool,
    weights: Tensor,
    exp_avg: Tensor,
    s: Tensor,
    mean: Tensor,
    gradients: Tensor,
    scales: Tensor,
    numbers: Tensor,
) -> None:
    lr, momentum_share, precision_share, weight_decay, floor = numbers.unbind()
    decayed = gradients.to(s.dtype) + mean.to(s.dtype) * weight_decay
    momentum = exp_avg + (decayed - exp_avg) * momentum_share
    target = (scales if scaled else _scales(scales, s)) + floor
    precision = s + (target - s) * precision_share
    step = momentum / (precision if by_new_precision else s) * lr
    weights.copy_(mean - step)
    exp_avg.copy_(momentum)
    s.copy_(precision)


# A kernel has no switches, and each case is a function of its own, as a compiler counts them.


def _precision_first(*tensors: Tensor) -> None:
    _update(True, True, *tensors)


def _mean_first(*tensors: Tensor) -> None:
    _update(False, True, *tensors)


def _precision_first_by_gradients(*tensors: Tensor) -> None:
    _update(True, False, *tensors)


def _mean_first_by_gradients(*tensors: Tensor) -> None:
    _update(False, False, *tensors)


UPDATES = {
    (True, True): _precision_first,
    (False, True): _mean_first,
    (True, False): _precision_first_by_gradients,
    (False, False): _mean_first_by_gradients,
}
"""Write weights, g_m and s; by whether the precision comes first, and whether scales are scales."""


def call(kernel: Kernel, *arguments: Tensor) -> None:
    """Run a kernel compiled; uncompiled, where the compiler has seen too many kinds of it.

    What is read may be what is written, since an element depends on that same element alone. The
    compiler must not know: it would compile anew for tensors that share memory, or begin inside of
    another one.

    Args:
        kernel: one of this module's.
        *arguments: 1-d tensors, or of blocks; none may have a single element.
    """
    alike, seen = [], set[int]()
    for t in arguments:
        hidden = t.storage_offset() or t.data_ptr() in seen
        alike.append(torch.from_dlpack(t) if hidden else t)
        seen.add(t.data_ptr())
    try:
        _compiled(kernel)(*alike)
    except Exception as error:
        if type(error).__name__ != "FailOnRecompileLimitHit":
            raise
        kernel(*arguments)


@functools.cache
def _compiled(kernel: Kernel) -> Any:
    return torch.compile(kernel, dynamic=True, fullgraph=True)


def works(device: torch.device, dtype: torch.dtype, better: str = "") -> bool:
    """Return whether kernels can be compiled for weights of a kind; warn once where not.

    Args:
        device: of the weights.
        dtype: of the weights.
        better: why what would be better than these kernels is not there, to be told in a warning.
    """
    return _works(device.type, dtype, better)


@functools.cache
def _works(device: str, dtype: torch.dtype, better: str) -> bool:
    weights = torch.zeros(2, device=device, dtype=dtype)
    s = torch.ones(2, device=device, dtype=state_dtype(weights))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own, about itself
            others = (weights.clone(), weights.clone(), s)
            call(perturb, weights, *others, torch.zeros(1, dtype=torch.float64, device=device))
    except Exception as error:  # whatever a missing or broken compiler raises
        reason = better or " ".join(str(error).split()[:30]) or type(error).__name__
        warnings.warn(
            f"compiled=True: no kernel could be compiled for {device} ({reason}); the steps go on "
            "uncompiled, with the same numbers to rounding. Have a C++ compiler, or leave the "
            "option out.",
            stacklevel=2,
        )
        return False
    if better:
        warnings.warn(
            f"compiled=True: {better}; torch.compile takes its place, with the same numbers to "
            "rounding, and takes longer to compile and at each step.",
            stacklevel=2,
        )
    return True
