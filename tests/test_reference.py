"""The optimizers against ``reference.py``: the same numbers to 1e-12, on every path."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios import Problem, Recording

import bsam

HYPER = {
    "lr": 0.2,
    "num_data": 30.0,
    "rho": 0.05,
    "betas": (0.8, 0.9),
    "weight_decay": 0.02,
    "damping": 0.1,
    "s_init": 0.7,
}
OTHER = {**HYPER, "lr": 0.05, "rho": 0.2, "betas": (0.5, 0.99), "weight_decay": 0.0, "s_init": 2.0}


def close(value, expected, what):
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12, err_msg=what)


def compare(hyper, other, order, m, steps=12, seed=0, foreach=None):
    problem = Problem(sub_batches=m, seed=seed)
    groups = [{"params": problem.params[:2]}, {"params": problem.params[2:], **other}]
    optimizer = Recording(groups, **hyper, order=order, foreach=foreach, seed=seed)
    tensors = [
        reference.tensor(w, **(hyper if i < 2 else other)) for i, w in enumerate(problem.start)
    ]
    for t in range(steps):
        loss = optimizer.step(problem.closures())
        noise = [[n.numpy() for n in draw] for draw in optimizer.draws[-m:]]
        expected = reference.bsam_step(tensors, noise, problem.gradient, order)
        close(loss.item(), expected, f"loss at step {t}")
        for p, tensor in zip(problem.params, tensors, strict=True):
            close(p.detach().numpy(), tensor["w"], f"w at step {t}")
            close(optimizer.state[p]["exp_avg"].numpy(), tensor["gm"], f"gm at step {t}")
            close(optimizer.state[p]["s"].numpy(), tensor["s"], f"s at step {t}")


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("order", ["precision_first", "mean_first"])
def test_bsam_with_two_groups(order, m, foreach):
    compare(HYPER, OTHER, order, m, foreach=foreach)


@settings(max_examples=30)
@given(
    lr=st.floats(0, 0.5),
    num_data=st.floats(1, 1e6),
    rho=st.floats(0, 0.5),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0, 1),
    weight_decay=st.floats(0, 0.1),
    damping=st.floats(0.05, 1),
    s_init=st.floats(0.05, 5),
    m=st.integers(1, 3),
    order=st.sampled_from(["precision_first", "mean_first"]),
    seed=st.integers(0, 2**31),
)
def test_bsam_over_its_range(beta1, beta2, m, order, seed, **hyper):
    hyper["betas"] = (beta1, beta2)
    compare(hyper, hyper, order, m, steps=3, seed=seed)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("m", [1, 3])
def test_sam(m, adaptive):
    problem = Problem(sub_batches=m)
    base = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizer = bsam.SAM(problem.params, torch.optim.SGD, rho=0.3, adaptive=adaptive, **base)
    tensors = [reference.tensor(w, **base) for w in problem.start]
    for t in range(12):
        loss = optimizer.step(problem.closures())
        expected = reference.sam_sgd_step(tensors, m, problem.gradient, 0.3, adaptive)
        close(loss.item(), expected, f"loss at step {t}")
        for p, tensor in zip(problem.params, tensors, strict=True):
            close(p.detach().numpy(), tensor["w"], f"w at step {t}")


def test_micro_batch_weights_make_weighted_means():
    """Weights 1 and 2 are the same as the second sub-batch given twice with the same noise."""
    problem = Problem(sub_batches=2)
    optimizer = Recording(problem.params, **HYPER, seed=3)
    for j, weight in enumerate([1.0, 2.0]):
        with optimizer.sampled(weight=weight):
            problem.closure(j)()
        with optimizer.perturbed():
            problem.closure(j)()
    optimizer.step()
    first, second = ([n.numpy() for n in draw] for draw in optimizer.draws)
    tensors = [reference.tensor(w, **HYPER) for w in problem.start]
    reference.bsam_step(
        tensors, [first, second, second], lambda j, w: problem.gradient(min(j, 1), w)
    )
    for p, tensor in zip(problem.params, tensors, strict=True):
        close(p.detach().numpy(), tensor["w"], "w")
        close(optimizer.state[p]["s"].numpy(), tensor["s"], "s")


def test_loss_scale_undoes_a_division_of_the_loss():
    plain, divided = Problem(sub_batches=2), Problem(sub_batches=2)
    a = bsam.BSAM(plain.params, **HYPER, seed=3)
    b = bsam.BSAM(divided.params, **HYPER, seed=3)
    a.step(plain.closures())
    for j in range(2):
        for context in (b.sampled, b.perturbed):
            with context(loss_scale=2):
                divided.closure(j)()
                for p in divided.params:
                    p.grad /= 2
    b.step()
    for p, q in zip(plain.params, divided.params, strict=True):
        close(p.detach().numpy(), q.detach().numpy(), "w")
        close(a.state[p]["s"].numpy(), b.state[q]["s"].numpy(), "s")
