"""Numbers from finished runs: measures, averages over seeds, paired differences to bSAM."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

import bsam
from bsam import metrics
from bsam.experiments.evaluation import ways_of
from bsam.experiments.methods import METHODS
from bsam.experiments.runs import UNKNOWN, Run
from bsam.experiments.shifts import SHIFTED

PRIMARY = tuple(f"NLL {name}" for name in SHIFTED)
"""The measures that methods are judged by; smaller is better."""

REFERENCE = "bSAM"
"""What the others are compared with."""

CONFIDENCE = 0.95


def label(method: str, way: str) -> str:
    """Return the words for a way to predict with a method."""
    return method if way == ways_of(method)[0] else f"{method}, {way}"


def rows_of(run: Run) -> list[dict[str, Any]]:
    """Return a run's measures, a row for each way to predict.

    Args:
        run: a finished run; one that failed has infinite measures.
    """
    rows = []
    for way in ways_of(run.recipe.method):
        row = {
            "label": label(run.recipe.method, way),
            "method": run.recipe.method,
            "way": way,
            "seed": run.recipe.seed,
        }
        failed = "failed" in run.evaluation
        rows.append(row | (_failed() if failed else _measures(run, way)))
    return rows


def _failed() -> dict[str, float]:
    return dict.fromkeys(PRIMARY, math.inf)


def _measures(run: Run, way: str) -> dict[str, float]:
    labels = run.arrays["labels"]
    probs = {name: probabilities(run, way, name) for name in (*SHIFTED, UNKNOWN)}
    clean = probs["clean"]
    measures = {
        f"NLL {name}": metrics.negative_log_likelihood(probs[name], labels) for name in SHIFTED
    }
    measures |= {f"accuracy {name}": metrics.accuracy(probs[name], labels) for name in SHIFTED}
    entropies = [torch.special.entr(torch.from_numpy(probs[n])).sum(1) for n in ("clean", UNKNOWN)]
    return measures | {
        "Brier": metrics.brier_score(clean, labels),
        "misclassification AUROC": _or_nan(metrics.misclassification_auroc, clean, labels),
        "AURC": metrics.aurc(clean, labels),
        "OOD AUROC": metrics.ood_auroc(*entropies),
        "gradient passes": run.evaluation["gradient_passes"],
        "training seconds": run.evaluation["training_seconds"],
    }


def probabilities(run: Run, way: str, name: str) -> np.ndarray:
    """Return predicted probabilities of a test set, shape (n, classes), float64."""
    probs = np.exp(run.arrays[f"{way}/{name}/log_probs"].astype(np.float64))
    return probs / probs.sum(1, keepdims=True)  # the file holds them in single precision


def _or_nan(metric: Any, *arguments: Any) -> float:
    try:
        return metric(*arguments)
    except ValueError:  # no mistake at all: not defined
        return math.nan


def summary(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average over seeds and compare with bSAM.

    Args:
        runs: finished runs.
        rows: their measures, from :func:`rows_of`.

    Returns:
        An entry for each way to predict: ``label``, ``method``, ``way``, ``runs``; ``measures``
        with mean and standard error; ``differences`` to bSAM in the primary measures, paired by
        seed, with mean, interval (low, high) and ``verdict``: "tie" where it covers 0, "worse" if
        the entry's is larger, else "better".
    """
    reference = {row["seed"]: row for row in rows if row["label"] == REFERENCE}
    entries = []
    for name in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == name]
        measures = {
            key: averaged([row[key] for row in own if key in row])
            for key in dict.fromkeys(key for row in own for key in row)
            if key not in ("label", "method", "way", "seed")
        }
        pooled = [run for run in runs if run.recipe.method == own[0]["method"] and run.arrays]
        measures["ECE"] = pooled_ece(pooled, own[0]["way"])
        differences = {}
        if name != REFERENCE:
            pairs = [(row, reference[row["seed"]]) for row in own if row["seed"] in reference]
            differences = {
                key: difference([(ours[key], theirs[key]) for ours, theirs in pairs])
                for key in PRIMARY
                if pairs
            }
        kind = {key: own[0][key] for key in ("label", "method", "way")}
        entries.append(kind | {"runs": len(own), "measures": measures, "differences": differences})
    return entries


def averaged(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard error; the latter None where it has no sense."""
    values = [value for value in values if value is not None and not math.isnan(value)]
    if not values:
        return {"mean": math.nan, "standard_error": None}
    several = len(values) > 1 and all(map(math.isfinite, values))
    error = statistics.stdev(values) / len(values) ** 0.5 if several else None
    return {"mean": statistics.fmean(values), "standard_error": error}


def difference(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the mean of paired differences with Student's interval, and what to make of it.

    Args:
        pairs: the other's measure and bSAM's, for each seed.

    Example:
        >>> from bsam.experiments.comparison import difference
        >>> {key: round(value, 3) if key != "verdict" else value
        ...  for key, value in difference([(0.2, 0.1), (0.4, 0.1), (0.3, 0.1)]).items()}
        {'mean': 0.2, 'low': -0.048, 'high': 0.448, 'verdict': 'tie'}
    """
    nothing = {"mean": math.nan, "low": None, "high": None, "verdict": "no evidence"}
    if not all(math.isfinite(theirs) for _, theirs in pairs):
        return nothing  # bSAM failed
    if not all(math.isfinite(ours) for ours, _ in pairs):
        return nothing | {"mean": math.inf, "verdict": "worse"}
    values = [ours - theirs for ours, theirs in pairs]
    mean = statistics.fmean(values)
    if len(values) < 3:
        return {"mean": mean, "low": None, "high": None, "verdict": "no evidence"}
    error = statistics.stdev(values) / len(values) ** 0.5
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * error
    low, high = mean - half, mean + half
    verdict = "tie" if low <= 0.0 <= high else "worse" if mean > 0.0 else "better"
    return {"mean": mean, "low": low, "high": high, "verdict": verdict}


def pooled_ece(runs: Sequence[Run], way: str) -> dict[str, float | None]:
    """Return the calibration error of all seeds' clean predictions together, with its jackknife.

    Args:
        runs: of one method.
        way: to predict.
    """
    if not runs:
        return {"mean": math.nan, "standard_error": None}
    probs = [probabilities(run, way, "clean") for run in runs]
    labels = [run.arrays["labels"] for run in runs]

    def without(left_out: int | None) -> float:
        kept = [i for i in range(len(runs)) if i != left_out]
        return metrics.expected_calibration_error(
            np.concatenate([probs[i] for i in kept]), np.concatenate([labels[i] for i in kept])
        )

    if len(runs) < 2:
        return {"mean": without(None), "standard_error": None}
    each = [without(i) for i in range(len(runs))]
    count, centre = len(each), statistics.fmean(each)
    error = math.sqrt((count - 1) / count * math.fsum((x - centre) ** 2 for x in each))
    return {"mean": without(None), "standard_error": error}


def results(runs: Sequence[Run], command: str, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return all there is to know of a comparison, for a file.

    Args:
        runs: finished runs.
        command: that made them.
        environment: versions and machine.
    """
    _require_one_comparison(runs)
    runs = sorted(runs, key=lambda run: (list(METHODS).index(run.recipe.method), run.recipe.seed))
    rows = [row for run in runs for row in rows_of(run)]
    return {
        "version": bsam.__version__,
        "command": command,
        "environment": dict(environment),
        "data": runs[0].recipe.data,
        "epochs": min(run.recipe.epochs for run in runs),
        "seeds": sorted({run.recipe.seed for run in runs}),
        "settings": {run.recipe.method: run.recipe.settings for run in runs},
        "failed": [str(run.folder) for run in runs if "failed" in run.evaluation],
        "diagnostics": mean_diagnostics(runs),
        "entries": summary(runs, rows),
        "rows": rows,
    }


def _require_one_comparison(runs: Sequence[Run]) -> None:
    """Refuse runs that are not of one comparison: one twice, or made with other settings."""
    seen: dict[tuple[str, int], Run] = {}
    first: dict[str, Run] = {}
    for run in runs:
        recipe = run.recipe
        twin = seen.setdefault((recipe.method, recipe.seed), run)
        if twin is not run:
            raise ValueError(
                f"{run.folder}: the same method and seed as {twin.folder}: must be there once; "
                "report on one of the two."
            )
        other = first.setdefault(recipe.method, run)
        if other.recipe._replace(seed=recipe.seed) != recipe:
            raise ValueError(
                f"{run.folder}: other settings than {other.folder}: must be alike but for the "
                "seed; report on them one after the other."
            )


def mean_diagnostics(runs: Sequence[Run]) -> dict[str, float]:
    """Return what became of bSAM's s, averaged over seeds; empty if there is no such run.

    Args:
        runs: finished runs.
    """
    every = [
        run.evaluation["diagnostics"]
        for run in runs
        if run.recipe.method == REFERENCE and "diagnostics" in run.evaluation
    ]
    names = [name for name in every[0] if name not in ("name", "size")] if every else []
    return {name: statistics.fmean(float(each[name]) for each in every) for name in names}
