"""Whole steps on a GPU: multiples of SGD's time, images per second, share of the chip's peak.

Run:  python benchmarks/gpu_steps.py --deadline 420

ResNet-18 and ResNet-20-FRN on 32 x 32 images, bfloat16 autocast, channels last, model and loss
through ``torch.compile``. SGD (momentum, fused), AdamW (fused), SAM over that SGD, and bSAM with
``compiled=True``, with one and with 8 sub-batches, are called from Python; all but SAM are also
replayed as a CUDA graph of the whole step (bSAM with ``capturable=True``, which is called too). A
multiple is over SGD's in the same mode: two passes make 2.0 the least. A timed call makes many
steps before it waits for the GPU, as training does; calls of all cells follow each other in turn,
and the best counts.

Shares of the peak count the FLOPs of the convolutions and the last layer, forward and backward,
once for each pass, over the time of the whole step: against the data sheet's dense bfloat16 peak,
and against the best of 8192 x 8192 matrix products on the same chip.

All cells share one model, whose compiled form is then compiled once for each batch size; learning
rates are so small that it stays what it is. A cell that fails prints why, and the others go on.
Rows are printed, and all so far saved, as soon as they are there.
"""

import argparse
import functools
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import timing
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import bsam

DATA_SHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, FLOP/s
SUB_BATCHES = 8
WARM_UP = 3  # steps before a capture
SGD = {"lr": 1e-6, "momentum": 0.9, "weight_decay": 1e-4}
BSAM = {"lr": 1e-6, "num_data": 50_000.0, "rho": 1e-4, "seed": 0}
Step = Callable[[], Any]

STARTED = time.monotonic()


def say(text: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", flush=True)


# ------------------------------------------------------------------ steps


def closures_of(
    loss_of: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, parts: int
) -> list[Step]:
    """Return a closure for each sub-batch: forward in autocast, backward, the loss."""

    def closure(x: Tensor, y: Tensor) -> Tensor:
        # Weights move between passes, and each is cast once a pass: nothing to cache.
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            loss = loss_of(x, y)
        loss.backward()
        return loss.detach()

    # Each is a tensor of its own: views of a batch would be compiled for once more.
    pieces = zip(x.chunk(parts), y.chunk(parts), strict=True)
    layout = torch.channels_last
    return [
        functools.partial(closure, part.clone(memory_format=layout), target.clone())
        for part, target in pieces
    ]


def one_pass(optimizer: torch.optim.Optimizer, closure: Callable[[], Tensor]) -> Step:
    """Return a step of an optimizer that takes one gradient."""

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = closure()
        optimizer.step()
        return loss

    return step


def step_of(name: str, params: list[Tensor], closures: list[Step], graph: bool) -> Step:
    """Return a function that makes one step of a method.

    Args:
        name: ``"SGD"``, ``"AdamW"``, ``"SAM"``, ``"bSAM"`` or ``"bSAM capturable"``.
        params: of the model.
        closures: one, for bSAM as many as there are sub-batches.
        graph: whether it will be captured.
    """
    on_gpu = params[0].is_cuda
    if name == "SGD":
        return one_pass(torch.optim.SGD(params, fused=True, **SGD), closures[0])
    if name == "AdamW":
        adamw = torch.optim.AdamW(params, lr=1e-6, fused=True, capturable=graph and on_gpu)
        return one_pass(adamw, closures[0])
    if name == "SAM":
        sam = bsam.SAM(params, torch.optim.SGD, rho=1e-4, fused=True, **SGD)
        return lambda: sam.step(closures)
    more = {"capturable": True} if graph or name == "bSAM capturable" else {}
    optimizer = bsam.BSAM(params, compiled=True, **BSAM, **more)
    return lambda: optimizer.step(closures)


def captured(step: Step) -> Step:
    """Capture a step in a CUDA graph and return its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay(_kept_alive: Step = step) -> Any:  # with the optimizer, whose state a graph uses
        graph.replay()
        return loss

    replay()
    torch.cuda.synchronize()
    if not torch.isfinite(loss).item():
        raise RuntimeError(f"the captured step's loss is {loss.item()}")
    return replay


# ------------------------------------------------------------------ one group of cells


class Cell:
    """A way to make a step: which method, with how many sub-batches, called or replayed."""

    def __init__(self, method: str, parts: int, mode: str) -> None:
        self.method, self.parts, self.mode = method, parts, mode

    @property
    def name(self) -> str:
        """What stands in the table."""
        return self.method if self.parts == 1 else f"{self.method}, {self.parts} sub-batches"

    @property
    def passes(self) -> int:
        """How often a step takes the gradient of the whole batch."""
        return 1 if self.method in ("SGD", "AdamW") else 2


def cells_of(options: argparse.Namespace, on_gpu: bool) -> list[Cell]:
    """Return cells, those that need the fewest compilations first."""
    called = ("SGD", "AdamW", "SAM", "bSAM", "bSAM capturable")
    cells = [Cell(method, 1, "call") for method in called]
    if on_gpu and options.graphs:
        # bsam.SAM checks its gradients on the host, so it cannot be captured.
        cells += [Cell(method, 1, "graph") for method in ("SGD", "AdamW", "bSAM")]
    if options.sub_batches > 1:
        cells.append(Cell("bSAM", options.sub_batches, "call"))
        if on_gpu and options.graphs:
            cells.append(Cell("bSAM", options.sub_batches, "graph"))
    return cells


def prepare(
    cells: list[Cell],
    params: list[Tensor],
    closures: Callable[[int], list[Step]],
    options: argparse.Namespace,
) -> dict[str, tuple[Cell, Step]]:
    """Make each cell's step, run it for warmth, and return those that work, by name and mode."""
    ready = {}
    for cell in cells:
        label = f"{cell.name}, {cell.mode}"
        if late(options, 0.75):
            say(f"{label}: left out, the deadline is near")
            continue
        try:
            with torch.enable_grad():
                step = step_of(cell.method, params, closures(cell.parts), cell.mode == "graph")
                step = captured(step) if cell.mode == "graph" else step
                for _ in range(WARM_UP if params[0].is_cuda else 1):
                    step()
            synchronize(params[0].device)
            ready[label] = (cell, step)
            say(f"{label}: ready")
        except Exception as error:
            failed(label, error)
    return ready


def measured(
    ready: dict[str, tuple[Cell, Step]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Return milliseconds for each step, all timed calls, by name."""
    calls, lengths = {}, {}
    for label, (_, step) in ready.items():
        try:
            (first,) = timing.interleaved({label: step}, 1)[label]
        except Exception as error:
            failed(label, error)
            continue
        steps = max(1, min(200, int(options.milliseconds / max(first, 1e-3))))
        calls[label] = functools.partial(repeat, step, steps)
        lengths[label] = steps
    times: dict[str, list[float]] = {label: [] for label in calls}
    for turn in range(options.repeats):
        if turn >= 2 and late(options, 0.95):
            break
        for label, each in timing.interleaved(calls, 1, warmup=0).items():
            times[label].append(each[0] / lengths[label])
    return times


def repeat(step: Step, count: int) -> None:
    """Make steps one after the other."""
    for _ in range(count):
        step()


def group(
    network: str, batch: int, device: torch.device, peaks: dict[str, float], options: Any
) -> list[dict[str, Any]]:
    """Measure all cells of one network and batch size and return their rows."""
    torch.manual_seed(0)
    model = networks.NETWORKS[network]().to(device, memory_format=torch.channels_last)
    model.train()
    x = networks.images(network, batch).to(device, memory_format=torch.channels_last)
    y = networks.labels(batch).to(device)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(model(x).float(), y)

    flops = flops_of(network, batch)
    forward = torch.compile(loss_of, dynamic=False) if options.compile else loss_of
    cells = cells_of(options, device.type == "cuda")
    closures = functools.cache(functools.partial(closures_of, forward, x, y))
    params = list(model.parameters())
    ready = prepare(cells, params, closures, options)
    times = measured(ready, options)
    best = {label: min(each) for label, each in times.items() if each}
    rows = []
    for label, ms in best.items():
        cell = ready[label][0]
        rate = flops * cell.passes / (1e-3 * ms)
        rows.append(
            {
                "network": network,
                "batch": batch,
                "mode": cell.mode,
                "method": cell.name,
                "ms": ms,
                "median_ms": sorted(times[label])[len(times[label]) // 2],
                "multiple": ms / best[f"SGD, {cell.mode}"] if f"SGD, {cell.mode}" in best else None,
                "images_per_second": batch / (1e-3 * ms),
                "tflops": rate / 1e12,
                "share_of_peak": {name: rate / peak for name, peak in peaks.items()},
            }
        )
    return rows


# ------------------------------------------------------------------ what the chip can do


def flops_of(network: str, batch: int) -> float:
    """Return the FLOPs of a forward and a backward pass over a batch."""
    small = 2
    model = networks.NETWORKS[network]()
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(
            model(networks.images(network, small)), networks.labels(small)
        ).backward()
    return counter.get_total_flops() * batch / small


def peaks_of(device: torch.device, size: int) -> dict[str, float]:
    """Return the peaks that shares are of, in FLOP/s: the data sheet's and a matrix product's."""
    peaks = {}
    if device.type == "cuda":
        chip = torch.cuda.get_device_name(device)
        known = [flops for key, flops in DATA_SHEET.items() if key in chip]
        peaks = {"data sheet": known[0]} if known else {}
    a = torch.randn(size, size, device=device).bfloat16()
    b = torch.randn(size, size, device=device).bfloat16()
    count = 10 if device.type == "cuda" else 1
    product = functools.partial(repeat, functools.partial(torch.mm, a, b), count)
    best = min(timing.interleaved({"product": product}, 5)["product"])
    return peaks | {"matrix product": 2.0 * size**3 * count / (1e-3 * best)}


# ------------------------------------------------------------------ around it


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def late(options: argparse.Namespace, share: float) -> bool:
    """Return whether this share of the time is used up."""
    return time.monotonic() - STARTED > share * options.deadline


def failed(label: str, error: Exception) -> None:
    """Say why a cell failed."""
    lines = traceback.format_exception(error)
    say(f"{label}: FAILED\n" + "".join(lines)[-700:])


def shown(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    multiple = "" if row["multiple"] is None else f"{row['multiple']:.2f}"
    shares = [f"{100 * share:.1f} %" for share in row["share_of_peak"].values()]
    return [
        row["network"],
        str(row["batch"]),
        row["mode"],
        row["method"],
        f"{row['ms']:.3f}",
        multiple,
        f"{row['images_per_second']:,.0f}",
        f"{row['tflops']:.1f}",
        *shares,
    ]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Whole steps on a GPU.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--deadline", type=float, default=420.0, help="seconds for everything")
    parser.add_argument("--networks", nargs="+", default=["ResNet-18", "ResNet-20-FRN"])
    parser.add_argument("--batches", nargs="+", type=int, default=[200, 1000])
    parser.add_argument("--sub-batches", type=int, default=SUB_BATCHES, help="1 leaves them out")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--milliseconds", type=float, default=150.0, help="of one timed call")
    parser.add_argument("--no-graphs", dest="graphs", action="store_false")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="the model")
    parser.add_argument("--out", type=Path, help="also copy the results to this folder")
    parser.add_argument("--quick", action="store_true", help="batches of 16: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.batches, options.repeats, options.milliseconds = [16], 2, 0.0
    return options


def main() -> None:
    """Measure group by group, printing and saving as they come."""
    options = arguments()
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"torch {torch.__version__}, {chip}")
    peaks = peaks_of(device, 8192 if device.type == "cuda" else 256)
    say(", ".join(f"{name}: {peak / 1e12:.1f} TFLOP/s" for name, peak in peaks.items()))
    columns = ["network", "batch", "mode", "method", "ms", "x SGD", "images/s", "TFLOP/s"]
    columns += [f"of {name}" for name in peaks]
    rows: list[dict[str, Any]] = []
    for batch in options.batches:
        for network in options.networks:
            if late(options, 0.6) and rows:
                say(f"{network}, batch {batch}: left out, the deadline is near")
                continue
            say(f"{network}, batch {batch}")
            try:
                new = group(network, batch, device, peaks, options)
            except Exception as error:
                failed(f"{network}, batch {batch}", error)
                continue
            rows += new
            print(timing.table(columns, [shown(row) for row in new]), flush=True)
            if not options.quick:
                path = timing.save("gpu_steps", rows)
                if options.out:
                    options.out.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, options.out)
    say("all of it")
    print(timing.table(columns, [shown(row) for row in rows]), flush=True)


if __name__ == "__main__":
    main()
