"""Can bSAM make do with one gradient a step? Cheaper ascents, tuned alike and compared.

Run:  BSAM_DATA=PATH .venv/bin/python benchmarks/one_gradient.py --jobs 2

PATH is a folder with Fashion-MNIST in ``fashion_mnist`` (or give ``--data`` that folder itself). On
a machine without the package ``datasets`` give ``--cache FILE``, which ``--make-cache FILE`` wrote
elsewhere. ``--task digits`` does the same on scikit-learn's digits with one hidden layer.

Fashion-MNIST: 2,000 training, 2,000 validation and 5,000 test images, a choice for each seed; a
convolutional network of 14,698 parameters without normalization; 40 epochs of batches of 64, the
rate falls along a cosine at every step. Methods whose names end in -2x make twice the epochs.

Stages. ``tune``: for each method the same number of random settings, trained on the split of seed
100 and judged by the validation NLL of the method's own prediction (averaged over 16 draws where
there is a posterior); the best ones again on seeds 101 and 102, and the best mean of three is
taken. The variants of bSAM try the same settings. ``final``: the chosen settings on other seeds,
test images, also turned and with noise. ``sweep``: bSAM's chosen settings with other ascents in its
place, and other lengths, on validation images. ``cost``: a whole training step as a multiple of
AdamW's, interleaved, of the script's optimizer and of the library's. ``report`` makes tables out of
what is there. ``all`` is tune, final and sweep. Every finished run is a line of the record; what
the record has is not run again, so a run that was cut off goes on.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timing import RESULTS, environment, interleaved, save, table
from torch import Tensor, nn

import bsam
from bsam import metrics
from bsam.experimental import OneGradientBSAM
from bsam.experiments.data import Part, Split, digits, images
from bsam.experiments.methods import METHODS as USUAL
from bsam.experiments.models import mlp
from bsam.experiments.shifts import noisy, turned

BATCH, WARMUP = 64, 20
TRIALS, PROMOTED = 16, 4
TUNING_SEEDS = (100, 101, 102)
DRAWS_TUNING, DRAWS = 16, 32
ROWS_AT_ONCE = 500
POOL, POOL_VALIDATION = 20_000, 2_000
"""Training images in a cache, and how many of them are read as if for validation."""


class Scale(NamedTuple):
    """How large an experiment on one data set is."""

    train: int
    validation: int
    test: int
    epochs: int
    seeds: int
    network: Callable[[], nn.Module]


def convolutional() -> nn.Sequential:
    """Return the network for Fashion-MNIST."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        nn.Conv2d(1, 12, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 7 * 7, 10),
    )


SCALES = {
    "fashion": Scale(2000, 2000, 5000, epochs=40, seeds=6, network=convolutional),
    "digits": Scale(718, 360, 719, epochs=60, seeds=10, network=lambda: mlp(64, 64, 10)),
}


# ------------------------------------------------------------------------------- the optimizer


class Variant(NamedTuple):
    """Which steps of bSAM take two gradients, and where a single one is taken."""

    ascent: str = "gradient"
    """``"gradient"``: two passes; ``"momentum"``: one, uphill along g_m; ``"none"``: one."""

    every: int = 1
    """Two passes only in each so many-th step, else none."""

    start: float = 0.0
    """Two passes only after this share of training, else none."""

    part: float = 1.0
    """Share of the batch that the first of two passes sees."""

    noise_in_both: bool = False
    """The second pass is at the noisy weights moved uphill, and its gradient serves for s too."""

    sign: float = 1.0
    """Of the ascent; -1 goes downhill."""

    wide: bool = False
    """Noise in training has the variance (1/N + rho/B) / s, though the posterior's is 1/(N s)."""


class OneGradient(torch.optim.Optimizer):
    r"""bSAM and variants of it with cheaper ascents, on all weights as one vector.

    Where a step takes two passes it is bSAM's own. Where it takes one, with a = g_m or 0,

    .. math:: g = \nabla \ell(\omega + e / \sqrt{N s} + \rho\, a / s)

    is the gradient of all three lines: momentum, precision (as sqrt(s)|g|) and mean.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        variant: Variant,
        steps: int,
        num_data: float,
        rho: float,
        betas: tuple[float, float],
        weight_decay: float,
        damping: float,
        seed: int,
        batch: int = BATCH,
    ) -> None:
        super().__init__(params, {"lr": lr})
        self.params = self.param_groups[0]["params"]
        self.variant, self.steps, self.calls = variant, steps, 0
        self.num_data, self.rho, self.betas = num_data, rho, betas
        self.weight_decay, self.damping = weight_decay, damping
        self.mean = torch.cat([p.detach().flatten() for p in self.params])
        self.weights, self.gradient = self.mean.clone(), torch.zeros_like(self.mean)
        sizes = [p.numel() for p in self.params]
        pieces = zip(self.weights.split(sizes), self.gradient.split(sizes), strict=True)
        for p, (weights, gradient) in zip(self.params, pieces, strict=True):
            p.data, p.grad = weights.view_as(p), gradient.view_as(p)
        self.exp_avg, self.s = torch.zeros_like(self.mean), torch.ones_like(self.mean)
        self.stream = torch.Generator().manual_seed(seed)
        variance = 1.0 / num_data + (rho / batch if variant.wide else 0.0)
        self.noise_scale = math.sqrt(variance)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002 - .grad is a view
        """Set the gradient to zero."""
        self.gradient.zero_()

    def noise(self) -> Tensor:
        """Return standard normal noise for all weights."""
        return torch.randn(self.mean.shape, generator=self.stream)

    @torch.no_grad()
    def step(self, closure: Any) -> Tensor:
        """Make a step; the closure takes the share of the batch to compute the loss of."""
        v = self.variant
        root = self.s.sqrt()
        offset = self.noise() * self.noise_scale / root
        if v.ascent == "momentum":
            offset.addcdiv_(self.exp_avg, self.s, value=v.sign * self.rho)
        loss = self._pass(closure, offset, v.part if self._ascends() else 1.0)
        scales = root * self.gradient.abs()
        if self._ascends():
            uphill = self.gradient / self.s * (v.sign * self.rho)
            loss = self._pass(closure, uphill + offset if v.noise_in_both else uphill)
            if v.noise_in_both:
                scales = root * self.gradient.abs()
        decayed = self.gradient.add(self.mean, alpha=self.weight_decay)
        self.exp_avg.lerp_(decayed, 1.0 - self.betas[0])
        self.s.lerp_(scales.add_(self.weight_decay + self.damping), 1.0 - self.betas[1])
        self.mean.addcdiv_(self.exp_avg, self.s, value=-self.param_groups[0]["lr"])
        self.weights.copy_(self.mean)
        self.calls += 1
        return loss

    def deviations(self) -> list[Tensor]:
        """Return the posterior's standard deviations, parameter by parameter."""
        flat = (self.num_data * self.s).rsqrt()
        pieces = zip(flat.split([p.numel() for p in self.params]), self.params, strict=True)
        return [piece.view_as(p) for piece, p in pieces]

    def _ascends(self) -> bool:
        v = self.variant
        due = self.calls % v.every == 0 and self.calls >= v.start * self.steps
        return v.ascent == "gradient" and due

    def _pass(self, closure: Any, offset: Tensor, share: float = 1.0) -> Tensor:
        torch.add(self.mean, offset, out=self.weights)
        with torch.enable_grad():
            return closure(share)


# ------------------------------------------------------------------------------- the methods

Settings = Mapping[str, float]


class Method(NamedTuple):
    """A way to train; ``make`` takes the model, settings, number of examples, of steps, a seed."""

    make: Callable[[nn.Module, Settings, int, int, int], torch.optim.Optimizer]
    search: Mapping[str, tuple[float, float]]
    passes: float
    """Gradients a step, on average."""
    epochs: int = 1
    stream: str = ""
    """Methods with the same stream and ranges try the same settings."""
    samples: bool = False
    """Its own prediction averages over a posterior."""


def _adamw(model: nn.Module, settings: Settings, *_: int) -> torch.optim.Optimizer:
    betas = (0.9, 1.0 - settings["1-beta2"])
    return torch.optim.AdamW(
        model.parameters(), settings["lr"], betas=betas, weight_decay=settings["weight_decay"]
    )


def _sgd_options(settings: Settings) -> dict[str, float]:
    return {"lr": settings["lr"], "momentum": 0.9, "weight_decay": settings["weight_decay"]}


def _sgd(model: nn.Module, settings: Settings, *_: int) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **_sgd_options(settings))


def _sam(model: nn.Module, settings: Settings, *_: int) -> torch.optim.Optimizer:
    options = _sgd_options(settings)
    return bsam.SAM(model.parameters(), torch.optim.SGD, rho=settings["rho"], **options)


def _ivon(
    model: nn.Module, settings: Settings, examples: int, _steps: int, seed: int
) -> torch.optim.Optimizer:
    # Its noise comes from torch's generator; with the same seed it would repeat the first weights.
    return USUAL["IVON"].make(model, settings, examples, seed + 10_000)


def bsam_options(settings: Settings) -> dict[str, Any]:
    """Return bSAM's arguments from what is searched: effects at s = damping rather than factors.

    ``rate`` is lr / damping, ``reach`` is rho / damping, ``deviation`` is 1 / sqrt(N damping).
    """
    damping = settings["damping"]
    return {
        "lr": settings["rate"] * damping,
        "rho": settings["reach"] * damping,
        "num_data": 1.0 / (damping * settings["deviation"] ** 2),
        "damping": damping,
        "weight_decay": settings["weight_decay"],
        "betas": (0.9, 1.0 - settings["1-beta2"]),
    }


def _variant(variant: Variant) -> Callable[..., OneGradient]:
    def make(
        model: nn.Module, settings: Settings, _examples: int, steps: int, seed: int
    ) -> OneGradient:
        options = bsam_options(settings)
        return OneGradient(
            model.parameters(), variant=variant, steps=steps, seed=seed + 10_000, **options
        )

    return make


def passes_of(variant: Variant) -> float:
    """Return the gradients that a variant takes in a step, on average."""
    extra = variant.part * (1.0 - variant.start) / variant.every
    return 1.0 + (extra if variant.ascent == "gradient" else 0.0)


_BETA2 = {"1-beta2": (3e-3, 5e-2)}
_DECAY = {"weight_decay": (1e-4, 1e-2)}
_ADAMW = {"lr": (5e-4, 2e-2), "weight_decay": (3e-2, 3.0), **_BETA2}
_SGD = {"lr": (0.01, 0.3), **_DECAY}
_SAM = {**_SGD, "rho": (0.01, 0.5)}
_IVON = {
    "lr": (0.02, 0.5),
    **_DECAY,
    **_BETA2,
    "data_factor": (1.0, 30.0),
    "hess_init": (0.02, 1.0),
}
_BSAM = {
    "rate": (0.3, 5.0),
    "deviation": (1e-2, 1.5e-1),
    "reach": (1e-2, 5e-1),
    "damping": (3e-3, 1e-1),
    **_DECAY,
    **_BETA2,
}
# Averaging takes most of the noise out of g_m: sqrt((1 - beta1) / (1 + beta1)) = .23 remains.
_MOMENTUM = {**_BSAM, "reach": (4e-2, 2.0)}

VARIANTS = {
    "bSAM": Variant(),
    "bSAM, noise in both": Variant(noise_in_both=True),
    "momentum": Variant("momentum"),
    "momentum, downhill": Variant("momentum", sign=-1.0),
    "every 2": Variant(every=2),
    "every 4": Variant(every=4),
    "every 8": Variant(every=8),
    "start .75": Variant(start=0.75),
    "start .9": Variant(start=0.9),
    "part 1/8": Variant(part=1 / 8, noise_in_both=True),
    "noise": Variant("none"),
    "wide noise": Variant("none", wide=True),
}
"""By name: bSAM, the cheaper ascents, and what stands in for them."""


def _methods() -> dict[str, Method]:
    methods = {
        "AdamW": Method(_adamw, _ADAMW, 1),
        "SGD": Method(_sgd, _SGD, 1),
        "SAM": Method(_sam, _SAM, 2),
        "IVON": Method(_ivon, _IVON, 1, samples=True),
    }
    for name, variant in VARIANTS.items():
        search = _MOMENTUM if variant.ascent == "momentum" else _BSAM
        make, passes = _variant(variant), passes_of(variant)
        methods[name] = Method(make, search, passes, stream="bSAM", samples=True)
    for name in ("AdamW", "IVON", "momentum", "noise", "wide noise"):
        once = methods[name]
        methods[f"{name}-2x"] = once._replace(epochs=2, stream=once.stream or name)
    return methods


METHODS = _methods()


def settings_of(name: str) -> list[dict[str, float]]:
    """Return a method's random settings; always the same ones."""
    method = METHODS[name]
    rng = np.random.default_rng(zlib.crc32((method.stream or name).encode()))

    def draw(low: float, high: float) -> float:
        return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")

    ranges = method.search.items()
    return [{key: draw(*limits) for key, limits in ranges} for _ in range(TRIALS)]


# ------------------------------------------------------------------------------- the data


def fashion_arrays(path: str) -> dict[str, np.ndarray]:
    """Read a stratified choice of the training images, and all test images, as bytes."""
    chosen = images(path, 0, train=POOL - POOL_VALIDATION, validation=POOL_VALIDATION)
    pools = {"train": (chosen.train, chosen.validation), "test": (chosen.test,)}
    arrays = {}
    for name, parts in pools.items():
        pixels = torch.cat([part.images for part in parts]).mul(255).round().to(torch.uint8)
        arrays[f"{name}_images"] = pixels.numpy()
        arrays[f"{name}_labels"] = torch.cat([part.labels for part in parts]).numpy()
    return arrays


@cache
def _arrays(cached: str, path: str) -> dict[str, np.ndarray]:
    if not cached:
        return fashion_arrays(path)
    with np.load(cached) as file:
        return dict(file)


def split_of(task: str, seed: int, cached: str, path: str) -> Split:
    """Return the parts of one seed."""
    if task == "digits":
        return digits(seed)
    scale, arrays = SCALES[task], _arrays(cached, path)
    rng = np.random.default_rng(seed)

    def part(name: str, rows: np.ndarray) -> Part:
        pixels = torch.from_numpy(arrays[f"{name}_images"][rows]).float().div(255)
        return Part(pixels, torch.from_numpy(arrays[f"{name}_labels"][rows]).long())

    rows = rng.permutation(len(arrays["train_labels"]))[: scale.train + scale.validation]
    tested = rng.permutation(len(arrays["test_labels"]))[: scale.test]
    train, validation = part("train", rows[: scale.train]), part("train", rows[scale.train :])
    return Split(train, validation, part("test", tested))


# ------------------------------------------------------------------------------- one run


class Job(NamedTuple):
    """A run, and all that decides its numbers."""

    task: str
    method: str
    seed: int
    settings: tuple[tuple[str, float], ...]
    test: bool

    def key(self) -> str:
        """Return its name in the record."""
        scale = SCALES[self.task]
        size = [scale.train, scale.epochs, BATCH]
        return json.dumps([self.task, size, self.method, self.seed, self.settings, self.test])


def steps_of(task: str, method: Method) -> int:
    """Return the number of training steps."""
    scale = SCALES[task]
    return scale.epochs * method.epochs * (scale.train // BATCH)


def train(model: nn.Module, optimizer: Any, part: Part, steps: int, seed: int) -> None:
    """Train with cross-entropy; the rate rises over the first steps and falls along a cosine.

    Raises:
        ValueError: where the loss is not finite, or no better than a guess after half of it.
    """
    order = torch.Generator().manual_seed(seed)
    rates = [group["lr"] for group in optimizer.param_groups]
    recent, batches = math.log(10), iter(())
    for step in range(steps):
        rows = next(batches, None)
        if rows is None:
            shuffled = torch.randperm(len(part.labels), generator=order)
            batches = iter(shuffled[: len(shuffled) // BATCH * BATCH].split(BATCH))
            rows = next(batches)
        factor = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = float(optimizer.step(closure_of(model, optimizer, part, rows)))
        recent += 0.05 * (loss - recent)
        if not math.isfinite(loss) or (step > steps // 2 and recent > 2.2):
            raise ValueError(f"loss {loss} at step {step}")


def closure_of(model: nn.Module, optimizer: Any, part: Part, rows: Tensor) -> Callable[..., Tensor]:
    """Return a closure for the loss of the batch or of the first part of it."""
    pixels, labels = part.images[rows], part.labels[rows]

    def closure(share: float = 1.0) -> Tensor:
        optimizer.zero_grad()
        count = max(1, round(share * len(labels)))
        loss = nn.functional.cross_entropy(model(pixels[:count]), labels[:count])
        loss.backward()
        return loss.detach()

    return closure


def deviations_of(model: nn.Module, optimizer: Any) -> list[Tensor]:
    """Return the standard deviations of a method's posterior, parameter by parameter."""
    if isinstance(optimizer, OneGradient):
        return optimizer.deviations()
    precision = optimizer.posterior(model).precision
    return [precision[name].rsqrt() for name, _ in model.named_parameters()]


@torch.no_grad()
def log_probabilities(
    model: nn.Module, pixels: Tensor, deviations: list[Tensor] | None, draws: int, seed: int
) -> Tensor:
    """Return log probabilities (n, classes), at the weights or averaged over draws; float64."""

    def outputs() -> Tensor:
        return torch.cat([model(rows) for rows in pixels.split(ROWS_AT_ONCE)]).double()

    if deviations is None:
        return outputs().log_softmax(1)
    params = list(model.parameters())
    mean, stream = [p.clone() for p in params], torch.Generator().manual_seed(seed)
    total = torch.full((len(pixels), 1), -math.inf, dtype=torch.float64)
    for _ in range(draws):
        for p, m, deviation in zip(params, mean, deviations, strict=True):
            p.copy_(m + deviation * torch.randn(p.shape, generator=stream))
        total = torch.logaddexp(total, outputs().log_softmax(1))
    for p, m in zip(params, mean, strict=True):
        p.copy_(m)
    return total - math.log(draws)


def scores(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy in percent, NLL and calibration error."""
    nll = -log_probs.gather(1, labels[:, None]).mean().item()
    probs = log_probs.exp()
    return {
        "nll": nll,
        "accuracy": 100 * metrics.accuracy(probs, labels),
        "ece": metrics.expected_calibration_error(probs, labels),
    }


def evaluated(
    model: nn.Module, deviations: list[Tensor] | None, parts: Mapping[str, Part], draws: int
) -> dict[str, Any]:
    """Score a method's own prediction and, where that is an average, the one at the mean."""
    result = {}
    for name, part in parts.items():
        ways = {"mean": None} | ({"samples": deviations} if deviations else {})
        for way, used in ways.items():
            log_probs = log_probabilities(model, part.images, used, draws, seed=0)
            result[f"{way}/{name}"] = scores(log_probs, part.labels)
    return result


def run(job: Job, cached: str, path: str) -> dict[str, Any]:
    """Train once and evaluate."""
    torch.set_num_threads(1)
    scale, method = SCALES[job.task], METHODS[job.method]
    split = split_of(job.task, job.seed, cached, path)
    steps, start = steps_of(job.task, method), time.process_time()
    torch.manual_seed(job.seed)
    model = scale.network()
    result: dict[str, Any] = {**job._asdict(), "settings": dict(job.settings)}
    try:
        optimizer = method.make(model, dict(job.settings), scale.train, steps, job.seed)
        train(model, optimizer, split.train, steps, job.seed)
        result["train_seconds"] = round(time.process_time() - start, 2)
        deviations = deviations_of(model, optimizer) if method.samples else None
        if job.test:
            parts = {
                "clean": split.test,
                "turned 15": turned(split.test, 15),
                "turned 30": turned(split.test, 30),
                "noise": noisy(split.test, 0.3, job.seed),
            }
        else:
            parts = {"validation": split.validation}
        draws = DRAWS if job.test else DRAWS_TUNING
        result["scores"] = evaluated(model, deviations, parts, draws)
        if isinstance(optimizer, OneGradient):
            result["mean_s"] = optimizer.s.mean().item()
            floor = optimizer.damping + optimizer.weight_decay
            result["on_floor"] = (optimizer.s < 1.05 * floor).float().mean().item()
    except (RuntimeError, ValueError, ArithmeticError, AssertionError) as error:
        result["failed"] = str(error)[:200]
    result["seconds"] = round(time.process_time() - start, 2)
    return result


def own_way(name: str) -> str:
    """Return how a method predicts."""
    return "samples" if METHODS[name].samples else "mean"


def validation_nll(record: Mapping[str, Any]) -> float:
    """Return what tuning judges by; infinite for a run that failed."""
    if "failed" in record:
        return math.inf
    nll = record["scores"][f"{own_way(record['method'])}/validation"]["nll"]
    return nll if math.isfinite(nll) else math.inf


# ------------------------------------------------------------------------------- what to run


class Plan(NamedTuple):
    """What is asked for."""

    task: str
    methods: tuple[str, ...]
    stages: tuple[str, ...]
    seeds: int


Records = Mapping[str, Mapping[str, Any]]


def _job(plan: Plan, method: str, settings: Settings, seed: int, test: bool = False) -> Job:
    return Job(plan.task, method, seed, tuple(settings.items()), test)


def _nll_of(records: Records, jobs: Sequence[Job]) -> float | None:
    """Return the mean validation NLL over jobs, or None while one is missing."""
    found = [records.get(job.key()) for job in jobs]
    if any(each is None for each in found):
        return None
    return statistics.fmean(validation_nll(each) for each in found)


def promoted(plan: Plan, method: str, records: Records) -> list[dict[str, float]] | None:
    """Return the settings that go on to the other tuning seeds, or None before all are tried."""
    every = settings_of(method)
    nll = [_nll_of(records, [_job(plan, method, each, TUNING_SEEDS[0])]) for each in every]
    if any(each is None for each in nll):
        return None
    return [every[number] for number in np.argsort(nll, kind="stable")[:PROMOTED]]


def chosen(plan: Plan, method: str, records: Records) -> dict[str, float] | None:
    """Return a method's best settings, or None before tuning is done."""
    best = promoted(plan, method, records)
    if best is None:
        return None
    nll = [_nll_of(records, [_job(plan, method, each, s) for s in TUNING_SEEDS]) for each in best]
    return None if None in nll else best[int(np.argmin(nll))]


SWEPT = (0.25, 0.5, 1.0, 2.0, 4.0)


def swept(settings: Settings) -> list[tuple[str, dict[str, float]]]:
    """Return (variant, settings) around bSAM's: each ascent with several lengths, alone."""
    names = ("bSAM", "bSAM, noise in both", "part 1/8", "wide noise")
    cases = [(name, factor) for name in names for factor in SWEPT]
    # g_m is shorter than g, so it is let go further.
    directions = ("momentum", "momentum, downhill")
    cases += [(name, 4 * factor) for name in directions for factor in SWEPT]
    cases += [("noise", 0.0), ("every 4", 1.0), ("start .9", 1.0)]
    found = [(n, {**settings, "reach": float(f"{settings['reach'] * f:.4g}")}) for n, f in cases]
    more = [{**settings, "deviation": settings["deviation"] * f} for f in (1.5, 2.0, 3.0, 4.0)]
    return found + [("noise", each) for each in more]


def pending(plan: Plan, records: Records) -> list[Job]:
    """Return the jobs that can be run now: tuning first, sweeps last; of equals the longest."""
    ranked: list[tuple[int, float, Job]] = []
    for name in plan.methods:
        cost = METHODS[name].passes * METHODS[name].epochs
        if "tune" in plan.stages:
            trials = [_job(plan, name, each, TUNING_SEEDS[0]) for each in settings_of(name)]
            ranked += [(0, cost, job) for job in trials]
            for each in promoted(plan, name, records) or ():
                ranked += [(1, cost, _job(plan, name, each, s)) for s in TUNING_SEEDS[1:]]
        if "final" in plan.stages and (best := chosen(plan, name, records)) is not None:
            for seed in range(plan.seeds):
                ranked.append((2 + seed, cost, _job(plan, name, best, seed, test=True)))
    if "sweep" in plan.stages and (best := chosen(plan, "bSAM", records)) is not None:
        for name, settings in swept(best):
            cost = METHODS[name].passes
            ranked += [(100, cost, _job(plan, name, settings, s)) for s in TUNING_SEEDS]
    jobs = {job.key(): job for _, _, job in sorted(ranked, key=lambda each: (each[0], -each[1]))}
    return [job for key, job in jobs.items() if key not in records]


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Read a record; a last line that was cut off counts as missing."""
    records = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "key" in record:
            records[record["key"]] = record
    return records


def made_by(path: Path) -> dict[str, Any]:
    """Return hardware, versions, date and command of the last call that made runs of a record."""
    lines = [line for line in path.read_text().splitlines() if line.startswith('{"environment"')]
    return json.loads(lines[-1])["environment"] if lines else environment()


def work(
    plan: Plan, path: Path, *, jobs: int, deadline: float, cached: str, data: str
) -> dict[str, dict[str, Any]]:
    """Run what is missing, ``jobs`` at a time; start nothing after the deadline."""
    records, start = load(path), time.perf_counter()
    running: dict[Future[dict[str, Any]], str] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
        path.open("a") as file,
    ):
        file.write(json.dumps({"environment": environment()}) + "\n")
        while True:
            late = time.perf_counter() - start > deadline
            for job in [] if late else pending(plan, records):
                if len(running) >= jobs:
                    break
                if job.key() not in running.values():
                    running[pool.submit(run, job, cached, data)] = job.key()
            if not running:
                return records
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                records[key] = record = {"key": key, **future.result()}
                file.write(json.dumps(record) + "\n")
                file.flush()
                _say(record, len(records), time.perf_counter() - start)


def _say(record: Mapping[str, Any], count: int, elapsed: float) -> None:
    values = record.get("scores", {}).items()
    told = record.get("failed") or ", ".join(f"{k} {v['nll']:.4f}" for k, v in values)
    head = f"[{count}, {elapsed:.0f} s] {record['method']} seed {record['seed']}"
    print(f"{head}: {told} ({record['seconds']} s)", flush=True)


# ------------------------------------------------------------------------------- the report

SHIFTED = ("turned 15", "turned 30", "noise")
GAINS = (
    ("nll", "AdamW", "bSAM"),
    ("nll_shifted", "AdamW", "bSAM"),
    ("nll_shifted", "noise", "bSAM, noise in both"),
)
"""Measure, method and better method: a table has the share of the gain that others reach."""


class Measured(NamedTuple):
    """One seed of a method, by its own prediction; on_floor is the share of s at its floor."""

    nll: float
    accuracy: float
    ece: float
    nll_at_mean: float
    nll_shifted: float
    accuracy_shifted: float
    ece_shifted: float
    on_floor: float


def measured(record: Mapping[str, Any]) -> Measured:
    """Take from a record what tables show; shifted means the average of the shifted test sets."""
    way, found = own_way(record["method"]), record["scores"]

    def shifted(measure: str) -> float:
        return statistics.fmean(found[f"{way}/{name}"][measure] for name in SHIFTED)

    clean = found[f"{way}/clean"]
    at_mean = found["mean/clean"]["nll"]
    shifts = [shifted(measure) for measure in ("nll", "accuracy", "ece")]
    of_clean = [clean[measure] for measure in ("nll", "accuracy", "ece")]
    return Measured(*of_clean, at_mean, *shifts, record.get("on_floor", math.nan))


def finals(plan: Plan, records: Records) -> dict[str, dict[int, Measured]]:
    """Return what each method reached, by seed."""
    result = {}
    for name in plan.methods:
        best = chosen(plan, name, records)
        jobs = [_job(plan, name, best, s, test=True) for s in range(plan.seeds)] if best else []
        found = {job.seed: records[job.key()] for job in jobs if job.key() in records}
        result[name] = {s: measured(each) for s, each in found.items() if "failed" not in each}
    return {name: each for name, each in result.items() if each}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error, nan for fewer than two values."""
    if len(values) < 2:
        return (statistics.fmean(values) if values else math.nan), math.nan
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def share_of_gain(gains: Sequence[float], whole: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of two paired mean gains and Fieller's 95 % interval of it.

    The interval is that of all ratios r for which gain - r whole has a mean of 0 by a t-test; it is
    unbounded, here infinite, where the whole gain itself may be 0.
    """
    from scipy.stats import t

    n = len(gains)
    if n < 3:
        return (math.nan,) * 3
    (yy, xy), (_, xx) = np.cov(gains, whole) / n
    y, x, q = np.mean(gains), np.mean(whole), t.ppf(0.975, n - 1) ** 2
    a, b, c = x * x - q * xx, x * y - q * xy, y * y - q * yy
    if a <= 0 or (root := b * b - a * c) < 0:
        return float(y / x), -math.inf, math.inf
    half = math.sqrt(root)
    return float(y / x), float((b - half) / a), float((b + half) / a)


def _cell(values: Sequence[float], places: int, sign: str = "") -> str:
    mean, error = mean_and_error(values)
    return f"{mean:{sign}.{places}f} ± {error:.{places}f}"


def report(plan: Plan, records: Records) -> list[dict[str, Any]]:
    """Print the tables; return their rows."""
    found = finals(plan, records)
    rows, lines = [], []
    for name, runs in found.items():
        columns = Measured(*zip(*runs.values(), strict=True))
        row: dict[str, Any] = {
            "method": name,
            "settings": chosen(plan, name, records),
            "passes": METHODS[name].passes * METHODS[name].epochs,
            "seeds": list(runs),
        }
        for key, each in columns._asdict().items():
            if not any(map(math.isnan, each)):
                row[key] = [round(value, 5) for value in each]
        cells = [name, f"{row['passes']:.3g}", len(runs)]
        cells += [_cell(columns.accuracy, 2), _cell(columns.nll, 4), _cell(columns.nll_at_mean, 4)]
        cells += [_cell(columns.ece, 4), _cell(columns.nll_shifted, 3)]
        cells += [_cell(columns.ece_shifted, 3)]
        for measure, base, full in GAINS:
            own, low, high = (
                {s: getattr(x, measure) for s, x in found.get(each, {}).items()}
                for each in (name, base, full)
            )
            both = sorted(own.keys() & low.keys() & high.keys())
            if not both:
                cells += ["", ""]
                continue
            cells.append(_cell([own[s] - high[s] for s in both], 4, "+"))
            gains, whole = ([low[s] - each[s] for s in both] for each in (own, high))
            share, *interval = share_of_gain(gains, whole)
            row[f"share of {full}'s {measure} over {base}"] = [
                round(each, 4) if math.isfinite(each) else None for each in (share, *interval)
            ]
            cells.append("{:.2f} [{:.2f}, {:.2f}]".format(share, *interval))
        rows.append(row)
        lines.append(cells)
    heads = "method|passes|n|accuracy %|NLL|NLL at the mean|ECE|NLL shifted|ECE shifted"
    heads += "".join(f"|{measure} - {full}'s|share over {base}" for measure, base, full in GAINS)
    print(table(heads.split("|"), lines))
    rows += report_sweep(plan, records)
    return rows


def report_sweep(plan: Plan, records: Records) -> list[dict[str, Any]]:
    """Print and return what other ascents do at bSAM's settings, on validation images."""
    best = chosen(plan, "bSAM", records)
    if best is None:
        return []
    base = [records.get(_job(plan, "bSAM", best, s).key()) for s in TUNING_SEEDS]
    rows, lines = [], []
    for name, settings in swept(best):
        runs = [records.get(_job(plan, name, settings, s).key()) for s in TUNING_SEEDS]
        if any(each is None for each in runs):
            continue
        nll = [validation_nll(each) for each in runs]
        less = [a - validation_nll(b) for a, b in zip(nll, base, strict=True)]
        reach, deviation = settings["reach"], settings["deviation"]
        at_mean = [
            each.get("scores", {}).get("mean/validation", {}).get("nll", math.inf) for each in runs
        ]
        row = {"sweep": name, "reach": reach, "deviation": round(deviation, 5)}
        row |= {"nll": [round(v, 5) for v in nll], "nll_at_mean": [round(v, 5) for v in at_mean]}
        rows.append(row)
        cells = [name, f"{reach:.3g}", f"{deviation:.3g}", _cell(nll, 4), _cell(less, 4, "+")]
        lines.append([*cells, _cell(at_mean, 4)])
    if lines:
        heads = "at bSAM's settings|reach|deviation|NLL|- bSAM's|NLL at the mean"
        print("\n" + table(heads.split("|"), lines))
    return rows


def report_tuning(plan: Plan, records: Records) -> None:
    """Print for each method the best settings and how good they and the next ones were."""
    for name in plan.methods:
        first = [records.get(_job(plan, name, each, 100).key()) for each in settings_of(name)]
        nll = sorted(validation_nll(each) for each in first if each)
        seconds = sum(each["seconds"] for each in first if each)
        best = chosen(plan, name, records)
        mean = best and _nll_of(records, [_job(plan, name, best, s) for s in TUNING_SEEDS])
        top = " ".join(f"{value:.4f}" for value in nll[:5])
        told = f"{mean:.4f} {json.dumps(best)}" if best else "not tuned"
        print(f"{name:22} {len(nll)} trials, {seconds:.0f} s: {top} | {told}")


# ------------------------------------------------------------------------------- cost and checks


LIBRARY = {
    "bsam.BSAM": lambda _: {"ascent_every": 1},
    "OneGradientBSAM": lambda _: {},
    "OneGradientBSAM, wide": lambda options: {"noise_factor": wide_factor(options)},
    "OneGradientBSAM, every 8": lambda _: {"ascent_every": 8},
    "bsam.BSAM, compiled": lambda _: {"ascent_every": 1, "compiled": True},
    "OneGradientBSAM, wide, compiled": lambda options: {
        "noise_factor": wide_factor(options),
        "compiled": True,
    },
}
"""The library's own steps, by what they take beside bSAM's options; the first is bSAM itself."""


def wide_factor(options: Mapping[str, float]) -> float:
    """Return the factor for deviations that turns noise into wide noise."""
    return math.sqrt(1.0 + options["num_data"] * options["rho"] / BATCH)


def library(name: str, params: Any, options: dict[str, Any]) -> OneGradientBSAM:
    """Return one of the library's optimizers."""
    return OneGradientBSAM(params, **options, **LIBRARY[name](options))


def cost(split: Split, task: str, repeats: int) -> list[dict[str, Any]]:
    """Time runs of 24 whole training steps in turn; print each as a multiple of AdamW's."""
    torch.set_num_threads(1)
    calls = {}

    def steps(model: nn.Module, optimizer: Any, start: float) -> None:
        if start:
            optimizer.calls = 0
        for number in range(24):
            rows = torch.arange(number * 11, number * 11 + BATCH)
            optimizer.step(closure_of(model, optimizer, split.train, rows))

    for name, method in METHODS.items():
        if method.epochs > 1 or (name == "IVON" and importlib.util.find_spec("ivon") is None):
            continue
        model = SCALES[task].network()
        start = VARIANTS[name].start if name in VARIANTS else 0.0
        # 24 steps hold every period; a start within them needs their number.
        middle = middle_of(method.search)
        optimizer = method.make(model, middle, len(split.train.labels), 24, 0)
        calls[name] = partial(steps, model, optimizer, start)
    for name in LIBRARY:
        model = SCALES[task].network()
        optimizer = library(name, model.parameters(), bsam_options(middle_of(_BSAM)))
        calls[name] = partial(steps, model, optimizer, 0.0)
    times = interleaved(calls, repeats, warmup=2)
    adamw = statistics.median(times["AdamW"])
    rows = []
    for name, each in times.items():
        ratio = [a / b for a, b in zip(each, times["AdamW"], strict=True)]
        median = statistics.median(each)
        rows.append({"cost": name, "ms": median / 24, "ratio": median / adamw})
        quartiles = np.quantile(ratio, (0.25, 0.75))
        rows[-1]["ratio_quartiles"] = quartiles.round(4).tolist()
        spread = "[{:.2f}, {:.2f}]".format(*quartiles)
        print(f"{name:24} {median / 24:7.3f} ms  {median / adamw:.3f} {spread}")
    return rows


def middle_of(search: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return the middle of the ranges, with a rate so small that the weights stay about there."""
    middle = {key: math.sqrt(a * b) for key, (a, b) in search.items()}
    return middle | ({"lr": 1e-4} if "lr" in middle else {"rate": 1e-4})


def check() -> None:
    """Fail unless the script's steps equal the library's, given the same noise."""
    settings = {"rate": 2.0, "deviation": 0.03, "reach": 0.3, "damping": 0.1}
    options = bsam_options({**settings, "weight_decay": 1e-3, "1-beta2": 0.02})
    part, rows = Part(torch.rand(BATCH, 8, 8), torch.arange(BATCH) % 10), torch.arange(BATCH)
    for name, other in zip(("bSAM", "noise", "wide noise", "every 8"), LIBRARY, strict=False):
        torch.manual_seed(0)
        theirs, ours = mlp(64, 16, 10), mlp(64, 16, 10)
        ours.load_state_dict(theirs.state_dict())
        mine = OneGradient(ours.parameters(), variant=VARIANTS[name], steps=20, seed=1, **options)
        library_s = library(other, theirs.parameters(), options)
        stream = torch.Generator().manual_seed(1)

        def draw_noise(params: list[Tensor], stream: torch.Generator = stream) -> list[Tensor]:
            sizes = [p.numel() for p in params]
            pieces = torch.randn(sum(sizes), generator=stream).split(sizes)
            return [piece.view_as(p) for piece, p in zip(pieces, params, strict=True)]

        library_s.draw_noise = draw_noise
        for _ in range(20):
            a, b = (
                optimizer.step(closure_of(model, optimizer, part, rows))
                for model, optimizer in ((ours, mine), (theirs, library_s))
            )
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    print("the steps of bSAM, noise, wide noise and every 8 equal the library's", flush=True)


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = ("all", "tune", "final", "sweep", "cost", "report")
    parser.add_argument("--stage", choices=stages, default="all")
    parser.add_argument("--task", choices=tuple(SCALES), default="fashion")
    parser.add_argument("--methods", help="names, separated by semicolons; all otherwise")
    parser.add_argument("--seeds", type=int, help="of the final stage")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--deadline", type=float, default=math.inf, help="seconds")
    parser.add_argument("--record", type=Path, help="JSONL file of finished runs")
    parser.add_argument("--data", help="folder or Hub name of Fashion-MNIST")
    parser.add_argument("--cache", default="", help="file that --make-cache wrote")
    parser.add_argument("--make-cache", type=Path, help="write the data to this file, and end")
    parser.add_argument("--repeats", type=int, default=30, help="timed rounds of --stage cost")
    parser.add_argument("--save", action="store_true", help="write results/one_gradient*.json")
    args = parser.parse_args()
    base = os.environ.get("BSAM_DATA")
    data = args.data or (f"{base}/fashion_mnist" if base else "")
    if args.make_cache:
        np.savez_compressed(args.make_cache, **fashion_arrays(data))
        return
    if args.task != "digits" and not (data or args.cache) and args.stage != "report":
        sys.exit("Set BSAM_DATA, or give --data or --cache: Fashion-MNIST is needed.")
    check()
    if args.stage == "cost":
        rows = cost(split_of(args.task, 0, args.cache, data), args.task, args.repeats)
        if args.save:
            print(save(f"one_gradient_cost_{args.task}", rows))
        return
    names = tuple(args.methods.split(";")) if args.methods else tuple(METHODS)
    if unknown := sorted(set(names) - set(METHODS)):
        sys.exit(f"--methods {unknown}: must be among {sorted(METHODS)}, with ; between.")
    if args.stage != "report" and importlib.util.find_spec("ivon") is None:
        print("IVON is left out: install ivon-opt")
        names = tuple(name for name in names if not name.startswith("IVON"))
    wanted = ("tune", "final", "sweep") if args.stage == "all" else (args.stage,)
    plan = Plan(args.task, names, wanted, args.seeds or SCALES[args.task].seeds)
    path = args.record or RESULTS / f"one_gradient_{args.task}.jsonl"
    if args.stage == "report" and not path.exists():
        sys.exit(f"--record {path}: no such file; make it by --stage all.")
    options = {"jobs": args.jobs, "deadline": args.deadline, "cached": args.cache, "data": data}
    records = load(path) if args.stage == "report" else work(plan, path, **options)
    report_tuning(plan, records)
    rows = report(plan, records)
    print(json.dumps(made_by(path)))
    if args.save:
        print(save(f"one_gradient_{args.task}", rows, made_by(path)))


if __name__ == "__main__":
    main()
