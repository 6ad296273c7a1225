"""optimizer.diagnostics(): shares and deviations as they are, by parameter and in total."""

import math

import pytest
import torch
from scenarios import batch, closure_for, mlp

import bsam


def over(params, **options):
    return bsam.BSAM(params, 0.1, num_data=50, **options)


def test_before_the_first_step_s_is_at_its_start():
    model = mlp()
    optimizer = over(model.named_parameters(), weight_decay=0.02, s_init=2.0)
    account = optimizer.diagnostics()
    assert [each.name for each in account.parameters] == [n for n, _ in model.named_parameters()]
    assert [each.size for each in account.parameters] == [p.numel() for p in model.parameters()]
    for each in (*account.parameters, account.total):
        assert (each.at_floor, each.at_start, each.unlearned) == (0.0, 1.0, 1.0)
        assert each.prior_deviation == pytest.approx(1.0)  # 1 / sqrt(50 * 0.02)
        assert each.deviation == pytest.approx(0.1)  # 1 / sqrt(50 * 2)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    rms = flat.square().mean().sqrt().item()
    assert account.total.size == len(flat)
    assert account.total.relative_deviation == pytest.approx(0.1 / rms, rel=1e-5)


def test_shares_count_what_is_there():
    p = torch.nn.Parameter(torch.full((5,), 2.0))
    optimizer = over([p], damping=0.1, weight_decay=0.0, s_init=1.0)
    optimizer.diagnostics()
    optimizer.state[p]["s"].copy_(torch.tensor([0.1, 0.1004, 0.2, 0.995, 1.0]))
    (each,) = optimizer.diagnostics().parameters
    assert (each.at_floor, each.at_start) == (0.4, 0.4)
    variance = sum(1 / (50 * s) for s in (0.1, 0.1004, 0.2, 0.995, 1.0)) / 5
    assert each.deviation == pytest.approx(variance**0.5, rel=1e-6)
    assert each.relative_deviation == pytest.approx(variance**0.5 / 2, rel=1e-6)
    exact = optimizer.diagnostics(tolerance=0.0).total
    assert (exact.at_floor, exact.at_start) == (0.2, 0.2)
    optimizer.state[p]["s"][0] += 1e-8  # a unit of rounding away: float32 still "is" at the floor
    assert optimizer.diagnostics(tolerance=0.0).total.at_floor == 0.2
    assert each.name == "0 of group 0, shape (5,)"


def test_with_vanishing_gradients_everything_comes_to_the_floor():
    model = mlp()
    optimizer = over(model.parameters(), betas=(0.9, 0.9))

    def closure():
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        return 0.0

    shares, unlearned = [], []
    for _ in range(100):
        optimizer.step(closure)
        shares.append(optimizer.diagnostics().total.at_floor)
        unlearned.append(optimizer.diagnostics(tolerance=1e-5).total.unlearned)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert set(unlearned) == {1.0}, "no gradient, nothing learned, wherever s is on its way"
    assert optimizer.diagnostics(tolerance=0.0).total.at_start == 0.0


def test_what_has_learned_from_gradients_is_not_unlearned():
    quiet, loud = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    optimizer = over([quiet, loud], betas=(0.9, 0.99))

    def closure():
        quiet.grad, loud.grad = torch.zeros(4), torch.full((4,), 3.0)
        return 0.0

    for _ in range(10):
        optimizer.step(closure)
    assert [each.unlearned for each in optimizer.diagnostics().parameters] == [1.0, 0.0]
    assert optimizer.diagnostics().total.unlearned == 0.5


def test_groups_and_frozen_parameters():
    model = mlp()
    model[0].bias.requires_grad_(False)
    groups = [
        {"params": model[0].parameters(), "weight_decay": 0.0},
        {"params": model[2].parameters(), "weight_decay": 0.02},
    ]
    account = over(groups).diagnostics()
    assert len(account.parameters) == 3
    assert [each.prior_deviation for each in account.parameters] == [math.inf, 1.0, 1.0]
    assert math.isnan(account.total.prior_deviation)
    model.requires_grad_(False)
    assert over(groups).diagnostics().total.size == 0


def test_it_prints_as_a_table():
    model = mlp()
    optimizer = over(model.named_parameters())
    optimizer.step(closure_for(model, *batch()))
    lines = str(optimizer.diagnostics()).splitlines()
    head = [
        "weights",
        "at floor",
        "at s_init",
        "unlearned",
        "prior sd",
        "posterior sd",
        "sd/|mean|",
    ]
    assert lines[0].split() == " ".join(head).split()
    assert [line.split()[0] for line in lines[1:]] == [n for n, _ in model.named_parameters()] + [
        "all"
    ]
    assert len({len(line) for line in lines}) == 1


def test_means_of_zero_and_bad_tolerance():
    optimizer = over([torch.nn.Parameter(torch.zeros(3))])
    assert optimizer.diagnostics().total.relative_deviation == math.inf
    with pytest.raises(ValueError, match=r"tolerance=-0\.1: must be at least 0"):
        optimizer.diagnostics(tolerance=-0.1)


def test_it_changes_nothing():
    model, (x, y) = mlp(), batch()
    a = bsam.BSAM(model.parameters(), 0.1, num_data=50, seed=0)
    twin = mlp()
    b = bsam.BSAM(twin.parameters(), 0.1, num_data=50, seed=0)
    for _ in range(3):
        a.diagnostics()
        a.posterior(model)
        a.step(closure_for(model, x, y))
        b.step(closure_for(twin, x, y))
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True)
    )
