"""The page: sections put together and written to a file."""

import base64
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from bsam.experiments.comparison import REFERENCE
from bsam.experiments.report import details, facts, table, verdict
from bsam.experiments.report.sections import galleries, sections
from bsam.experiments.results import write_json
from bsam.experiments.runs import Run
from bsam.files import written_whole


class Download(NamedTuple):
    """A file that the page holds."""

    name: str
    address: str


def write_page(runs: Sequence[Run], results: Mapping[str, Any], path: Path) -> None:
    """Write a comparison as one web page that needs nothing but itself.

    Everything on it is computed from the runs and the results.

    Args:
        runs: finished runs, failed ones among them; their folders are read.
        results: of ``comparison.results`` from these runs, or read back from its file.
        path: the page; its folder must exist.
    """
    with written_whole(path) as temporary:
        temporary.write_text(page(runs, results), encoding="utf-8")


def page(runs: Sequence[Run], results: Mapping[str, Any]) -> str:
    """Return the page that :func:`write_page` writes.

    Args:
        runs: as there.
        results: as there.
    """
    original, results = results, details.restored(dict(results))
    entries = results["entries"] = details.ordered(results["entries"])
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("page.html")).render(
        style=_text("page.css"),
        script=_text("page.js"),
        title=facts.title(results),
        evidence=facts.evidence(results),
        reference=REFERENCE,
        headline=verdict.headline(results),
        verdicts=verdict.full(results),
        facts=facts.facts(runs, results),
        groups=table.GROUPS,
        rows=table.rows(entries, results["data"], facts.notes(runs, entries), REFERENCE),
        downloads=[
            _download("results.json", "application/json", _json(original)),
            _download("results.csv", "text/csv", table.as_csv(entries).encode()),
        ],
        sections=sections(runs, entries, results["data"]),
        galleries=galleries(runs, entries),
    )


def _text(name: str) -> str:
    return resources.files("bsam.experiments.report").joinpath(name).read_text(encoding="utf-8")


def _json(results: Mapping[str, Any]) -> bytes:
    """Return the bytes of a results file: the very ones that stand beside the page."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(path := Path(folder) / "results.json", results)
        return path.read_bytes()


def _download(name: str, kind: str, content: bytes) -> Download:
    return Download(name, f"data:{kind};base64,{base64.b64encode(content).decode()}")
