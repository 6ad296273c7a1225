"""Hyperparameters: what is allowed, and the message for what is not.

Every message has one form, ``name=value: what is allowed; what to do``, so that a
traceback's last line is enough to mend the call. Checked values come back as plain Python
numbers: a ``state_dict`` that holds them loads with ``torch.load(weights_only=True)``.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from bsam import noise

ORDERS = ("precision_first", "mean_first")
"""Which comes first, the update of s or that of the mean."""


def of_bsam(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of one of BSAM's groups as plain values, or raise."""
    checked = {
        "lr": learning_rate(group["lr"]),
        "num_data": real(
            "num_data",
            group["num_data"],
            above=0.0,
            infinite=True,
            advice="pass the number of training examples (not of batches), len(train_set); "
            "math.inf for no noise",
        ),
        "rho": real("rho", group["rho"], at_least=0.0, advice="try 0.01; 0 does not perturb"),
        "betas": betas(group["betas"]),
        "weight_decay": real(
            "weight_decay",
            group["weight_decay"],
            at_least=0.0,
            advice="pass prior precision / num_data",
        ),
        "damping": real("damping", group["damping"], at_least=0.0, advice="try 0.1"),
        "s_init": real("s_init", group["s_init"], above=0.0, advice="try 1.0"),
        "order": one_of("order", group["order"], ORDERS, advice="the paper's is 'precision_first'"),
        "foreach": one_of(
            "foreach", group["foreach"], (None, False, True), advice="None chooses by device"
        ),
        "compiled": one_of(
            "compiled", group["compiled"], (False, True), advice="False needs no compiler"
        ),
        "capturable": one_of(
            "capturable",
            group.get("capturable", False),
            (False, True),
            advice="True is for CUDA graphs",
        ),
    }
    if not checked["weight_decay"] + checked["damping"] > 0.0:
        raise ValueError(
            f"weight_decay={group['weight_decay']!r}, damping={group['damping']!r}: their sum must "
            "be positive, it is the floor of s; raise one of them."
        )
    return checked


def of_sam(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what SAM adds to a group of its base as plain values, or raise."""
    return {
        "rho": real("rho", group["rho"], at_least=0.0, advice="try 0.05; 0 does not perturb"),
        "adaptive": one_of("adaptive", group["adaptive"], (False, True), advice="True is ASAM"),
    }


def seed(value: object) -> int:
    """Return the seed of the noise; None draws one from torch's generator."""
    if value is None:
        return int(torch.randint(noise.SEEDS - 1, ()))
    return integer("seed", value, below=noise.SEEDS, advice="None draws one from torch")


def require_state(state_dict: object) -> None:
    """Refuse what is not the state of an optimizer, such as a model's."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(
            f"state_dict: {_kind(state_dict)} without 'state' and 'param_groups': must be what an "
            "optimizer's state_dict() gave, not a model's."
        )


def check_factors(weight: object, loss_scale: object) -> None:
    """Check what the contexts are told of a sub-batch."""
    if weight is not None:
        real("weight", weight, above=0.0, advice="pass the sub-batch's number of examples")
    real("loss_scale", loss_scale, above=0.0, advice="pass what the loss was divided by")


def agreed_weight(first: float | None, second: float | None) -> float:
    """Return the weight of a sub-batch as its two passes give it; 1 if neither does."""
    given = {weight for weight in (first, second) if weight is not None}
    if len(given) > 1:
        raise ValueError(
            f"weight={second!r}: must be that of sampled(), {first!r}; both passes are over the "
            "same sub-batch, so give it to one of them only."
        )
    return float(given.pop()) if given else 1.0


def real(
    name: str,
    value: object,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    infinite: bool = False,
    advice: str,
) -> float:
    """Return ``value`` as a float if it is a real number in range.

    Raises:
        TypeError: if it is not a real number (``bool`` and strings are not).
        ValueError: if it is outside the range, NaN, or infinite where that is not allowed.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        shown = "<tensor>" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"{name}={shown}: must be a real number, not {_kind(value)}; {advice}.")
    number = float(value)
    in_range = at_least <= number <= at_most and above < number < below
    if not (in_range or (infinite and number == math.inf)) or (math.isinf(number) and not infinite):
        allowed = _range(at_least, above, at_most, below, infinite)
        raise ValueError(f"{name}={value!r}: must be {allowed}; {advice}.")
    return number


def learning_rate(value: object) -> float | Tensor:
    """Return a learning rate: a float, or a 0-d floating point tensor as it is."""
    advice = "pass a learning rate such as lr=0.1"
    if not isinstance(value, Tensor):
        return real("lr", value, at_least=0.0, advice=advice)
    if value.dim() != 0 or not value.is_floating_point():
        raise TypeError(
            f"lr=<tensor of shape {tuple(value.shape)}, {value.dtype}>: a tensor must be 0-d and "
            f"floating point; {advice} or lr=torch.tensor(0.1)."
        )
    real("lr", value.item(), at_least=0.0, advice=advice)
    return value


def betas(value: object) -> tuple[float, float]:
    """Return (beta1, beta2) with 0 <= beta1 < 1 and 0 <= beta2 <= 1."""
    advice = "pass betas=(beta1, beta2), for example (0.9, 0.999)"
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"betas={value!r}: must be a pair of real numbers; {advice}.")
    beta1, beta2 = value
    return (
        real("betas[0]", beta1, at_least=0.0, below=1.0, advice=advice),
        real("betas[1]", beta2, at_least=0.0, at_most=1.0, advice=advice),
    )


def integer(
    name: str, value: object, *, at_least: int = 0, below: int | None = None, advice: str
) -> int:
    """Return ``value`` as an int if it is an integer in ``[at_least, below)``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r}: must be an integer, not {_kind(value)}; {advice}.")
    number = int(value)
    if number < at_least or (below is not None and number >= below):
        end = "" if below is None else f" and less than {below}"
        raise ValueError(f"{name}={value!r}: must be at least {at_least}{end}; {advice}.")
    return number


def one_of(name: str, value: object, allowed: Sequence[object], *, advice: str) -> object:
    """Return ``value`` if it is one of ``allowed`` (``1`` is not ``True``)."""
    if not any(value is choice or (type(value) is str and value == choice) for choice in allowed):
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{name}={value!r}: must be one of {choices}; {advice}.")
    return value


def _kind(value: object) -> str:
    return type(value).__name__


def _range(at_least: float, above: float, at_most: float, below: float, infinite: bool) -> str:
    bounds = [
        f"at least {at_least:g}" if at_least > -math.inf else "",
        f"greater than {above:g}" if above > -math.inf else "",
        f"at most {at_most:g}" if at_most < math.inf else "",
        f"less than {below:g}" if below < math.inf else "",
        "" if infinite or at_most < math.inf or below < math.inf else "finite",
    ]
    return " and ".join(bound for bound in bounds if bound)
