"""Choose the learning rates of ``bsam demo``: the same grid for every method, validation only.

Run:  .venv/bin/python benchmarks/demo_learning_rates.py

Trains every method of the demo with 9 learning rates on 3 splits that the demo does not use (seeds
100 to 102) and prints the mean validation NLL at the weights. Nothing else is tuned.
"""

import math
import statistics

import torch

from bsam import metrics, predict
from bsam.experiments.data import digits
from bsam.experiments.demo import Plan
from bsam.experiments.methods import METHODS
from bsam.experiments.models import mlp
from bsam.experiments.training import train

GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SEEDS = (100, 101, 102)


def validation_nll(name: str, lr: float, seed: int) -> float:
    """Train once and return the NLL of the validation images; infinite if training failed."""
    plan, split = Plan(), digits(seed)
    torch.manual_seed(seed)
    model = mlp(64, plan.hidden, 10)
    optimizer = METHODS[name].make(model, lr, len(split.train.labels), seed)
    settings = {"epochs": plan.epochs, "batch_size": plan.batch_size, "seed": seed}
    try:
        train(model, optimizer, split.train, **settings)
        probs = predict(model, None, split.validation.images, num_samples=0).probs
        return metrics.negative_log_likelihood(probs, split.validation.labels)
    except (RuntimeError, ValueError):
        return math.inf  # diverged


def main() -> None:
    """Print one line for each method and learning rate, the best marked."""
    for name in METHODS:
        nll = {lr: [validation_nll(name, lr, seed) for seed in SEEDS] for lr in GRID}
        mean = {lr: statistics.fmean(values) for lr, values in nll.items()}
        for lr in GRID:
            error = statistics.stdev(nll[lr]) / len(SEEDS) ** 0.5 if mean[lr] < math.inf else 0.0
            mark = "  <- best" if mean[lr] == min(mean.values()) else ""
            print(f"{name:5} lr {lr:<6g} NLL {mean[lr]:.4f} ± {error:.4f}{mark}", flush=True)


if __name__ == "__main__":
    main()
