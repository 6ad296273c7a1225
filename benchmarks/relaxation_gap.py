"""How tight is the relaxation on a neural network, along training, for SGD, SAM and bSAM?

Run:  .venv/bin/python benchmarks/relaxation_gap.py            (about 25 minutes of one core)
      .venv/bin/python benchmarks/relaxation_gap.py --quick    (about a minute)

Tanh networks with two hidden layers (so that the loss grows no faster than linearly and -f** is
finite) learn 400 of scikit-learn's digits. At checkpoints, for a Gaussian q = N(m, diag v) around
the weights m: the loss l(m), the expected loss E_q[l] (Sobol points), the largest loss at a price
for the distance (ascents: a lower bound), and the relaxed loss -f** of the diagonal family (moved
atoms: a lower bound), in nats per example. "same": one variance for all weights and all methods,
the geometric mean of what bSAM has at the end of the same seed. "own", at the end: bSAM's own
variances; for SGD and SAM those of bSAM's recursion for s at their weights, held fixed.
"isotropic", at the end: the family whose second statistic is |theta|^2, with the same q.
"/10" and "/100": the same q with that part of the variance.

Lower bounds of -f** bound the gap -f** - E_q[l] from below. How much of it the search finds is
measured where upper bounds are known, at the same P: quadratics with the Hessians of the trained
networks, logistic regression on random features; and by longer searches on the networks.

Results go to benchmarks/results/relaxation_gap.json after each seed; what is there already, with
the same settings, is not computed again. Learning rate and rho of each method are those of the
least validation NLL at the weights, over two other seeds.
"""

import argparse
import datetime
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import bsam
from bsam import metrics, relaxation
from bsam.experiments.data import Part, digits
from bsam.experiments.results import write_json
from bsam.experiments.training import Training
from bsam.relaxation.arguments import Problem
from bsam.relaxation.ascent import ascend
from bsam.relaxation.atoms import normalized

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "relaxation_gap.json"
FIGURE = ROOT / "docs" / "relaxation_gap.png"
WIDTHS, BATCH = (64, 8, 8, 10), 40
DECAY, MOMENTUM, BETAS, DAMPING = 1e-3, 0.9, (0.9, 0.99), 0.1
METHODS = ("SGD", "SAM", "bSAM")
CHOICES = {
    "SGD": {"lr": (0.03, 0.1, 0.3, 1.0)},
    "SAM": {"lr": (0.1, 0.3, 1.0), "rho": (0.05, 0.2)},
    "bSAM": {"lr": (0.3, 1.0, 3.0), "rho": (0.01, 0.1)},
}
FULL = {
    "num_data": 400,
    "epochs": [2, 6, 16, 40, 100, 256],
    "seeds": [0, 1, 2, 3, 4],
    "choice_seeds": [100, 101],
    "control_seeds": [0, 1],
    "iterations": 80,
    "long_iterations": 300,
    "tolerance": 1e-2,
}
QUICK = FULL | {
    "iterations": 50,
    "num_data": 80,
    "epochs": [4, 32],
    "seeds": [0, 1],
    "choice_seeds": [],
    "control_seeds": [],
    "tolerance": 2e-2,
}


class SummedLoss:
    """The sum of cross-entropies of a tanh network, as a function of its weights (..., P)."""

    def __init__(self, part: Part, activation: Any = torch.tanh) -> None:
        self.inputs = part.images.flatten(1).double()
        self.targets = one_hot(part.labels, WIDTHS[-1]).double()
        self.activation = activation

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the losses, shape (...); in products of matrices, faster than a mapped model."""
        rows = theta.reshape(-1, theta.shape[-1])
        values, used = self.inputs, 0
        for width, following in itertools.pairwise(WIDTHS):
            weight = rows[:, used : used + width * following].reshape(-1, following, width)
            used += width * following
            bias = rows[:, None, used : used + following]
            used += following
            logits = values @ weight.transpose(1, 2) + bias
            values = self.activation(logits)
        losses = logits.logsumexp(-1) - (logits * self.targets).sum(-1)
        return losses.sum(-1).reshape(theta.shape[:-1])


def network(seed: int) -> nn.Sequential:
    """Make the network."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for width, following in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(width, following), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def weights(model: nn.Module) -> Tensor:
    """Return the weights in one row, float64."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def optimizer_of(method: str, model: nn.Module, num_data: int, seed: int, setting: dict) -> Any:
    """Make the optimizer."""
    params = model.parameters()
    sgd = {"lr": setting["lr"], "momentum": MOMENTUM, "weight_decay": DECAY}
    if method == "SGD":
        return torch.optim.SGD(params, **sgd)
    if method == "SAM":
        return bsam.SAM(params, torch.optim.SGD, rho=setting["rho"], **sgd)
    bayes = {"betas": BETAS, "damping": DAMPING, "weight_decay": DECAY, "seed": seed}
    return bsam.BSAM(params, num_data=num_data, **bayes, **setting)


def trained(method: str, setting: dict, part: Part, epochs: list[int], seed: int) -> tuple:
    """Train; return the model, the weights after each of the epochs, and the optimizer."""
    model = network(seed)
    optimizer = optimizer_of(method, model, len(part.labels), seed, setting)
    training = Training(model, optimizer, part, epochs=epochs[-1], batch_size=BATCH, seed=seed)
    found = {}
    while training.epoch < epochs[-1]:
        training.run_epoch()
        if training.epoch in epochs:
            found[training.epoch] = weights(model)
    return model, found, optimizer


def variances(model: nn.Module, optimizer: bsam.BSAM) -> Tensor:
    """Return 1/(N s), in one row."""
    variance = optimizer.posterior(model).variance
    return torch.cat([variance[name].flatten() for name, _ in model.named_parameters()]).double()


def variances_at_rest(model: nn.Module, part: Part, seed: int, epochs: int = 100) -> Tensor:
    """Return 1/(N s) where bSAM's recursion brings s while the weights stay."""
    still = {"lr": 0.0, "rho": 0.0}
    optimizer = optimizer_of("bSAM", model, len(part.labels), seed, still)
    training = Training(model, optimizer, part, epochs=epochs, batch_size=BATCH, seed=seed)
    while training.epoch < epochs:
        training.run_epoch()
    return variances(model, optimizer)


# ------------------------------------------------------------------------------ what is measured


def measured(loss: Any, mean: Tensor, variance: Any, count: int, settings: dict, **what) -> dict:
    """Return all in nats per example; ``largest=True`` adds the side of SAM."""
    expected = relaxation.expected_loss(loss, mean, variance, tolerance=settings["tolerance"])
    relaxed = searched(loss, mean, variance, settings)
    largest = relaxation.max_loss(loss, mean, variance) if what.get("largest") else math.nan
    return {
        "at_mean": float(loss(mean)) / count,
        "expected": expected / count,
        "expected_error": expected.error / 2 / count,  # one standard error
        "relaxed": relaxed / count,
        "largest": largest / count,
    }


def searched(loss: Any, mean: Tensor, variance: Any, settings: dict, seed: int = 0) -> float:
    """Return the largest expected loss found over distributions with the moments of q.

    Like ``relaxed_loss(method="atoms")`` it climbs from atoms that have these moments exactly; but
    the atoms start at pairs of corners m + sd u, m - sd u, and several such pairs together.
    """
    problem = Problem.of(loss, mean, variance)
    generator = torch.Generator().manual_seed(seed)
    return max(
        climbed(problem, corners(problem, pairs, generator), settings["iterations"])
        for pairs in (4, 4, 16)
    )


def corners(problem: Problem, pairs: int, generator: torch.Generator) -> Tensor:
    """Return atoms (2 pairs, P) in standard coordinates, near the best corners of some."""
    size = (pairs * 5 // 2, problem.num_parameters)
    found = [corner(problem, row) for row in torch.randn(size, generator=generator).double()]
    best = [u for _, u in sorted(found, key=lambda each: -each[0])[:pairs]]
    atoms = torch.cat([torch.stack(best), -torch.stack(best)])
    return atoms + 0.1 * torch.randn(atoms.shape, generator=generator)


def corner(problem: Problem, u: Tensor, rounds: int = 30) -> tuple[float, Tensor]:
    """Climb in l(m + sd u) + l(m - sd u), from one corner to that which the gradient points to.

    Corners are vectors of signs; in the isotropic family all vectors of their length.
    """
    best, kept = -math.inf, u
    for _ in range(rounds):
        x = torch.stack([u, -u]).requires_grad_()
        value = problem.loss(problem.theta(x)).sum()
        if value.item() <= best * (1 + 1e-9):
            break
        best, kept = value.item(), u
        slopes = torch.autograd.grad(value, x)[0]
        pull = slopes[0] - slopes[1]
        u = pull / pull.norm() * len(pull) ** 0.5 if problem.isotropic else pull.sign()
    return best, kept


def climbed(problem: Problem, atoms: Tensor, iterations: int) -> float:
    """Move atoms and weights uphill; their moments are kept exactly."""
    count = len(atoms)

    def expected(flat: Tensor) -> Tensor:
        inside = torch.softmax(flat[0, :count], 0)
        points = normalized(problem, flat[0, count:].reshape(atoms.shape), inside)
        return (inside @ problem.loss(problem.theta(points)))[None]

    start = torch.cat([torch.zeros(count, dtype=torch.float64), atoms.flatten()])
    return float(ascend(expected, start[None], iterations)[1][0])


def part_of(seed: int, settings: dict) -> Part:
    """Return the training images."""
    train = digits(seed).train
    return Part(*(each[: settings["num_data"]] for each in train))


def one_seed(seed: int, settings: dict, chosen: dict) -> dict:
    """Train with every method and measure."""
    torch.set_num_threads(1)
    part, rows = part_of(seed, settings), []
    runs = {m: trained(m, chosen[m], part, settings["epochs"], seed) for m in METHODS}
    same = variances(runs["bSAM"][0], runs["bSAM"][2]).log().mean().exp()
    for method, (model, found, optimizer) in runs.items():
        own = variances(model, optimizer) if method == "bSAM" else None
        own = variances_at_rest(model, part, seed) if own is None else own
        for epoch, family, mean, variance in cases(found, float(same), own):
            many = family == "same" and epoch in settings["epochs"][-1::-3]
            row = measured(
                SummedLoss(part), mean, variance, len(part.labels), settings, largest=many
            )
            rows.append({"method": method, "epoch": epoch, "q": family} | row)
            print(
                f"seed {seed} {method:4} epoch {epoch:3} {family:9} l(m) {row['at_mean']:.4f} "
                f"E {row['expected']:.4f} -f** >= {row['relaxed']:.4f}",
                flush=True,
            )
    return {"rows": rows, "variance": float(same), "test": test_nll(runs, seed)}


def cases(found: dict[int, Tensor], same: float, own: Tensor):
    """Yield (epoch, name of q and family, mean, variance)."""
    alike = torch.full_like(own, same)
    for epoch, mean in found.items():
        yield epoch, "same", mean, alike
    last = max(found)
    for name, variance in (
        ("own", own),
        ("isotropic", same),
        ("/10", alike / 10),
        ("/100", alike / 100),
    ):
        yield last, name, found[last], variance


def test_nll(runs: dict, seed: int) -> dict[str, float]:
    """Return the test NLL at the weights."""
    return {name: nll(model, digits(seed).test) for name, (model, *_) in runs.items()}


def nll(model: nn.Module, part: Part) -> float:
    """Return the NLL at the weights."""
    with torch.no_grad():
        probs = model(part.images).double().softmax(-1)
    return metrics.negative_log_likelihood(probs, part.labels)


def choose(settings: dict) -> dict[str, dict]:
    """Return for each method the setting of the least validation NLL, and print all."""
    chosen = {}
    for method, choices in CHOICES.items():
        options = [
            dict(zip(choices, values, strict=True))
            for values in itertools.product(*choices.values())
        ]
        scores = [validation_nll(method, each, settings) for each in options]
        best = min(range(len(options)), key=scores.__getitem__)
        chosen[method] = options[best]
        tried = ", ".join(f"{o} {s:.4f}" for o, s in zip(options, scores, strict=True))
        print(f"{method}: {tried}; best {options[best]}", flush=True)
    return chosen


def validation_nll(method: str, setting: dict, settings: dict) -> float:
    """Return the mean over the seeds for choices; without any, 0."""
    found = []
    for seed in settings["choice_seeds"]:
        try:
            model = trained(
                method, setting, part_of(seed, settings), settings["epochs"][-1:], seed
            )[0]
            found.append(nll(model, digits(seed).validation))
        except (RuntimeError, ValueError):
            found.append(math.inf)  # diverged
    return statistics.fmean(found) if found else 0.0


# ------------------------------------------------------------------- where upper bounds are known


def worst_correlation(matrix: Tensor, sweeps: int = 300, rank: int = 48) -> tuple[Tensor, float]:
    """Maximise tr(A S) over S >= 0 with unit diagonal: S, and an upper bound of the maximum.

    Coordinate ascent over S = V V^T with unit rows; the multipliers of its end, moved until they
    are feasible, give the bound by duality.
    """
    a = matrix.numpy()
    v = np.random.default_rng(0).standard_normal((len(a), rank))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    for _ in range(sweeps):
        before = v.copy()
        for i, row in enumerate(a):
            pull = row @ v - row[i] * v[i]
            length = np.linalg.norm(pull)
            if length > 0:
                v[i] = pull / length
        if np.abs(v - before).max() < 1e-7:
            break
    shift = ((a @ v) * v).sum(1)
    excess = np.linalg.eigvalsh(a - np.diag(shift))[-1]
    return torch.from_numpy(v @ v.T), float(shift.sum() + len(a) * max(excess, 0.0))


def share_found(at_mean: float, expected: float, relaxed: float, upper: float) -> dict:
    """Return how much of the gap between E_q[l] and the upper bound of -f** the search finds."""
    found = (relaxed - expected) / (upper - expected)
    values = {"at_mean": at_mean, "expected": expected, "relaxed": relaxed, "upper": upper}
    return values | {"found": found}


def quadratic_control(hessian: Tensor, variance: Tensor, isotropic: bool, settings: dict) -> dict:
    """Search for the relaxation of a quadratic, whose value is known."""
    loss, mean = relaxation.Quadratic(hessian), torch.zeros_like(variance)
    expected = float((hessian.diagonal() * variance).sum()) / 2
    half = variance.sqrt()[:, None] * hessian * variance.sqrt() / 2
    half = (half + half.T) / 2
    if isotropic:
        upper = len(mean) * float(torch.linalg.eigvalsh(half)[-1])
    else:
        upper = worst_correlation(half)[1]
    found = searched(loss, mean, float(variance[0]) if isotropic else variance, settings)
    return share_found(0.0, expected, found, upper)


def logistic_control(part: Part, variance: Tensor, settings: dict) -> dict:
    """Tell even from odd digits with P random features; the upper bound is Jaakkola and Jordan's.

    The variational parameters answer the worst second moments, and these the parameters, in turn,
    damped; each is a bound, the least one counts.
    """
    generator = torch.Generator().manual_seed(0)
    pixels, size = part.images.flatten(1).double(), len(variance)
    directions = torch.randn(pixels.shape[1], size, generator=generator, dtype=torch.float64)
    features = torch.tanh(pixels @ directions / 4) / 4
    signs = 1.0 - 2.0 * (part.labels % 2).double()
    loss = relaxation.LogisticRegression(features, signs)
    mean = minimized(loss, size, len(signs))
    expected = relaxation.expected_loss(loss, mean, variance, tolerance=settings["tolerance"])
    found = searched(loss, mean, variance, settings)
    margins = loss.signed @ mean
    scaled = loss.signed * variance.sqrt()
    second, upper = scaled.square().sum(1), math.inf
    for _ in range(10):
        xi = (margins.square() + second).sqrt().clamp(min=1e-6)
        curvature = torch.tanh(xi / 2) / (4 * xi)
        base = nn.functional.softplus(-xi) + (xi - margins) / 2
        base = base + curvature * (margins.square() - xi.square())
        moments, worst = worst_correlation((scaled.T * curvature) @ scaled, sweeps=100)
        upper = min(upper, float(base.sum()) + worst)
        second = (second + ((scaled @ moments) * scaled).sum(1)) / 2
    return share_found(float(loss(mean)), float(expected), found, upper)


def minimized(loss: Any, size: int, count: int) -> Tensor:
    """Return the minimum of a loss with the weight decay of the networks."""
    theta = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(theta) + count * DECAY * theta.square().sum() / 2
        value.backward()
        return value

    optimizer.step(closure)
    return theta.detach()


def controls(seed: int, settings: dict, chosen: dict) -> dict:
    """Run what is known, and a longer search, for one seed."""
    torch.set_num_threads(1)
    part, result = part_of(seed, settings), {}
    loss, same = SummedLoss(part), None
    for method in METHODS[::-1]:
        model, found, optimizer = trained(method, chosen[method], part, settings["epochs"], seed)
        mean = found[settings["epochs"][-1]]
        if method == "bSAM":
            same = variances(model, optimizer).log().mean().exp()
        variance = torch.full_like(mean, float(same))
        hessian = torch.func.hessian(loss)(mean)
        hessian = (hessian + hessian.T) / 2
        for name, isotropic in (("quadratic", False), ("quadratic, isotropic", True)):
            result[f"{name}, {method}"] = quadratic_control(hessian, variance, isotropic, settings)
        result[f"long search, {method}"] = long_search(loss, mean, variance, settings)
    result["logistic"] = logistic_control(part, variance, settings)
    for name, value in result.items():
        print(f"seed {seed} control {name}: {value}", flush=True)
    return result


def long_search(loss: Any, mean: Tensor, variance: Tensor, settings: dict) -> dict:
    """Compare the search with that of the package, and with one of other draws that goes on."""
    count, more = settings["num_data"], settings | {"iterations": settings["long_iterations"]}
    package = float(relaxation.relaxed_loss(loss, mean, variance, method="atoms"))
    found = {
        "usual": searched(loss, mean, variance, settings),
        "package": package,
        "longer": max(searched(loss, mean, variance, more, seed) for seed in (1, 2)),
    }
    return {name: value / count for name, value in found.items()}


def relu_is_unbounded(settings: dict) -> float:
    """Return the relaxed loss of the same network with ReLU units: infinite."""
    part = part_of(0, settings)
    mean = weights(network(0))
    loss = SummedLoss(part, torch.relu)
    return float(relaxation.relaxed_loss(loss, mean, torch.full_like(mean, 0.01), method="atoms"))


# ------------------------------------------------------------------------------------- the report


def mean_error(values: list[float]) -> tuple[float, float]:
    """Return mean and standard error."""
    if len(values) < 2 or any(map(math.isnan, values)):
        return statistics.fmean(values), math.nan
    error = statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), error


def cell(values: list[float], places: int = 3, sign: str = "") -> str:
    """Return mean and standard error as text."""
    mean, error = mean_error(values)
    return f"{mean:{sign}.{places}f} ± {error:.{places}f}"


def column(runs: dict, method: str, epoch: int, q: str) -> list[dict]:
    """Return a row of each seed, with the gap and what it is relative to E_q[l] - l(m)."""
    rows = []
    for run in runs.values():
        (row,) = [r for r in run["rows"] if (r["method"], r["epoch"], r["q"]) == (method, epoch, q)]
        gap, cost = row["relaxed"] - row["expected"], row["expected"] - row["at_mean"]
        rows.append(row | {"gap": gap, "relative": gap / cost, "cost": cost})
    return rows


def print_tables(result: dict) -> None:
    """Print the tables of docs/tightness.md."""
    runs, epochs = result["runs"], result["settings"]["epochs"]
    print("\n| q | epoch | method | l(m) | E_q[l] | -f** at least | gap | relative | max side |")
    for q, epoch in [("same", e) for e in epochs] + [
        (q, epochs[-1]) for q in ("own", "isotropic", "/10", "/100")
    ]:
        for method in METHODS:
            rows = column(runs, method, epoch, q)
            names = ("at_mean", "expected", "relaxed", "gap", "relative", "largest")
            cells = [cell([float(r[name]) for r in rows], 4) for name in names]
            print(f"| {q} | {epoch} | {method} | {' | '.join(cells)} |")
    print("\npaired differences at the end, bSAM less the other: gap, relative gap")
    for q in ("same", "own", "isotropic", "/10", "/100"):
        ours = column(runs, "bSAM", epochs[-1], q)
        for other in METHODS[:2]:
            theirs = column(runs, other, epochs[-1], q)
            cells = [
                cell([a[name] - b[name] for a, b in zip(ours, theirs, strict=True)], 4, "+")
                for name in ("gap", "relative", "cost")
            ]
            print(f"| {q} | bSAM - {other} | {' | '.join(cells)} |")
    for method in METHODS:
        print(f"test NLL {method} {cell([run['test'][method] for run in runs.values()], 4)}")
    print_controls(result["controls"])


def print_controls(controls: dict) -> None:
    """Print how much of a known gap is found."""
    for name in next(iter(controls.values()), {}):
        each = [run[name] for run in controls.values()]
        if "found" in each[0]:
            ratio = [(e["upper"] - e["expected"]) / (e["expected"] - e["at_mean"]) for e in each]
            found = cell([e["found"] for e in each])
            print(f"{name}: share found {found}, relative gap known {cell(ratio, 1)}")
        else:
            gains = [[e[n] / e["usual"] - 1 for e in each] for n in ("longer", "package")]
            print(f"{name}: longer {cell(gains[0], 3, '+')}, package {cell(gains[1], 3, '+')}")


COLORS = {"SGD": "#0072B2", "SAM": "#009E73", "bSAM": "#D55E00"}


def draw(result: dict, path: Path) -> None:
    """Draw the loss and its bounds along training, the relative gap, and the scale of q."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.4), layout="constrained")
    draw_training(axes[0], result)
    draw_relative(axes[1], result)
    draw_scales(axes[2], result)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_training(axis: Any, result: dict) -> None:
    """Draw l(m), E_q[l] and the bound of -f**."""
    epochs = result["settings"]["epochs"]
    styles = {"at_mean": ":", "expected": "--", "relaxed": "-"}
    names = {"at_mean": "l(m)", "expected": "$E_q[l]$", "relaxed": "$-f^{**}$, at least"}
    for method, (name, style) in itertools.product(METHODS, styles.items()):
        values = [
            mean_error([r[name] for r in column(result["runs"], method, e, "same")])[0]
            for e in epochs
        ]
        axis.plot(epochs, values, style, color=COLORS[method], marker="o", markersize=3)
    handles = [axis.plot([], [], s, color="black", label=names[n])[0] for n, s in styles.items()]
    axis.set(xscale="log", yscale="log", xlabel="epochs", ylabel="nats per example")
    axis.set_title("loss and its relaxation, the same q")
    axis.legend(handles=handles, loc="lower left", fontsize=9)


def draw_relative(axis: Any, result: dict) -> None:
    """Draw the gap relative to what the noise costs."""
    epochs = result["settings"]["epochs"]
    for method in METHODS:
        pairs = [
            mean_error([r["relative"] for r in column(result["runs"], method, e, "same")])
            for e in epochs
        ]
        axis.errorbar(epochs, *zip(*pairs, strict=True), color=COLORS[method], label=method)
    axis.set(
        xscale="log",
        xlabel="epochs",
        ylabel=r"$(-f^{**} - E_q[l])\;/\;(E_q[l] - l(m))$",
    )
    axis.set_title("gap relative to the cost of the noise")
    axis.legend(fontsize=9)


def draw_scales(axis: Any, result: dict) -> None:
    """Draw the relative gap at the end against the variance of q."""
    last = result["settings"]["epochs"][-1]
    variance = statistics.fmean(run["variance"] for run in result["runs"].values())
    for method in METHODS:
        pairs = [
            mean_error([r["relative"] for r in column(result["runs"], method, last, q)])
            for q in ("/100", "/10", "same")
        ]
        scales = [variance / 100, variance / 10, variance]
        axis.errorbar(scales, *zip(*pairs, strict=True), color=COLORS[method], label=method)
        known = [run.get(f"quadratic, {method}") for run in result["controls"].values()]
        known = [(k["upper"] - k["expected"]) / (k["expected"] - k["at_mean"]) for k in known]
        if known:
            axis.plot(variance / 300, statistics.fmean(known), "*", color=COLORS[method], ms=11)
    axis.plot([], [], "*", color="black", label="Hessian at m alone")
    axis.set(xscale="log", yscale="log", ylim=(8, 800))
    axis.set(xlabel="variance v of q", ylabel="relative gap, at the end")
    axis.set_title("relative gap against the width of q")
    axis.legend(fontsize=9, loc="lower left")


# ---------------------------------------------------------------------------------------- the run


def started(settings: dict, path: Path) -> dict:
    """Return what is recorded with these settings, or a new record."""
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings"] == settings:
            return found
    return {
        "settings": settings,
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "bsam": bsam.__version__,
        },
        "date": str(datetime.date.today()),
        "chosen": None,
        "runs": {},
        "controls": {},
        "minutes": 0.0,
    }


def run(result: dict, path: Path, jobs: int) -> None:
    """Compute what is missing, and record it piece by piece."""
    settings, start, before = result["settings"], time.monotonic(), result["minutes"] or 0.0

    def record() -> None:
        result["minutes"] = round(before + (time.monotonic() - start) / 60, 1)
        write_json(path, result)

    result["relu"] = str(relu_is_unbounded(settings))
    if result["chosen"] is None:
        result["chosen"] = choose(settings)
        record()
    with ProcessPoolExecutor(jobs) as pool:
        for task, seeds, name in (
            (one_seed, settings["seeds"], "runs"),
            (controls, settings["control_seeds"], "controls"),
        ):
            missing = [seed for seed in seeds if str(seed) not in result[name]]
            work = partial(task, settings=settings, chosen=result["chosen"])
            for seed, found in zip(missing, pool.map(work, missing), strict=True):
                result[name][str(seed)] = found
                record()
                print(f"{name}: seed {seed}, {result['minutes']} minutes so far", flush=True)


def main() -> None:
    """Run, print the tables, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, few images; not drawn")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--draw", action="store_true", help="only tables and picture of the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = Path(tempfile.gettempdir()) / "relaxation_gap_quick.json" if options.quick else RESULTS
    settings = {
        "widths": list(WIDTHS),
        "batch": BATCH,
        "weight_decay": DECAY,
        "momentum": MOMENTUM,
        "betas": list(BETAS),
        "damping": DAMPING,
    } | (QUICK if options.quick else FULL)
    result = started(settings, path)
    if not options.draw:
        run(result, path, options.jobs)
    print_tables(json.loads(path.read_text()))
    print(f"relaxed loss with ReLU units: {result['relu']}")
    if not options.quick:
        draw(json.loads(path.read_text()), FIGURE)


if __name__ == "__main__":
    main()
