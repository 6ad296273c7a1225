"""The optimizer's own time for a step, gradients given: BSAM's paths, fused AdamW, rivals.

Run:  .venv/bin/python benchmarks/optimizer_step.py     (3 minutes; needs a C++ compiler)

ResNet-18's shapes (11.2 million weights in 62 tensors), 2,000 tensors of 1,000 elements, and one
of 100 million; one process, interleaved, best of several, in milliseconds and as a multiple of
AdamW's. A step is a call of step with a closure that hands out gradients made beforehand, fresh
ones for each pass and in the order in which they were made, as backward would leave them. ivon-opt
and pytorch-optimizer's BSAM are timed where they are installed; the latter is not the algorithm of
the paper. ivon-opt has weights of its own: it exchanges their memory in each step, and who comes
after it would have to look at all of them anew.
"""

import argparse
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import timing
import torch

import bsam

REPEATS = 25


def resnet18_shapes() -> list[tuple[int, ...]]:
    """Shapes of the weights and batch normalizations of a ResNet-18 for 10 classes."""
    shapes, channels = [(64, 3, 3, 3), (64,), (64,)], 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            shapes += [(width, channels, 3, 3), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            if channels != width:
                shapes += [(width, channels, 1, 1), (width,), (width,)]
            channels = width
    return [*shapes, (10, 512), (10,)]


class Given:
    """Gradients made before the clock starts, a fresh set for each pass."""

    def __init__(self, params: list[torch.Tensor]) -> None:
        self.params = params
        self.values = [0.01 * torch.randn_like(p) for p in params]
        self.ready: list[list[torch.Tensor]] = []

    def prepare(self, passes: int) -> None:
        """Make as many sets, and clear what the last step left."""
        self.ready = [[value.clone() for value in self.values] for _ in range(passes)]
        for p in self.params:
            p.grad = None

    def __call__(self) -> None:
        """Leave a set in ``.grad``."""
        for p, gradient in zip(self.params, self.ready.pop(0), strict=True):
            p.grad = gradient


class Step(NamedTuple):
    """A step, the gradients it is given, and how many passes it takes."""

    call: Callable[[], Any]
    given: Given
    passes: int


def steps_of(given: Given) -> dict[str, Step]:
    """Return the step of each optimizer."""
    params = given.params
    adamw = torch.optim.AdamW(params, lr=1e-4, fused=True)
    steps = {"AdamW fused": Step(after(given, adamw.step), given, 1)}
    for name, path in PATHS.items():
        optimizer = bsam.BSAM(params, lr=1e-4, num_data=1e4, seed=0, **path)
        steps[f"bSAM {name}"] = Step(lambda step=optimizer.step: step(given), given, 2)
    if importlib.util.find_spec("ivon"):
        own = Given([torch.nn.Parameter(p.detach().clone()) for p in params])
        ivon = importlib.import_module("ivon").IVON(own.params, lr=1e-4, ess=1e4)

        def ivon_step() -> None:
            with ivon.sampled_params(train=True):
                own()
            ivon.step()

        steps["ivon-opt"] = Step(ivon_step, own, 1)
    if importlib.util.find_spec("pytorch_optimizer"):
        rival = importlib.import_module("pytorch_optimizer").BSAM(params, num_data=10_000, lr=1e-4)

        def rival_step() -> None:
            given()
            rival.first_step()
            given()
            rival.second_step()
            rival.third_step()

        steps["pytorch-optimizer BSAM"] = Step(rival_step, given, 2)
    return steps


def after(given: Given, step: Callable[[], Any]) -> Callable[[], None]:
    """Return a step that is given its gradients first."""

    def call() -> None:
        given()
        step()

    return call


def measure(shapes: list[tuple[int, ...]], repeats: int) -> dict[str, dict[str, float]]:
    """Return the best time of each optimizer over these shapes, and that of its first step."""
    steps = steps_of(Given([torch.nn.Parameter(torch.randn(shape)) for shape in shapes]))

    def prepare(name: str) -> None:
        steps[name].given.prepare(steps[name].passes)

    calls = {name: step.call for name, step in steps.items()}
    times = timing.interleaved(calls, repeats + 2, warmup=0, prepare=prepare)
    return {name: {"first": each[0], "best": min(each[2:])} for name, each in times.items()}


def main() -> None:
    """Print a table with a line for each optimizer and save it."""
    parser = argparse.ArgumentParser(description="The optimizer's own time for a step.")
    parser.add_argument("--only", choices=SETS, help="one set of shapes; nothing is saved")
    only = parser.parse_args().only
    rows = []
    for title in [only] if only else SETS:
        times = measure(*SETS[title])
        base = times["AdamW fused"]["best"]
        for name, each in times.items():
            rows.append({"weights": title, "optimizer": name, **each, "x": each["best"] / base})
    columns = ["weights", "optimizer", "best, ms", "x AdamW", "first step, ms"]
    shown = [
        [r["weights"], r["optimizer"], f"{r['best']:.1f}", f"{r['x']:.1f}", f"{r['first']:.0f}"]
        for r in rows
    ]
    print(timing.table(columns, shown))
    if not only:
        timing.save("optimizer_step", rows)


PATHS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "compiled": {"compiled": True},
}
SETS = {
    "ResNet-18": (resnet18_shapes(), REPEATS),
    "2,000 small": ([(1000,)] * 2000, REPEATS),
    "one of 100 M": ([(100_000_000,)], 3),
}

if __name__ == "__main__":
    main()
