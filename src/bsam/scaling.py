"""Loss scaling for fp16: what the two passes ask of a ``torch.amp.GradScaler``.

A scaler multiplies the loss so that gradients do not vanish in fp16, divides the gradients before
the step, and skips the step and lowers its scale where one has overflowed. SAM's perturbation needs
the first gradients before that, and bSAM's is not scale-free.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bsam.dtypes import state_dtype
from bsam.gradients import Gradients

_CALLERS = 8  # from here to GradScaler.step, through what torch wraps around step()


def active(scaler: Any) -> Any:
    """Return the scaler if it is one and is enabled, else None.

    Raises:
        TypeError: if it is not a scaler.
    """
    if scaler is None:
        return None
    if not all(hasattr(scaler, name) for name in ("scale", "step", "update", "is_enabled")):
        raise TypeError(
            f"scaler={scaler!r}: must be a torch.amp.GradScaler; leave it out where the loss is "
            "not scaled."
        )
    return scaler if scaler.is_enabled() else None


def require_same(first: Any, second: Any) -> None:
    """Refuse another scaler for the second pass than for the first; None there means the first's.

    Raises:
        ValueError: that says what to do.
    """
    if second is not None and second is not first:
        raise ValueError(
            "scaler: perturbed() got one that sampled() did not: must be the same in both; pass it "
            "to sampled(scaler=...) too, whose gradient is unscaled before the perturbation."
        )


def scale_of(scaler: Any, tensors: Sequence[Tensor]) -> Tensor:
    """Return the scale as a 0-d float32 tensor, without waiting for the device.

    Args:
        scaler: an enabled scaler.
        tensors: what it scales; the scale is where the first one is.
    """
    return scaler.scale(torch.ones((), device=tensors[0].device if tensors else None))


def unscaled(gradients: Gradients, scale: Tensor) -> Gradients:
    """Return gradients divided by the scale, in the dtype of the state.

    Args:
        gradients: scaled gradient by parameter.
        scale: what :func:`scale_of` gave.
    """
    return {
        p: None if g is None else g.to(state_dtype(g)) / scale.to(g.device)
        for p, g in gradients.items()
    }


def overflow_of(gradient: Tensor) -> Tensor:
    """Return infinities, which make a scaler skip the step, in place of a gradient."""
    return torch.full_like(gradient, torch.inf)


def overflowed(gradients: dict[Tensor, Tensor]) -> Gradients:
    """Return the same for all gradients that a pass left."""
    return {p: overflow_of(g) for p, g in gradients.items()}


def require_no_scaler() -> None:
    """Refuse a step that a scaler makes though the contexts were given none.

    Its gradients were recorded scaled, so s and the perturbation are off by the scale; nothing in
    the numbers shows that, but who calls does.

    Raises:
        RuntimeError: that says what to do.
    """
    frame = sys._getframe(1)
    for _ in range(_CALLERS):
        if frame is None:
            return
        caller = frame.f_locals.get("self")
        if isinstance(caller, torch.amp.GradScaler) and caller.is_enabled():
            raise RuntimeError(
                "scaler.step(optimizer) came, but the contexts were not given the scaler: pass it "
                "to both, sampled(scaler=scaler) and perturbed(scaler=scaler)."
            )
        frame = frame.f_back


def require_unscaled(scaler: Any) -> None:
    """Refuse a step that the scaler does not make: its gradients would still be scaled.

    Raises:
        RuntimeError: that says what to call.
    """
    # torch has no public word for this; where the private one is missing, nothing is checked.
    states = getattr(scaler, "_per_optimizer_states", None)
    if states is None:
        return
    # Any optimizer's: a trainer may have handed the scaler a wrapper around this one.
    if not any(getattr(s.get("stage"), "name", "") == "UNSCALED" for s in states.values()):
        raise RuntimeError(
            "step() came while the recorded gradients are still scaled: call "
            "scaler.step(optimizer) and scaler.update(), not optimizer.step()."
        )
