r"""SAM is Bayes, relaxed: theorem 1 of "SAM as an Optimal Relaxation of Bayes" as an experiment.

Run:  python examples/sam_is_bayes.py --output sam_is_bayes.png --json sam_is_bayes.json

With l the sum of the losses, the theorem says that at a fixed variance v = sigma^2

    SAM             min_m  sup over |eps| <= rho of l(m + eps)           + d'/2 |m|^2
    relaxed Bayes   min_m  sup over eps of l(m + eps) - |eps|^2 / (2 v)  + d'/2 |m|^2

have the same stationary points: where eps maximizes in the first, eps = v grad l(m + eps) with
v = rho / |grad l(m + eps)|, and eps maximizes in the second too. d' = N delta is SAM's weight
decay, the prior's precision d follows from d' = 1 / (v + 1/d), and m + eps is the posterior's mean.

Logistic regression and a small network are trained with SAM in two ways: "exact" finds the worst
eps in the ball (eps <- rho grad / |grad|, repeated until nothing moves) and descends by L-BFGS;
"one step" is bsam.SAM as it is used, where that rule is applied once. Then relaxed Bayes is
minimized at SAM's v, and the two minima are compared. All descents start from the same place, the
minimum with weight decay alone, so that neither knows where the other ended. Last come losses of
one parameter for which an assumption of the theorem fails.
"""

import argparse
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import optimize
from sklearn.datasets import load_breast_cancer, make_moons
from sklearn.preprocessing import scale
from torch import Tensor, nn
from torch.nn.functional import softplus

import bsam
from bsam import relaxation

RADII = (0.02, 0.05, 0.1, 0.2)
COLUMNS = {
    "sigma": "{:.3f}", "decay": "{:.2f}", "prior_precision": "{:.2f}", "stationarity": "{:.0e}",
    "alignment": "{:.0e}", "curvature": "{:.2f}", "ties": "{:.0f}", "excess": "{:.0e}",
    "moved": "{:.0e}", "distance": "{:.0e}", "mean off": "{:.0e}", "arrived": "{:.0e}",
}  # fmt: skip
HEADS = {"decay": "d'", "prior_precision": "d", "stationarity": "station.", "alignment": "align."}
COLORS = {"moons, logistic": "#009E73", "cancer, logistic": "#0072B2", "moons, network": "#D55E00"}
SHADES = {0.05: "#56B4E9", 0.1: "#0072B2", 0.2: "#D55E00"}


class Task(NamedTuple):
    """A sum of losses over num_data examples, where to start, and SAM's weight decay delta."""

    name: str
    loss: Callable[[Tensor], Tensor]
    start: Tensor
    num_data: int
    weight_decay: float

    @property
    def decay(self) -> float:
        """d', the weight decay beside the sum of the losses."""
        return self.num_data * self.weight_decay


class Constructed(NamedTuple):
    """A loss of one parameter for which an assumption fails."""

    name: str
    loss: Callable[[Tensor], Tensor]
    rho: float
    decay: float
    why: str


CONSTRUCTED = [
    Constructed(
        "unequal slopes", lambda t: torch.maximum(3 - 3 * t[..., 0], t[..., 0] - 1), 0.5, 0.2,
        "SAM rests where both ends of the ball tie, at 1 + rho/2; relaxed Bayes ties at 1 + v",
    ),
    Constructed(
        "equal slopes", lambda t: (t[..., 0] - 1).abs(), 0.5, 0.2,
        "the ends tie too, but by symmetry both rest at 1: the theorem is silent, not wrong",
    ),
    Constructed(
        "far cliff", lambda t: softplus(-t[..., 0]) + 20 * (5 * t[..., 0] - 20).sigmoid(), 0.5, 0.4,
        "SAM's ball ends before the cliff at 4; relaxed Bayes sees it and keeps away",
    ),
    Constructed(
        "fourth power", lambda t: (t[..., 0] - 2) ** 4 / 4, 0.5, 1.0,
        "the loss outgrows every |eps|^2 / (2 v): relaxed Bayes is infinite, SAM is not",
    ),
    Constructed(
        "rho above |m|", lambda t: softplus(-t[..., 0]), 1.0, 1.0,
        "v d' = rho / |m| is above 1, and d' = 1 / (v + 1/d) has no solution d > 0",
    ),
]  # fmt: skip


# ------------------------------------------------------------------ what is trained


def logistic(name: str, inputs: np.ndarray, labels: np.ndarray, weight_decay: float) -> Task:
    """Return logistic regression on standardized inputs, with a bias that decays like the rest."""
    x = np.hstack([scale(inputs), np.ones((len(inputs), 1))])
    signed = torch.from_numpy((2 * labels - 1)[:, None] * x)
    start = torch.zeros(x.shape[1], dtype=torch.float64)
    return Task(name, lambda t: softplus(-t @ signed.T).sum(-1), start, len(x), weight_decay)


def network(seed: int) -> Task:
    """Return a network of 8 tanh units on two moons: 33 parameters."""
    points, labels = make_moons(100, noise=0.15, random_state=seed)
    points, signs = torch.from_numpy(scale(points)), torch.from_numpy(2 * labels - 1)

    def loss(theta: Tensor) -> Tensor:
        weights, biases, outer, bias = theta.split([16, 8, 8, 1], -1)
        hidden = (points @ weights.unflatten(-1, (2, 8)) + biases.unsqueeze(-2)).tanh()
        return softplus(-signs * ((hidden @ outer.unsqueeze(-1)).squeeze(-1) + bias)).sum(-1)

    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(33, generator=generator, dtype=torch.float64) / 2
    return Task("moons, network", loss, start, len(points), 0.03)


def make_tasks(seeds: int) -> list[Task]:
    """Return two logistic regressions, and a network for each seed."""
    inputs, labels = load_breast_cancer(return_X_y=True)
    return [
        logistic("moons, logistic", *make_moons(60, noise=0.15, random_state=0), 0.1),
        logistic("cancer, logistic", inputs[:, :10], labels, 0.1),
        *(network(seed) for seed in range(seeds)),
    ]


# ------------------------------------------------------------------ SAM


def gradient(loss: Callable, theta: Tensor) -> Tensor:
    """Return the gradient of the sum of losses."""
    theta = theta.detach().clone().requires_grad_(True)
    return torch.autograd.grad(loss(theta), theta)[0]


def uphill(loss: Callable, theta: Tensor, rho: float) -> Tensor:
    """Return rho grad / |grad|: what SAM perturbs by."""
    slope = gradient(loss, theta)
    return rho * slope / slope.norm()


def worst(loss: Callable, mean: Tensor, rho: float, eps: Tensor, most: int = 300) -> Tensor:
    """Return the eps of largest loss in the ball: SAM's step, repeated at the perturbed point."""
    for _ in range(most):
        eps, before = uphill(loss, mean + eps, rho), eps
        if (eps - before).norm() < 1e-11 * rho:
            break
    return eps


def train_exactly(task: Task, start: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Return SAM's minimum and the worst eps there; rho = 0 is weight decay alone.

    The gradient of a maximum is the gradient at the maximizer.
    """
    eps = [uphill(task.loss, start, rho)]

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        mean = torch.from_numpy(z.copy())
        eps[0] = worst(task.loss, mean, rho, eps[0]) if rho else eps[0]
        slope = gradient(task.loss, mean + eps[0]) + task.decay * mean
        return float(task.loss(mean + eps[0]) + task.decay / 2 * mean @ mean), slope.numpy()

    tolerances = {"gtol": 1e-9, "ftol": 1e-16, "maxiter": 1000}
    found = optimize.minimize(
        objective, start.numpy(), jac=True, method="L-BFGS-B", options=tolerances
    )
    mean = torch.from_numpy(found.x)
    return mean, worst(task.loss, mean, rho, eps[0]) if rho else eps[0]


def train_with_one_step(task: Task, start: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Return where bsam.SAM over SGD comes to rest, and its perturbation there."""
    weights = nn.Parameter(start.clone())
    optimizer = bsam.SAM(
        [weights], torch.optim.SGD, rho=rho, lr=0.5, momentum=0.9, weight_decay=task.weight_decay
    )

    def closure() -> Tensor:
        loss = task.loss(weights) / task.num_data
        loss.backward()
        return loss

    for _ in range(1000):
        before = weights.detach().clone()
        optimizer.step(closure)
        if (weights.detach() - before).norm() < 1e-11:
            break
    mean = weights.detach()
    return mean, uphill(task.loss, mean, rho)


WAYS = {"exact": train_exactly, "one step": train_with_one_step}


# ------------------------------------------------------------------ SAM against relaxed Bayes


def compare(task: Task, way: str, rho: float, without: Tensor) -> dict:
    """Train with SAM, minimize relaxed Bayes from ``without`` at SAM's v, say how they differ."""
    mean, eps = WAYS[way](task, without, rho)
    found = relaxation.sam_is_bayes(task.loss, mean, rho, weight_decay=task.decay)
    row = {"task": task.name, "way": way, **asdict(found), "failures": found.failures}
    row |= {"sigma": found.variance**0.5, "m": mean.tolist()}
    row |= {"moved": float((mean - without).norm() / mean.norm())}
    row |= {"distance": math.nan, "mean off": math.nan, "arrived": math.nan}
    if 0 < found.prior_precision < math.inf:
        bayes = relaxation.minimize_over_mean(
            task.loss, without, found.variance, prior_precision=found.prior_precision
        )
        row["distance"] = float((bayes.mean - mean).norm() / mean.norm())
        row["mean off"] = float((bayes.posterior_mean - mean - eps).norm()) / rho
        row["arrived"] = float((bayes.posterior_mean - bayes.maximizers[0]).norm()) / rho
    return row


def sam_objective(case: Constructed, mean: float) -> float:
    """Return SAM's objective for a loss of one parameter; the maximum by a grid over the ball."""
    ball = mean + torch.linspace(-case.rho, case.rho, 201, dtype=torch.float64)
    return float(case.loss(ball[:, None]).max()) + case.decay / 2 * mean**2


def compare_constructed(case: Constructed) -> dict:
    """Return the same for a loss of one parameter, where both minima are global ones."""

    def objective(mean: float) -> float:
        return sam_objective(case, mean)

    near = min(np.linspace(-3, 3, 301), key=objective)
    ends = (near - 0.03, near + 0.03)
    mean = optimize.minimize_scalar(
        objective, bounds=ends, method="bounded", options={"xatol": 1e-12}
    ).x
    found = relaxation.sam_is_bayes(case.loss, float(mean), case.rho, weight_decay=case.decay)
    row = {"task": case.name, "way": "exact", **asdict(found), "failures": found.failures}
    return row | {"sigma": found.variance**0.5, "m": [float(mean)], "why": case.why}


# ------------------------------------------------------------------ table and picture


def short(failure: str) -> str:
    """Return the one word for a failed assumption."""
    named = re.search(r"\((\w+)\)$", failure)
    return named[1] if named else "prior"


def print_table(rows: list[dict]) -> None:
    """Print a line for each task, way and rho: the largest over seeds."""
    head = "".join(f"{HEADS.get(name, name):>10}" for name in COLUMNS)
    print(f"{'':17}{'way':9}{'rho':>5}{head}  fails")
    keys = dict.fromkeys((row["task"], row["way"], row["rho"]) for row in rows)
    for key in keys:
        same = [row for row in rows if (row["task"], row["way"], row["rho"]) == key]
        cells = [
            form.format(max(row[name] for row in same)) if name in same[0] else ""
            for name, form in COLUMNS.items()
        ]
        cells = ["none" if cell == "nan" else cell for cell in cells]
        fails = dict.fromkeys(short(each) for row in same for each in row["failures"])
        line = f"{key[0]:17}{key[1]:9}{key[2]:5}" + "".join(f"{cell:>10}" for cell in cells)
        print(f"{line}  {', '.join(fails) or '-'}")


def draw_lines(axes, task: Task, without: Tensor, rows: list[dict], points: int) -> None:
    """Draw both objectives along the line from the minimum without SAM through that of SAM."""
    for row in rows:
        mean, rho = torch.tensor(row["m"], dtype=torch.float64), row["rho"]
        direction = (mean - without) / (mean - without).norm()
        center = float((mean - without).norm())
        places = torch.linspace(-0.1, center + 0.3, points, dtype=torch.float64)
        places = torch.cat([places, torch.tensor([center])]).sort().values
        sam, bayes = [], []
        for place in places:
            at = without + place * direction
            high = task.loss(at + worst(task.loss, at, rho, uphill(task.loss, at, rho)))
            sam.append(float(high + task.decay / 2 * at @ at))
            high = relaxation.max_loss(task.loss, at, row["variance"])
            bayes.append(high + task.decay / 2 * float(at @ at))
        axes.plot(places, np.array(sam) - min(sam), color=SHADES[rho], label=f"rho = {rho}")
        axes.plot(places, np.array(bayes) - min(bayes), "o", color=SHADES[rho], markersize=4)
        axes.axvline(center, color=SHADES[rho], linewidth=0.8, linestyle=":")
    axes.plot([], [], "ok", markersize=4, label="relaxed Bayes")
    axes.set(xlabel="m, from the minimum without SAM", ylabel="objective above its minimum")
    axes.set_title(f"{task.name}: SAM (lines), relaxed Bayes (dots)", fontsize=10)
    axes.legend(frameon=False)


def draw_distances(axes, rows: list[dict]) -> None:
    """Draw the distance of the minima against rho; crosses where an assumption fails."""
    for name, color in COLORS.items():
        for way, style in (("exact", "-"), ("one step", "--")):
            mine = [row for row in rows if (row["task"], row["way"]) == (name, way)]
            radii = sorted({row["rho"] for row in mine})
            largest = [max(row["distance"] for row in mine if row["rho"] == rho) for rho in radii]
            axes.plot(radii, np.maximum(largest, 1e-11), style, color=color, linewidth=1)
            for row in mine:
                marker = "x" if row["failures"] else "o"
                axes.plot(
                    row["rho"], max(row["distance"], 1e-11), marker, color=color, markersize=5
                )
        axes.plot([], [], color=color, label=name)
    for label, style in (("exact", "k-"), ("one step", "k--"), ("fails", "kx")):
        axes.plot([], [], style, label=label, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="rho", ylabel="|m' - m| / |m|")
    axes.set_xticks(RADII, [str(rho) for rho in RADII])
    axes.minorticks_off()
    axes.set_title("distance of the two minima", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc=(0.02, 0.27), ncols=2)


def draw_kink(axes, case: Constructed, row: dict, count: int) -> None:
    """Draw both objectives of a loss of one parameter whose minima differ."""
    means = np.linspace(0.6, 2.0, count)
    sam = np.array([sam_objective(case, mean) for mean in means])
    rest = [relaxation.max_loss(case.loss, mean, row["variance"]) for mean in means]
    bayes = np.array(rest) + case.decay / 2 * means**2
    for values, label, style in ((sam, "SAM", "-"), (bayes, "relaxed Bayes", "--")):
        axes.plot(means, values - values.min(), style, label=label, color="black")
        axes.plot(means[values.argmin()], 0, "o", color="black")
    axes.set(xlabel="m", ylabel="objective above its minimum")
    axes.set_title(f"{case.name}: two worst cases tie", fontsize=10)
    axes.legend(frameon=False)


def draw(tasks: list, rows: list[dict], constructed: dict, output: Path, points: int) -> None:
    """Draw where the minima coincide, how closely, and where they do not."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    task, without = tasks[0]
    mine = [row for row in rows if row["task"] == task.name and row["way"] == "exact"]
    draw_lines(left, task, without, [row for row in mine if row["rho"] in SHADES], points)
    draw_distances(middle, rows)
    draw_kink(right, CONSTRUCTED[0], constructed, 7 * points)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
    plt.close(figure)


def write_json(path: Path, rows: list[dict]) -> None:
    """Write all numbers, seed by seed; infinite and undefined ones as words."""

    def plain(value):
        return value if not isinstance(value, float) or math.isfinite(value) else str(value)

    path.parent.mkdir(parents=True, exist_ok=True)
    plain_rows = [{name: plain(value) for name, value in row.items()} for row in rows]
    path.write_text(json.dumps(plain_rows, indent=1, allow_nan=False))


def main(arguments=None) -> None:
    """Train, compare, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="networks, each with its own data")
    parser.add_argument("--quick", action="store_true", help="one network, one rho, no cancer")
    parser.add_argument("--output", type=Path, default=Path("sam_is_bayes.png"), help="the picture")
    parser.add_argument("--json", type=Path, help="a file for all numbers, seed by seed")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    if options.output.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--output {options.output}: must end in .png, .pdf or .svg")
    seeds, radii, points = (1, RADII[1:2], 3) if options.quick else (options.seeds, RADII, 21)
    torch.set_num_threads(1)  # the tensors are small

    chosen = [task for task in make_tasks(seeds) if not (options.quick and "cancer" in task.name)]
    tasks = [(task, train_exactly(task, task.start, 0.0)[0]) for task in chosen]
    jobs = [(task, way, rho, w) for task, w in tasks for way in WAYS for rho in radii]
    rows = [compare(*job) for job in jobs]
    print_table(rows)
    print("\nmoved: |m - minimum without SAM| / |m|; distance: |m' - m| / |m|, m' of relaxed Bayes")
    print(
        "mean off: |posterior's mean - (m + eps)| / rho; arrived: the same for m' and its own eps"
    )
    print(f"networks: the largest of {seeds} seeds")
    print("\nwhere assumptions fail")
    constructed = [compare_constructed(case) for case in CONSTRUCTED]
    print_table(constructed)
    print("\n" + "\n".join(f"{case.name}: {case.why}" for case in CONSTRUCTED))
    if options.json:
        write_json(options.json, rows + constructed)
    draw(tasks, rows, constructed[0], options.output, points)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
