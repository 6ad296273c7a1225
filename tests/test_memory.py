"""What a step holds at its peak, in copies of the weights, and that nothing stays but the state."""

import pytest
import torch
from scenarios import allocated

import bsam
from bsam import compiled

TENSORS, SIZE = 40, 250_000
COPY = 4 * TENSORS * SIZE
SLACK = 5 / TENSORS  # what a line works on, a tensor at a time, and pieces of noise


def trained(**path):
    params = [torch.nn.Parameter(torch.randn(SIZE)) for _ in range(TENSORS)]
    optimizer = bsam.BSAM(params, 0.01, num_data=100, seed=0, **path)

    def closure():
        for p in params:
            p.grad = torch.ones_like(p)

    optimizer.step(closure)
    optimizer.zero_grad()
    return optimizer, closure


@pytest.mark.filterwarnings("ignore:compiled=True")
@pytest.mark.parametrize(
    ("path", "sub_batches", "copies"),
    [
        ({"foreach": False}, 1, 3),
        ({"foreach": False}, 2, 4),
        ({"foreach": False}, 8, 4),
        ({"compiled": True}, 1, 3),
        ({"compiled": True}, 8, 5),
    ],
)
def test_copies_at_the_peak_of_a_step_of_closures(path, sub_batches, copies):
    """Beside weights and state: gradient, mean, sqrt(s)|g|; with several their mean gradient.

    The compiled path has first gradient and sqrt(s)|g| side by side.
    """
    if "compiled" in path and not compiled.works(torch.device("cpu"), torch.float32):
        pytest.skip("no working C++ compiler for torch.compile")
    optimizer, closure = trained(**path)
    peak, kept = allocated(lambda: optimizer.step([closure] * sub_batches))
    assert copies - SLACK < peak / COPY < copies + SLACK
    assert kept / COPY < 1.0 + SLACK  # the gradients


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
