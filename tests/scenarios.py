"""Small problems with known gradients, and optimizers that replay given noise."""

import gc
from contextlib import contextmanager

import numpy as np
import torch

import bsam

SHAPES = ((3, 2), (2,), ())


class Problem:
    """A smooth, non-convex loss over tensors of several shapes, different for each sub-batch."""

    def __init__(self, shapes=SHAPES, sub_batches=3, dtype=torch.float64, seed=0):
        draw = np.random.default_rng(seed)
        self.start = [draw.normal(size=shape) for shape in shapes]
        self.centres = [[draw.normal(size=s) for s in shapes] for _ in range(sub_batches)]
        self.sub_batches = sub_batches
        self.params = [
            torch.nn.Parameter(torch.tensor(w, dtype=dtype).contiguous()) for w in self.start
        ]

    def gradient(self, j, weights):
        """Loss and gradients in NumPy: sum over elements of log cosh(w - c) + 0.1 sin(3 w)."""
        pairs = list(zip(weights, self.centres[j], strict=True))
        loss = sum(float(np.sum(np.log(np.cosh(w - c)) + 0.1 * np.sin(3 * w))) for w, c in pairs)
        return loss, [np.tanh(w - c) + 0.3 * np.cos(3 * w) for w, c in pairs]

    def closure(self, j=0, params=None):
        """The same in torch, for ``step``."""
        params = self.params if params is None else params

        def closure():
            loss = sum(
                (torch.log(torch.cosh(p - torch.as_tensor(c, dtype=p.dtype)))).sum()
                + 0.1 * torch.sin(3 * p).sum()
                for p, c in zip(params, self.centres[j], strict=True)
            )
            loss.backward()
            return loss

        return closure

    def closures(self, m=None):
        return [self.closure(j) for j in range(m or self.sub_batches)]


class Recording(bsam.BSAM):
    """BSAM that remembers every draw."""

    def __init__(self, *args, **kwargs):
        self.draws = []
        super().__init__(*args, **kwargs)

    def draw_noise(self, params):
        noise = super().draw_noise(params)
        self.draws.append([n.clone() for n in noise])
        return noise


def replaying(draws, base=bsam.BSAM):
    """Return a class like BSAM whose draws are these, in order."""
    draws = iter(draws)

    class Replaying(base):
        def draw_noise(self, params):
            return [
                torch.as_tensor(n, dtype=self.state[p]["s"].dtype).reshape(p.shape)
                for n, p in zip(next(draws), params, strict=True)
            ]

    return Replaying


def mlp(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).to(
        dtype
    )


def batch(dtype=torch.float32, rows=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(3, (rows,), generator=generator)


def closure_for(model, x, y):
    def closure():
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def identical(a, b):
    """Bit for bit equality of two sequences of tensors."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def allocated(call):
    """Return the bytes that a call has allocated at its peak and at its end, above its start."""
    gc.collect()  # what others have left would be freed meanwhile
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    used = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            used += event.nbytes()
            peak = max(peak, used)
    return peak, used


@contextmanager
def one_thread():
    """Small tensors gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
