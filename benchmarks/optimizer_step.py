"""The optimizer's own time for a step, gradients given: BSAM's paths, fused AdamW, ivon-opt.

Run:  .venv/bin/python benchmarks/optimizer_step.py

ResNet-18's shapes (11.2 million weights in 62 tensors), 2,000 tensors of 1,000 elements, and one
of 100 million; one process, interleaved, best of several, in milliseconds and as a multiple of
AdamW's.
A step is step(closure) with a closure that only hands out gradients.
"""

import importlib.util
import platform
import time

import torch

import bsam

REPEATS = 7


def resnet18_shapes():
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


def milliseconds(run):
    """Time one call."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measure(shapes, repeats=REPEATS):
    """Return the best time of each optimizer over these shapes."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    gradients = [0.01 * torch.randn_like(p) for p in params]

    def closure():  # gradients that a model would leave, without the model
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient

    steps = {"AdamW fused": torch.optim.AdamW(params, lr=1e-4, fused=True).step}
    for name, path in PATHS.items():
        optimizer = bsam.BSAM(params, lr=1e-4, num_data=1e4, seed=0, **path)
        steps[name] = lambda optimizer=optimizer: optimizer.step(closure)
    if importlib.util.find_spec("ivon"):
        steps["ivon-opt"] = ivon_step(params, closure)
    closure()
    times = {name: [] for name in steps}
    for _ in range(repeats + 1):  # the first one compiles and makes the state
        for name, step in steps.items():
            times[name].append(milliseconds(step))
    return {name: min(each[1:]) for name, each in times.items()}


def ivon_step(params, closure):
    """Return a step of the rival, one sample as in its documentation."""
    import ivon

    optimizer = ivon.IVON(params, lr=1e-4, ess=1e4)

    def step():
        with optimizer.sampled_params(train=True):
            closure()
        optimizer.step()

    return step


def main() -> None:
    """Print one line for each optimizer and set of shapes."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}")
    for title, (shapes, repeats) in SETS.items():
        times = measure(shapes, repeats)
        for name, best in times.items():
            print(f"{title:12} {name:14} {best:8.1f} ms {best / times['AdamW fused']:6.1f} x AdamW")


PATHS = {
    "BSAM loop": {"foreach": False},
    "BSAM foreach": {"foreach": True},
    "BSAM compiled": {"compiled": True},
}
SETS = {
    "ResNet-18": (resnet18_shapes(), REPEATS),
    "2,000 small": ([(1000,)] * 2000, REPEATS),
    "one of 100 M": ([(100_000_000,)], 3),
}

if __name__ == "__main__":
    main()
