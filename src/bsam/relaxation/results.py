"""What the functions of the relaxation return: numbers that say how they were found."""

import math
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

Kind = Literal["value", "lower bound", "upper bound", "estimate"]


class Value(float):
    """A float that knows how it was found and how far it can be off.

    Arithmetic gives plain floats. ``math.inf`` means that the quantity is infinite.

    Attributes:
        kind: ``"value"`` where lower and upper bound agree to a tolerance; ``"lower bound"`` or
            ``"upper bound"`` where only that side is known; ``"estimate"`` where the bounds are
            the number plus or minus an estimated error.
        lower: the largest known lower bound.
        upper: the smallest known upper bound, ``math.inf`` if none is known.
        method: a few words on how the number was found.
    """

    kind: Kind
    lower: float
    upper: float
    method: str

    def __new__(
        cls,
        number: float,
        *,
        kind: Kind = "value",
        lower: float | None = None,
        upper: float | None = None,
        method: str = "",
    ) -> Self:
        """Make a float with what is known of it; bounds that are left out are the number."""
        self = super().__new__(cls, number)
        self.kind, self.method = kind, method
        self.lower = float(number if lower is None else lower)
        self.upper = float(number if upper is None else upper)
        return self

    @property
    def error(self) -> float:
        """Half the distance of the bounds; 0 where the quantity is infinite."""
        return 0.0 if self.lower == self.upper else (self.upper - self.lower) / 2


class Maximum(Value):
    """The value of a supremum over theta, and where it is attained.

    Attributes:
        maximizers: points theta, shape (n, P), float64, best first; empty where the supremum is
            infinite or only approached far out.
    """

    maximizers: Tensor

    @property
    def is_unique(self) -> bool:
        """Whether exactly one maximizer was found."""
        return len(self.maximizers) == 1


@dataclass(frozen=True)
class Paraboloid:
    """The function constant + <linear, theta> + sum of quadratic * theta^2, nowhere below a loss.

    Attributes:
        constant: c.
        linear: a, shape (P,).
        quadratic: k for each coordinate, shape (P,); all equal in the isotropic family.
    """

    constant: float
    linear: Tensor
    quadratic: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        """Evaluate at theta of shape (..., P), giving (...)."""
        return self.constant + theta @ self.linear + theta.square() @ self.quadratic


@dataclass(frozen=True)
class WorstCase:
    """The distribution of largest expected loss among those with the moments of a Gaussian.

    Attributes:
        atoms: points theta, shape (n, P), float64.
        weights: their probabilities, shape (n,); they sum to 1.
        value: the expected loss under it, mass at infinity included: -f**.
        escaping: second moment, per coordinate, that is carried by mass which escapes to infinity
            as its probability vanishes; shape (P,), or () where only the sum over coordinates is
            fixed. Zero where the supremum is attained.
        paraboloid: touches the loss at the atoms and lies above it: the certificate that no
            distribution does worse. None where there is no certificate.
    """

    atoms: Tensor
    weights: Tensor
    value: Value
    escaping: Tensor
    paraboloid: Paraboloid | None = field(default=None)

    @property
    def attained(self) -> bool:
        """Whether these atoms alone have the moments, so that no mass escapes."""
        return math.isfinite(self.value) and not bool((self.escaping > 0).any())

    @property
    def mean(self) -> Tensor:
        """The mean of the atoms, shape (P,)."""
        return self.weights @ self.atoms

    @property
    def second_moment(self) -> Tensor:
        """E[theta^2] of the atoms, shape (P,), without what escapes."""
        return self.weights @ torch.square(self.atoms)
