"""Gradients as a pass leaves them: dense and finite, or an error that names the parameter."""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from bsam.dtypes import state_dtype

Gradients = dict[Tensor, Tensor | None]
"""Gradient by parameter, None where a pass left none; in the order of the parameter groups."""

Label = Callable[[Tensor], str]
"""Gives the words for a parameter in a message."""


_DOORS = (
    "Three ways in: step(closure); `with optimizer.sampled(): backward`, then `with "
    "optimizer.perturbed(): backward`, then step(); or these two contexts around the backward "
    "passes of a trainer that calls step() itself."
)


def left_on(param: Tensor) -> Tensor | None:
    """Return the gradient that a pass left, as a copy if it is the parameter's own memory.

    Args:
        param: whose weights are about to move, and such a gradient with them.
    """
    if param.grad is None:
        return None
    gradient = param.grad.detach()
    same = gradient.layout == torch.strided and gradient.data_ptr() == param.data_ptr()
    return gradient.clone() if same else gradient


def present(gradients: Gradients) -> dict[Tensor, Tensor]:
    """Return those that are there."""
    return {p: gradient for p, gradient in gradients.items() if gradient is not None}


def require_dense(gradients: Mapping[Tensor, Tensor], label: Label) -> None:
    """Refuse sparse gradients.

    Args:
        gradients: gradient by parameter.
        label: the words for a parameter.

    Raises:
        RuntimeError: that names the first parameter with a sparse gradient.
    """
    for param, gradient in gradients.items():
        if gradient.layout != torch.strided:
            raise RuntimeError(
                f"parameter {label(param)} has a sparse gradient ({gradient.layout}): gradients "
                "must be dense; build the layer without sparse=True."
            )


def require_finite(
    gradients: Mapping[Tensor, Tensor],
    pass_name: str,
    label: Label,
    all_finite: Callable[[Mapping[Tensor, Tensor]], bool],
) -> None:
    """Refuse gradients with NaN or infinity, at the price of one reduction over all of them.

    Args:
        gradients: gradient by parameter.
        pass_name: where they come from, for the message.
        label: the words for a parameter.
        all_finite: looks at all.

    Raises:
        RuntimeError: that names the pass and the first offending parameter.
    """
    if all_finite(gradients):
        return
    param, gradient = next(pair for pair in gradients.items() if not pair[1].isfinite().all())
    bad = int((~gradient.isfinite()).sum())
    raise RuntimeError(
        f"the {pass_name} pass gave a non-finite gradient: parameter {label(param)}, {bad} of "
        f"{gradient.numel()} elements; weights and state are as before the step. Look for an "
        "overflow in the loss, lower lr or rho, or raise damping."
    )


def all_finite(gradients: Iterable[Tensor]) -> bool:
    """Return whether no gradient has NaN or infinity, by one reduction over all of them.

    Args:
        gradients: any.
    """
    tensors = [gradient for gradient in gradients if gradient.numel()]
    if all(tensor.device.type == "cpu" for tensor in tensors) and _sums_are_finite(tensors):
        return True
    # The largest magnitude, not a 2-norm: that can overflow where every element is finite.
    return not tensors or bool(norms(tensors, float("inf")).isfinite().all())


def _sums_are_finite(tensors: list[Tensor]) -> bool:
    """Whether all sums are finite: then all terms are. On a CPU it costs a seventh of a norm."""
    return all(math.isfinite(tensor.sum(dtype=state_dtype(tensor)).item()) for tensor in tensors)


def owned(gradient: Tensor) -> bool:
    """Return whether a gradient's memory is sure to be no one else's, so that it can be kept.

    Not so where a closure hands out its own tensor, or a bucket, which the next pass overwrites;
    nor, to be sure, on a GPU, where a captured backward pass may write to the same memory again.

    Args:
        gradient: the only tensor there is for it.
    """
    on_cpu = gradient.device.type == "cpu" and gradient.untyped_storage().resizable()
    return on_cpu and _uses(gradient) == _USES_OF_ONE


def _uses(tensor: Tensor) -> tuple[int, int] | None:
    """How often torch and Python hold a tensor's memory; None where torch does not tell."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    storage = tensor.untyped_storage()
    return count and (count(storage._cdata), sys.getrefcount(storage))


_USES_OF_ONE = _uses(torch.empty(1, device="cpu")) or "not known"


def require_zero(gradients: Mapping[Tensor, Tensor], label: Label) -> None:
    """Refuse gradients other than zero, where no context has recorded any.

    Args:
        gradients: gradient by parameter.
        label: the words for a parameter.

    Raises:
        RuntimeError: that names the ways to make a step.
    """
    for param, gradient in gradients.items():
        if gradient.layout != torch.strided or gradient.count_nonzero():
            raise RuntimeError(
                f"step() found gradients that no context recorded (parameter {label(param)}). "
                f"{_DOORS}"
            )


def point_out_silence(pass_name: str) -> None:
    """Warn, at the line that called ``step``, of a pass that left no gradient; "" is none."""
    if pass_name:
        warnings.warn(
            f"the {pass_name} pass left no gradient on any parameter, so it counts as zero: call "
            "loss.backward() inside the context or the closure.",
            stacklevel=5,  # out of step() and what torch and no_grad wrap around it
        )


def norms(tensors: list[Tensor], order: float, dtype: torch.dtype | None = None) -> Tensor:
    """Return the norm of each tensor, shape (len(tensors),), on the first one's device."""
    each = torch._foreach_norm(tensors, order, dtype=dtype)
    return torch.stack([norm.to(each[0].device) for norm in each])


def running_mean(
    mean: Tensor | None, value: Tensor | None, share: float, *, in_place: bool
) -> Tensor | None:
    """Return a weighted mean with a value folded in that has the given share; None is zeros.

    Args:
        mean: so far.
        value: never changed: gradients may be the user's own tensors, used again next time.
        share: of the value.
        in_place: change mean, if that is allowed where we are.
    """
    in_place = in_place and mean is not None and not mean.is_inference()
    if mean is None:
        return value if value is None or share == 1.0 else value * share
    if value is None:
        return mean.mul_(1.0 - share) if in_place else mean * (1.0 - share)
    return mean.lerp_(value, share) if in_place else mean.lerp(value, share)
