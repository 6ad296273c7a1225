"""The numbers behind the plots: pure functions of runs and results."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from bsam import metrics
from bsam.experiments import comparison
from bsam.experiments.evaluation import COUNTS, ways_of
from bsam.experiments.methods import METHODS
from bsam.experiments.runs import Run

Entry = Mapping[str, Any]
"""An entry of the results: a way to predict with a method."""

TWICE = "-2x"
"""End of the names of methods that make twice the epochs."""

NUM_BINS = 15
COVERAGES = (*(k / 20 for k in range(1, 19)), 0.92, 0.94, 0.96, 0.98, 0.99, 1.0)
"""Where risk is looked at: closer together where most errors are."""


# ------------------------------------------------------------------ which entries and runs


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries with bSAM's first and the others in the order of ``METHODS``.

    Args:
        entries: of the results; methods that are not known come last.
    """
    names = [comparison.REFERENCE, *(name for name in METHODS if name != comparison.REFERENCE)]
    place = {name: number for number, name in enumerate(names)}
    return sorted(entries, key=lambda entry: place.get(entry["method"], len(place)))


def own(entries: Sequence[Entry]) -> list[Entry]:
    """Return those entries that predict in their method's own way.

    Args:
        entries: of the results.
    """
    return [entry for entry in entries if entry["way"] == ways_of(entry["method"])[0]]


def main(entries: Sequence[Entry]) -> list[Entry]:
    """Return own ways without methods that are another's with twice the epochs.

    Args:
        entries: of the results.
    """
    there = {entry["method"] for entry in entries}
    return [
        entry
        for entry in own(entries)
        if not (entry["method"].endswith(TWICE) and entry["method"].removesuffix(TWICE) in there)
    ]


def finished(runs: Sequence[Run], method: str) -> list[Run]:
    """Return a method's runs that did not fail, by seed.

    Args:
        runs: of all methods.
        method: its name.
    """
    of_method = [run for run in runs if run.recipe.method == method and run.arrays]
    return sorted(of_method, key=lambda run: run.recipe.seed)


def has(runs: Sequence[Run], way: str, name: str) -> bool:
    """Return whether there are runs, and all hold predictions of a test set.

    Args:
        runs: of one method.
        way: to predict.
        name: of the test set.
    """
    return bool(runs) and all(f"{way}/{name}/log_probs" in run.arrays for run in runs)


def pooled(runs: Sequence[Run], way: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and labels of a test set, all runs together.

    Args:
        runs: of one method, at least one.
        way: to predict.
        name: of the test set.

    Returns:
        Arrays of shapes (n, classes) and (n,).
    """
    probs = [comparison.probabilities(run, way, name) for run in runs]
    return np.concatenate(probs), np.concatenate([run.arrays["labels"] for run in runs])


# ------------------------------------------------------------------ numbers


class Reliability(NamedTuple):
    """Predictions sorted by confidence into bins of equal width; NaN where a bin is empty."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float
    """The expected calibration error."""


def reliability(probs: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
    """Return mean confidence and accuracy in each bin (lo, hi], the bins of the ECE.

    Args:
        probs: shape (n, classes).
        labels: shape (n,).
        num_bins: number of bins.
    """
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    bins = np.digitize(confidence, np.arange(1, num_bins) / num_bins, right=True)
    count = np.bincount(bins, minlength=num_bins)
    filled = np.where(count > 0, count, np.nan)
    return Reliability(
        count,
        np.bincount(bins, confidence, num_bins) / filled,
        np.bincount(bins, correct, num_bins) / filled,
        metrics.expected_calibration_error(probs, labels, num_bins),
    )


def risks(probs: np.ndarray, labels: np.ndarray) -> list[float]:
    """Return the error rate among the most confident predictions, at each of ``COVERAGES``.

    Args:
        probs: shape (n, classes).
        labels: shape (n,).
    """
    risk = metrics.risk_coverage(probs, labels)[1]
    return [risk[max(round(each * len(labels)), 1) - 1].item() for each in COVERAGES]


class Entropies(NamedTuple):
    """Entropy of predictions in nats, shape (n,) each; total is aleatoric plus epistemic."""

    total: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray


def entropies(runs: Sequence[Run], way: str, name: str) -> Entropies:
    """Return the entropy of a test set's predictions and its two parts, all runs together.

    Args:
        runs: of one method, at least one.
        way: to predict.
        name: of the test set.
    """
    probs, _ = pooled(runs, way, name)
    total = torch.special.entr(torch.from_numpy(probs)).sum(1).numpy()
    expected = [run.arrays[f"{way}/{name}/expected_entropy"] for run in runs]
    aleatoric = np.concatenate(expected).astype(np.float64)
    # The file's single precision can make a difference that is zero a little less than that.
    return Entropies(total, aleatoric, np.maximum(total - aleatoric, 0.0))


def shares(values: np.ndarray, edges: np.ndarray) -> list[float]:
    """Return the share of values in each bin [lo, hi), the last one closed.

    Args:
        values: shape (n,); those outside count in the bin at that end.
        edges: of the bins, rising.
    """
    inside = np.clip(values, edges[0], edges[-1])
    return (np.histogram(inside, edges)[0] / len(values)).tolist()


class Draws(NamedTuple):
    """Measures of predictions averaged over so many draws: mean and standard error."""

    count: int
    nll: Mapping[str, float | None]
    ece: Mapping[str, float | None]


def by_draws(runs: Sequence[Run], way: str, name: str) -> list[Draws]:
    """Return NLL (over seeds) and ECE (pooled, jackknife) for each number of draws kept.

    Args:
        runs: of one method.
        way: to predict.
        name: of the test set.
    """
    if not has(runs, way, name):
        return []
    every = {run.recipe.num_samples for run in runs}
    where = {few: f"{name}/{few}" for few in COUNTS if has(runs, way, f"{name}/{few}")}
    where |= {all_of_them: name for all_of_them in every if len(every) == 1}
    return [_draws(runs, way, count, place) for count, place in where.items()]


def _draws(runs: Sequence[Run], way: str, count: int, where: str) -> Draws:
    nll = [
        metrics.negative_log_likelihood(
            comparison.probabilities(run, way, where), run.arrays["labels"]
        )
        for run in runs
    ]
    # pooled_ece looks at "clean": give it runs whose clean predictions are these.
    as_clean = [
        run._replace(
            arrays={
                "labels": run.arrays["labels"],
                f"{way}/clean/log_probs": run.arrays[f"{way}/{where}/log_probs"],
            }
        )
        for run in runs
    ]
    return Draws(count, comparison.averaged(nll), comparison.pooled_ece(as_clean, way))


def restored(content: Any) -> Any:
    """Return content of a results file with its numbers that JSON lacks: "inf", "-inf", "nan".

    Args:
        content: of the file, or not yet written there.
    """
    if isinstance(content, dict):
        return {key: restored(value) for key, value in content.items()}
    if isinstance(content, list):
        return [restored(value) for value in content]
    words = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
    return words.get(content, content) if isinstance(content, str) else content
