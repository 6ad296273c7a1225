"""How good is the diagonal Gaussian that bSAM learns, where the truth is known?

Run:  python examples/how_good_is_the_gaussian.py --output gaussian.png --json gaussian.json

Bayesian linear regression (noise variance 1) and logistic regression: two weights, 60 examples,
correlated inputs of unequal scale, prior N(0, 1). The exact posterior is known, by a grid. Beside
it stand the best diagonal Gaussian (which minimizes KL(q || exact)), Laplace, IVON (pip install
'bsam[rivals]') and bSAM in three settings. Weights are drawn from the prior and targets from the
model, so on average nothing predicts better than the exact posterior.

Then what decides the width. Where training ends, s solves

    s = sqrt(s) E|g| + delta + gamma,    g the gradient of a sub-batch's mean loss at noisy weights,

but the best diagonal Gaussian has s = h + delta, h the Hessian's diagonal. With g = G + H e /
sqrt(N s), G the sub-batch's gradient at the mean, E|g| is known: "theory" in the second table. By
rule of thumb, for sub-batches of B of the N examples,

    (E|g|)^2 = 2/pi (h / B (N - B) / (N - 1) + h^2 / (N s)),

so without damping single examples give s = 0.64 h, larger sub-batches 1 / B of it as long as B is
well below sqrt(N), and the full batch h sqrt(0.64 / N). "factor" is what was measured in place of
2/pi = 0.64, which is for Gaussian gradients, inputs without correlation and a flat prior. The
gradients of single examples are not Gaussian: "one example" is (E|g|)^2 / E[g^2] for them.

What came out (defaults of this script): IVON finds the best diagonal Gaussian, its standard
deviations within 1 %. bSAM's means are right to 0.06 standard deviations, its widths are not: 1.7
and 0.9 times the best diagonal's (linear, logistic) with default damping, 2.4 and 1.8 with small
damping and the full batch, 1.4 and 1.1 with sub-batches of one example. Theory is right to 2.2 %.
So damping and sub-batches set the width, together with the data, but not to the right value. s_init
is forgotten in 1500 steps with a beta2 of 0.99, not with 0.999.

All of bSAM's arithmetic is element by element: a parameter with a row for each data set is as many
independent runs as it has rows. So all data sets of both problems train at once.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import bsam

try:
    import ivon
except ImportError:
    ivon = None

N, FRESH, PRIOR = 60, 2000, 1.0
DELTA = PRIOR / N
SMALL = {"damping": 1e-3, "betas": (0.9, 0.99)}
DAMPINGS = [{"damping": damping} for damping in (1e-3, 1e-2, 1e-1, 1.0)]
# examples in a sub-batch: (sub-batches in a step, changes of SMALL)
SWEEP = {
    1: (3, [*DAMPINGS, {"num_data": 4 * N}, {"s_init": 0.1}, {"s_init": 100.0},
            {"betas": (0.9, 0.9)}, {"betas": (0.9, 0.999)}]),
    4: (3, DAMPINGS),
    12: (5, [*DAMPINGS, {"num_data": 12 * N}]),
    60: (1, [*DAMPINGS, {"num_data": 4 * N}]),
}  # fmt: skip
STYLES = {
    "best diagonal": {"color": "#F0E442", "linewidth": 5},
    "Laplace, diagonal": {"color": "black", "linestyle": "--"},
    "IVON": {"color": "#CC79A7", "linestyle": ":", "linewidth": 2.5},
    "bSAM, defaults": {"color": "#009E73"},
    "bSAM, full batch": {"color": "#0072B2"},
    "bSAM, one example": {"color": "#D55E00"},
}
COLORS = {1: "#D55E00", 4: "#E69F00", 12: "#56B4E9", 60: "#0072B2"}  # by size of a sub-batch


class Data(NamedTuple):
    """Data sets: a row each, first those of linear, then those of logistic regression."""

    inputs: Tensor  # (rows, N, 2)
    targets: Tensor  # (rows, N)
    fresh: Tensor  # (rows, FRESH, 2), test inputs
    logistic: Tensor  # (rows, 1), bool


class Exact(NamedTuple):
    """The exact posterior as points with shares, its moments and the evidence."""

    points: Tensor  # (rows, points, 2)
    shares: Tensor  # (rows, points)
    mean: Tensor  # (rows, 2)
    covariance: Tensor  # (rows, 2, 2)
    log_evidence: Tensor  # (rows,)


class Rows(nn.Module):
    """As many linear models without bias as there are data sets: a row of the weights for each."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, 2, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return w x for inputs of shape (rows, n, 2)."""
        return (inputs @ self.weight.unsqueeze(-1)).squeeze(-1)


def make_data(seeds: int) -> Data:
    """Draw weights from the prior, inputs, and targets from the model; a data set for each seed."""
    mix = torch.linalg.cholesky(torch.tensor([[1.0, 0.4], [0.4, 0.25]], dtype=torch.float64))
    rows = []
    for logistic in (False, True):
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(2 * seed + logistic)
            normal = partial(torch.randn, generator=generator, dtype=torch.float64)
            inputs, fresh = normal(N, 2) @ mix.T, normal(FRESH, 2) @ mix.T
            z = inputs @ normal(2) / math.sqrt(PRIOR)
            labels = torch.bernoulli(z.sigmoid(), generator=generator)
            targets = labels if logistic else z + normal(N)
            rows.append((inputs, targets, fresh, torch.tensor([logistic])))
    return Data(*(torch.stack(column) for column in zip(*rows, strict=True)))


def derivatives(data: Data, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and second derivative of each example's loss with respect to w x."""
    z = (data.inputs @ weights.unsqueeze(-1)).squeeze(-1)
    p = z.sigmoid()
    first = torch.where(data.logistic, p, z) - data.targets
    return first, torch.where(data.logistic, p * (1 - p), 1.0)


def gradient(data: Data, weights: Tensor, which: Tensor) -> Tensor:
    """Return the gradient of the mean loss over the examples of numbers ``which``, (rows, b)."""
    inputs = data.inputs.take_along_dim(which.unsqueeze(-1), 1)
    part = data._replace(inputs=inputs, targets=data.targets.gather(1, which))
    return (derivatives(part, weights)[0].unsqueeze(1) @ inputs).squeeze(1) / which.shape[1]


def energy(data: Data, weights: Tensor) -> Tensor:
    """Return -log p(targets, weights), shape (rows, k), for weights of shape (rows, k, 2)."""
    z, y = weights @ data.inputs.mT, data.targets.unsqueeze(1)
    linear = (z - y).square() / 2 + math.log(2 * math.pi) / 2
    losses = torch.where(data.logistic.unsqueeze(-1), softplus(z) - y * z, linear).sum(-1)
    return losses + PRIOR / 2 * weights.square().sum(-1) - math.log(PRIOR / (2 * math.pi))


# ------------------------------------------------------------------ what is true, what is best


def laplace(data: Data) -> tuple[Tensor, Tensor]:
    """Return the most probable weights (Newton's method) and the precision there."""
    weights, eye = torch.zeros_like(data.inputs[:, 0]), torch.eye(2, dtype=torch.float64)
    for _ in range(30):
        first, second = derivatives(data, weights)
        slope = (first.unsqueeze(1) @ data.inputs).squeeze(1) + PRIOR * weights
        precision = data.inputs.mT @ (second.unsqueeze(-1) * data.inputs) + PRIOR * eye
        weights = weights - torch.linalg.solve(precision, slope)
    return weights, precision


def moments(points: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of points that have these shares."""
    mean = (shares.unsqueeze(1) @ points).squeeze(1)
    off = points - mean.unsqueeze(1)
    return mean, off.mT @ (shares.unsqueeze(-1) * off)


def exact_posterior(data: Data, step: float = 0.4) -> Exact:
    """Return the exact posterior by a grid, whose step is in standard deviations of Laplace's."""
    center, precision = laplace(data)
    factor = torch.linalg.cholesky(precision.inverse())
    line = torch.arange(-8.0, 8.0 + step / 2, step, dtype=torch.float64)
    points = center.unsqueeze(1) + torch.cartesian_prod(line, line) @ factor.mT
    log_joint = -energy(data, points)
    log_evidence = log_joint.logsumexp(1) + 2 * math.log(step) + factor.logdet()
    shares = log_joint.softmax(1)
    return Exact(points, shares, *moments(points, shares), log_evidence)


def divergence(data: Data, exact: Exact, mean: Tensor, factor: Tensor) -> Tensor:
    """Return KL(N(mean, factor factor^T) || exact) in nats, by Gauss-Hermite quadrature."""
    nodes, weights = (torch.tensor(each) for each in np.polynomial.hermite_e.hermegauss(32))
    shares = torch.cartesian_prod(weights, weights).prod(1) / (2 * math.pi)
    points = mean.unsqueeze(1) + torch.cartesian_prod(nodes, nodes) @ factor.mT
    entropy = 1 + math.log(2 * math.pi) + factor.logdet()
    return energy(data, points) @ shares + exact.log_evidence - entropy


def best_diagonal(data: Data, exact: Exact) -> tuple[Tensor, Tensor]:
    """Return mean and precision of the diagonal Gaussian with the smallest KL(q || exact)."""
    mean, precision = laplace(data)
    sd = precision.diagonal(dim1=1, dim2=2).rsqrt()
    x = torch.zeros(2, *mean.shape, dtype=torch.float64, requires_grad=True)  # shift, log stretch
    solver = torch.optim.LBFGS(
        [x], max_iter=200, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        factor = torch.diag_embed(sd * x[1].exp())
        total = divergence(data, exact, mean + sd * x[0], factor).sum()
        total.backward()
        return total

    solver.step(closure)
    shift, stretch = x.detach()
    return mean + sd * shift, (sd * stretch.exp()) ** -2


# ------------------------------------------------------------------ what is learned


def train_bsam(
    data: Data, settings: list[dict], size: int, count: int, steps: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Train with bSAM on ``count`` sub-batches of ``size`` examples a step, in each setting.

    Returns:
        For each setting mean and precision, and as a test that training has converged by how much
        log s, averaged over a tenth of training, moved from the last tenth but one to the last.
    """
    models = [Rows(len(data.inputs)) for _ in settings]
    groups = [{"params": m.parameters(), **each} for m, each in zip(models, settings, strict=True)]
    optimizer = bsam.BSAM(groups, lr=0.1, num_data=N, weight_decay=DELTA, seed=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)

    def closure(which: Tensor) -> None:
        for model in models:  # by hand, which is several times as fast as autograd here
            model.weight.grad = gradient(data, model.weight.detach(), which)

    history = []
    for step in range(steps):
        order = torch.rand(len(data.inputs), N, generator=generator).argsort(1)
        optimizer.step([partial(closure, which) for which in order.split(size, 1)[:count]])
        schedule.step()
        if step >= steps - 2 * (steps // 10):
            history.append(torch.stack([optimizer.state[m.weight]["s"] for m in models]))
    before, after = (part.mean(0).log() for part in torch.stack(history).chunk(2))
    posteriors = [optimizer.posterior(model) for model in models]
    return [
        (posterior.mean["weight"], posterior.precision["weight"], moved)
        for posterior, moved in zip(posteriors, (after - before).mean(-1), strict=True)
    ]


def train_ivon(data: Data, steps: int) -> tuple[Tensor, Tensor]:
    """Train with IVON on the full batch; return mean and precision."""
    model, rows = Rows(len(data.inputs)), len(data.inputs)
    optimizer = ivon.IVON(
        model.parameters(), lr=0.1, ess=N, weight_decay=DELTA, hess_init=0.5, beta2=0.9995
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    everything = torch.arange(N).expand(rows, N)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(steps):
            with optimizer.sampled_params(train=True):
                model.weight.grad = gradient(data, model.weight.detach(), everything)
            optimizer.step()
            schedule.step()
    group = optimizer.param_groups[0]
    precision = group["ess"] * (group["hess"] + group["weight_decay"])
    return model.weight.detach(), precision.view(rows, 2)


def theory(
    data: Data,
    size: int,
    damping: float,
    num_data: float = N,
    s_init: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.99),
    steps: int | None = None,
) -> Tensor:
    """Return s, in expectation, after so many steps, or where it ends; size is a sub-batch's.

    The mean is taken to be at the most probable weights all along. Given the sub-batch, g is then
    Gaussian: exactly for linear regression, linearized for logistic.
    """
    center, _ = laplace(data)
    first, second = derivatives(data, center)
    generator = torch.Generator().manual_seed(0)
    repeats = 1 if size in (1, N) else 20
    order = torch.cat([torch.randperm(N, generator=generator) for _ in range(repeats)])
    which = order.view(-1, size)
    x = data.inputs[:, which]
    at_center = (first[:, which].unsqueeze(-1) * x).mean(2)
    hessian = x.mT @ (second[:, which].unsqueeze(-1) * x) / size
    s, strides = torch.full_like(center, s_init), 400 if steps else 60
    stay = betas[1] ** (steps / strides) if steps else 0.5
    for _ in range(strides):
        sd = (hessian.square() / (num_data * s)[:, None, None]).sum(-1).sqrt()
        r = at_center / (math.sqrt(2) * sd)
        size_of_g = sd * (math.sqrt(2 / math.pi) * (-r.square()).exp()) + at_center * r.erf()
        s = s + (1 - stay) * (s.sqrt() * size_of_g.mean(1) + DELTA + damping - s)
    return s


# ------------------------------------------------------------------ how good it is


def predict(data: Data, mean: Tensor, precision: Tensor, draws: int) -> tuple[Tensor, ...]:
    """Return mean and variance for linear and P(label 1) for logistic regression, each (rows, n).

    By ``bsam.predict`` with a diagonal Gaussian; for every row all three, whatever it is a row of.
    """
    posterior = bsam.GaussianPosterior({"weight": mean}, {"weight": precision})
    own = partial(bsam.predict, Rows(len(mean)), posterior, data.fresh, draws)
    real = own(likelihood="gaussian", noise_variance=1.0)
    return real.mean, real.variance, own(likelihood="bernoulli").probs


def predict_with_points(data: Data, points: Tensor, shares: Tensor) -> tuple[Tensor, ...]:
    """Return the same where the weights are these points, with these shares."""
    mean, covariance = moments(points, shares)
    variance = 1 + ((data.fresh @ covariance) * data.fresh).sum(-1)
    each = zip(points, shares, data.fresh, strict=True)  # all rows at once take gigabytes
    p = torch.stack([share @ (point @ inputs.T).sigmoid() for point, share, inputs in each])
    return (data.fresh @ mean.unsqueeze(-1)).squeeze(-1), variance, p


def nll(data: Data, predicted: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> Tensor:
    """Return the expected NLL on fresh inputs, shape (rows,).

    Targets are averaged over as the exact posterior predicts them. That is how they are distributed
    given the data, since the weights that make both are drawn from the prior.
    """
    (mean, variance, p), (exact_mean, exact_variance, exact_p) = predicted, exact
    square = exact_variance + (mean - exact_mean).square()
    linear = (2 * math.pi * variance).log() / 2 + square / (2 * variance)
    logistic = -(exact_p * p.log() + (1 - exact_p) * (1 - p).log())
    return torch.where(data.logistic, logistic, linear).mean(1)


def geometric(ratios: Tensor) -> Tensor:
    """Return the geometric mean over the two weights."""
    return ratios.log().mean(1).exp()


def fit(data: Data, exact: Exact, steps: int) -> dict[str, tuple[Tensor, ...]]:
    """Return (mean, precision) of each method's Gaussian; for bSAM also by how much s moved."""
    center, precision = laplace(data)
    found = {
        "best diagonal": best_diagonal(data, exact),
        "Laplace, full": (center, precision),
        "Laplace, diagonal": (center, precision.diagonal(dim1=1, dim2=2)),
    }
    if ivon is None:
        print("IVON is left out: pip install 'bsam[rivals]'")
    else:
        found["IVON"] = train_ivon(data, 8 * steps)
    (found["bSAM, defaults"],) = train_bsam(data, [{}], N, 1, 8 * steps)
    (found["bSAM, full batch"],) = train_bsam(data, [SMALL], N, 1, steps)
    (found["bSAM, one example"],) = train_bsam(data, [SMALL], 1, N, steps)
    return found


def assess(data: Data, exact: Exact, found: dict, draws: int) -> dict[str, dict[str, Tensor]]:
    """Return the first table: by method and column a number for each data set."""
    deviation = exact.covariance.diagonal(dim1=1, dim2=2).sqrt()
    truth = predict_with_points(data, exact.points, exact.shares)
    reference, best = nll(data, truth, truth), found["best diagonal"][1]
    table = {"exact": {"NLL": reference}}
    for name, (mean, precision, *moved) in found.items():
        if precision.dim() == 3:  # the full Laplace, on the grid
            covariance, off = precision.inverse(), exact.points - mean.unsqueeze(1)
            shares = (-((off @ precision) * off).sum(-1) / 2).softmax(1)
            predicted = predict_with_points(data, exact.points, shares)
        else:
            covariance = torch.diag_embed(1 / precision)
            predicted = predict(data, mean, precision, draws)
        sd, factor = covariance.diagonal(dim1=1, dim2=2).sqrt(), torch.linalg.cholesky(covariance)
        table[name] = {
            "mean off": ((mean - exact.mean) / deviation).square().mean(1).sqrt(),
            "sd 1": (sd / deviation)[:, 0],
            "sd 2": (sd / deviation)[:, 1],
            "sd/best": geometric(sd * best.sqrt()),
            "KL": divergence(data, exact, mean, factor).clamp(min=0),  # rounding leaves -1e-14
            "NLL": nll(data, predicted, truth),
            "excess": 1000 * (nll(data, predicted, truth) - reference),
        } | dict(zip(["s moved"], moved, strict=False))
    return table


def sweep(data: Data, exact: Exact, best: Tensor, steps: int) -> dict[str, dict[str, Tensor]]:
    """Return the second table, of the same form; best is the best diagonal Gaussian's precision."""
    deviation = exact.covariance.diagonal(dim1=1, dim2=2).sqrt()
    center, precision = laplace(data)
    h = precision.diagonal(dim1=1, dim2=2) / N - DELTA
    each = derivatives(data, center)[0].unsqueeze(-1) * data.inputs
    ratio = each.abs().mean(1).square() / each.square().mean(1)
    table = {"one example, no noise": {"factor": geometric(ratio)}}
    for size, (count, changes) in SWEEP.items():
        settings = [SMALL | change for change in changes]
        results = train_bsam(data, settings, size, count, steps)
        for change, setting, (_, precision, moved) in zip(changes, settings, results, strict=True):
            num_data = setting.get("num_data", N)
            s, predicted = precision / num_data, theory(data, size, steps=steps, **setting)
            square = (s - DELTA - setting["damping"]).square() / s  # (E|g|)^2
            by_rule = h / size * (N - size) / (N - 1) + h.square() / (num_data * s)
            label = ", ".join(f"{name} {value}" for name, value in change.items())
            table[f"B = {size}, {label}"] = {
                "sd/exact": geometric(precision.rsqrt() / deviation),
                "sd/best": geometric((best / precision).sqrt()),
                "theory": geometric((best / (num_data * predicted)).sqrt()),
                "off %": 100 * (geometric((predicted / s).sqrt()) - 1),
                "factor": geometric(square / by_rule),
                "s moved": moved,
            }
    return table


# ------------------------------------------------------------------ what is printed and drawn


def print_table(table: dict[str, dict[str, Tensor]]) -> None:
    """Print mean and standard error over the data sets, linear regression first."""
    columns = list(max(table.values(), key=len))
    for half, problem in enumerate(("linear regression", "logistic regression")):
        print(f"\n{problem:28}" + "".join(f"{name:>14}" for name in columns))
        for label, row in table.items():
            parts = [row[name].chunk(2)[half] if name in row else None for name in columns]
            cells = [
                "" if part is None else f"{part.mean():.3f}±{part.std() / len(part) ** 0.5:.3f}"
                for part in parts
            ]
            print(f"{label:28}" + "".join(f"{cell:>14}" for cell in cells).rstrip())


def draw_plane(axes, data: Data, exact: Exact, found: dict, row: int) -> None:
    """Draw the exact posterior of one data set and the Gaussians over it."""
    one = Data(*(column[row : row + 1] for column in data))
    heights, order = energy(one, exact.points[row : row + 1])[0].sort()
    mass = exact.shares[row][order].cumsum(0)
    edges = [heights[(mass < 1 - math.exp(-(sd**2) / 2)).sum()] for sd in (0, 1, 2)]
    angle = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    circle = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    for name, style in STYLES.items():
        if name in found:
            mean, precision = found[name][0][row], found[name][1][row]
            axes.plot(*(mean + circle * precision.rsqrt()).T, label=name, **style)
    ranges = (axes.get_xlim(), axes.get_ylim())
    x, y = (torch.linspace(*ends, 300, dtype=torch.float64) for ends in ranges)
    height = energy(one, torch.cartesian_prod(x, y).unsqueeze(0)).view(300, 300).T
    for color, edge, label in (
        ("#d8d8d8", edges[2], "exact, 2 sd"),
        ("#a8a8a8", edges[1], "exact, 1 sd"),
    ):
        axes.contourf(x, y, height, levels=[edges[0] - 1, edge], colors=color)
        axes.fill([], [], color=color, label=label)
    axes.locator_params(nbins=5)
    axes.set(xlabel="weight 1", ylabel="weight 2")


def draw_damping(axes, data: Data, best: Tensor, swept: dict) -> None:
    """Draw how wide bSAM's Gaussian is against damping, for logistic regression."""

    def average(values: Tensor) -> float:
        return values.chunk(2)[1].mean().item()

    line = torch.logspace(-3, 0, 13).tolist()
    for size, color in COLORS.items():
        curve = [average(geometric((best / (N * theory(data, size, x))).sqrt())) for x in line]
        axes.plot(line, curve, color=color)
        for change in DAMPINGS:
            width = average(swept[f"B = {size}, damping {change['damping']}"]["sd/best"])
            axes.plot(change["damping"], width, "o", color=color)
        label = f"{size} example{'s' * (size > 1)}" + " (all)" * (size == N)
        axes.plot([], [], "-o", color=color, label=label)
    axes.axhline(1, color="black", linewidth=1, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="damping", ylabel="sd / sd of the best diagonal")
    axes.set_yticks([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"])
    axes.minorticks_off()
    axes.legend(title="sub-batches of", frameon=False, loc="lower left")


def draw(data: Data, exact: Exact, found: dict, swept: dict, output: Path) -> None:
    """Draw both problems for the first seed, and the width against damping."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 4.4), layout="constrained")
    draw_plane(left, data, exact, found, 0)
    draw_plane(middle, data, exact, found, len(data.inputs) // 2)
    draw_damping(right, data, found["best diagonal"][1], swept)
    left.set_title("linear regression")
    middle.set_title("logistic regression")
    right.set_title("logistic: measured (dots), theory (lines)", fontsize=10.5)
    handles, labels = left.get_legend_handles_labels()
    labels = [label if "sd" in label else f"{label}, 2 sd" for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
    plt.close(figure)


def main(arguments=None) -> None:
    """Compute, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="data sets of each problem")
    parser.add_argument("--steps", type=int, default=1500, help="of bSAM where beta2 is 0.99")
    parser.add_argument("--quick", action="store_true", help="2 seeds, 20 steps: nothing converges")
    parser.add_argument("--output", type=Path, default=Path("gaussian.png"), help="the picture")
    parser.add_argument("--json", type=Path, help="a file for all numbers, data set by data set")
    options = parser.parse_args(arguments)
    if options.seeds < 2 or options.steps < 20:
        parser.error("--seeds must be at least 2 and --steps at least 20")
    if options.output.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--output {options.output}: must end in .png, .pdf or .svg")
    seeds, steps, draws = (2, 20, 10) if options.quick else (options.seeds, options.steps, 500)
    torch.set_num_threads(1)  # the tensors are small

    data = make_data(seeds)
    exact, finer = exact_posterior(data), exact_posterior(data, step=0.2)
    halved = max((a - b).abs().max().item() for a, b in zip(exact[2:], finer[2:], strict=True))
    print(f"{seeds} data sets of each problem, mean±standard error")
    print(f"half the step of the grid changes moments and log evidence by {halved:.0e} at most")
    found = fit(data, exact, steps)
    table = assess(data, exact, found, draws)
    print_table(table)
    print("\nmean off (root mean square), sd 1, sd 2: / exact standard deviations of the weights")
    print("sd/best: / those of the best diagonal, geometric mean; KL(q || exact) and NLL in nats")
    print("excess: of the NLL over the exact posterior's, x 1000; s moved: log s, at the end")
    print(f"\nbSAM with {SMALL}, sub-batches of B examples, but:")
    swept = sweep(data, exact, found["best diagonal"][1], steps)
    print_table(swept)
    print(
        "\nnum_data is 60, the number of examples, unless changed. weight_decay stays: k times the"
    )
    print("num_data is k times the prior's precision too, so the posterior at temperature 1/k")
    if options.json:
        numbers = {"table": table, "sweep": swept, "gaussians": found, "grid halved": halved}
        options.json.write_text(json.dumps(numbers, default=Tensor.tolist, indent=1))
    draw(data, exact, found, swept, options.output)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
