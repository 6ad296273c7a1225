"""The first run on real data: SGD, Adam, SAM and bSAM on scikit-learn's handwritten digits."""

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bsam import BSAM, metrics
from bsam.experiments.data import Split, digits, turned
from bsam.experiments.evaluation import probabilities, sampled_probabilities
from bsam.experiments.methods import METHODS
from bsam.experiments.models import mlp
from bsam.experiments.training import train

DEGREES = 45.0


class Plan(NamedTuple):
    """What a demo trains."""

    methods: Sequence[str] = tuple(METHODS)
    seeds: Sequence[int] = range(5)
    epochs: int = 60
    batch_size: int = 64
    hidden: int = 64
    num_samples: int = 32
    device: str = "cpu"


def runs(plan: Plan) -> Iterator[list[dict[str, Any]]]:
    """Train each method with each seed and yield each run's rows of results.

    A run gives one row for the prediction at the weights; bSAM's one more for the prediction
    averaged over samples of its posterior. A seed is the same split, initialisation and order of
    examples for all methods.
    """
    for seed in plan.seeds:
        split = Split(*(part.to(torch.device(plan.device)) for part in digits(seed)))
        for name in plan.methods:
            yield _run(plan, name, seed, split)


def _run(plan: Plan, name: str, seed: int, split: Split) -> list[dict[str, Any]]:
    torch.manual_seed(seed)
    model = mlp(split.train.images[0].numel(), plan.hidden, 10).to(plan.device)
    method = METHODS[name]
    optimizer = method.make(model, method.lr, len(split.train.labels), seed)
    start = time.perf_counter()
    train(
        model,
        optimizer,
        split.train,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        seed=seed,
    )
    seconds = time.perf_counter() - start
    images, labels = split.test
    turned_images = turned(split.test, DEGREES).images

    def row(prediction: str, clean: Tensor, shifted: Tensor) -> dict[str, Any]:
        return {
            "method": name,
            "prediction": prediction,
            "seed": seed,
            "accuracy": metrics.accuracy(clean, labels),
            "nll": metrics.negative_log_likelihood(clean, labels),
            "ece": metrics.expected_calibration_error(clean, labels),
            "turned_confidence": shifted.amax(1).mean().item(),
            "turned_accuracy": metrics.accuracy(shifted, labels),
            "turned_nll": metrics.negative_log_likelihood(shifted, labels),
            "training_seconds": seconds,
        }

    rows = [row("weights", probabilities(model, images), probabilities(model, turned_images))]
    if isinstance(optimizer, BSAM):
        clean, shifted = (
            sampled_probabilities(model, optimizer, each, num_samples=plan.num_samples, seed=seed)
            for each in (images, turned_images)
        )
        rows.append(row(f"{plan.num_samples} samples", clean, shifted))
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average rows over seeds: for every measure its mean and standard error.

    The standard error of one run is None: one run is no evidence.
    """
    kinds = dict.fromkeys((row["method"], row["prediction"]) for row in rows)
    measures = (
        [key for key in rows[0] if key not in ("method", "prediction", "seed")] if rows else []
    )
    result = []
    for method, prediction in kinds:
        same = [r for r in rows if (r["method"], r["prediction"]) == (method, prediction)]
        entry: dict[str, Any] = {"method": method, "prediction": prediction, "runs": len(same)}
        for measure in measures:
            values = [r[measure] for r in same]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
            entry[measure] = {"mean": statistics.fmean(values), "standard_error": error}
        result.append(entry)
    return result


def show(rows: Sequence[dict[str, Any]], plan: Plan, console: Console) -> None:
    """Print the table of a demo and what was, and was not, tuned."""
    table = Table(
        title="scikit-learn digits, test images: mean ± standard error over seeds",
        caption=f"sure and right: mean confidence and accuracy on the test images turned by "
        f"{DEGREES:g}°;\nan honest method is no surer than it is right",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for heading in ("method", "prediction"):
        table.add_column(heading, no_wrap=True)
    for heading in ("accuracy %", "NLL", "ECE", "sure %", "right %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in summary(rows):
        table.add_row(
            entry["method"],
            entry["prediction"],
            _cell(entry["accuracy"], 100, 1),
            _cell(entry["nll"], 1, 3),
            _cell(entry["ece"], 1, 3),
            _cell(entry["turned_confidence"], 100, 1),
            _cell(entry["turned_accuracy"], 100, 1),
        )
    console.print(table)
    console.print(_notes(plan), soft_wrap=True, highlight=False)


def _cell(value: dict[str, Any], factor: float, digits_after_point: int) -> str:
    mean = f"{factor * value['mean']:.{digits_after_point}f}"
    error = value["standard_error"]
    return mean if error is None else f"{mean} ± {factor * error:.{digits_after_point}f}"


def _notes(plan: Plan) -> str:
    number = len(plan.seeds)
    lines = [
        f"{number} seeds ({plan.seeds[0]}..{plan.seeds[-1]}), {plan.epochs} epochs, batch "
        f"{plan.batch_size}, one hidden layer of {plan.hidden}; 718 training and 719 test images.",
        "Tuned: the learning rate of each method, over the same 9 values, on validation images of "
        "3 other splits (benchmarks/demo_learning_rates.py). Not tuned: everything else.",
        "SAM and bSAM take two gradients a step, so at equal epochs they cost twice as many. "
        "Differences within two standard errors are ties.",
    ]
    if number < 3:
        lines.append(f"{number} seed{'s' * (number > 1)}: no evidence; use at least 3.")
    return "\n".join(lines)
