"""The first run on real data: SGD, Adam, SAM and bSAM on scikit-learn's handwritten digits."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table

import bsam
from bsam import BSAM, Predictive, metrics, predict
from bsam.experiments.data import Split, digits, turned
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

    def row(prediction: str, clean: Predictive, shifted: Predictive) -> dict[str, Any]:
        return {
            "method": name,
            "prediction": prediction,
            "seed": seed,
            "accuracy": metrics.accuracy(clean.probs, labels),
            "nll": metrics.negative_log_likelihood(clean.probs, labels),
            "ece": metrics.expected_calibration_error(clean.probs, labels),
            "turned_confidence": shifted.probs.amax(1).mean().item(),
            "turned_accuracy": metrics.accuracy(shifted.probs, labels),
            "turned_nll": metrics.negative_log_likelihood(shifted.probs, labels),
            "training_seconds": seconds,
        }

    at_weights = [predict(model, None, each, num_samples=0) for each in (images, turned_images)]
    rows = [row("weights", *at_weights)]
    if isinstance(optimizer, BSAM):
        posterior = optimizer.posterior(model)
        clean, shifted = (
            predict(model, posterior, each, num_samples=plan.num_samples, seed=seed)
            for each in (images, turned_images)
        )
        account = optimizer.diagnostics().total
        rows.append(
            row(f"{plan.num_samples} samples", clean, shifted)
            | {f"s_{key}": value for key, value in account._asdict().items() if key != "name"}
        )
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average rows over seeds: for every measure its mean and standard error.

    The standard error of one run, or of values that are not all finite, is None.
    """
    kinds = dict.fromkeys((row["method"], row["prediction"]) for row in rows)
    result = []
    for method, prediction in kinds:
        same = [r for r in rows if (r["method"], r["prediction"]) == (method, prediction)]
        measures = [key for key in same[0] if key not in ("method", "prediction", "seed")]
        entry: dict[str, Any] = {"method": method, "prediction": prediction, "runs": len(same)}
        for measure in measures:
            values = [r[measure] for r in same]
            several = len(values) > 1 and all(map(math.isfinite, values))
            error = statistics.stdev(values) / len(values) ** 0.5 if several else None
            entry[measure] = {"mean": statistics.fmean(values), "standard_error": error}
        result.append(entry)
    return result


def record(rows: Sequence[dict[str, Any]], plan: Plan) -> dict[str, Any]:
    """Return all there is to know of a demo, for a file: versions, plan, runs, summary."""
    return {
        "version": bsam.__version__,
        "torch": torch.__version__,
        "plan": {**plan._asdict(), "seeds": list(plan.seeds)},
        "learning_rates": {name: METHODS[name].lr for name in plan.methods},
        "runs": list(rows),
        "summary": summary(rows),
    }


def show(rows: Sequence[dict[str, Any]], plan: Plan, console: Console) -> None:
    """Print the table of a demo and what was, and was not, tuned."""
    table = Table(
        title="scikit-learn digits, test images: mean ± standard error over seeds",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", no_wrap=True)
    for heading in ("accuracy %", "NLL", "ECE", "sure %", "right %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in summary(rows):
        table.add_row(
            _name(entry),
            _cell(entry["accuracy"], 100, 1),
            _cell(entry["nll"], 1, 3),
            _cell(entry["ece"], 1, 3),
            _cell(entry["turned_confidence"], 100, 1),
            _cell(entry["turned_accuracy"], 100, 1),
        )
    # Wide enough wherever it is printed: a wrapped line can be read, a number cut short cannot.
    width = max(console.width, 80)
    Console(file=console.file, width=width, force_terminal=console.is_terminal).print(table)
    console.print(_notes(rows, plan), highlight=False)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _name(entry: dict[str, Any]) -> str:
    at_weights = entry["prediction"] == "weights"
    return entry["method"] if at_weights else f"{entry['method']} {entry['prediction']}"


def _cell(value: dict[str, Any], factor: float, digits_after_point: int) -> str:
    mean = f"{factor * value['mean']:.{digits_after_point}f}"
    error = value["standard_error"]
    return mean if error is None else f"{mean}±{factor * error:.{digits_after_point}f}"


def _notes(rows: Sequence[dict[str, Any]], plan: Plan) -> str:
    runs = len({(row["method"], row["seed"]) for row in rows})
    planned = len(plan.seeds) * len(plan.methods)
    seeds = len({row["seed"] for row in rows})
    lines = [
        f"sure, right: mean confidence and accuracy on the test images turned by {DEGREES:g}°; an "
        "honest method is no surer than it is right.",
        f"{_count(seeds, 'seed')}, {_count(plan.epochs, 'epoch')}, batch {plan.batch_size}, one "
        f"hidden layer of {plan.hidden} units; 718 training and 719 test images.",
        "Tuned: the learning rate of each method, over the same 9 values, on validation images of "
        "3 other splits (benchmarks/demo_learning_rates.py). Not tuned: everything else.",
        "SAM and bSAM take two gradients a step, so at equal epochs they cost twice as many. "
        "Differences within two standard errors are ties.",
    ]
    lines += [_account_of_s(entry) for entry in summary(rows) if "s_at_floor" in entry]
    if runs < planned:
        lines.append(f"Only {runs} of {planned} runs were finished.")
    if seeds < 3:
        lines.append("Fewer than 3 seeds are no evidence.")
    return "\n".join(lines)


def _account_of_s(entry: dict[str, Any]) -> str:
    mean = {key: value["mean"] for key, value in entry.items() if key.startswith("s_")}
    return (
        f"{entry['method']}'s posterior: {mean['s_at_floor']:.0%} of s at its floor, "
        f"{mean['s_at_start']:.0%} still at s_init; standard deviations "
        f"{mean['s_deviation']:.3f} (prior {mean['s_prior_deviation']:.2f}), "
        f"{mean['s_relative_deviation']:.2f} of the weights' size."
    )
