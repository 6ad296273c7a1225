"""Whole steps, gradients included: PyTorch with bsam against JAX, in one process.

Run:  python benchmarks/whole_steps.py           (needs: pip install jax optax)

The cells are those that the authors of the method published: batch 200; an MLP 784-500-300-10 on
28 x 28 images and ResNet-20-FRN on 32 x 32; SGD, SAM, bSAM, and bSAM with 8 sub-batches. In each
cell: our optimizer as it comes; with ``compiled=True``; with that and ``torch.compile`` for the
model too; and JAX, one jitted function with donated buffers (``rival_jax.py``). With 8 sub-batches
JAX runs as a vmap, a scan and an unrolled loop, and its best counts.

What makes it fair:

* Before anything is timed, both sides make three steps in float64 from the same weights, with
  rho > 0 and without noise, and must agree on every weight (largest difference printed); with
  noise the draws differ, and both draw one number for each weight and sub-batch.
* Both sides use all cores that the process may use. Each library has threads of its own, which
  spin for a while after work in case more comes, so calls come in bursts of one cell: a pause for
  the others' threads to fall asleep, a call to warm caches, then those that are timed. Bursts of
  the cells follow each other in turn, several rounds, and the best call counts.
* Batches lie ready in memory on both sides; every call waits for its result.
* Each side has the memory layout that suits it: (n, c, h, w) in PyTorch, where channels last was
  slower on a CPU, (n, h, w, c) in JAX.

PyTorch's SGD is the fused one. SAM is bsam.SAM over it, and has no compiled form of its own. JAX's
are optax'. JAX's noise is its default generator's; ``--prng`` names another.
"""

import argparse
import functools
import importlib.util
import json
import os
import time
from collections.abc import Callable
from typing import Any

import networks
import timing
import torch
from torch import Tensor, nn
from torch.nn import functional

import bsam

SUB_BATCHES = 8
PAUSE = 0.05  # seconds for spinning threads to fall asleep
METHODS = {"SGD": 1, "SAM": 1, "bSAM": 1, f"bSAM, {SUB_BATCHES} sub-batches": SUB_BATCHES}
FORMS = ("vmap", "scan", "unrolled")
PUBLISHED = {  # the authors' JAX code, milliseconds on 2 cores of another machine
    "MLP": (6.0, 10.6, 16.6, 88.0),
    "ResNet-20-FRN": (1159.0, 2028.0, 1974.0, 7028.0),
}
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-3}
BSAM = {"lr": 0.1, "rho": 0.01, "betas": (0.9, 0.999), "weight_decay": 1e-3, "damping": 0.1}
SAM_RHO, NUM_DATA, INFINITE = 0.05, 50_000.0, float("inf")
TOLERANCE = 1e-9  # for float64


# ------------------------------------------------------------------ PyTorch


def torch_step(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    method: str,
    x: Tensor,
    y: Tensor,
    *,
    num_data: float = NUM_DATA,
    compiled: bool = False,
) -> Callable[[], Any]:
    """Return a function that makes one step.

    Args:
        model: owner of the weights.
        forward: the model itself, or its compiled form.
        method: key of ``METHODS``.
        x: images.
        y: labels.
        num_data: infinity means no noise.
        compiled: for the optimizer.
    """

    def closure(x: Tensor, y: Tensor) -> Tensor:
        loss = functional.cross_entropy(forward(x), y)
        loss.backward()
        return loss

    params = list(model.parameters())
    if method == "SGD":
        optimizer = torch.optim.SGD(params, fused=True, **SGD)

        def step() -> None:
            optimizer.zero_grad()
            closure(x, y)
            optimizer.step()

        return step
    parts = METHODS[method]
    pairs = zip(x.chunk(parts), y.chunk(parts), strict=True)
    closures = [functools.partial(closure, *pair) for pair in pairs]
    if method == "SAM":
        both = bsam.SAM(params, torch.optim.SGD, rho=SAM_RHO, fused=True, **SGD)
    else:
        both = bsam.BSAM(params, num_data=num_data, compiled=compiled, seed=0, **BSAM)
    return lambda: both.step(closures)


def torch_cells(
    network: str, method: str, x: Tensor, y: Tensor, compile_model: bool
) -> dict[str, Callable[[], Any]]:
    """Return the ways to make a step in PyTorch, each with a model of its own."""
    new = networks.NETWORKS[network]
    model = new()
    cells = {"default": torch_step(model, model, method, x, y)}
    is_bsam = method.startswith("bSAM")
    if is_bsam:
        model = new()
        cells["compiled=True"] = torch_step(model, model, method, x, y, compiled=True)
    if compile_model:
        model = new()
        forward = torch.compile(model, dynamic=False)
        cells["and model"] = torch_step(model, forward, method, x, y, compiled=is_bsam)
    return cells


# ------------------------------------------------------------------ JAX


def jax_step(
    network: str,
    model: nn.Module,
    method: str,
    form: str,
    *,
    num_data: float = NUM_DATA,
    prng: str | None = None,
) -> tuple[Callable[..., Any], Any]:
    """Return a jitted step and the state before the first, with weights as the model's."""
    import rival_jax

    function, weights = rival_jax.NETWORKS[network], rival_jax.weights_of(model)
    if method in ("SGD", "SAM"):
        base = rival_jax.sgd(**SGD)
        plain = rival_jax.new_plain(weights, base)
        if method == "SGD":
            return rival_jax.sgd_step(function, base), plain
        return rival_jax.sam_step(function, base, SAM_RHO), plain
    step = rival_jax.bsam_step(
        function, num_data=num_data, sub_batches=METHODS[method], form=form, **BSAM
    )
    return step, rival_jax.new_bsam(weights, prng=prng)


def jax_cells(
    network: str, method: str, x: Tensor, y: Tensor, forms: list[str], prng: str | None
) -> dict[str, Callable[[], Any]]:
    """Return the ways to make a step in JAX."""
    import rival_jax

    images, labels = rival_jax.images_of(x), rival_jax.jnp.array(y.int().numpy())
    cells = {}
    for form in forms if METHODS[method] > 1 else [""]:
        step, state = jax_step(network, networks.NETWORKS[network](), method, form, prng=prng)

        def call(step: Any = step, held: list[Any] = [state]) -> None:  # noqa: B006
            held[0], _ = rival_jax.finished(step(held[0], images, labels))

        cells[f"JAX {form}".strip()] = call
    return cells


# ------------------------------------------------------------------ both


def check(network: str, method: str, forms: list[str], count: int, side: int) -> float:
    """Make three steps on both sides in float64 and return the largest difference.

    Raises:
        RuntimeError: if it is larger than rounding.
    """
    import rival_jax

    worst = 0.0
    for form in forms if METHODS[method] > 1 else [""]:
        torch.manual_seed(0)
        model = networks.NETWORKS[network]().double()
        start = [p.detach().clone() for p in model.parameters()]
        x, y = networks.images(network, count, side).double(), networks.labels(count)
        with rival_jax.in_float64():
            step, state = jax_step(network, model, method, form, num_data=INFINITE)
            images, labels = rival_jax.images_of(x), rival_jax.jnp.array(y.int().numpy())
            ours = torch_step(model, model, method, x, y, num_data=INFINITE)
            for _ in range(3):
                ours()
                state, _ = step(state, images, labels)
            pairs = zip(start, model.parameters(), strict=True)
            moved = max(float((a - b).detach().abs().max()) for a, b in pairs)
            difference = rival_jax.differences(state.mean, model)
        if not difference < TOLERANCE < 1e-3 * moved:
            raise RuntimeError(
                f"{network}, {method} {form}: JAX and PyTorch differ by {difference:.1e} where "
                f"weights moved by {moved:.1e}: the two programs are not the same method."
            )
        worst = max(worst, difference)
    return worst


def in_bursts(
    cells: dict[str, Callable[[], Any]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Time cells in turn, in bursts of one cell's calls with a pause before.

    Args:
        cells: by name.
        rounds: bursts of each cell.
        seconds: a burst takes about these.

    Returns:
        Milliseconds of every timed call, by name.
    """
    lengths = {}
    for name, call in cells.items():
        begun = time.perf_counter()
        call()  # compiles
        print(f"    {name}: first call {time.perf_counter() - begun:.1f} s", flush=True)
        (first,) = timing.interleaved({name: call}, 1, warmup=0)[name]
        lengths[name] = max(1, int(1e3 * seconds / first))
    times: dict[str, list[float]] = {name: [] for name in cells}
    for _ in range(rounds):
        for name, call in cells.items():
            time.sleep(PAUSE)
            many = lengths[name] > 1  # else the call is long and what it finds in caches is little
            burst = timing.interleaved({name: call}, lengths[name], warmup=int(many))
            times[name] += burst[name]
    return times


def measure(network: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return one row: the best time of every cell."""
    count, side = (16, 32) if options.quick else (options.batch, options.side)
    x, y = networks.images(network, count, side), networks.labels(count)
    cells = torch_cells(network, method, x, y, options.compile_model)
    if options.jax:
        cells |= jax_cells(network, method, x, y, options.forms, options.prng)
    times = in_bursts(cells, options.repeats, options.seconds)
    best = {name: min(each) for name, each in times.items()}
    medians = {name: sorted(each)[len(each) // 2] for name, each in times.items()}
    column = list(METHODS).index(method)
    row = {"network": network, "method": method, "batch": count, "best": best, "median": medians}
    return row | {
        "published": PUBLISHED[network][column],
        "calls": {n: len(t) for n, t in times.items()},
    }


def shown(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    best, text = row["best"], lambda ms: "" if ms is None else f"{ms:.{1 if ms < 100 else 0}f}"
    rival, form = min(
        ((ms, n) for n, ms in best.items() if n.startswith("JAX")), default=(None, "")
    )
    ours = {name: ms for name, ms in best.items() if not name.startswith("JAX")}
    eager = min(ms for name, ms in ours.items() if name != "and model")
    cells = [text(ours.get(name)) for name in ("default", "compiled=True", "and model")]
    ratios = [f"{rival / each:.2f}" if rival else "" for each in (eager, min(ours.values()))]
    jax = f"{text(rival)} {form.removeprefix('JAX').strip()}".strip()
    return [row["network"], row["method"], *cells, jax, *ratios, text(row["published"])]


COLUMNS = [
    "network",
    "method",
    "default",
    "compiled=True",
    "and torch.compile(model)",
    "JAX",
    "JAX / eager model",
    "JAX / best",
    "published",
]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Whole steps: PyTorch against JAX.")
    parser.add_argument("--repeats", type=int, default=5, help="bursts of each cell")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a burst, at least")
    parser.add_argument("--only", default="", help="cells whose 'network, method' holds this")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--side", type=int, default=32, help="of ResNet-20-FRN's images")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--prng", help="JAX's generator, such as unsafe_rbg")
    parser.add_argument("--no-jax", dest="jax", action="store_false")
    parser.add_argument("--no-compile-model", dest="compile_model", action="store_false")
    parser.add_argument("--quick", action="store_true", help="16 examples, once: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.seconds = 1, 0.0
    if options.jax and not importlib.util.find_spec("jax"):
        print("no jax: pip install jax optax; going on without")
        options.jax = False
    return options


def main() -> None:
    """Check, measure, print a table and save it."""
    options = arguments()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {cores} cores")
    if torch.get_num_threads() != cores:
        print("PyTorch does not use all cores that JAX will: the comparison is not fair.")
    chosen = [
        (network, method)
        for network in PUBLISHED
        for method in METHODS
        if options.only.lower() in f"{network}, {method}".lower()
    ]
    for network, method in chosen if options.jax else ():
        difference = check(network, method, options.forms, 16, options.side)
        print(f"{network}, {method}: JAX and PyTorch agree to {difference:.1e}", flush=True)
    rows = []
    for network, method in chosen:
        print(f"{network}, {method}", flush=True)
        rows.append(measure(network, method, options))
        print("    " + " | ".join(shown(rows[-1])), flush=True)
    print(timing.table(COLUMNS, [shown(row) for row in rows]))
    if not options.quick:
        print(timing.save("whole_steps", with_others(rows)))


def with_others(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows, each with its command, and before them what is saved of cells not measured."""
    command = timing.environment()["command"]
    path = timing.RESULTS / "whole_steps.json"
    saved = json.loads(path.read_text())["rows"] if path.exists() else []
    cells = {(row["network"], row["method"]) for row in rows}
    others = [row for row in saved if (row["network"], row["method"]) not in cells]
    return others + [{**row, "command": command} for row in rows]


if __name__ == "__main__":
    main()
