"""Hyperparameters: what is allowed, and the message for what is not.

Every message has one form, ``name=value: what is allowed; what to do``, so that a
traceback's last line is enough to mend the call. Checked values come back as plain Python
numbers: a ``state_dict`` that holds them loads with ``torch.load(weights_only=True)``.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real

from torch import Tensor


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
        raise TypeError(f"{name}={value!r}: must be a real number, not {_kind(value)}; {advice}.")
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
