"""The table of all measures: what stands in its cells, and the same as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bsam.experiments.comparison import PRIMARY
from bsam.experiments.report.details import Entry
from bsam.experiments.report.verdict import in_words, verdict
from bsam.experiments.report.words import average, interval


class Column(NamedTuple):
    """A measure in the table."""

    key: str
    head: str
    decimals: int = 3
    scale: float = 1.0


class Group(NamedTuple):
    """Columns under one heading."""

    head: str
    columns: Sequence[Column]


GROUPS = (
    Group(
        "NLL in nats, smaller is better",
        [Column(key, key.removeprefix("NLL ").replace("turned ", "") +
                ("°" if "turned" in key else "")) for key in PRIMARY],
    ),
    Group(
        "On clean images",
        [
            Column("accuracy clean", "accuracy %", 1, 100.0),
            Column("ECE", "ECE"),
            Column("Brier", "Brier"),
            Column("misclassification AUROC", "AUROC of errors"),
            Column("AURC", "AURC", 4),
        ],
    ),
    Group("Unknown inputs", [Column("OOD AUROC", "AUROC")]),
    Group("Cost", [Column("gradient passes", "gradients", 0),
                   Column("training seconds", "seconds", 1)]),
)  # fmt: skip
"""Columns in order, by heading."""

COLUMNS = tuple(column for group in GROUPS for column in group.columns)

_MARKS = {"better": "\N{WHITE DOWN-POINTING TRIANGLE}", "worse": "\N{BLACK UP-POINTING TRIANGLE}",
          "tie": "=", "no evidence": "?"}  # fmt: skip


class Cell(NamedTuple):
    """A number, what it is sorted by, and for primary measures how it compares with bSAM."""

    text: str
    sort: str
    verdict: str = ""
    mark: str = ""
    gap: str = ""
    interval: str = ""
    sentence: str = ""


class Row(NamedTuple):
    """An entry."""

    label: str
    ours: bool
    notes: Sequence[str]
    cells: Sequence[Cell]


def rows(
    entries: Sequence[Entry], data: str, notes: Mapping[str, Sequence[str]], ours: str
) -> list[Row]:
    """Return the table's rows.

    Args:
        entries: of the results, in the order of the rows.
        data: name of the data set.
        notes: by label, what stands below it.
        ours: label of the row that others are compared with.
    """
    return [
        Row(
            entry["label"],
            entry["label"] == ours,
            notes.get(entry["label"], ()),
            [_cell(entries, entry, column, data) for column in COLUMNS],
        )
        for entry in entries
    ]


def _cell(entries: Sequence[Entry], entry: Entry, column: Column, data: str) -> Cell:
    measure = entry["measures"].get(column.key)
    text = average(measure, column.decimals, column.scale)
    mean = math.nan if measure is None else measure["mean"]
    sort = "" if math.isnan(mean) else "inf" if math.isinf(mean) else repr(float(mean))
    if column.key not in PRIMARY:
        return Cell(text, sort)
    word = verdict(entries, entry, column.key)
    compared = word in _MARKS
    return Cell(
        text,
        sort,
        "" if word == "not compared" else word,
        _MARKS.get(word, ""),
        *(("", "") if not compared else interval(entry["differences"][column.key])),
        in_words(entry, column.key.removeprefix("NLL "), data, word),
    )


def as_csv(entries: Sequence[Entry]) -> str:
    """Return all measures and differences as CSV, in full precision.

    Args:
        entries: of the results.
    """
    keys = list(dict.fromkeys(key for entry in entries for key in entry["measures"]))
    head = ["label", "method", "way", "runs"]
    head += [f"{key} {what}" for key in keys for what in ("mean", "standard error")]
    parts = ("mean", "low", "high", "verdict")
    head += [f"{key} minus bSAM's: {part}" for key in PRIMARY for part in parts]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    for entry in entries:
        line = [entry["label"], entry["method"], entry["way"], entry["runs"]]
        for key in keys:
            measure = entry["measures"].get(key) or {}
            line += [measure.get("mean"), measure.get("standard_error")]
        for key in PRIMARY:
            gap: Mapping[str, Any] = entry["differences"].get(key) or {}
            line += [gap.get(part) for part in parts]
        writer.writerow(line)
    return stream.getvalue()
