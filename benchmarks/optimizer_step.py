"""The optimizer's own time for a step, gradients given: loop, foreach, and fused AdamW.

Run:  .venv/bin/python benchmarks/optimizer_step.py

ResNet-18's shapes (11.2 million weights in 62 tensors) and 2,000 tensors of 1,000 elements; one
process, interleaved, best of 7, in milliseconds. A BSAM step is sampled(), perturbed() and step()
with gradients copied in; the time of the copies is taken off.
"""

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


def measure(shapes):
    """Return the best time of each optimizer over these shapes."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    gradients = [0.01 * torch.randn_like(p) for p in params]

    def copy_gradients():
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient.clone()

    def bsam_step(optimizer):
        optimizer.zero_grad()
        with optimizer.sampled():
            copy_gradients()
        with optimizer.perturbed():
            copy_gradients()
        optimizer.step()

    adamw = torch.optim.AdamW(params, lr=1e-4, fused=True)
    paths = {
        name: bsam.BSAM(params, lr=1e-4, num_data=1e4, seed=0, foreach=foreach)
        for name, foreach in (("BSAM loop", False), ("BSAM foreach", True))
    }
    copies, times = [], {"AdamW fused": [], **{name: [] for name in paths}}
    for _ in range(REPEATS):
        copies.append(milliseconds(copy_gradients))
        times["AdamW fused"].append(milliseconds(adamw.step))
        for name, optimizer in paths.items():
            times[name].append(milliseconds(lambda optimizer=optimizer: bsam_step(optimizer)))
    taken_off = {name: 2 * min(copies) if name in paths else 0.0 for name in times}
    return {name: min(each) - taken_off[name] for name, each in times.items()}


def main() -> None:
    """Print one line for each optimizer and set of shapes."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for title, shapes in (("ResNet-18", resnet18_shapes()), ("2,000 small", [(1000,)] * 2000)):
        for name, best in measure(shapes).items():
            print(f"{title:12} {name:13} {best:7.1f} ms")


if __name__ == "__main__":
    main()
