"""How the cost of an optimizer step grows: with weights, with tensors, with sub-batches.

Run:  .venv/bin/python benchmarks/growth.py            (under three minutes of two cores)
      .venv/bin/python benchmarks/growth.py --quick    (does it run? two sizes, 2 rounds; not saved)

A step is step([closure, ...]) with closures that hand out fresh gradients, as in optimizer_step.py;
the yardstick is one step of fused AdamW over the same weights, which knows no sub-batches. One
process, interleaved, best of the rounds, in milliseconds and as a multiple of AdamW's. Below each
table what the last step of it adds: nanoseconds for a further weight, microseconds for a further
tensor, milliseconds for a further sub-batch. Results: benchmarks/results/growth.json.
"""

import argparse
import gc
from collections.abc import Callable
from typing import Any

import timing
import torch
from optimizer_step import PATHS, Given, after

import bsam

YARDSTICK = "AdamW fused"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WEIGHTS = (10_000, 100_000, 1_000_000, 10_000_000, 30_000_000)
TENSORS = (1, 10, 100, 1000, 4000)
SUB_BATCHES = (1, 2, 4, 8, 16)
TOTAL = 2_000_000
BUDGET = 40_000_000
"""Weights times sub-batches that the rounds of a line go over, within limits."""


def sizes(weights: int, tensors: int) -> list[int]:
    """Cut weights into tensors of one size, or of two that differ by one element."""
    small, longer = divmod(weights, tensors)
    return [small + (number < longer) for number in range(tensors)]


def steps(given: Given, sub_batches: int) -> dict[str, Callable[[], Any]]:
    """Return a step of each optimizer, by name, all over the same weights."""
    adamw = torch.optim.AdamW(given.params, lr=1e-4, fused=True)
    calls: dict[str, Callable[[], Any]] = {YARDSTICK: after(given, adamw.step)}
    for name, path in PATHS.items():
        optimizer = bsam.BSAM(given.params, lr=1e-4, num_data=1e4, seed=0, **path)
        calls[name] = lambda optimizer=optimizer: optimizer.step([given] * sub_batches)
    return calls


def measure(
    of: str, weights: int, tensors: int, sub_batches: int, rounds: int | None = None
) -> list[dict[str, Any]]:
    """Return a row for each optimizer."""
    rounds = rounds or max(3, min(31, BUDGET // (weights * sub_batches), 40_000 // tensors))
    params = [
        torch.nn.Parameter(torch.randn(size, device=DEVICE)) for size in sizes(weights, tensors)
    ]
    given = Given(params)

    def prepare(name: str) -> None:
        given.prepare(1 if name == YARDSTICK else 2 * sub_batches)

    times = timing.interleaved(steps(given, sub_batches), rounds, warmup=2, prepare=prepare)
    gc.collect()  # parameters and closures refer to each other; the next line may need the memory
    best = {name: min(each) for name, each in times.items()}
    return [
        {
            "growth_with": of,
            "weights": weights,
            "tensors": tensors,
            "sub_batches": sub_batches,
            "optimizer": name,
            "rounds": rounds,
            "ms": best[name],
            "times_adamw": best[name] / best[YARDSTICK],
        }
        for name in best
    ]


def as_table(key: str, rows: list[dict[str, Any]]) -> str:
    """Return a line for each value of what grows."""
    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    lines = []
    for value in dict.fromkeys(row[key] for row in rows):
        cells = {row["optimizer"]: row for row in rows if row[key] == value}
        others = [f"{cells[n]['ms']:.2f} ({cells[n]['times_adamw']:.1f} x)" for n in names[1:]]
        lines.append([f"{value:,}", f"{cells[YARDSTICK]['ms']:.2f}", *others])
    return timing.table([key.replace("_", "-"), *(f"{name}, ms" for name in names)], lines)


def increments(key: str, rows: list[dict[str, Any]]) -> str:
    """Return what one more of what grows costs each optimizer, from the last two lines."""
    unit, per_ms = UNITS[key]
    values = list(dict.fromkeys(row[key] for row in rows))[-2:]
    parts = []
    for name in dict.fromkeys(row["optimizer"] for row in rows):
        one, other = (
            row["ms"]
            for value in values
            for row in rows
            if row["optimizer"] == name and row[key] == value
        )
        parts.append(f"{name} {per_ms * (other - one) / (values[1] - values[0]):.2f}")
    return f"{unit}, from {values[0]:,} to {values[1]:,}: {'; '.join(parts)}"


UNITS = {
    "weights": ("ns for a further weight", 1e6),
    "tensors": ("us for a further tensor", 1e3),
    "sub_batches": ("ms for a further sub-batch", 1.0),
}
TABLES = {
    "weights": ("One tensor", [(n, 1, 1) for n in WEIGHTS]),
    "tensors": (f"{TOTAL:,} weights", [(TOTAL, n, 1) for n in TENSORS]),
    "sub_batches": (f"{TOTAL:,} weights in 50 tensors", [(TOTAL, 50, n) for n in SUB_BATCHES]),
}


def main() -> None:
    """Print a table for each way to grow and save all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, 2 rounds; not saved")
    quick = parser.parse_args().quick
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEVICE}")
    rows: list[dict[str, Any]] = []
    for key, (title, lines) in TABLES.items():
        own: list[dict[str, Any]] = []
        for line in lines[1:3] if quick else lines:
            own += measure(key, *line, rounds=2 if quick else None)
        rows += own
        print(f"\n{title}\n\n{as_table(key, own)}\n\n{increments(key, own)}", flush=True)
    if not quick:
        print(f"\n{timing.environment()}\nsaved to {timing.save('growth', rows)}")


if __name__ == "__main__":
    main()
