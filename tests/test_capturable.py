"""``capturable``: counters that a replayed graph advances, here without one; see test_gpu.py."""

import math

import pytest
import torch
from scenarios import Problem

import bsam


def trained(steps=4, **options):
    problem = Problem()
    optimizer = bsam.BSAM(problem.params, 0.05, num_data=30, rho=0.1, seed=4, **options)
    for _ in range(steps):
        optimizer.step(problem.closures(2))
    return problem, optimizer


def equal(one, other):
    (problem, optimizer), (twin, its) = one, other
    for p, q in zip(problem.params, twin.params, strict=True):
        assert torch.equal(p, q)
        for name in ("exp_avg", "s", "step"):
            assert torch.equal(optimizer.state[p][name], its.state[q][name])


def test_the_run_is_the_same():
    run = trained(capturable=True)
    equal(run, trained(capturable=False))
    assert run[1].param_groups[0]["calls"].item() == 4


def test_a_resumed_run_goes_on(tmp_path):
    problem, optimizer = trained(2, capturable=True)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    twin = Problem()
    for p, q in zip(twin.params, problem.params, strict=True):
        p.data.copy_(q)
    again = bsam.BSAM(twin.params, 0.05, num_data=30, rho=0.1, capturable=True)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        again.step(twin.closures(2))
    equal((twin, again), trained(4))


def test_state_from_before_the_option():
    problem, optimizer = trained(2)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["capturable"]
    optimizer.load_state_dict(state)
    optimizer.step(problem.closures(2))
    equal((problem, optimizer), trained(3))


def test_groups_share_the_count():
    problem = Problem()
    options = {"num_data": 30, "capturable": True, "seed": 1}
    optimizer = bsam.BSAM(problem.params[:1], 0.05, **options)
    optimizer.step(problem.closures(1))
    optimizer.add_param_group({"params": problem.params[1:]})
    optimizer.step(problem.closures(1))
    assert [int(group["calls"]) for group in optimizer.param_groups] == [2, 2]


def test_groups_agree():
    problem = Problem()
    optimizer = bsam.BSAM(problem.params[:1], 0.05, num_data=30)
    with pytest.raises(ValueError, match="capturable=True: must be that of the other groups"):
        optimizer.add_param_group({"params": problem.params[1:], "capturable": True})


def test_gradients_are_not_looked_at():
    """That would wait for the device, which a graph being captured cannot."""
    problem = Problem()
    options = {"num_data": math.inf, "capturable": True}
    optimizer = bsam.BSAM(problem.params, 0.05, **options)

    def closure():
        for p in problem.params:
            p.grad = torch.full_like(p, math.nan)

    optimizer.step(closure)
    assert all(p.isnan().all() for p in problem.params)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_what_is_allowed(value):
    with pytest.raises((TypeError, ValueError), match="capturable="):
        bsam.BSAM(Problem().params, 0.05, num_data=30, capturable=value)
