"""Time of the noise stream against torch's own normal numbers.

Run:  .venv/bin/python benchmarks/noise.py

Draws 11.2 million float32 numbers (the weights of a ResNet-18) with each, interleaved, and prints
the best of 7 in milliseconds; for the stream also with other numbers of pairs worked on at a time.
"""

import argparse
import time

import torch

from bsam import noise

COUNT, REPEATS = 11_200_000, 7


def milliseconds(draw):
    """Time one call."""
    start = time.perf_counter()
    draw()
    return 1e3 * (time.perf_counter() - start)


def stream(blocks):
    """Draw with that many blocks at a time."""
    noise._BLOCKS_PER_PIECE_ON_CPU = blocks
    noise.standard_normal(0, COUNT, seed=0, call=0, sub_batch=0)


def main() -> None:
    """Print one line for each."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    default = noise._BLOCKS_PER_PIECE_ON_CPU
    draws = {
        "bsam.noise.standard_normal": lambda: stream(default),
        "torch.Tensor.normal_": lambda: torch.empty(COUNT).normal_(),
        "2^14 pairs at a time": lambda: stream(2**4),
        "2^18 pairs at a time": lambda: stream(2**8),
        "2^22 pairs at a time": lambda: stream(2**12),
    }
    times = {name: [] for name in draws}
    for _ in range(REPEATS):
        for name, draw in draws.items():
            times[name].append(milliseconds(draw))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, each in times.items():
        print(f"{name:28} {min(each):7.1f} ms")


if __name__ == "__main__":
    main()
