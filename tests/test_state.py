"""Saving, loading, copying: what goes on from there is the same run, bit for bit."""

import copy
import io
import pickle

import paths
import pytest
import torch
from scenarios import Problem, batch, closure_for, identical, mlp

import bsam


def bsam_over(params):
    return bsam.BSAM(params, lr=0.1, num_data=20)


def sam_over(params):
    return bsam.SAM(params, torch.optim.Adam, rho=0.1, lr=0.1)


both = pytest.mark.parametrize("make", [bsam_over, sam_over])


@both
def test_pickle_and_deepcopy_of_model_and_optimizer_go_on_alike(make):
    model, (x, y) = mlp(), batch()
    optimizer = make(model.parameters())
    optimizer.step(closure_for(model, x, y))
    twins = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    for _ in range(3):
        optimizer.step(closure_for(model, x, y))
    for twin, twin_optimizer in twins:
        assert type(twin_optimizer) is type(optimizer)
        assert twin_optimizer.phase == "mean"
        for _ in range(3):
            twin_optimizer.step(closure_for(twin, x, y))
        assert identical(model.parameters(), twin.parameters())


def test_a_loaded_state_shares_no_memory():
    one, two = Problem(), Problem()
    a, b = bsam_over(one.params), bsam_over(two.params)
    a.step(one.closures())
    kept = copy.deepcopy(a.state_dict())
    b.load_state_dict(a.state_dict())
    b.step(two.closures())
    for number, values in a.state_dict()["state"].items():
        assert all(torch.equal(v, kept["state"][number][k]) for k, v in values.items())


def test_a_skipped_context_does_not_change_a_checkpoint():
    """Saved before a step that fails, resumed: the same noise as if nothing had failed."""
    one, two = Problem(), Problem()
    a = bsam.BSAM(one.params, lr=0.1, num_data=20, seed=1)
    b = bsam.BSAM(two.params, lr=0.1, num_data=20, seed=1)
    with pytest.raises(KeyError):
        a.step([one.closure(), lambda: {}["nothing"]])
    a.step(one.closures())
    b.step(two.closures())
    assert identical(one.params, two.params)


def test_an_added_group_joins_the_stream_and_leaves_the_others_alone():
    one, two = Problem(), Problem()
    late = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    a = bsam.BSAM(one.params, lr=0.1, num_data=20, seed=1)
    b = bsam.BSAM(two.params, lr=0.1, num_data=20, seed=1)
    for optimizer, problem in ((a, one), (b, two)):
        optimizer.step(problem.closures())
    a.add_param_group({"params": [late], "lr": 0.5, "s_init": 2.0})
    assert a.param_groups[1]["calls"] == 1
    assert a.param_groups[1]["seed"] == 1
    for optimizer, problem in ((a, one), (b, two)):
        optimizer.step(problem.closures())
    assert identical(one.params, two.params)

    def closure():
        one.closure()()
        late.grad = torch.ones_like(late)

    a.step(closure)
    assert (late < 0).all()
    assert a.state[late]["step"] == 1
    resumed = bsam.BSAM([{"params": one.params}, {"params": [late]}], lr=9.0, num_data=1)
    resumed.load_state_dict(a.state_dict())
    assert resumed.param_groups[1]["lr"] == 0.5


def test_state_dict_through_a_file_and_pre_hooks():
    one, two = Problem(), Problem()
    a, b = bsam_over(one.params), bsam_over(two.params)
    a.step(one.closures())
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)

    def halved(_, state_dict):
        state_dict["param_groups"][0]["lr"] = 0.05
        for state in state_dict["state"].values():
            state["s"] = state["s"] / 2
        return state_dict

    b.register_load_state_dict_pre_hook(halved)
    b.load_state_dict(torch.load(file, weights_only=True))
    assert b.param_groups[0]["lr"] == 0.05
    for p, q in zip(one.params, two.params, strict=True):
        assert torch.equal(a.state[p]["s"] / 2, b.state[q]["s"])


def test_foreign_state():
    problem = Problem()
    optimizer = bsam_over(problem.params)
    optimizer.step(problem.closures())
    before = copy.deepcopy(optimizer.state_dict())
    adam = torch.optim.Adam(problem.params)
    good = optimizer.state_dict()
    other = Problem(shapes=((2, 3), (2,), ()))
    foreign = bsam_over(other.params)
    foreign.step(other.closures())
    spoiled = copy.deepcopy(good)
    spoiled["param_groups"][0]["damping"] = -1.0
    for state_dict, message in (
        (adam.state_dict(), r"must come from BSAM.state_dict\(\), but its parameter group 0 lacks"),
        (
            foreign.state_dict(),
            r"exp_avg of parameter 0 of group 0, shape \(3, 2\) has shape \(2, 3",
        ),
        (bsam_over(problem.params[:1]).state_dict(), "doesn't match the size of optimizer's group"),
        (spoiled, "damping=-1.0: must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state_dict)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, values in after["state"].items():
        assert all(torch.equal(v, before["state"][number][k]) for k, v in values.items())


def test_sam_keeps_the_state_of_its_base_and_shares_its_groups():
    problem = Problem()
    optimizer = sam_over(problem.params)
    optimizer.step(problem.closures())
    assert set(optimizer.state_dict()["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    fresh = sam_over(Problem().params)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert fresh.param_groups is fresh.base_optimizer.param_groups
    assert fresh.state is fresh.base_optimizer.state
    assert fresh.param_groups[0]["rho"] == 0.1


def test_sam_takes_up_a_state_of_its_base():
    """A run begun with plain Adam goes on with SAM."""
    problem = Problem()
    adam = torch.optim.Adam(problem.params, lr=0.1)
    problem.closure()()
    adam.step()
    optimizer = sam_over(problem.params)
    optimizer.load_state_dict(adam.state_dict())
    optimizer.step(problem.closures())
    assert optimizer.state[problem.params[0]]["step"] == 2


def test_sam_adds_groups_to_its_base():
    problem, late = Problem(), torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = sam_over(problem.params)
    optimizer.add_param_group({"params": [late], "rho": 0.5})
    assert optimizer.base_optimizer.param_groups[1]["rho"] == 0.5
    assert optimizer.base_optimizer.param_groups[1]["lr"] == 0.1

    def closure():
        problem.closure()()
        late.grad = torch.ones_like(late)

    optimizer.step(closure)
    assert (late < 1).all()


@both
@pytest.mark.parametrize("state_dict", [None, {}, {"weight": torch.zeros(1)}])
def test_what_is_no_optimizers_state(make, state_dict):
    with pytest.raises(
        ValueError, match=r"must be what an optimizer's state_dict\(\) gave, not a mod"
    ):
        make(Problem().params).load_state_dict(state_dict)


def test_sam_refuses_the_state_of_bsam():
    problem = Problem()
    state = bsam_over(problem.params).state_dict()
    with pytest.raises(ValueError, match="parameter group 0 is one of BSAM: must come from a SAM"):
        sam_over(problem.params).load_state_dict(state)


@pytest.mark.parametrize("path", paths.OPTIONS)
@pytest.mark.parametrize("steps", [0, 1])
def test_state_follows_a_model_that_is_cast(path, steps, monkeypatch):
    model, (x, y) = mlp(), batch()
    options = paths.options(path, monkeypatch)
    optimizer = bsam.BSAM(model.parameters(), lr=0.1, num_data=20, **options)
    optimizer.step()  # makes state
    for _ in range(steps):
        optimizer.step(closure_for(model, x, y))
    s = [optimizer.state[p]["s"].clone() for p in model.parameters()]
    model.double()
    optimizer.step(closure_for(model, x.double(), y))
    for p, before in zip(model.parameters(), s, strict=True):
        assert optimizer.state[p]["s"].dtype == torch.float64
        torch.testing.assert_close(optimizer.state[p]["s"], before.double(), rtol=0.01, atol=0)


def test_post_hooks_see_and_may_change_the_state():
    one, two = (torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)) for _ in range(2))
    a, b = bsam_over([one]), bsam_over([two])

    def closure():
        one.grad = torch.ones_like(one)

    a.step(closure)

    def hook(optimizer):
        assert optimizer.state[two]["s"].dtype == torch.float32
        optimizer.state[two]["s"].fill_(7.0)

    b.register_load_state_dict_post_hook(hook)
    b.load_state_dict(a.state_dict())
    assert (b.state[two]["s"] == 7).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d["param_groups"][0].update(seed=-1), "seed=-1: must be at least 0"),
        (lambda d: d["param_groups"][0].update(calls=-1), "calls=-1: must be at least 0"),
        (lambda d: d["state"][0].pop("s"), "the state of parameter 0 of group 0, .* lacks s; load"),
    ],
)
def test_spoiled_state(spoil, message):
    problem = Problem()
    optimizer = bsam_over(problem.params)
    optimizer.step(problem.closures())
    state = copy.deepcopy(optimizer.state_dict())
    spoil(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    optimizer.step(problem.closures())
