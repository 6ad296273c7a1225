"""The numbers as a web page that needs nothing but itself, with sliders."""

import json
import math
import re
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from bsam.experiments.illustration.lookup import Lookup
from bsam.experiments.illustration.ranges import Ranges
from bsam.experiments.illustration.words import rows, sentences

THETA_DIGITS, LOSS_DIGITS = 13, 9
"""Of the numbers in the page's table of the loss."""


class Slider(NamedTuple):
    """What moves the Gaussian."""

    name: str
    label: str
    low: float
    high: float
    step: float
    value: float

    @property
    def text(self) -> str:
        """The value as it is shown."""
        return f"{self.value:g}"


def page(
    numbers: Mapping[str, Any],
    content: bytes,
    known: Lookup,
    shown: Ranges,
    description: str = "",
) -> str:
    """Return the page.

    Args:
        numbers: of ``numbers.numbers``.
        content: of numbers.json, which the page offers for download.
        known: the loss, from which the page computes what moves.
        shown: ends of its axes and sliders.
        description: of the loss.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["typeset"] = _typeset
    arguments = numbers["arguments"]
    return environment.from_string(_text("page.html")).render(
        style=_text("page.css", "report") + _text("page.css"),
        script=_text("solver.js") + _text("page.js"),
        name=arguments["loss"],
        formula=arguments["expression"],
        description=description,
        headline=_headline(numbers),
        sliders=_sliders(arguments, shown),
        rows=rows(numbers),
        words=" ".join(sentences(numbers)),
        data=_data(known, shown),
        download=f"data:application/json;base64,{b64encode(content).decode()}",
    )


def _headline(numbers: Mapping[str, Any]) -> str:
    name = numbers["arguments"]["loss"]
    loss = f"the {name} loss" if name != numbers["arguments"]["expression"] else "this loss"
    return f"The Bayes average of {loss}, the bound above it, and the maximum that SAM takes"


def _sliders(arguments: Mapping[str, Any], shown: Ranges) -> list[Slider]:
    mean, sd = arguments["mean"], arguments["sd"]
    return [
        Slider("mean", "mean m", *shown.mean, shown.mean_step, mean),
        Slider("sd", "standard deviation √v", *shown.sd, shown.sd_step, sd),
    ]


def _data(known: Lookup, shown: Ranges) -> str:
    """Return the table of the loss as JSON that may stand inside an element of the page."""
    content = {
        "theta": _rounded(known.theta.tolist(), THETA_DIGITS),
        "loss": _rounded(known.loss.tolist(), LOSS_DIGITS),
        "growth": known.growth if math.isfinite(known.growth) else None,
        "mean": shown.mean,
        "view": shown.view,
    }
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _rounded(values: list[float], digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]


def _typeset(text: str) -> str:
    """Return words for a terminal as a page writes them."""
    text = text.replace("-f**", "\u2212f**").replace(" - ", " \u2212 ").replace("'", "\u2019")
    text = text.replace("l\u2019(", "l\u2032(").replace("eps^2", "ε²").replace("eps", "ε")
    text = escape(text).replace("E_q", "E<sub>q</sub>")
    return re.sub(r"\|?l\u2032?\(m \+ ε\)\|?", r'<span class="together">\g<0></span>', text)


def _text(name: str, package: str = "illustration") -> str:
    folder = resources.files(f"bsam.experiments.{package}")
    return folder.joinpath(name).read_text(encoding="utf-8")
