"""What is SAM's own: its perturbation, its base."""

import numpy as np
import pytest
import reference
import torch
from scenarios import Problem, identical

import bsam


def perturbation(weights, gradients, **options):
    params = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    optimizer = bsam.SAM(params, torch.optim.SGD, lr=0.1, **options)
    with optimizer.sampled():
        assert all(np.array_equal(p.detach(), w) for p, w in zip(params, weights, strict=True))
        for p, g in zip(params, gradients, strict=True):
            p.grad = torch.tensor(g)
    with optimizer.perturbed():
        moved = [p.detach().clone().numpy() for p in params]
    return [m - w for m, w in zip(moved, weights, strict=True)]


@pytest.mark.parametrize("adaptive", [False, True])
def test_perturbation_has_one_norm_over_all_tensors(adaptive):
    draw = np.random.default_rng(0)
    weights = [draw.normal(size=(3, 2)), draw.normal(size=4)]
    gradients = [draw.normal(size=(3, 2)), draw.normal(size=4)]
    eps = perturbation(weights, gradients, rho=0.3, adaptive=adaptive)
    expected = reference.sam_perturbation(weights, gradients, 0.3, adaptive)
    for a, b in zip(eps, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
    length = np.sqrt(sum(((e / w if adaptive else e) ** 2).sum() for e, w in zip(eps, weights, strict=True)))  # fmt: skip # noqa: E501
    np.testing.assert_allclose(length, 0.3, rtol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_zero_gradient_perturbs_by_zero(adaptive):
    eps = perturbation([np.ones(3)], [np.zeros(3)], rho=0.3, adaptive=adaptive)
    assert np.array_equal(eps[0], np.zeros(3))


def test_zero_weights_are_not_moved_by_asam():
    eps = perturbation([np.array([0.0, 2.0])], [np.ones(2)], rho=0.3, adaptive=True)
    np.testing.assert_allclose(eps[0], [0.0, 0.6], rtol=1e-14)


def test_rho_zero_is_the_base():
    a, b = Problem(), Problem()
    sam = bsam.SAM(a.params, torch.optim.SGD, rho=0.0, lr=0.1, momentum=0.9, weight_decay=0.01)
    sgd = torch.optim.SGD(b.params, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        sam.step(a.closure())
        sgd.zero_grad()
        sgd.step(b.closure())
    assert identical(a.params, b.params)


def test_groups_have_their_own_rho():
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": params[:1], "rho": 0.0}, {"params": params[1:]}]
    optimizer = bsam.SAM(groups, torch.optim.SGD, rho=0.5, lr=0.1)
    with optimizer.sampled():
        params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    with optimizer.perturbed():
        assert params[0].item() == 0.0
        assert params[1].item() == pytest.approx(0.5 * 4 / 5)


@pytest.mark.parametrize(
    "base",
    [
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RMSprop,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.Rprop,
    ],
)
def test_bases(base):
    problem = Problem()
    optimizer = bsam.SAM(problem.params, base, rho=0.05, lr=0.05)
    first = optimizer.step(problem.closures()).item()
    for _ in range(30):
        last = optimizer.step(problem.closures()).item()
    assert last < first
    state = optimizer.state_dict()["state"]
    if base is not torch.optim.SGD:
        assert len(state) == 3


def test_m_sharpness_perturbs_each_sub_batch_by_itself():
    """Opposite gradients: one perturbation would be zero, two are of length rho."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = bsam.SAM([p], torch.optim.SGD, rho=0.5, lr=1.0)
    seen = []

    def closure(sign):
        def run():
            if optimizer.phase == "perturbed":
                seen.append(p.item())
            p.grad = torch.full_like(p, sign)

        return run

    optimizer.step([closure(1.0), closure(-1.0)])
    assert seen == [0.5, -0.5]
    assert p.item() == 0.0


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RAdam])
@pytest.mark.parametrize("gradient", [None, 0.0])
def test_a_step_with_nothing_recorded_is_not_counted(base, gradient):
    options = {"rho": 0.1, "lr": 0.1, "weight_decay": 0.1}
    options |= {"momentum": 0.9} if base is torch.optim.SGD else {}
    one, two = Problem(), Problem()
    a, b = bsam.SAM(one.params, base, **options), bsam.SAM(two.params, base, **options)
    for p in one.params:
        p.grad = None if gradient is None else torch.zeros_like(p)
    a.step()
    assert all(a.state[p] for p in one.params), "state is there to be loaded into"
    assert identical(one.params, [torch.tensor(w) for w in one.start])
    for _ in range(3):
        a.step(one.closures())
        b.step(two.closures())
    assert identical(one.params, two.params)
    before = [p.detach().clone() for p in one.params]
    for p in one.params:
        p.grad = torch.zeros_like(p)
    a.step()
    assert identical(one.params, before)
    a.step(one.closures())
    b.step(two.closures())
    assert identical(one.params, two.params), "state that was there was changed"


@pytest.mark.parametrize("size", [1e30, 1e-25])
def test_the_norm_neither_overflows_nor_vanishes(size):
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = bsam.SAM([p], torch.optim.SGD, rho=0.1, lr=0.1)
    with optimizer.sampled():
        p.grad = torch.full_like(p, size)
    with optimizer.perturbed():
        torch.testing.assert_close(p.detach(), torch.full((2,), 0.1 / 2**0.5))


def test_maximize_perturbs_downhill():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = bsam.SAM([p], torch.optim.SGD, rho=0.5, lr=0.1, maximize=True)
    with optimizer.sampled():
        p.grad = torch.full_like(p, -2.0)  # of -p^2: away from the maximum is up
    with optimizer.perturbed():
        assert p.item() == 1.5


def test_modes_reach_a_base_that_has_them():
    class Modal(torch.optim.SGD):
        mode = "train"

        def train(self, mode=True):
            self.mode = "train" if mode else "eval"

        def eval(self):
            self.mode = "eval"

    optimizer = bsam.SAM([torch.nn.Parameter(torch.ones(1))], Modal, rho=0.5, lr=0.1)
    optimizer.eval()
    assert optimizer.base_optimizer.mode == "eval"
    optimizer.train()
    assert optimizer.base_optimizer.mode == "train"


def test_a_base_prepares_what_it_is_given():
    """Loading goes through the base's __setstate__, which completes old states."""
    problem = Problem()
    optimizer = bsam.SAM(problem.params, torch.optim.Adam, rho=0.1, lr=0.1)
    optimizer.step(problem.closures())
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["amsgrad"]
    for values in state["state"].values():
        values["step"] = float(values["step"])
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["amsgrad"] is False
    optimizer.step(problem.closures())
