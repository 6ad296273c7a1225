"""Where a page's numbers come from: command, versions, dates, seeds, failures."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bsam.experiments.comparison import REFERENCE
from bsam.experiments.report.details import Entry
from bsam.experiments.report.verdict import is_compared
from bsam.experiments.report.words import counted, way_of_predicting
from bsam.experiments.runs import Run

FEW_SEEDS = 3
"""With fewer there is no evidence."""

_LONGEST_REASON = 160


class Fact(NamedTuple):
    """What is said, and of what."""

    term: str
    text: str
    code: bool = False


def title(results: Mapping[str, Any]) -> str:
    """Return the page's title.

    Args:
        results: of the comparison.
    """
    name = "handwritten digits" if results["data"] == "digits" else results["data"]
    return f"{REFERENCE} and other training methods on {name}"


def evidence(results: Mapping[str, Any]) -> str:
    """Return what the verdict stands on.

    Args:
        results: of the comparison.
    """
    seeds = counted(len(results["seeds"]), "seed")
    if not is_compared(results):
        return f"{seeds}."
    return (
        f"{seeds}; differences paired by seed, with 95 % intervals. None is corrected for the "
        "number of comparisons: one in twenty may miss."
    )


def facts(runs: Sequence[Run], results: Mapping[str, Any]) -> list[Fact]:
    """Return what to know of the runs before reading any number.

    Args:
        runs: of all methods.
        results: of the comparison.
    """
    seeds = results["seeds"]
    listed = f"{counted(len(seeds), 'seed')} ({_ranges(seeds)})"
    if len(seeds) < FEW_SEEDS:
        listed += f": no evidence, which takes at least {FEW_SEEDS}"
    found = [
        Fact("Seeds", listed),
        Fact("Command", str(results["command"]), code=True),
        Fact("Made with", _versions(runs, results)),
    ]
    if finished := _dates(runs):
        found.append(Fact("Runs finished", finished))
    if failed := [run for run in runs if "failed" in run.evaluation]:
        found.append(Fact("Failed runs", "; ".join(map(_failure, failed))))
    return found


def _ranges(seeds: Sequence[int]) -> str:
    """Say 0 to 3 for 0, 1, 2, 3."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _versions(runs: Sequence[Run], results: Mapping[str, Any]) -> str:
    environment = results["environment"]
    names = ("bsam", "torch", "numpy", "python", "platform", "device")
    said = [f"{name} {environment[name]}" for name in names if name in environment]
    if commit := environment.get("commit"):
        said.insert(1, f"commit {str(commit)[:10]}")
    text = ", ".join(said) or f"bsam {results['version']}"
    others = [name for name in ("bsam", "commit", "torch", "device") if len(_used(runs, name)) > 1]
    return f"{text}; runs differ in {', '.join(others)}" if others else text


def _used(runs: Sequence[Run], name: str) -> set[Any]:
    paths = [run.folder / "environment.json" for run in runs]
    return {json.loads(path.read_text()).get(name) for path in paths if path.exists()}


def _dates(runs: Sequence[Run]) -> str:
    paths = [run.folder / "evaluation.json" for run in runs]
    times = [path.stat().st_mtime for path in paths if path.exists()]
    if not times:
        return ""
    first, last = (
        datetime.datetime.fromtimestamp(time, datetime.UTC).date().isoformat()
        for time in (min(times), max(times))
    )
    return first if first == last else f"{first} to {last}"


def _failure(run: Run) -> str:
    reason = str(run.evaluation["failed"])
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON]}\N{HORIZONTAL ELLIPSIS}"
    return f"{run.recipe.method}, seed {run.recipe.seed}: {reason}"


def notes(runs: Sequence[Run], entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Return, by label, how an entry predicts and which of its runs are missing.

    Args:
        runs: of all methods.
        entries: of the results.
    """
    seeds = {run.recipe.seed for run in runs}
    said = {}
    for entry in entries:
        own = [run for run in runs if run.recipe.method == entry["method"]]
        draws = max((run.recipe.num_samples for run in own), default=0)
        failed = sum("failed" in run.evaluation for run in own)
        lines = [way_of_predicting(entry["way"], draws)]
        if failed:
            lines.append(f"{failed} of {counted(len(own), 'run')} failed")
        if len(own) < len(seeds):
            lines.append(f"{len(own)} of {counted(len(seeds), 'seed')}")
        said[entry["label"]] = lines
    return said
