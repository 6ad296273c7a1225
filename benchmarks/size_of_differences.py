"""How much each deviation from the algorithm changes: the two orders, and faults of other ports.

Run:  .venv/bin/python benchmarks/size_of_differences.py

Trains a small network on scikit-learn's digits with bSAM in 4 sub-batches (rate 1, beta2 0.99, so
that s is learned; 60 epochs; seeds 0 to 4), as it should be and with one deviation each, taken from
the tests. Prints, paired by seed against the right run: the distance of the weights, relative to
how far the right run moved them; the mean relative change of s; and the change in NLL of the
validation images at the weights and over 32 posterior samples, with the standard error of the
difference. The first variant is right and has other noise: what is no larger is chance.
"""

import collections
import math
import statistics
import sys
from pathlib import Path

import torch

import bsam
from bsam import metrics
from bsam.experiments.data import digits
from bsam.experiments.models import mlp

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import test_laws_have_teeth as faults

SEEDS = range(5)
EPOCHS, BATCH, SUB_BATCHES = 60, 64, 4


class MeanFirst(bsam.BSAM):
    """The order of the authors' released code."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, order="mean_first", **kwargs)


Result = collections.namedtuple("Result", "moved s nll nll_sampled")


class OtherNoise(bsam.BSAM):
    """Right, with another seed of the noise: what chance alone changes."""

    def __init__(self, *args, seed, **kwargs):
        super().__init__(*args, seed=seed + 1000, **kwargs)


VARIANTS = {
    "right, other noise (the yardstick)": OtherNoise,
    "mean before precision (authors' code)": MeanFirst,
    "noise sd 1/(N s)": faults.NoiseWithVarianceForDeviation,
    "no noise on the first step": faults.NoNoiseOnTheFirstStep,
    "gradient times weight decay": faults.GradientTimesDecay,
    "squared increment of s": faults.SquaredIncrement,
    "s from the perturbed gradient": faults.PrecisionFromPerturbedGradient,
    "|mean g| for mean |g|": faults.MagnitudeOfTheMean,
    "mean not restored": faults.MeanNotRestored,
    "perturbed from the noisy weights": faults.PerturbedFromTheSample,
    "perturbation normalized": faults.NormalizedPerturbation,
    "bias correction": faults.BiasCorrection,
}


def run(variant, seed):
    """Return how far the weights moved, s, and the NLL at the weights and over samples."""
    split = digits(seed)
    images, labels = split.train
    torch.manual_seed(seed)
    model = mlp(64, 64, 10)
    start = flat(model.parameters())
    optimizer = variant(
        model.parameters(),
        1.0,
        num_data=len(labels),
        betas=(0.9, 0.99),
        weight_decay=1e-3,
        seed=seed,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    order = torch.Generator().manual_seed(seed)

    def closure(rows):
        def compute():
            loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            return loss

        return compute

    for _ in range(EPOCHS):
        rows = torch.randperm(len(labels), generator=order)
        for batch in rows[: len(rows) // BATCH * BATCH].split(BATCH):
            optimizer.step([closure(block) for block in batch.chunk(SUB_BATCHES)])
        schedule.step()
    held_out = split.validation
    posterior = optimizer.posterior(model)
    at_weights, over = (
        bsam.predict(model, posterior, held_out.images, num_samples=count, seed=seed).probs
        for count in (0, 32)
    )
    s = flat(optimizer.state[p]["s"] for p in model.parameters())
    nll = [metrics.negative_log_likelihood(p, held_out.labels) for p in (at_weights, over)]
    return Result(flat(model.parameters()) - start, s, *nll)


def flat(tensors):
    """One vector of all elements."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def paired(values, base):
    """Mean and standard error of the differences."""
    differences = [a - b for a, b in zip(values, base, strict=True)]
    if not all(map(math.isfinite, differences)):
        return "infinite"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.fmean(differences):+.3f} ± {error:.3f}"


def row(name, runs, base):
    """Return one line of the table."""
    pairs = list(zip(runs, base, strict=True))
    distances = [((a.moved - b.moved).norm() / b.moved.norm()).item() for a, b in pairs]
    changes = [(a.s / b.s - 1).abs().mean().item() for a, b in pairs]
    cells = [
        f"{statistics.fmean(distances):.3f}",
        f"{statistics.fmean(changes):.3f}",
        paired([a.nll for a in runs], [b.nll for b in base]),
        paired([a.nll_sampled for a in runs], [b.nll_sampled for b in base]),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print one line for each variant."""
    base = [run(bsam.BSAM, seed) for seed in SEEDS]
    nll = statistics.fmean(b.nll for b in base), statistics.fmean(b.nll_sampled for b in base)
    print(
        "| variant | weights | s | NLL, weights | NLL, samples |\n| --- | --- | --- | --- | --- |"
    )
    print(f"| as it should be | 0 | 0 | {nll[0]:.3f} | {nll[1]:.3f} |", flush=True)
    for name, variant in VARIANTS.items():
        try:
            print(row(name, [run(variant, seed) for seed in SEEDS], base), flush=True)
        except (RuntimeError, ValueError) as error:
            print(f"| {name} | fails: {str(error).split(':')[0]} | | | |", flush=True)


if __name__ == "__main__":
    main()
