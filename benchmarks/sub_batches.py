"""A step with m sub-batches (m-sharpness): all at once by vmap, or one after the other.

Run:  python benchmarks/sub_batches.py

One bSAM step, batch 200 cut into 8, on the MLP and ResNet-20-FRN, on the CPU and, if there is one,
on a GPU:

* loop: bsam.BSAM's step with a list of closures, also with ``compiled=True``;
* vmap: ``torch.func.vmap`` over the sub-batches, each with noisy and perturbed weights of its own,
  gradients by ``torch.func.grad``, the lines of the algorithm on stacked tensors;
* on a GPU, both captured in a CUDA graph (the loop with ``capturable=True``, vmap with torch's own
  noise, which a graph draws anew).

Before it is timed, vmap makes two steps in float64 beside the loop, with the same noise, and must
reach the same weights. Calls follow each other in turn; printed are the best time and the bytes
allocated at the peak of a step, weights and state not counted.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import networks
import timing
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

import bsam
from bsam import algorithm, noise

OPTIONS = {"lr": 0.1, "rho": 0.01, "betas": (0.9, 0.999), "weight_decay": 1e-3, "damping": 0.1}
NUM_DATA, SEED = 50_000.0, 0
TOLERANCE = 1e-10
Step = Callable[[], Any]


class AllAtOnce:
    """bSAM with the sub-batches side by side in one tensor for each parameter."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, parts: int, own_noise: bool) -> None:
        self.weights = {name: p.detach() for name, p in model.named_parameters()}
        self.exp_avg = [torch.zeros_like(w) for w in self.weights.values()]
        self.s = [torch.ones_like(w) for w in self.weights.values()]
        self.x, self.y = (t.view(parts, -1, *t.shape[1:]) for t in (x, y))
        self.parts, self.own_noise, self.calls = parts, own_noise, 0

        def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return functional.cross_entropy(functional_call(model, weights, (x,)), y)

        self._gradients = vmap(grad_and_value(loss))

    @torch.no_grad()
    def step(self) -> Tensor:
        """Make a step and return the mean loss at the perturbed points."""
        mean = list(self.weights.values())
        scale = [(NUM_DATA * s).rsqrt() for s in self.s]
        theta = [w + e * d for w, e, d in zip(mean, self._noise(mean), scale, strict=True)]
        first, _ = self._at(theta)
        uphill = [w + OPTIONS["rho"] * g / s for w, g, s in zip(mean, first, self.s, strict=True)]
        second, losses = self._at(uphill)
        scales = [s.sqrt() * g.abs().mean(0) for g, s in zip(first, self.s, strict=True)]
        algorithm.update(
            mean,
            self.exp_avg,
            self.s,
            [q.mean(0) for q in second],
            scales,
            lr=OPTIONS["lr"],
            beta1=OPTIONS["betas"][0],
            beta2=OPTIONS["betas"][1],
            weight_decay=OPTIONS["weight_decay"],
            damping=OPTIONS["damping"],
            order="precision_first",
        )
        self.calls += 1
        return losses.mean()

    def _at(self, stacked: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        weights = dict(zip(self.weights, stacked, strict=True))
        gradients, losses = self._gradients(weights, self.x, self.y)
        return list(gradients.values()), losses

    def _noise(self, mean: list[Tensor]) -> list[Tensor]:
        if self.own_noise:
            return [
                torch.randn((self.parts, *w.shape), dtype=w.dtype, device=w.device) for w in mean
            ]
        first = noise.first_elements(mean)
        keys = [noise.stream_key(SEED, self.calls, sub_batch) for sub_batch in range(self.parts)]
        draws = [noise.standard_normal_like(mean, first, key) for key in keys]
        return [torch.stack(each) for each in zip(*draws, strict=True)]


def loop(model: nn.Module, x: Tensor, y: Tensor, parts: int, **path: bool) -> Step:
    """Return bsam.BSAM's step with a list of closures."""
    optimizer = bsam.BSAM(model.parameters(), num_data=NUM_DATA, seed=SEED, **OPTIONS, **path)

    def closure(x: Tensor, y: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    pieces = zip(x.chunk(parts), y.chunk(parts), strict=True)
    closures = [functools.partial(closure, *piece) for piece in pieces]
    return lambda: optimizer.step(closures)


def captured(step: Step) -> Step:
    """Capture a step in a CUDA graph and return its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def check(network: str, device: torch.device) -> float:
    """Make two steps of both kinds in float64 and return the largest difference.

    Raises:
        RuntimeError: if it is larger than rounding.
    """
    torch.manual_seed(0)
    models = [networks.NETWORKS[network]().double().to(device) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x, y = networks.images(network, 8).double().to(device), networks.labels(8).to(device)
    together, after = AllAtOnce(models[0], x, y, 4, False), loop(models[1], x, y, 4)
    for _ in range(2):
        losses = [together.step(), after()]
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    worst = max(float((a - b).detach().abs().max()) for a, b in pairs)
    if not max(worst, float((losses[0] - losses[1]).abs())) < TOLERANCE:
        raise RuntimeError(f"{network}: vmap and loop differ by {worst:.1e}")
    return worst


def cells_of(network: str, device: torch.device, batch: int, parts: int) -> dict[str, Step]:
    """Return the ways to make the step that work here, each with a model of its own."""
    x = networks.images(network, batch).to(device)
    y = networks.labels(batch).to(device)

    def new() -> nn.Module:
        return networks.NETWORKS[network]().to(device)

    makers: dict[str, Callable[[], Step]] = {
        "loop": lambda: loop(new(), x, y, parts),
        "loop, compiled=True": lambda: loop(new(), x, y, parts, compiled=True),
        "vmap": lambda: AllAtOnce(new(), x, y, parts, False).step,
        "vmap, torch's noise": lambda: AllAtOnce(new(), x, y, parts, True).step,
    }
    if device.type == "cuda":
        graphed = {"compiled": True, "capturable": True}
        makers["loop, CUDA graph"] = lambda: captured(loop(new(), x, y, parts, **graphed))
        makers["vmap, CUDA graph"] = lambda: captured(AllAtOnce(new(), x, y, parts, True).step)
    cells = {}
    for name, make in makers.items():
        try:
            cells[name] = make()
            cells[name]()
        except Exception as error:
            cells.pop(name, None)
            print(f"    {name}: FAILED: {type(error).__name__}: {str(error)[:1500]}", flush=True)
    return cells


def measure(
    network: str, device: torch.device, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each way to make the step."""
    cells = cells_of(network, device, options.batch, options.sub_batches)
    times = timing.interleaved(cells, options.repeats)
    # A replay allocates nothing: its graph holds what the step needs.
    held = {
        n: None if "graph" in n else timing.peak_memory(cell, device.type)
        for n, cell in cells.items()
    }
    return [
        {
            "network": network,
            "device": device.type,
            "batch": options.batch,
            "sub_batches": options.sub_batches,
            "way": name,
            "ms": min(each),
            "median_ms": sorted(each)[len(each) // 2],
            "times_loop": min(each) / min(times["loop"]) if "loop" in times else None,
            "peak_bytes": held[name],
        }
        for name, each in times.items()
    ]


def shown(row: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    ratio = "" if row["times_loop"] is None else f"{row['times_loop']:.2f}"
    size = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
    return [row["network"], row["device"], row["way"], f"{row['ms']:.1f}", ratio, size]


COLUMNS = ["network", "device", "way", "ms", "x loop", "MiB at the peak"]


def main() -> None:
    """Check, measure, print a table and save it."""
    parser = argparse.ArgumentParser(description="Sub-batches: vmap or a loop.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--sub-batches", type=int, default=8)
    parser.add_argument("--only", default="", help="networks whose name holds this")
    gpu = ["cuda"] if torch.cuda.is_available() else []
    parser.add_argument("--devices", nargs="+", default=["cpu", *gpu])
    parser.add_argument("--quick", action="store_true", help="16 examples, once: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.batch, options.repeats = 16, 1
    rows = []
    for device in map(torch.device, options.devices):
        for network in ("MLP", "ResNet-20-FRN"):
            if options.only.lower() not in network.lower():
                continue
            difference = check(network, device)
            print(f"{network}, {device}: vmap and loop agree to {difference:.1e}", flush=True)
            new = measure(network, device, options)
            print(timing.table(COLUMNS, [shown(row) for row in new]), flush=True)
            rows += new
    if not options.quick:
        print(timing.save("sub_batches", rows))


if __name__ == "__main__":
    main()
