"""Does it matter which passes move BatchNorm's running statistics, and does a refresh help?

Run:  BSAM_DATA=PATH .venv/bin/python benchmarks/normalization_policy.py

PATH is a folder with Fashion-MNIST in ``fashion_mnist`` (or give ``--data`` that folder itself):
4,000 training, 2,000 validation and 5,000 test images, a choice for each seed. Without it the data
are scikit-learn's digits. A ResNet of 20,000 parameters is trained with bSAM and SAM, batches of
50, a rate that falls along a cosine; again "far": the posterior for a tenth of the data, and ten
times rho, so that both passes are far from the mean. First the rate of each of the four is chosen
by the validation NLL at the weights, with all as it is by default. Then for each seed, on test
images, at the weights and averaged over 16 samples of the posterior: NLL, accuracy, calibration
error with the running statistics of every policy of ``update_statistics``; with statistics
refreshed at the weights; and refreshed for each sample. Policies other than "both" and refreshes
are shown as paired differences to "both", with standard errors over seeds. The last column compares
variances: the mean log of running variances, relative to those refreshed at the weights. Takes
about 25 minutes on one core.

In training, layers normalize by their batch, so a policy changes statistics alone, not weights. One
run therefore gives the statistics of all policies: hooks feed what each layer gets in the first and
in the second pass to two more copies of it, whose statistics are those of "sampled" and
"perturbed"; the model's own are those of "both", those at the start of "none". That this is so is
checked first: with one seed, a run under each policy must have bit for bit these weights and
statistics. A refresh forgets what was there, so it is the same for all policies.
"""

import argparse
import copy
import datetime
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import bsam
from bsam import metrics
from bsam.experiments.data import Split, digits, images
from bsam.experiments.models import resnet
from bsam.experiments.training import train
from bsam.normalization import POLICIES, refresh_statistics, tracking_layers

BATCH, ROWS_AT_ONCE, SAMPLES = 50, 500, 16
RATE_SEEDS = (100, 101)
FAR_SEEDS = 4
CHECKED_SEED, CHECKED_EPOCHS = 200, 3
HEAD = "| method | statistics | NLL | acc. % | ECE | NLL, samples | acc. % | ECE | log var |"

Statistics = dict[str, torch.Tensor]


def make_bsam(model, lr, num_data, seed, far):
    """Make bSAM; s is learned within a short run."""
    scale = 10 if far else 1
    return bsam.BSAM(
        model.parameters(),
        lr,
        num_data=num_data / scale,
        rho=0.01 * scale,
        betas=(0.9, 0.99),
        weight_decay=1e-3,
        seed=seed,
    )


def make_sam(model, lr, _num_data, _seed, far):
    """Make SAM over SGD with momentum."""
    rho = 0.5 if far else 0.05
    sgd = {"lr": lr, "momentum": 0.9, "weight_decay": 1e-3}
    return bsam.SAM(model.parameters(), torch.optim.SGD, rho=rho, **sgd)


class Method(NamedTuple):
    """What is trained."""

    name: str
    make: Callable[..., torch.optim.Optimizer]
    far: bool
    rates: tuple[float, ...]


METHODS = (
    Method("bSAM", make_bsam, False, (0.1, 0.3, 1.0, 3.0)),
    Method("SAM", make_sam, False, (0.01, 0.03, 0.1, 0.3)),
    Method("bSAM far", make_bsam, True, (0.3, 1.0, 3.0)),
    Method("SAM far", make_sam, True, (0.1, 0.3, 1.0)),
)


class Trained(NamedTuple):
    """A model after training, and the running statistics that policies would have left."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    statistics: dict[str, Statistics]


def trained(method, lr, split, epochs, seed, during=None) -> Trained:
    """Train once: under a policy, or under that of the start with the other policies' followed."""
    torch.manual_seed(seed)
    model = resnet(1, 10, stem_stride=2)
    optimizer = method.make(model, lr, len(split.train.labels), seed, method.far)
    others = {}
    if during is None:
        others = {"none": copy.deepcopy(model)} | follow(model, optimizer)
    else:
        optimizer.update_statistics(model, during=during)
    train(model, optimizer, split.train, epochs=epochs, batch_size=BATCH, seed=seed)
    return Trained(
        model,
        optimizer,
        {during or "both": statistics_of(model)}
        | {policy: statistics_of(other) for policy, other in others.items()},
    )


def follow(model: nn.Module, optimizer) -> dict[str, nn.Module]:
    """Return a copy for each pass, whose layers get there the inputs that the model's get."""
    copies = {phase: copy.deepcopy(model) for phase in ("sampled", "perturbed")}
    twins = {phase: tracking_layers(each) for phase, each in copies.items()}
    for number, layer in enumerate(tracking_layers(model)):

        def feed(_layer, inputs, _output, number=number):
            if optimizer.phase in twins:  # else it is at the mean: not in a step
                with torch.no_grad():
                    twins[optimizer.phase][number](inputs[0])

        layer.register_forward_hook(feed)
    return copies


def statistics_of(model: nn.Module) -> Statistics:
    """Return a copy of the running statistics by name: the model has no other buffers."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def check(method: Method, split: Split) -> None:
    """Fail unless runs under each policy have the weights and statistics that one run gives."""
    lr = method.rates[1]
    one = trained(method, lr, split, CHECKED_EPOCHS, CHECKED_SEED)
    for policy in POLICIES:
        run = trained(method, lr, split, CHECKED_EPOCHS, CHECKED_SEED, during=policy)
        pairs = [*zip(one.model.parameters(), run.model.parameters(), strict=True)]
        pairs += [(one.statistics[policy][n], b) for n, b in run.statistics[policy].items()]
        assert all(torch.equal(a, b) for a, b in pairs), f"{method.name}, {policy}"
    print(f"{method.name}: bit for bit the same run under {', '.join(POLICIES)}", flush=True)


class Scores(NamedTuple):
    """Of predictions for test images, at the weights and over samples; nan where there are none."""

    nll: float
    accuracy: float
    ece: float
    nll_sampled: float
    accuracy_sampled: float
    ece_sampled: float
    log_variance: float


def at_weights(model: nn.Module, part) -> tuple[float, ...]:
    """Score the model with the statistics that it has."""
    options = {"num_samples": 0, "batch_size": ROWS_AT_ONCE}
    return scored(bsam.predict(model, None, part.images, **options).probs, part.labels)


def over_samples(run: Trained, part, seed, refresh=None) -> tuple[float, ...]:
    """Score the average over samples, each with the statistics that the model has, or refreshed."""
    if not isinstance(run.optimizer, bsam.BSAM):
        return (math.nan,) * 3
    options = {"num_samples": SAMPLES, "batch_size": ROWS_AT_ONCE, "seed": seed}
    posterior = run.optimizer.posterior(run.model)
    predictive = bsam.predict(run.model, posterior, part.images, refresh=refresh, **options)
    return scored(predictive.probs, part.labels)


def scored(probs, labels) -> tuple[float, ...]:
    """NLL, accuracy in percent, calibration error."""
    return (
        metrics.negative_log_likelihood(probs, labels),
        100 * metrics.accuracy(probs, labels),
        metrics.expected_calibration_error(probs, labels),
    )


def log_variance(ours: Statistics, theirs: Statistics) -> float:
    """Mean log of running variances relative to others."""
    variances = [(ours[name], theirs[name]) for name in ours if name.endswith("running_var")]
    return torch.cat([(a / b).log() for a, b in variances]).mean().item()


def evaluated(run: Trained, split: Split, seed: int) -> dict[str, Scores]:
    """Return the scores with the statistics of each policy, and with refreshed ones."""
    model, test = run.model, split.test
    batches = list(split.train.images.split(BATCH))
    refresh_statistics(model, batches)
    refreshed = statistics_of(model)
    result = {}
    for name, values in {**run.statistics, "refreshed": refreshed}.items():
        model.load_state_dict(values, strict=False)
        scores = (*at_weights(model, test), *over_samples(run, test, seed))
        result[name] = Scores(*scores, log_variance(values, refreshed))
    if isinstance(run.optimizer, bsam.BSAM):
        each = over_samples(run, test, seed, refresh=batches)
        result["refreshed each"] = Scores(*(math.nan,) * 3, *each, math.nan)
    return result


def cell(values: list[float], digits: int, sign: str = "") -> str:
    """Mean and standard error, or nothing."""
    if any(map(math.isnan, values)):
        return ""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):{sign}.{digits}f} ± {error:.{digits}f}"


def print_rows(name: str, runs: list[dict[str, Scores]]) -> None:
    """Print one line for each set of statistics: "both" and "none", the others less "both"."""
    both = [run["both"] for run in runs]
    precision = Scores(4, 2, 4, 4, 2, 4, 3)
    for row in ("both", "sampled", "perturbed", "refreshed", "refreshed each", "none"):
        if row not in runs[0]:
            continue
        columns = list(zip(*(run[row] for run in runs), strict=True))
        sign = ""
        if row not in ("both", "none"):
            base = list(zip(*both, strict=True))
            columns[:-1] = [
                [a - b for a, b in zip(column, other, strict=True)]
                for column, other in zip(columns[:-1], base[:-1], strict=True)
            ]
            sign = "+"
        cells = [
            cell(list(column), places, sign)
            for column, places in zip(columns, precision, strict=True)
        ]
        print(f"| {name} | {row} | {' | '.join(cells)} |", flush=True)


def chosen_rate(method: Method, split_for, epochs: int) -> float:
    """Return the rate of the lowest validation NLL at the weights, and print all."""
    seeds = RATE_SEEDS[:1] if method.far else RATE_SEEDS
    nll = {}
    for lr in method.rates:
        runs = []
        for seed in seeds:
            split = split_for(seed)
            try:
                run = trained(method, lr, split, epochs, seed, during="both")
                runs.append(at_weights(run.model, split.validation)[0])
            except (RuntimeError, ValueError):
                runs.append(math.inf)  # diverged
        nll[lr] = statistics.fmean(runs)
    best = min(nll, key=nll.get)
    tried = ", ".join(f"{lr:g} {nll[lr]:.4f}" for lr in nll)
    print(f"{method.name}: {tried}; best {best:g}", flush=True)
    return best


def arguments() -> argparse.Namespace:
    """Read the command line."""
    root = os.environ.get("BSAM_DATA")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=root and str(Path(root) / "fashion_mnist"))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    return parser.parse_args()


def main() -> None:
    """Choose rates, check, print the table."""
    options, start = arguments(), time.process_time()
    torch.set_num_threads(1)

    def split_for(seed: int) -> Split:
        if options.data is None:
            return digits(seed)
        return images(options.data, seed, train=4000, validation=2000, test=5000)

    sizes = [len(part.labels) for part in split_for(0)]
    print(f"{datetime.date.today()}, torch {torch.__version__}, {torch.get_num_threads()} thread")
    print(f"{options.data or 'digits'}: {sizes} images, {options.epochs} epochs")
    print("rates and their validation NLL:")
    rates = {method: chosen_rate(method, split_for, options.epochs) for method in METHODS}
    for method in METHODS[:2]:
        check(method, split_for(CHECKED_SEED))
    print(f"{HEAD}\n|{' --- |' * (HEAD.count('|') - 1)}")
    for method in METHODS:
        runs = []
        for seed in range(min(options.seeds, FAR_SEEDS) if method.far else options.seeds):
            split = split_for(seed)
            run = trained(method, rates[method], split, options.epochs, seed)
            runs.append(evaluated(run, split, seed))
        print_rows(f"{method.name}, {len(runs)} seeds", runs)
    print(f"{(time.process_time() - start) / 60:.0f} minutes of one core")


if __name__ == "__main__":
    main()
