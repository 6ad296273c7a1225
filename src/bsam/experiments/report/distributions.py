"""Plots of how predictions and variances are spread: reliability, entropy, s."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from bsam.experiments.report import details
from bsam.experiments.report.details import Entry
from bsam.experiments.report.figures import Figure, Key, Panel, Table, style
from bsam.experiments.report.scales import around_logarithms
from bsam.experiments.report.svg import Plot, area_swatch, swatch
from bsam.experiments.report.variances import Layer, Learned, share_near
from bsam.experiments.report.words import images_called, number, percent
from bsam.experiments.runs import UNKNOWN, Run

TURNED = "turned 30"
SHARES = (0.01, 0.05, 0.2, 0.5, 1.0)


def reliability(runs: Sequence[Run], entries: Sequence[Entry], data: str) -> Figure:
    """Draw accuracy against confidence, clean and turned by 30°, a panel for each main method.

    Args:
        runs: of all methods.
        entries: of the results.
        data: name of the data set.
    """
    shown = [each for each in details.main(entries) if details.finished(runs, each["method"])]
    legend = [
        Key(swatch("circle", "plain"), images_called("clean", data)),
        Key(swatch("circle", "plain twice"), images_called(TURNED, data)),
    ]
    return Figure([_reliability(runs, each) for each in shown], legend, "small")


def _reliability(runs: Sequence[Run], entry: Entry) -> Panel:
    own_runs = details.finished(runs, entry["method"])
    plot = Plot((0.0, 1.0), (0.0, 1.0), width=270, height=250)
    plot.axes("confidence", "accuracy", percent="xy", x_ticks=[0, 0.5, 1], y_ticks=[0, 0.5, 1])
    plot.rule("diagonal")
    both = {}
    _, color = style(entry)
    for name, way in ((TURNED, "twice"), ("clean", "")):
        bins = both[name] = details.reliability(*details.pooled(own_runs, entry["way"], name))
        points = list(zip(bins.confidence, bins.accuracy, strict=True))
        filled = [point for point in points if math.isfinite(point[0])]
        plot.line(filled, f"{color} {way}")
        largest = bins.count.max()
        for (confidence, accuracy), count in zip(points, bins.count, strict=True):
            if count:
                rates = f"{percent(confidence)} sure, {percent(accuracy)} right"
                tip = f"{name}: {rates}, {count} predictions"
                size = 2.0 + 4.0 * math.sqrt(count / largest)
                plot.mark(confidence, accuracy, "circle", f"{color} {way}", tip, size)
    clean, turned = both["clean"].error, both[TURNED].error
    note = f"ECE {number(clean)}, turned {number(turned)}"
    words = f"Reliability of {entry['label']}: ECE {number(clean)} clean, {number(turned)} turned."
    rows = [
        [f"{low / details.NUM_BINS:.2f} to {(low + 1) / details.NUM_BINS:.2f}"]
        + [
            text
            for bins in (both["clean"], both[TURNED])
            for text in (
                f"{bins.count[low]:,}", number(bins.confidence[low]), number(bins.accuracy[low])
            )
        ]
        for low in range(details.NUM_BINS)
    ]  # fmt: skip
    columns = ("predictions", "confidence", "accuracy")
    head = ["bin", *(f"{when} {each}" for when in ("clean:", "turned:") for each in columns)]
    return Panel(entry["label"], plot.render(words), Table(entry["label"], head, rows), note)


def entropies(runs: Sequence[Run], entries: Sequence[Entry], data: str) -> tuple[Figure, Figure]:
    """Draw the entropy of predictions of known and of unknown inputs.

    Args:
        runs: of all methods.
        entries: of the results.
        data: name of the data set.

    Returns:
        The two parts of those that average over draws; the total of the others.
    """
    split, whole, most = {}, {}, dict.fromkeys(("aleatoric", "epistemic", "total"), 0.01)
    for entry in entries:
        own_runs = details.finished(runs, entry["method"])
        drawn = entry["way"] in ("samples", "noise")
        if own_runs and (drawn or entry in details.own(entries)):
            both = [details.entropies(own_runs, entry["way"], name) for name in ("clean", UNKNOWN)]
            (split if drawn else whole)[entry["label"]] = (entry, *both)
            for part in most:
                widest = max(float(getattr(entropy, part).max()) for entropy in both)
                most[part] = max(most[part], widest)
    most["aleatoric"] = most["total"]  # on one axis: both have the same bound

    def panel(entry: Entry, part: str, *both: details.Entropies) -> Panel:
        return _entropy(entry, part, *(getattr(each, part) for each in both), most[part])

    parts = [
        panel(entry, part, *both)
        for entry, *both in split.values()
        for part in ("aleatoric", "epistemic")
    ]
    totals = [panel(entry, "total", *both) for entry, *both in whole.values()]
    legend = [
        Key(area_swatch("known"), images_called("clean", data)),
        Key(area_swatch("foreign"), "unknown inputs"),
    ]
    return Figure(parts, legend, "small"), Figure(totals, legend, "small")


def _entropy(
    entry: Entry,
    part: str,
    known: np.ndarray,
    unknown: np.ndarray,
    widest: float,
) -> Panel:
    edges = np.linspace(0.0, widest, 25)
    both = [details.shares(values, edges) for values in (known, unknown)]
    plot = Plot((0.0, widest), (0.0, 1.0), y_kind="sqrt", width=270, height=190)
    plot.axes(f"{part} entropy, nats", "share of images", y_ticks=SHARES, percent="y")
    _, color = style(entry)
    plot.steps(edges.tolist(), both[0], f"{color} known")
    plot.steps(edges.tolist(), both[1], f"{color} foreign")
    means = [number(float(values.mean())) for values in (known, unknown)]
    title = f"{entry['label']}: {part}"
    rows = [
        [f"{low:.3f} to {high:.3f}", *(f"{each[row] * 100:.1f}" for each in both)]
        for row, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    table = Table(f"{title}, % of images", ["nats", "clean", "unknown"], rows)
    words = f"{title} entropy, mean {means[0]} nats on clean, {means[1]} on unknown inputs."
    return Panel(title, plot.render(words), table, f"means {means[0]} and {means[1]}")


def variances(learned: Learned) -> Figure:
    """Draw s of bSAM's weights, a panel for each layer, with its floor and start.

    Args:
        learned: from the posteriors.
    """
    everything = np.concatenate([layer.s for layer in learned.layers])
    ends = [everything.min(), everything.max(), learned.floor, learned.start]
    low, high = around_logarithms([float(end) for end in ends])
    edges = np.geomspace(low, high, 41)
    return Figure([_variances(layer, learned, edges) for layer in learned.layers])


def _variances(layer: Layer, learned: Learned, edges: np.ndarray) -> Panel:
    heights = details.shares(layer.s, edges)
    x = (float(edges[0]), float(edges[-1]))
    plot = Plot(x, (0.0, 1.0), x_kind="log", y_kind="sqrt", height=230)
    plot.axes("s (log scale)", "share of weights", y_ticks=SHARES, percent="y")
    plot.steps(edges.tolist(), heights, "k0 known")
    floor, start = number(learned.floor, 4), number(learned.start, 2)
    plot.rule("mean", x=learned.floor, label=f"floor {floor}")
    plot.rule("mean", x=learned.start, label=f"start {start}")
    low, middle, high = (number(float(q), 4) for q in np.quantile(layer.s, (0.0, 0.5, 1.0)))
    at_floor, at_start, unlearned = (
        percent(share_near(layer.s, end)) for end in (learned.floor, learned.start, learned.decayed)
    )
    note = f"{unlearned} unlearned, {at_floor} at the floor, {at_start} at the start"
    words = (
        f"s in layer {layer.name}, {len(layer.s):,} values from {low} to {high}, median {middle}; "
        f"{unlearned} where zero gradients would have brought it, {at_floor} at the floor {floor}, "
        f"{at_start} at the start {start}."
    )
    rows = [
        [f"{number(float(a), 4)} to {number(float(b), 4)}", f"{height * 100:.2f}"]
        for (a, b), height in zip(itertools.pairwise(edges), heights, strict=True)
    ]
    title = f"Layer {layer.name}"
    return Panel(title, plot.render(words), Table(f"{title}, % of weights", ["s", "%"], rows), note)
