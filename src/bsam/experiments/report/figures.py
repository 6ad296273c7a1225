"""What a figure is made of: panels, each with its table, and a legend."""

from collections.abc import Sequence
from typing import NamedTuple

from bsam.experiments.comparison import REFERENCE
from bsam.experiments.methods import METHODS
from bsam.experiments.report.details import TWICE, Entry
from bsam.experiments.report.svg import SHAPES, swatch


class Table(NamedTuple):
    """The numbers of a panel; the first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Panel(NamedTuple):
    """A plot and its numbers."""

    title: str
    svg: str
    table: Table
    note: str = ""


class Key(NamedTuple):
    """A line of a legend."""

    swatch: str
    text: str


class Figure(NamedTuple):
    """Panels side by side under one legend."""

    panels: Sequence[Panel]
    legend: Sequence[Key] = ()
    size: str = "wide"
    """How wide panels are at least: "wide" or "small"."""


class Style(NamedTuple):
    """How a method is drawn everywhere: never by its colour alone."""

    shape: str
    classes: str


_FAMILIES = list(dict.fromkeys([REFERENCE, *(name.removesuffix(TWICE) for name in METHODS)]))


def style(entry: Entry) -> Style:
    """Return an entry's colour and marker; hollow and dashed for twice the epochs.

    Args:
        entry: of the results.
    """
    family = entry["method"].removesuffix(TWICE)
    number = (_FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)) % len(SHAPES)
    classes = f"k{number}"
    if entry["method"] != family:
        classes += " twice"
    if entry["method"] == REFERENCE:
        classes += " ours"
    return Style(SHAPES[number], classes)


def legend(entries: Sequence[Entry]) -> list[Key]:
    """Return a legend of entries.

    Args:
        entries: of the results.
    """
    return [Key(swatch(*style(entry)), entry["label"]) for entry in entries]
