"""Search the settings of every method of ``bsam compare digits``, on validation images alone.

Run:  .venv/bin/python benchmarks/search_digits.py --jobs 2

The protocol is that of docs/comparison.md: for each method the same number of random settings, each
trained on the same 3 splits (seeds 100 to 102, which the comparison does not use), judged by the
mean validation NLL of the method's own way to predict (bSAM and IVON: averaged over 32 draws). A
setting that diverges on one split counts as infinite. Writes every trial to
benchmarks/results/search_digits.json and each method's best to
src/bsam/experiments/recipes/digits.json.
"""

import argparse
import json
import math
import statistics
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bsam import metrics, predict
from bsam.experiments.data import digits
from bsam.experiments.evaluation import ways_of
from bsam.experiments.methods import METHODS
from bsam.experiments.models import mlp
from bsam.experiments.recipes import Recipe
from bsam.experiments.results import write_json
from bsam.experiments.training import train

ROOT = Path(__file__).parents[1]
TRIALS, SEEDS = 60, (100, 101, 102)


def settings_of(method: str) -> list[dict[str, float]]:
    """Return a method's random settings; always the same ones."""
    rng = np.random.default_rng(zlib.crc32(method.removesuffix("-2x").encode()))

    def draw(low: float, high: float) -> float:
        return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")

    ranges = METHODS[method].search.items()
    return [{name: draw(*limits) for name, limits in ranges} for _ in range(TRIALS)]


def validation_nll(method: str, settings: dict[str, float], seed: int) -> float:
    """Train once and return the validation NLL of the method's own prediction."""
    torch.set_num_threads(1)
    plan, split = Recipe("digits", method, seed, settings), digits(seed)
    torch.manual_seed(seed)
    model = mlp(64, plan.hidden, 10)
    optimizer = METHODS[method].make(model, settings, len(split.train.labels), seed)
    epochs = plan.epochs * METHODS[method].epochs
    try:
        train(model, optimizer, split.train, epochs=epochs, batch_size=plan.batch_size, seed=seed)
        samples = ways_of(method)[0] == "samples"
        posterior = optimizer.posterior(model) if samples else None
        count = plan.num_samples if samples else 0
        predictive = predict(
            model, posterior, split.validation.images, count, seed=seed, method="vmap"
        )
        nll = metrics.negative_log_likelihood(predictive.probs, split.validation.labels)
    except (RuntimeError, ValueError):
        return math.inf  # diverged
    return nll if math.isfinite(nll) else math.inf


def trial(task: tuple[str, dict[str, float]]) -> dict:
    """Train one setting on every split."""
    method, settings = task
    start = time.perf_counter()
    nll = [validation_nll(method, settings, seed) for seed in SEEDS]
    return {
        "method": method,
        "settings": settings,
        "nll": nll,
        "seconds": round(time.perf_counter() - start, 2),
    }


def main() -> None:
    """Search, print the best of each method, write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    jobs = parser.parse_args().jobs
    tasks = [(method, settings) for method in METHODS for settings in settings_of(method)]
    trials = []
    with ProcessPoolExecutor(jobs) as pool:
        for done in pool.map(trial, tasks):
            trials.append(done)
            mean = statistics.fmean(done["nll"])
            print(f"[{len(trials)}/{len(tasks)}] {done['method']} {mean:.4f}", flush=True)
    protocol = {
        "trials": TRIALS,
        "seeds": list(SEEDS),
        "judged_by": "mean validation NLL",
        "torch": torch.__version__,
        "command": "benchmarks/search_digits.py",
    }
    write_json(
        ROOT / "benchmarks" / "results" / "search_digits.json",
        {"protocol": protocol, "trials": trials},
    )
    best = {}
    for method in METHODS:
        own = [each for each in trials if each["method"] == method]
        winner = min(own, key=lambda each: statistics.fmean(each["nll"]))
        mean = statistics.fmean(winner["nll"])
        error = statistics.stdev(winner["nll"]) / len(SEEDS) ** 0.5
        best[method] = {
            "settings": winner["settings"],
            "validation_nll": round(mean, 5),
            "standard_error": round(error, 5),
            "ranges": {name: list(limits) for name, limits in METHODS[method].search.items()},
        }
        print(f"{method:24} {mean:.4f} ± {error:.4f} {json.dumps(winner['settings'])}")
    write_json(
        ROOT / "src" / "bsam" / "experiments" / "recipes" / "digits.json",
        {"protocol": protocol, "methods": best},
    )


if __name__ == "__main__":
    main()
