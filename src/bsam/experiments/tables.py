"""A comparison as tables on a terminal."""

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bsam.experiments.comparison import PRIMARY, REFERENCE
from bsam.experiments.recipes import Recipe

OTHERS = {
    "accuracy clean": ("accuracy %", 100, 1),
    "ECE": ("ECE", 1, 3),
    "Brier": ("Brier", 1, 3),
    "misclassification AUROC": ("AUROC err", 1, 3),
    "OOD AUROC": ("AUROC OOD", 1, 3),
    "gradient passes": ("passes", 1, 0),
}
"""Measures of the second table: heading, factor, digits after the point."""

SEARCHED_EPOCHS = Recipe._field_defaults["epochs"]

MARKS = {"tie": "=", "worse": ">", "better": "<", "no evidence": "?"}


def show(results: dict[str, Any], console: Console) -> None:
    """Print the tables of a comparison and how to read them.

    Args:
        results: from :func:`bsam.experiments.comparison.results`.
        console: where to.
    """
    # Wide enough wherever it is printed: a wrapped line can be read, a number cut short cannot.
    wide = Console(
        file=console.file, width=max(console.width, 96), force_terminal=console.is_terminal
    )
    entries, seeds = results["entries"], results["seeds"]
    wide.print(_primary(entries, f"{results['data']}: NLL on test images, mean ± standard error"))
    wide.print(_others(entries))
    console.print("\n".join(_notes(results, len(seeds))), highlight=False, markup=False)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0), title_justify="left")
    table.add_column("method", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _primary(entries: Sequence[dict[str, Any]], title: str) -> Table:
    table = _table(title, [key.removeprefix("NLL ") for key in PRIMARY])
    for entry in entries:
        cells = []
        for key in PRIMARY:
            difference = entry["differences"].get(key)
            mark = MARKS[difference["verdict"]] if difference else " "
            cells.append(f"{cell(entry['measures'][key], 1, 3)}{mark}")
        table.add_row(entry["label"], *cells)
    return table


def _others(entries: Sequence[dict[str, Any]]) -> Table:
    table = _table(
        "on clean images; OOD: patches of photographs", [h for h, _, _ in OTHERS.values()]
    )
    for entry in entries:
        measures = entry["measures"]
        missing = {"mean": math.nan, "standard_error": None}
        table.add_row(
            entry["label"],
            *(cell(measures.get(key, missing), *how) for key, (_, *how) in OTHERS.items()),
        )
    return table


def cell(value: dict[str, Any], factor: float, digits: int) -> str:
    """Return the words for a mean and its standard error.

    Args:
        value: with ``mean`` and ``standard_error``, which may be None.
        factor: to multiply both with.
        digits: after the point.

    Example:
        >>> from bsam.experiments.tables import cell
        >>> cell({"mean": 0.1234, "standard_error": 0.01}, 1, 3)
        '0.123±0.010'
    """
    mean, error = value["mean"], value["standard_error"]
    if math.isnan(mean):
        return "-"
    text = f"{factor * mean:.{digits}f}"
    return text if not error else f"{text}±{factor * error:.{digits}f}"


def _notes(results: dict[str, Any], seeds: int) -> list[str]:
    compared = any(entry["differences"] for entry in results["entries"])
    lines = [
        f"Beside each NLL: = ties with {REFERENCE}, > larger (worse), < smaller (better), by the "
        "95 % interval of the differences paired by seed."
        if compared
        else f"Without {REFERENCE} there is nothing to compare with.",
        f"{seeds} seed{'s' * (seeds != 1)}; protocol: docs/comparison.md; settings: the best of 60 "
        "random trials for each method, on validation images of other splits.",
    ]
    if seeds < 3:
        lines.append("Fewer than 3 seeds are no evidence (?).")
    if (epochs := results["epochs"]) != SEARCHED_EPOCHS:
        lines.append(f"The settings were searched for {SEARCHED_EPOCHS} epochs, not for {epochs}.")
    if results["failed"]:
        lines.append(f"Failed, counted as infinite: {', '.join(results['failed'])}.")
    if account := results.get("diagnostics"):
        lines.append(_account_of_s(account))
    return lines


def _account_of_s(account: dict[str, float]) -> str:
    return (
        f"{REFERENCE}'s posterior: {account['unlearned']:.0%} of s where zero gradients would have "
        f"brought it (unlearned), {account['at_floor']:.0%} at its floor; standard deviations "
        f"{account['deviation']:.3f} (prior {account['prior_deviation']:.2f}), "
        f"{account['relative_deviation']:.2f} of the weights' size."
    )
