"""What a step holds at its peak, in copies of the weights, and that nothing stays but the state."""

import paths
import pytest
import torch
from scenarios import allocated

import bsam
from bsam import layout

TENSORS, SIZE = 40, 250_000
COPY = 4 * TENSORS * SIZE
SLACK = 5 * 2 / TENSORS  # what a line works on, two tensors at a time, and pieces of noise
JOINED = 4 * 3 / TENSORS  # what a kernel works on, three tensors at a time


@pytest.fixture(autouse=True)
def profiled(monkeypatch):
    """Have all memory come from torch, whose profiler sees no other."""
    monkeypatch.setattr(layout, "_LARGE_PAGES", float("inf"))


def trained(**path):
    params = [torch.nn.Parameter(torch.randn(SIZE)) for _ in range(TENSORS)]
    optimizer = bsam.BSAM(params, 0.01, num_data=100, seed=0, **path)

    def closure():
        for p in params:
            p.grad = torch.ones_like(p)

    optimizer.step(closure)
    optimizer.zero_grad()
    return optimizer, closure


@pytest.mark.parametrize(("sub_batches", "copies"), [(1, 3), (2, 4), (8, 4)])
@pytest.mark.parametrize("path", ["loop", *paths.COMPILED])
def test_copies_at_the_peak_of_a_step_of_closures(path, sub_batches, copies, monkeypatch):
    """Beside weights and state: gradient, mean, sqrt(s)|g|; with several their mean gradient.

    A compiled path keeps its room for the mean from step to step.
    """
    optimizer, closure = trained(**paths.options(path, monkeypatch))
    kept_before = sum(room.nbytes for room in optimizer._kept.values())
    peak, kept = allocated(lambda: optimizer.step([closure] * sub_batches))
    slack = JOINED if path == "torch.compile" else SLACK
    assert copies - slack < (peak + kept_before) / COPY < copies + slack
    assert kept / COPY < 1.0 + SLACK  # the gradients
    assert kept_before == (COPY if path in paths.COMPILED else 0)


def test_with_contexts_several_sub_batches_cost_one_copy_more():
    optimizer, closure = trained(foreach=False)

    def step():
        for _ in range(3):
            with optimizer.sampled():
                closure()
            with optimizer.perturbed():
                closure()
        optimizer.step()

    peak, _ = allocated(step)
    assert 5 - SLACK < peak / COPY < 5 + SLACK
