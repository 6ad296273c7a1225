"""Numbers and names as they stand on the page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bsam.experiments.evaluation import ways_of

MISSING = "\N{EN DASH}"
_ENDS = ("mean", "low", "high")


def number(value: float | None, decimals: int = 3, *, plus: bool = False) -> str:
    r"""Return a number with a real minus sign.

    Args:
        value: None and NaN become a dash.
        decimals: how many.
        plus: whether to write the sign of positive numbers.

    Example:
        >>> from bsam.experiments.report.words import number
        >>> number(1234.5, 1), number(-0.5, 2).isascii(), number(float("inf")) == "\N{INFINITY}"
        ('1,234.5', False, True)
    """
    if value is None or math.isnan(value):
        return MISSING
    sign = "\N{MINUS SIGN}" if value < 0.0 else "+" if plus else ""
    size = f"{abs(value):,.{decimals}f}" if math.isfinite(value) else "\N{INFINITY}"
    return sign + size


def percent(share: float, decimals: int = 0) -> str:
    """Return a share in percent.

    Args:
        share: 1 is all.
        decimals: how many.
    """
    return f"{number(share * 100.0, decimals)} %"


def average(measure: Mapping[str, Any] | None, decimals: int = 3, scale: float = 1.0) -> str:
    """Return "mean ± standard error", without the latter where there is none.

    Args:
        measure: with ``mean`` and ``standard_error``; None becomes a dash.
        decimals: how many.
        scale: what both are multiplied with: 100 for percent.
    """
    if measure is None:
        return MISSING
    mean, error = measure["mean"], measure["standard_error"]
    text = number(mean * scale, decimals)
    return text if error is None else f"{text} ± {number(error * scale, decimals)}"


def interval(difference: Mapping[str, Any], decimals: int = 3) -> tuple[str, str]:
    """Return a difference and, in brackets, its interval, empty if there is none.

    Args:
        difference: with ``mean``, ``low`` and ``high``.
        decimals: how many.
    """
    mean, low, high = (number(difference[key], decimals, plus=True) for key in _ENDS)
    return mean, "" if difference["low"] is None else f"[{low}, {high}]"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    Args:
        names: at least one.

    Example:
        >>> from bsam.experiments.report.words import listed
        >>> listed(["SGD"]), listed(["SGD", "Adam", "SAM"])
        ('SGD', 'SGD, Adam and SAM')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def counted(count: int, noun: str) -> str:
    """Return a number of things.

    Args:
        count: how many.
        noun: in the singular; the plural takes an s.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def spoken(entry: Mapping[str, Any]) -> str:
    """Return what a way to predict is called inside a sentence, where a comma would mislead.

    Args:
        entry: of the results.
    """
    if entry["way"] == ways_of(entry["method"])[0]:
        return entry["label"]
    joint = "at the" if entry["way"] == "mean" else "with"
    return f"{entry['method']} {joint} {entry['way']}"


def way_of_predicting(way: str, num_samples: int) -> str:
    """Return how predictions are made.

    Args:
        way: to predict.
        num_samples: number of draws.
    """
    draws = counted(num_samples, "draw")
    return {
        "samples": f"average over {draws}",
        "mean": "at the posterior's mean",
        "weights": "at the weights",
        "temperature": "one temperature, fitted",
        "noise": f"average over {draws} of noise",
    }.get(way, way)


def images_called(name: str, data: str) -> str:
    """Return a test set's name in words.

    Args:
        name: one of the labelled test sets.
        data: name of the data set.

    Example:
        >>> from bsam.experiments.report.words import images_called
        >>> images_called("turned 30", "digits"), images_called("noise", "flowers")
        ('digits turned by 30°', 'noisy images')
    """
    noun = "digits" if data == "digits" else "images"
    kind, _, degrees = name.partition(" ")
    if degrees:
        return f"{noun} {kind} by {degrees}°"
    return f"{'noisy' if kind == 'noise' else kind} {noun}"
