"""Line plots: NLL against turning, risk against coverage, measures against draws."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bsam.experiments.report import details
from bsam.experiments.report.details import Draws, Entry
from bsam.experiments.report.figures import Figure, Panel, Table, legend, style
from bsam.experiments.report.scales import around, around_logarithms
from bsam.experiments.report.svg import Plot
from bsam.experiments.report.words import average, images_called, interval, listed, number, percent
from bsam.experiments.runs import Run
from bsam.experiments.shifts import DEGREES

TURNS = {0: "clean", **{degrees: f"turned {degrees}" for degrees in DEGREES}}
"""Names of test sets by how far they are turned."""


def turning(entries: Sequence[Entry]) -> Figure:
    """Draw NLL, and its difference to bSAM, against the degree of turning.

    Args:
        entries: of the results.
    """
    shown = details.own(entries)
    panels = [_turning_nll(shown)]
    if compared := [entry for entry in shown if entry["differences"]]:
        panels.append(_turning_differences(compared))
    return Figure(panels, legend(shown))


def _turning_nll(entries: Sequence[Entry]) -> Panel:
    series = {
        entry["label"]: {at: entry["measures"][f"NLL {name}"] for at, name in TURNS.items()}
        for entry in entries
    }
    ends = [end for each in series.values() for nll in each.values() for end in _ends(nll)]
    plot = Plot((-2.0, max(TURNS) + 2.0), around_logarithms(ends), y_kind="log", height=300)
    plot.axes("degrees turned", "NLL in nats (log scale; lower is better)", x_ticks=list(TURNS))
    for entry in reversed(entries):  # the first, bSAM, on top
        _averaged_line(plot, entry, series[entry["label"]], lambda at: f"{at}°")
    name = f"NLL against turning. {_from_to(series)}"
    rows = [[label, *(average(nll) for nll in each.values())] for label, each in series.items()]
    table = Table("NLL, mean ± standard error", ["method", *(f"{at}°" for at in TURNS)], rows)
    return Panel("NLL", plot.render(name), table, _not_drawn(series))


def _not_drawn(series: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    infinite = [
        label
        for label, each in series.items()
        if not all(math.isfinite(measure["mean"]) for measure in each.values())
    ]
    return f"Infinite, since a run failed: {listed(infinite)}" if infinite else ""


def _turning_differences(entries: Sequence[Entry]) -> Panel:
    gaps = {
        entry["label"]: {at: entry["differences"][f"NLL {name}"] for at, name in TURNS.items()}
        for entry in entries
    }
    every = [gap for each in gaps.values() for gap in each.values()]
    values = [gap[key] for gap in every for key in ("mean", "low", "high") if gap[key] is not None]
    plot = Plot((-7.0, max(TURNS) + 7.0), around([0.0, *values]), height=300)
    plot.axes("degrees turned", "NLL minus bSAM's (below 0: better than bSAM)", x_ticks=list(TURNS))
    plot.rule("zero", y=0.0)
    for number_of, entry in enumerate(entries):
        shape, classes = style(entry)
        # Side by side, so that intervals do not hide each other.
        aside = (number_of - (len(entries) - 1) / 2) * 10.0 / max(len(entries), 2)
        for at, gap in gaps[entry["label"]].items():
            if not math.isfinite(gap["mean"]):
                continue
            if gap["low"] is not None:
                plot.whisker(at + aside, gap["low"], gap["high"], classes)
            tip = f"{entry['label']}, {at}°: {' '.join(interval(gap))}, {gap['verdict']}"
            plot.mark(at + aside, gap["mean"], shape, classes, tip)
    verdicts = [
        f"at {at}° {listed(_tally([gaps[label][at]['verdict'] for label in gaps]))}" for at in TURNS
    ]
    name = f"Difference to bSAM in NLL with 95 % intervals against turning: {'; '.join(verdicts)}."
    rows = [
        [label, *(" ".join((*interval(gap), gap["verdict"])) for gap in each.values())]
        for label, each in gaps.items()
    ]
    head = ["method", *(f"{at}°" for at in TURNS)]
    caption = "Difference to bSAM in NLL, mean [95 % interval]"
    return Panel("Difference to bSAM", plot.render(name), Table(caption, head, rows))


def _tally(verdicts: Sequence[str]) -> list[str]:
    return [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]


def _from_to(series: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Say where each line begins and ends."""
    said = []
    for label, each in series.items():
        first, *_, last = each.values()
        said.append(f"{label} from {number(first['mean'])} to {number(last['mean'])}")
    return f"From {min(TURNS)}° to {max(TURNS)}°: {listed(said)}." if said else ""


def _ends(measure: Mapping[str, Any]) -> tuple[float, ...]:
    mean, error = measure["mean"], measure["standard_error"] or 0.0
    return mean, mean - error, mean + error


def _averaged_line(
    plot: Plot, entry: Entry, measures: Mapping[int, Mapping[str, Any]], where: Any
) -> None:
    """Draw means as a line with a marker and an error bar each."""
    shape, classes = style(entry)
    plot.line([(at, measure["mean"]) for at, measure in measures.items()], classes)
    for at, measure in measures.items():
        if math.isfinite(measure["mean"]):
            _, low, high = _ends(measure)
            if measure["standard_error"] is not None:
                plot.whisker(at, low, high, classes)
            tip = f"{entry['label']}, {where(at)}: {average(measure)}"
            plot.mark(at, measure["mean"], shape, classes, tip)


def risk_coverage(runs: Sequence[Run], entries: Sequence[Entry], data: str) -> Figure:
    """Draw the error rate among the predictions that are most sure, clean and turned by 30°.

    Args:
        runs: of all methods.
        entries: of the results.
        data: name of the data set.
    """
    shown = [entry for entry in details.own(entries) if details.finished(runs, entry["method"])]
    panels = [_risk(runs, shown, name, data) for name in ("clean", "turned 30")] if shown else []
    return Figure(panels, legend(shown))


def _risk(runs: Sequence[Run], entries: Sequence[Entry], name: str, data: str) -> Panel:
    series = {}
    for entry in entries:
        own_runs = details.finished(runs, entry["method"])
        series[entry["label"]] = details.risks(*details.pooled(own_runs, entry["way"], name))
    top = max(max(risk) for risk in series.values())
    plot = Plot((0.0, 1.0), (0.0, max(top * 1.05, 0.01)))
    plot.axes("coverage: share of images predicted", "error rate", percent="xy")
    for entry in reversed(entries):
        shape, classes = style(entry)
        risk = series[entry["label"]]
        plot.line(list(zip(details.COVERAGES, risk, strict=True)), classes)
        for coverage, each in list(zip(details.COVERAGES, risk, strict=True))[3::4]:
            tip = f"{entry['label']}, {percent(coverage)} covered: {percent(each, 2)} wrong"
            plot.mark(coverage, each, shape, classes, tip, size=3.0)
    half, full = details.COVERAGES.index(0.5), -1
    said = [
        f"{label} {percent(risk[half], 1)}, {percent(risk[full], 1)}"
        for label, risk in series.items()
    ]
    title = images_called(name, data).capitalize()
    svg = plot.render(f"Error rate at half and at full coverage, {title}: {'; '.join(said)}.")
    rows = [
        [percent(coverage), *(f"{risk[row] * 100:.2f}" for risk in series.values())]
        for row, coverage in enumerate(details.COVERAGES)
    ]
    return Panel(title, svg, Table(f"Error rate in %, {title}", ["coverage", *series], rows))


def draws(runs: Sequence[Run], entries: Sequence[Entry], data: str) -> Figure:
    """Draw NLL and ECE against the number of draws that predictions are averaged over.

    Args:
        runs: of all methods.
        entries: of the results.
        data: name of the data set.
    """
    panels, seen = [], {}
    for measure in ("NLL", "ECE"):
        for name in ("clean", "turned 30"):
            series = {}
            for entry in entries:
                own_runs = details.finished(runs, entry["method"])
                curve = details.by_draws(own_runs, entry["way"], name)
                if len(curve) > 1:
                    series[entry["label"]] = (entry, curve)
            if series:
                panels.append(_draws(measure, images_called(name, data), series))
            seen |= {label: entry for label, (entry, _) in series.items()}
    return Figure(panels, legend(list(seen.values())))


def _draws(measure: str, images: str, series: Mapping[str, tuple[Entry, list[Draws]]]) -> Panel:
    measures = {
        label: {each.count: each.nll if measure == "NLL" else each.ece for each in curve}
        for label, (_, curve) in series.items()
    }
    counts = sorted({count for each in measures.values() for count in each})
    values = [end for each in measures.values() for m in each.values() for end in _ends(m)]
    x = (counts[0] / 1.15, counts[-1] * 1.15)
    plot = Plot(x, around(values, 0.08), x_kind="log", height=230)
    plot.axes("draws (log scale)", measure, x_ticks=counts)
    for label, (entry, _) in reversed(list(series.items())):
        _averaged_line(plot, entry, measures[label], lambda at: f"{at} draws")
    said = [
        f"{label} {number(each[min(each)]['mean'])} with {min(each)}, "
        f"{number(each[max(each)]['mean'])} with {max(each)}"
        for label, each in measures.items()
    ]
    title = f"{measure}, {images}"
    svg = plot.render(f"{title}, against the number of draws: {'; '.join(said)}.")
    rows = [
        [str(count), *(average(each.get(count)) for each in measures.values())] for count in counts
    ]
    return Panel(title, svg, Table(f"{title}, mean ± standard error", ["draws", *measures], rows))
