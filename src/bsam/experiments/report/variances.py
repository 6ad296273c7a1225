"""What bSAM's runs have learned of s, the precision of each weight divided by N."""

import inspect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import bsam
from bsam.experiments.comparison import REFERENCE
from bsam.experiments.methods import METHODS
from bsam.experiments.report.details import finished
from bsam.experiments.runs import Run


class Layer(NamedTuple):
    """A layer's s, weights and biases of all seeds together."""

    name: str
    s: np.ndarray


class Learned(NamedTuple):
    """s of all layers, the least it can be, and where it began."""

    layers: list[Layer]
    floor: float
    start: float
    decayed: float
    """Where s would be had all gradients been zero."""
    seeds: list[int]


def learned(runs: Sequence[Run]) -> Learned | None:
    """Return s from the posteriors of bSAM's runs; None if there is none.

    Args:
        runs: of all methods.
    """
    pieces: dict[str, list[np.ndarray]] = {}
    kept = []
    for run in finished(runs, REFERENCE):
        path = run.folder / "posterior.safetensors"
        posterior = bsam.GaussianPosterior.load(path) if path.exists() else None
        if posterior is None or not isinstance(posterior.num_data, float | int):
            continue
        kept.append(run)
        # At the temperature N the precision N s is s.
        for name, s in posterior.scaled(posterior.num_data).precision.items():
            layer = name.rpartition(".")[0] or name
            pieces.setdefault(layer, []).append(s.double().numpy().ravel())
    if not kept:
        return None
    settings = kept[0].recipe.settings
    steps = kept[0].evaluation["gradient_passes"] / METHODS[REFERENCE].gradients_per_step
    floor = settings["damping"] + settings["weight_decay"]
    start = settings.get("s_init", inspect.signature(bsam.BSAM).parameters["s_init"].default)
    return Learned(
        [Layer(name, np.concatenate(each)) for name, each in pieces.items()],
        floor,
        start,
        floor + (start - floor) * (1.0 - settings["1-beta2"]) ** steps,
        [run.recipe.seed for run in kept],
    )


def share_near(s: np.ndarray, value: float, tolerance: float = 0.01) -> float:
    """Return the share of s within a hundredth of a value.

    Args:
        s: shape (n,).
        value: positive.
        tolerance: how far it may be, relative to the value.
    """
    return float(np.mean(np.abs(s - value) <= tolerance * value))
