"""The numbers as a figure: three pictures beside each other."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsam.experiments.illustration.ranges import Ranges
from bsam.experiments.illustration.words import merged_atoms, moments
from bsam.files import written_whole
from bsam.relaxation.named import NamedLoss

# After Okabe and Ito: told apart by most eyes, and in print by their dashes and places.
LOSS, PARABOLA, GAUSSIAN, PENALTY = "#1c1e22", "#d1480a", "#0072b2", "#a0469b"
CURVES = ("#d1480a", "#0072b2", "#008561")
POINTS = 801


def write_figure(numbers: Mapping[str, Any], loss: NamedLoss, shown: Ranges, path: Path) -> None:
    """Draw the figure into a PNG file; its folder must exist.

    Args:
        numbers: of ``numbers.numbers`` with ``curves``.
        loss: that they are about.
        shown: ends of the axes.
        path: where to.
    """
    figure = Figure(figsize=(13.5, 4.6), dpi=130, layout="constrained")
    bayes, sam, against = figure.subplots(1, 3)
    theta = np.linspace(*shown.view, POINTS)
    values = _values(loss, theta)
    _draw_bayes(bayes, numbers, loss, theta, values)
    _draw_sam(sam, numbers, loss, theta, values)
    _draw_curves(against, numbers, loss)
    title = f"l(θ) = {_short(numbers['arguments']['expression'])},  {moments(numbers)}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")


def _short(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:87]}..."


def _values(loss: NamedLoss, theta: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return loss(torch.from_numpy(theta)[:, None]).numpy()


def _heights(theta: np.ndarray, values: np.ndarray, below: float) -> tuple[float, float]:
    """Return ends of an axis that show the middle of the loss, with room below and above."""
    middle, reach = (theta[0] + theta[-1]) / 2, 0.33 * (theta[-1] - theta[0])
    seen = values[np.abs(theta - middle) <= reach]
    extent = float(np.ptp(seen)) or max(1.0, abs(float(seen[0])))
    return float(seen.min()) - below * extent, float(seen.max()) + 0.35 * extent


def _begin(axes: Axes, title: str, theta: np.ndarray, heights: tuple[float, float]) -> None:
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.set_xlim(theta[0], theta[-1])
    axes.set_ylim(*heights)
    axes.set_xlabel("θ")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _finish(axes: Axes, note: str = "") -> None:
    if note:
        axes.text(0.5, 0.97, note, transform=axes.transAxes, ha="center", va="top", fontsize=9)
    axes.legend(
        fontsize=8.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2
    )


def _draw_bayes(
    axes: Axes, numbers: Mapping[str, Any], loss: NamedLoss, theta: np.ndarray, values: np.ndarray
) -> None:
    """Draw the loss under its parabola, and below them the two distributions."""
    low, high = _heights(theta, values, 0.55)
    _begin(axes, "Bayes: two distributions of equal moments", theta, (low, high))
    arguments, parabola = numbers["arguments"], numbers["paraboloid"]
    if parabola is not None:
        above = np.polynomial.Polynomial(
            [parabola["constant"], parabola["linear"], parabola["quadratic"]]
        )
        axes.plot(theta, above(theta), color=PARABOLA, label="touching parabola")
    axes.plot(theta, values, color=LOSS, label="loss l")
    band = 0.24 * (high - low)
    axes.set_yticks([tick for tick in axes.get_yticks() if low + 1.2 * band <= tick <= high])
    bell = 0.62 * band * np.exp(-(((theta - arguments["mean"]) / arguments["sd"]) ** 2) / 2)
    axes.fill_between(
        theta, low, low + bell, color=GAUSSIAN, alpha=0.3, lw=1.2, label="Gaussian (not to scale)"
    )
    pairs = merged_atoms(numbers)
    if pairs:
        atoms, weights = np.array(pairs).T
        tops, touch = low + band * weights, _values(loss, atoms)
        axes.vlines(atoms, tops, touch, color=PARABOLA, lw=0.8, ls=":")
        axes.vlines(atoms, low, tops, color=PARABOLA, lw=3.5, label="worst distribution")
        axes.plot(atoms, touch, "o", mfc="white", mec=PARABOLA, mew=1.6)
    _finish(axes, _note_on_the_worst(numbers, theta))


def _note_on_the_worst(numbers: Mapping[str, Any], theta: np.ndarray) -> str:
    if math.isinf(numbers["relaxed_loss"]["value"]):
        return "no parabola lies above this loss"
    if not numbers["worst_case"]["attained"]:
        return "← mass escapes to infinity →"
    outside = [atom for atom in numbers["worst_case"]["atoms"] if abs(atom) > abs(theta).max()]
    return f"{len(outside)} more far outside the picture" if outside else ""


def _draw_sam(
    axes: Axes, numbers: Mapping[str, Any], loss: NamedLoss, theta: np.ndarray, values: np.ndarray
) -> None:
    """Draw SAM's parabola around the mean where it touches the loss from above."""
    _begin(axes, "SAM: the largest loss nearby", theta, _heights(theta, values, 0.08))
    mean, largest = numbers["arguments"]["mean"], numbers["max_loss"]
    finite = math.isfinite(largest["value"])
    if finite:
        penalty = largest["value"] + (theta - mean) ** 2 / (2 * numbers["variance"])
        axes.plot(theta, penalty, color=PENALTY, label="SAM's parabola, width of the Gaussian")
    axes.plot(theta, values, color=LOSS, label="loss l")
    axes.axvline(mean, color="#8a8f98", lw=1, ls="--", label="mean m")
    points = np.array(largest["maximizers"][:4])
    if len(points):
        axes.plot(
            points, _values(loss, points), "o", mfc="white", mec=PENALTY, mew=1.6, ls="",
            label="m + ε, the worst point",
        )  # fmt: skip
    _finish(axes, "" if finite else "no height of SAM's parabola lies above the loss")


def _draw_curves(axes: Axes, numbers: Mapping[str, Any], loss: NamedLoss) -> None:
    """Draw expected and relaxed loss against the mean."""
    curves = numbers["curves"]
    mean = np.array(curves[0]["mean"])
    theta = np.linspace(mean[0], mean[-1], POINTS)
    values = _values(loss, theta)
    seen = np.array([c[key] for c in curves for key in ("expected_loss", "relaxed_loss")])
    seen = np.concatenate([seen[np.isfinite(seen)], values])
    low, high = np.quantile(seen, [0.01, 0.97])
    margin = 0.05 * (high - low) or 1.0
    _begin(
        axes, "Expected loss (dashed), relaxed loss (solid)", theta, (low - margin, high + margin)
    )
    axes.set_xlabel("mean m")
    axes.plot(theta, values, color=LOSS, lw=1, label="loss l")
    for curve, color in zip(curves, CURVES, strict=True):
        axes.plot(mean, curve["expected_loss"], color=color, ls="--", lw=1.3)
        label = f"standard deviation {curve['sd']:g}"
        axes.plot(mean, curve["relaxed_loss"], color=color, lw=1.6, label=label)
    axes.axvline(numbers["arguments"]["mean"], color="#8a8f98", lw=1, ls="--")
    infinite = math.isinf(numbers["relaxed_loss"]["value"])
    _finish(axes, "the relaxed loss -f** is infinite" if infinite else "")
