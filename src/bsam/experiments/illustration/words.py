"""The numbers in words, for a terminal and for the page before anything has moved."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

WIDTH = 96
"""Of sentences on a terminal."""


class Row(NamedTuple):
    """One quantity.

    Attributes:
        key: its name on the page.
        label: what it is called.
        text: its value.
        meaning: in one line.
    """

    key: str
    label: str
    text: str
    meaning: str


_TOLD = {
    "expected": ("expected loss E_q[l]", "averaged over the Gaussian q: what Bayes looks at"),
    "relaxed": (
        "relaxed loss -f**",
        "averaged over the worst distribution with q's mean and variance",
    ),
    "gap": ("gap", "relaxed less expected loss; never negative"),
    "atoms": ("worst distribution", "its points, and in brackets their weights"),
    "parabola": ("touching parabola", "lies above the loss and touches it at those points"),
    "largest": ("largest loss", "max over eps of l(m + eps) - eps^2 / 2v: what SAM looks at"),
    "radius": ("SAM's radius", "v |l'(m + eps)|: how far away that largest loss is"),
}


def rows(numbers: Mapping[str, Any]) -> list[Row]:
    """Return the quantities, in the order in which they are told.

    Args:
        numbers: of ``numbers.numbers``.
    """
    texts = {
        "expected": number(numbers["expected_loss"]["value"]),
        "relaxed": number(numbers["relaxed_loss"]["value"]),
        "gap": number(numbers["gap"]),
        "atoms": _atoms(numbers),
        "parabola": _parabola(numbers["paraboloid"]),
        "largest": _largest(numbers["max_loss"]),
        "radius": number(numbers["sam_radius"]),
    }
    return [Row(key, label, texts[key], meaning) for key, (label, meaning) in _TOLD.items()]


def lines(numbers: Mapping[str, Any], description: str = "") -> list[str]:
    """Return what is printed.

    Args:
        numbers: of ``numbers.numbers``.
        description: of the loss.
    """
    table = rows(numbers)
    about = f"  ({description})" if description else ""
    return [
        f"l(theta) = {numbers['arguments']['expression']}{about}",
        f"q = Gaussian with {moments(numbers)}, v = {number(numbers['variance'])}",
        "",
        *(line for row in table for line in _wrapped(row)),
        "",
        *(textwrap.fill(sentence, WIDTH) for sentence in sentences(numbers)),
    ]


def _wrapped(row: Row) -> list[str]:
    """Return a row on one line, or its meaning on a second where the value is long."""
    if len(row.text) <= 11:
        return [f"  {row.label:<22}{row.text:<12}{row.meaning}"]
    return [f"  {row.label:<22}{row.text}", f"  {'':<34}{row.meaning}"]


def moments(numbers: Mapping[str, Any]) -> str:
    """Return mean and standard deviation.

    Args:
        numbers: of ``numbers.numbers``.
    """
    arguments = numbers["arguments"]
    return f"mean {arguments['mean']:g}, standard deviation {arguments['sd']:g}"


def sentences(numbers: Mapping[str, Any]) -> list[str]:
    """Return what there is to be said about the numbers, a sentence or two each.

    Args:
        numbers: of ``numbers.numbers``.
    """
    said = [_about_the_relaxation(numbers)]
    if math.isinf(numbers["expected_loss"]["value"]):
        said.insert(0, "The Gaussian's average loss is infinite.")
    if math.isinf(numbers["max_loss"]["value"]):
        said.append(
            "The largest loss is infinite: far out the loss outgrows SAM's penalty eps^2 / 2v; "
            "a smaller --sd may make it finite."
        )
    return said


def _about_the_relaxation(numbers: Mapping[str, Any]) -> str:
    worst = numbers["worst_case"]
    if math.isinf(numbers["relaxed_loss"]["value"]):
        return (
            "The loss grows faster than any parabola: none lies above it, and the relaxed loss is "
            "infinite. The expected loss need not be."
        )
    if not worst["attained"]:
        return (
            "No distribution is worst: mass escapes to infinity. Ever less of it, ever farther "
            f"out, carries {number(worst['escaping'])} of the variance; the points carry the rest."
        )
    if numbers["gap"] <= 1e-6 * max(1.0, abs(numbers["relaxed_loss"]["value"])):
        return "The relaxation is exact here: no distribution averages more than the Gaussian."
    return (
        "No distribution with this mean and variance averages more than the relaxed loss: the "
        "parabola above the loss has the same average under all of them."
    )


def number(value: float, digits: int = 6) -> str:
    """Return a number, or that it is infinite.

    Args:
        value: may be infinite or NaN.
        digits: after the point.

    Example:
        >>> from bsam.experiments.illustration.words import number
        >>> number(0.5), number(float("inf")), number(-1e-12)
        ('0.500000', 'infinite', '0.000000')
    """
    if math.isnan(value):
        return "none"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if abs(value) >= 1e6:
        return f"{value:.6g}"
    return f"{value:.{digits}f}" if abs(value) >= 0.5 * 10**-digits else f"{0.0:.{digits}f}"


def _atoms(numbers: Mapping[str, Any]) -> str:
    worst = numbers["worst_case"]
    if not worst["atoms"]:
        return "none: mass escapes to infinity"
    pairs = zip(worst["atoms"], worst["weights"], strict=True)
    listed = ", ".join(f"{number(atom, 4)} ({number(weight, 4)})" for atom, weight in pairs)
    return listed if worst["attained"] else f"{listed}; mass escapes to infinity"


def _parabola(paraboloid: Mapping[str, float] | None) -> str:
    if paraboloid is None:
        return "none lies above"
    terms = [number(paraboloid["constant"])]
    for name, symbol in (("linear", "theta"), ("quadratic", "theta^2")):
        size = number(abs(paraboloid[name]))
        if float(size) > 0.0:
            terms.append(f"{'-' if paraboloid[name] < 0 else '+'} {size} {symbol}")
    return " ".join(terms)


def _largest(largest: Mapping[str, Any]) -> str:
    points = largest["maximizers"]
    at = ", ".join(number(point, 4) for point in points[:3])
    more = ", ..." if len(points) > 3 else ""
    return number(largest["value"]) + (f" at theta = {at}{more}" if points else "")
