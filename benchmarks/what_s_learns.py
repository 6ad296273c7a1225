"""What does s converge to, and how small must damping be for it to be learned?

Run:  .venv/bin/python benchmarks/what_s_learns.py            (about 12 minutes of one core)
      .venv/bin/python benchmarks/what_s_learns.py --quick    (less than a minute)

A network with two hidden layers of ReLU units (3,466 weights) learns scikit-learn's digits with
bSAM. From a base setting one thing at a time is changed: damping, beta2, N, rho, how many examples
are in a sub-batch and how many sub-batches in a step; and a fifth of the labels are made wrong. At
the end, by layer: the share of weights whose s is on its floor f = damping + weight_decay, within
5 %; the share below twice the floor; and s relative to the fixed point of its update,

    s = sqrt(s) E|g| + f,   sqrt(s) = (E|g| + sqrt(E|g|^2 + 4 f)) / 2,

with |g| the gradient of a sub-batch's mean loss at the noisy weights, averaged over the last
5 / (1 - beta2) steps (at most the last half).

The step is lr / s, so for each damping the rate is one of 0.3, 1, 3 and 10 times the damping, by
the validation NLL at the weights on another split; rho is a tenth of the damping unless said
otherwise, so that perturbations on the floor are the same for all. s starts at 1; 2,500 steps are
25 / (1 - beta2) with the base's beta2 of 0.99. Five seeds for damping, three for the rest. Results
go to benchmarks/results/what_s_learns.json after each setting; what is there already, with the same
plan, is not computed again.
"""

import argparse
import datetime
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import bsam
from bsam import metrics
from bsam.experiments.data import Part, digits
from bsam.experiments.results import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "what_s_learns.json"
FIGURE = ROOT / "docs" / "what_s_learns.png"
DECAY, HIDDEN, NEAR = 1e-4, 32, 0.05
DAMPINGS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
RATES = (0.3, 1.0, 3.0, 10.0)
BASE = {
    "damping": 0.01,
    "beta2": 0.99,
    "data_factor": 1.0,
    "rho_by_damping": 0.1,
    "size": 50,
    "sub_batches": 1,
    "wrong_labels": 0.0,
    "steps": 2500,
}
CHANGES = (
    {"wrong_labels": 0.2},
    {"wrong_labels": 0.2, "damping": 0.1},
    {"data_factor": 10.0},
    {"data_factor": math.inf},
    {"size": 10, "sub_batches": 5},
    {"size": 5},
    {"rho_by_damping": 0.0},
    {"rho_by_damping": 1.0},
    {"beta2": 0.9},
    {"beta2": 0.9999},
    {"beta2": 0.999, "steps": 8000},
)
FULL = {
    "base": BASE,
    "settings": [{"damping": d} for d in DAMPINGS] + [dict(c) for c in CHANGES],
    "seeds": [0, 1, 2, 3, 4],
    "rate_seeds": [100],
    "change_seeds": [0, 1, 2],
}
QUICK = FULL | {
    "base": BASE | {"steps": 1000},
    "settings": [{"damping": d} for d in (1e-3, 1e-2, 1e-1)],
    "seeds": [0, 1],
}


def network(seed: int) -> nn.Sequential:
    """Make the network."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 10),
    )


def train_part(seed: int, wrong: float) -> Part:
    """Return the training images, a share of the labels replaced by others."""
    images, labels = digits(seed).train
    generator = torch.Generator().manual_seed(seed)
    replaced = torch.rand(len(labels), generator=generator) < wrong
    shift = torch.randint(1, 10, (len(labels),), generator=generator)
    return Part(images, torch.where(replaced, (labels + shift) % 10, labels))


class Run:
    """One training, and what s does in it."""

    def __init__(self, setting: dict[str, Any], rate: float, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self.part = train_part(seed, setting["wrong_labels"])
        self.model = network(seed)
        damping = setting["damping"]
        self.floor = damping + DECAY
        self.optimizer = bsam.BSAM(
            self.model.named_parameters(),
            rate * damping,
            num_data=setting["data_factor"] * len(self.part.labels),
            rho=setting["rho_by_damping"] * damping,
            betas=(0.9, setting["beta2"]),
            weight_decay=DECAY,
            damping=damping,
            seed=seed,
        )
        self.totals = [torch.zeros_like(p) for p in self.model.parameters()]
        self.recorded = 0

    def train(self) -> list[tuple[int, float]]:
        """Make all steps; return the share on the floor after some of them."""
        steps, memory = self.setting["steps"], round(5 / (1 - self.setting["beta2"]))
        averaged = min(memory, steps // 2)
        marks = {steps // 2**k for k in range(6)} | {steps * 3 // 4}
        shares = []
        for number, rows in zip(range(1, steps + 1), self.batches(), strict=False):
            record = number > steps - averaged
            parts = rows.split(self.setting["size"])
            self.optimizer.step([self.closure(part, record) for part in parts])
            if number in marks:
                shares.append((number, self.optimizer.diagnostics(tolerance=NEAR).total.at_floor))
        return shares

    def batches(self):
        """Yield the rows of each step, without end."""
        wanted = self.setting["size"] * self.setting["sub_batches"]
        order = torch.Generator().manual_seed(self.seed)
        while True:
            rows = torch.randperm(len(self.part.labels), generator=order)
            yield from rows[: len(rows) - len(rows) % wanted].split(wanted)

    def closure(self, rows: Tensor, record: bool):
        """Return the closure of a sub-batch; it adds up |g| at the noisy weights."""
        images, labels = self.part.images[rows], self.part.labels[rows]

        def closure() -> Tensor:
            loss = cross_entropy(self.model(images), labels)
            loss.backward()
            if record and self.optimizer.phase == "sampled":
                for total, p in zip(self.totals, self.model.parameters(), strict=True):
                    total += p.grad.abs()
                self.recorded += 1
            return loss.detach()

        return closure

    def layers(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return E|g| and s of the weights of each layer, of all biases, and of all together."""
        pairs: dict[str, list] = {"layer 1": [], "layer 2": [], "layer 3": [], "biases": []}
        named = zip(self.model.named_parameters(), self.totals, strict=True)
        for (name, p), total in named:
            place = f"layer {(int(name[0]) + 1) // 2}" if name.endswith("weight") else "biases"
            s = self.optimizer.state[p]["s"]
            pairs[place].append(torch.stack([total / max(self.recorded, 1), s]).flatten(1).double())
        joined = {name: torch.cat(each, 1) for name, each in pairs.items()}
        joined["all"] = torch.cat(list(joined.values()), 1)
        return {name: (each[0], each[1]) for name, each in joined.items()}

    def nll(self, part: Part) -> float:
        """Return the NLL at the weights."""
        with torch.no_grad():
            probs = self.model(part.images).double().softmax(-1)
        return metrics.negative_log_likelihood(probs, part.labels)


def fixed_point(gradient: Tensor, floor: float) -> Tensor:
    """Return s where s = sqrt(s) E|g| + floor."""
    return ((gradient + (gradient.square() + 4 * floor).sqrt()) / 2).square()


def account(gradient: Tensor, s: Tensor, floor: float) -> dict[str, float]:
    """Return what a layer's s has learned, and how well the fixed point tells it."""
    told = fixed_point(gradient, floor)
    off = (s / told).log()
    quantiles = gradient.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return {
        "at_floor": float(((s - floor).abs() <= NEAR * floor).double().mean()),
        "at_floor_told": float(((told - floor).abs() <= NEAR * floor).double().mean()),
        "below_twice": float((s < 2 * floor).double().mean()),
        "s_by_floor": float(s.mean() / floor),
        "s_by_told": float(s.mean() / told.mean()),
        "typically_off": float(off.abs().median()),
        "mostly_off": float(off.abs().quantile(0.95)),
        "gradient": quantiles[1],
        "gradient_low": quantiles[0],
        "gradient_high": quantiles[2],
    }


def one_run(setting: dict[str, Any], rate: float, seed: int) -> dict[str, Any]:
    """Train once and account for s; ``diverged`` alone if it does."""
    run = Run(setting, rate, seed)
    try:
        shares = run.train()
    except (RuntimeError, ValueError):
        return {"diverged": True}
    layers = run.layers()
    picked = torch.linspace(0, len(layers["all"][0]) - 1, 150).long()
    return {
        "diverged": False,
        "shares": shares,
        "layers": {name: account(*pair, run.floor) for name, pair in layers.items()},
        "train_nll": run.nll(run.part),
        "test_nll": run.nll(digits(seed).test),
        "sample": [each[picked].tolist() for each in layers["all"]] if seed == 0 else [],
    }


def chosen_rate(setting: dict[str, Any], seeds: list[int]) -> float:
    """Return the rate, by damping, of the least validation NLL, and print all."""
    scores = {}
    for rate in RATES:
        found = []
        for seed in seeds:
            run = Run(setting, rate, seed)
            try:
                run.train()
                found.append(run.nll(digits(seed).validation))
            except (RuntimeError, ValueError):
                found.append(math.inf)  # diverged
        scores[rate] = statistics.fmean(found)
    scores = {rate: math.inf if math.isnan(score) else score for rate, score in scores.items()}
    best = min(scores, key=scores.__getitem__)
    tried = ", ".join(f"{rate:g} {score:.4f}" for rate, score in scores.items())
    print(f"damping {setting['damping']:g}, rate by damping: {tried}; best {best:g}", flush=True)
    return best


# ------------------------------------------------------------------------------------- the report


def text(change: dict[str, Any]) -> str:
    """Return a setting's name."""
    return ", ".join(f"{name} {value:g}" for name, value in change.items())


def cell(values: list[float], places: int = 3) -> str:
    """Return mean and standard error as text."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.{places}f} ± {error:.{places}f}"


def settled(result: dict, name: str, layer: str, what: str) -> list[float]:
    """Return one number for each seed that did not diverge."""
    return [r["layers"][layer][what] for r in result["runs"][name].values() if not r["diverged"]]


def print_tables(result: dict) -> None:
    """Print the tables of docs/tightness.md."""
    names = ("layer 1", "layer 2", "layer 3", "biases", "all")
    print("\n| setting | on the floor: " + " | ".join(names) + " | below twice | told |")
    for setting, runs in result["runs"].items():
        if all(run["diverged"] for run in runs.values()):
            print(f"| {setting} | all diverged |")
            continue
        cells = [cell(settled(result, setting, n, "at_floor")) for n in names]
        more = [cell(settled(result, setting, "all", w)) for w in ("below_twice", "at_floor_told")]
        print(f"| {setting} | {' | '.join(cells + more)} |")
    print(
        "\n| setting | rate | mean s / floor | s / fixed point, by layer (all last) |"
        " typically off | 95 % within | E|g|: 10, 50, 90 % | change of share in the last quarter |"
        " train NLL | test NLL |"
    )
    for setting, runs in result["runs"].items():
        alive = [run for run in runs.values() if not run["diverged"]]
        if alive:
            print(f"| {setting} | {' | '.join(details(result, setting, alive, names))} |")


def details(result: dict, setting: str, alive: list[dict], names: tuple[str, ...]) -> list[str]:
    """Return the cells of one setting."""
    drift = [run["shares"][-1][1] - run["shares"][-2][1] for run in alive]
    sizes = ("gradient_low", "gradient", "gradient_high")
    return [
        f"{result['rates'][setting]:g}",
        cell(settled(result, setting, "all", "s_by_floor")),
        ", ".join(cell(settled(result, setting, n, "s_by_told")) for n in names),
        cell(settled(result, setting, "all", "typically_off")),
        cell(settled(result, setting, "all", "mostly_off")),
        ", ".join(f"{statistics.fmean(settled(result, setting, 'all', z)):.2g}" for z in sizes),
        cell(drift),
        cell([run["train_nll"] for run in alive]),
        cell([run["test_nll"] for run in alive]),
    ]


LAYERS = {"layer 1": "#0072B2", "layer 2": "#009E73", "layer 3": "#D55E00", "biases": "#555555"}


def draw(result: dict, path: Path) -> None:
    """Draw the share on the floor, the fixed point, and the gradients, against damping."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.4), layout="constrained")
    draw_shares(axes[0], result)
    draw_fixed_point(axes[1], result)
    draw_gradients(axes[2], result)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def dampings(result: dict) -> dict[float, str]:
    """Return the names of the settings that change damping alone."""
    wanted = [each for each in result["plan"]["settings"] if list(each) == ["damping"]]
    return {
        each["damping"]: text(each)
        for each in wanted
        if not all(run["diverged"] for run in result["runs"][text(each)].values())
    }


def draw_shares(axis: Any, result: dict) -> None:
    """Draw the share on the floor against damping."""
    names = dampings(result)
    for layer, color in LAYERS.items():
        for what, style in (("at_floor", "-"), ("below_twice", ":")):
            values = [
                statistics.fmean(settled(result, name, layer, what)) for name in names.values()
            ]
            label = layer if what == "at_floor" else None
            axis.plot(list(names), values, style, color=color, label=label, marker="o", ms=3)
    axis.set(
        xscale="log", xlabel=r"damping $\gamma$", ylabel="share of weights", ylim=(-0.03, 1.03)
    )
    axis.set_title("s on its floor (within 5 %)\ndotted: below twice the floor")
    axis.legend(fontsize=9)


def draw_fixed_point(axis: Any, result: dict) -> None:
    """Draw s against E|g|, both relative to the floor, with the fixed point."""
    for damping, name in dampings(result).items():
        sample = result["runs"][name]["0"].get("sample")
        if sample:
            gradient, s = torch.tensor(sample, dtype=torch.float64)
            floor = damping + DECAY
            axis.plot(gradient / floor**0.5, s / floor, ".", ms=3, alpha=0.6, label=f"{damping:g}")
    line = torch.logspace(-3, 1.5, 200, dtype=torch.float64)
    axis.plot(line, fixed_point(line, 1.0), color="black", lw=1)
    axis.axvline(0.0488, color="grey", ls="--", lw=1)
    axis.set(xscale="log", yscale="log", xlim=(1e-3, 30), ylim=(0.9, 500))
    axis.set(xlabel=r"$E|g| \;/\; \sqrt{\gamma + \delta}$", ylabel=r"$s \;/\; (\gamma + \delta)$")
    axis.set_title("single weights and the fixed point (line)")
    axis.legend(title="damping", fontsize=8, markerscale=3)


def draw_gradients(axis: Any, result: dict) -> None:
    """Draw the gradients' sizes against damping."""
    names = dampings(result)
    for layer, color in LAYERS.items():
        low, mid, high = (
            [statistics.fmean(settled(result, name, layer, what)) for name in names.values()]
            for what in ("gradient_low", "gradient", "gradient_high")
        )
        axis.plot(list(names), mid, color=color, label=layer, marker="o", ms=3)
        axis.fill_between(list(names), low, high, color=color, alpha=0.12)
    ends = [min(names), max(names)]
    roots = [(each + DECAY) ** 0.5 for each in ends]
    axis.plot(ends, roots, "k--", label=r"$\sqrt{\gamma + \delta}$: s is 2.6 floors")
    axis.plot(ends, [0.0488 * r for r in roots], "k:", label="5 % above the floor")
    axis.set(xscale="log", yscale="log", xlabel=r"damping $\gamma$", ylabel=r"$E|g|$ at the end")
    axis.set_ylim(bottom=1e-5)
    axis.set_title("gradients of a batch: median, 10 to 90 %")
    axis.legend(fontsize=8)


# ---------------------------------------------------------------------------------------- the run


def started(plan: dict, path: Path) -> dict:
    """Return what is recorded with this plan, or a new record."""
    wanted = json.loads(json.dumps(plan, default=str))
    if path.exists():
        found = json.loads(path.read_text())
        if str(found["plan"]).replace("'inf'", "inf") == str(wanted):  # JSON has no infinity
            return found
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "bsam": bsam.__version__,
    }
    date = str(datetime.date.today())
    return {
        "plan": plan,
        "versions": versions,
        "date": date,
        "rates": {},
        "runs": {},
        "minutes": 0.0,
    }


def run_all(result: dict, path: Path) -> None:
    """Run what is missing; record setting by setting."""
    start, before, plan = time.monotonic(), result["minutes"], result["plan"]
    base, by_damping = FULL["base"] | plan["base"], {}
    for change in plan["settings"]:
        setting = base | {name: float(v) if v == "inf" else v for name, v in change.items()}
        name = text({n: setting[n] for n in change})
        damping = setting["damping"]
        if name in result["runs"]:
            by_damping.setdefault(damping, result["rates"][name])
            continue
        if damping not in by_damping:
            by_damping[damping] = chosen_rate(base | {"damping": damping}, plan["rate_seeds"])
        rate = by_damping[damping]
        seeds = plan["seeds" if list(change) == ["damping"] else "change_seeds"]
        runs = {str(seed): one_run(setting, rate, seed) for seed in seeds}
        result["runs"][name], result["rates"][name] = runs, rate
        result["minutes"] = round(before + (time.monotonic() - start) / 60, 1)
        write_json(path, result)
        alive = [run["layers"]["all"]["at_floor"] for run in runs.values() if not run["diverged"]]
        share = cell(alive) if alive else "all diverged"
        print(f"{name}: on the floor {share} ({result['minutes']} minutes)", flush=True)


def main() -> None:
    """Run, print the tables, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three dampings; not drawn")
    parser.add_argument("--draw", action="store_true", help="only tables and picture of the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick = Path(tempfile.gettempdir()) / "what_s_learns_quick.json"
    path, plan = (quick, QUICK) if options.quick else (RESULTS, FULL)
    result = started(plan, path)
    if not options.draw:
        run_all(result, path)
    result = json.loads(path.read_text())
    print_tables(result)
    if not options.quick:
        draw(result, FIGURE)


if __name__ == "__main__":
    main()
