"""The numbers in words, for a terminal and for the page before anything has moved."""

import math
import sys
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
        otherwise: the meaning where there is no such thing, or it is infinite.
        there: whether it is there.
    """

    key: str
    label: str
    text: str
    meaning: str
    otherwise: str
    there: bool


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

_OTHERWISE = {
    "relaxed": "without bound over the distributions with q's moments",
    "gap": "relaxed less expected loss",
    "atoms": "no distribution averages most",
    "parabola": "every parabola is somewhere below the loss",
    "largest": "l(m + eps) - eps^2 / 2v has no bound: what SAM looks at",
    "radius": "v |l'(m + eps)|, but no eps has the largest loss",
}
"""Meanings where a quantity is infinite or not there."""

NEAR = 0.01
"""Atoms closer than this, in standard deviations, are shown as one."""


def rows(numbers: Mapping[str, Any]) -> list[Row]:
    """Return the quantities, in the order in which they are told.

    Args:
        numbers: of ``numbers.numbers``.
    """
    sd, size = numbers["arguments"]["sd"], _size(numbers)
    expected, relaxed = numbers["expected_loss"]["value"], numbers["relaxed_loss"]["value"]
    largest, gap, radius = numbers["max_loss"], numbers["gap"], numbers["sam_radius"]
    texts = {
        "expected": number(_clean(expected, size)),
        "relaxed": number(_clean(relaxed, size)),
        "gap": number(0.0 if gap <= _rounding(numbers) else gap),
        "atoms": _atoms(numbers),
        "parabola": _parabola(numbers),
        "largest": _largest(numbers),
        "radius": number(0.0 if abs(radius) < 1e-9 * sd else radius),
    }
    there = {
        "expected": True,
        "relaxed": math.isfinite(relaxed),
        "gap": math.isfinite(gap),
        "atoms": bool(numbers["worst_case"]["atoms"]),
        "parabola": numbers["paraboloid"] is not None,
        "largest": math.isfinite(largest["value"]),
        "radius": math.isfinite(radius),
    }
    return [
        Row(key, label, texts[key], meaning, _OTHERWISE.get(key, meaning), there[key])
        for key, (label, meaning) in _TOLD.items()
    ]


def _size(numbers: Mapping[str, Any]) -> float:
    """Return how large the loss is within a standard deviation."""
    return max(abs(each) for each in (numbers["loss_at_mean"], *numbers["loss_one_sd_away"]))


def _clean(value: float, size: float) -> float:
    return 0.0 if abs(value) < 1e-13 * size else value


def _rounding(numbers: Mapping[str, Any]) -> float:
    values = numbers["expected_loss"]["value"], numbers["loss_at_mean"]
    finite = [abs(value) for value in values if math.isfinite(value)]
    return 8.0 * sys.float_info.epsilon * max([*finite, _size(numbers)])


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
    meaning = row.meaning if row.there else row.otherwise
    if len(row.text) <= 11:
        return [f"  {row.label:<22}{row.text:<12}{meaning}"]
    return [f"  {row.label:<22}{row.text}", f"  {'':<34}{meaning}"]


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
        grows_slowly = math.isfinite(numbers["relaxed_loss"]["value"])
        help_ = "; a smaller --sd may make it finite" if grows_slowly else ""
        said.append(
            "The largest loss is infinite: far out the loss outgrows SAM's penalty eps^2 / 2v"
            f"{help_}."
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
    small, exact = _exactness(numbers)
    if exact:
        return (
            "The relaxation is exact here, up to rounding: no distribution averages more than the "
            "Gaussian. The worst distribution is one of many with these moments that average the "
            "same; the Gaussian is another."
        )
    if small:
        return (
            "The gap is below what is resolved: whether the relaxation is exact here cannot be "
            "told. The worst distribution may be one of many."
        )
    return (
        "No distribution with this mean and variance averages more than the relaxed loss: the "
        "parabola above the loss has the same average under all of them."
    )


def _exactness(numbers: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether the gap is next to nothing, and whether the values are known well enough.

    It is judged by what the noise costs, E_q[l] - l(m); for a straight loss, which has no such
    cost, by how much the loss changes within a standard deviation.
    """
    expected, relaxed = numbers["expected_loss"], numbers["relaxed_loss"]
    middle, gap = numbers["loss_at_mean"], numbers["gap"]
    if not math.isfinite(gap):
        return False, False
    change = max(abs(away - middle) for away in numbers["loss_one_sd_away"])
    allowed = max(1e-3 * abs(expected["value"] - middle), 1e-6 * change)
    if change == 0.0 and gap <= _rounding(numbers):  # constant
        return True, True
    return gap <= allowed, relaxed["upper"] - expected["lower"] <= allowed


def merged_atoms(numbers: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return atoms and weights of the worst distribution, neighbours as one.

    Args:
        numbers: of ``numbers.numbers``.
    """
    worst, merged = numbers["worst_case"], list[tuple[float, float]]()
    for atom, weight in zip(worst["atoms"], worst["weights"], strict=True):
        if merged and atom - merged[-1][0] < NEAR * numbers["arguments"]["sd"]:
            before, share = merged.pop()
            atom = (before * share + atom * weight) / (share + weight)
            weight += share
        merged.append((atom, weight))
    return merged


def number(value: float, digits: int = 6) -> str:
    """Return a number, or that it is infinite.

    Args:
        value: may be infinite or NaN.
        digits: after the point; of values below 0.1, digits in all.

    Example:
        >>> from bsam.experiments.illustration.words import number
        >>> number(0.5), number(float("inf")), number(-1e-12)
        ('0.500000', 'infinite', '-1e-12')
    """
    if math.isnan(value):
        return "none"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if abs(value) >= 1e6:
        return f"{value:.6g}"
    return f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.{digits}g}"


def _point(theta: float, sd: float) -> str:
    """Return a place, with as many digits as tell it from others that far away."""
    if abs(theta) < 1e-6 * sd:
        return "0"
    return (
        f"{theta:.{max(4, 3 - math.floor(math.log10(sd)))}f}" if abs(theta) < 1e7 else f"{theta:g}"
    )


def _weight(weight: float) -> str:
    return f"{weight:.4f}" if weight >= 0.01 else f"{weight:.2g}"


def _atoms(numbers: Mapping[str, Any]) -> str:
    worst = numbers["worst_case"]
    if not worst["atoms"]:
        return "none: mass escapes to infinity"
    sd = numbers["arguments"]["sd"]
    pairs = [(_point(atom, sd), _weight(weight)) for atom, weight in merged_atoms(numbers)]
    listed = ", ".join(f"{atom} ({weight})" for atom, weight in pairs)
    return listed if worst["attained"] else f"{listed}; mass escapes to infinity"


def _parabola(numbers: Mapping[str, Any]) -> str:
    """Return the parabola, without terms that come to nothing around the Gaussian."""
    paraboloid, arguments = numbers["paraboloid"], numbers["arguments"]
    if paraboloid is None:
        return "none lies above"
    reach = abs(arguments["mean"]) + arguments["sd"]
    terms = [
        (paraboloid[name], abs(paraboloid[name]) * reach**power, symbol)
        for power, (name, symbol) in enumerate(
            (("constant", ""), ("linear", " theta"), ("quadratic", " theta^2"))
        )
    ]
    most = max(size for _, size, _ in terms)
    told = [(value, symbol) for value, size, symbol in terms if size > 1e-7 * most]
    if not told:
        return "0"
    text = " ".join(f"{'-' if v < 0 else '+'} {number(abs(v))}{symbol}" for v, symbol in told)
    return text.removeprefix("+ ") if text[0] == "+" else f"-{text[2:]}"


def _largest(numbers: Mapping[str, Any]) -> str:
    largest, sd = numbers["max_loss"], numbers["arguments"]["sd"]
    points = largest["maximizers"]
    at = ", ".join(_point(point, sd) for point in points[:3])
    more = ", ..." if len(points) > 3 else ""
    value = number(_clean(largest["value"], _size(numbers)))
    return value + (f" at theta = {at}{more}" if points else "")
