"""Losses in one dimension that have a name, each with what there is to see."""

import difflib
from typing import NamedTuple

from torch import Tensor

from bsam.relaxation.expressions import VARIABLE, Expression, is_a_bare_name


class NamedLoss(NamedTuple):
    """A loss of one parameter, to be called like a function.

    Its ``name`` is the text of the expression where it has no other.
    """

    name: str
    expression: Expression
    description: str

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the loss.

        Args:
            theta: of shape (..., 1).

        Returns:
            Of shape (...).
        """
        return self.expression(theta)


_TEXTS = {
    "logistic": (
        "log(1 + exp(-theta))",
        "of a classifier; its relaxation is the bound of variational logistic regression",
    ),
    "absolute": ("abs(theta)", "a kink, which the worst distribution straddles"),
    "quadratic": ("theta**2 / 2", "the relaxation is exact: the gap is zero"),
    "double-well": (
        "min((theta - 1)**2, (theta + 1)**2)",
        "two minima; the worst distribution does not see them",
    ),
    "waves": ("0.5*sin(3*theta) + 0.1*theta**2", "many minima; the relaxation is a plain parabola"),
    "bump": ("1 - exp(-theta**2)", "flat far away, so large weights cost no more"),
    "hinge": ("relu(1 - theta)", "of support vector machines; linear, then zero"),
    "huber": (
        "where(abs(theta) < 1, theta**2 / 2, abs(theta) - 1/2)",
        "a quadratic that goes on as a line",
    ),
    "ramp": ("clip(1 - theta, 0, 1)", "between 0 and 1, with two kinks"),
    "student": ("log(1 + theta**2)", "robust: grows only like a logarithm"),
    "dome": (
        "-sqrt(1 + theta**2)",
        "concave; the worst distribution lets its variance escape to infinity",
    ),
    "quartic": ("theta**4", "grows faster than quadratically: its relaxation is infinite"),
}

NAMED = {
    name: NamedLoss(name, Expression(text), description)
    for name, (text, description) in _TEXTS.items()
}
"""By name."""


def find(text: str, argument: str = "loss") -> NamedLoss:
    """Return the loss that has this name, or that is written so.

    Args:
        text: a name or an expression in theta.
        argument: what messages call it.

    Returns:
        The loss.

    Raises:
        ValueError: that says what is wrong with it and what to do.

    Example:
        >>> from bsam.relaxation.named import find
        >>> find("logistic").expression.text, find("theta**2 - 1").name
        ('log(1 + exp(-theta))', 'theta**2 - 1')
    """
    text = text.strip()
    if text in NAMED:
        return NAMED[text]
    if is_a_bare_name(text):
        close = difflib.get_close_matches(text.lower(), [VARIABLE, *NAMED], n=1, cutoff=0.5)
        meant = f"did you mean {close[0]}? Known" if close else "known"
        raise ValueError(
            f"{argument}={text[:60]}: is no known name; {meant} are {', '.join(NAMED)}; or "
            f"write an expression in {VARIABLE}, such as 'abs({VARIABLE}) + 0.1*{VARIABLE}**2'."
        )
    return NamedLoss(text, Expression(text, argument), "")
