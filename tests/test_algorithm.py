"""Single lines of the algorithm, in numbers one can check by hand."""

import numpy as np
import pytest
import reference
import torch

from bsam import algorithm, gaussian


def one(value):
    return [torch.tensor([float(value)], dtype=torch.float64)]


def test_deviation():
    (deviation,) = gaussian.deviations(one(3), one(0.25), num_data=100)
    assert deviation.item() == pytest.approx(3 / 5)
    (none,) = gaussian.deviations(one(3), one(0.25), num_data=float("inf"))
    assert none.item() == 0.0


def test_sample():
    weights = one(1)
    algorithm.sample(weights, one(-2), one(4), num_data=1)
    assert weights[0].item() == 0.0


def test_perturb():
    weights = one(1)
    algorithm.perturb(weights, one(-3), one(2), rho=0.1)
    assert weights[0].item() == pytest.approx(1 - 0.15)


def test_gradient_scale():
    assert algorithm.gradient_scales(one(-3), one(4))[0].item() == 6.0


def test_momentum():
    exp_avg = one(2)
    algorithm.update_momentum(exp_avg, one(1), one(10), beta1=0.75, weight_decay=0.5)
    assert exp_avg[0].item() == 0.75 * 2 + 0.25 * (1 + 5)


def test_precision():
    s = one(2)
    algorithm.update_precision(s, one(3), beta2=0.75, weight_decay=0.5, damping=0.5)
    assert s[0].item() == 0.75 * 2 + 0.25 * 4


def test_mean():
    mean = one(1)
    algorithm.update_mean(mean, one(3), one(2), lr=0.5)
    assert mean[0].item() == 1 - 0.75


def test_the_floor_of_s_does_not_creep_as_the_plain_formula_would():
    target = torch.tensor([0.113])
    s, plain = [target.clone()], target.clone()
    for _ in range(3000):
        algorithm.update_precision(
            s, [torch.zeros(1)], beta2=0.999, weight_decay=0.003, damping=0.11
        )
        plain = 0.999 * plain + (1 - 0.999) * target
    unit = np.spacing(np.float32(0.113))
    assert abs(plain.item() - target.item()) > 50 * unit
    assert torch.equal(s[0], target)


def test_s_equal_to_the_norm_of_the_gradient_gives_sams_perturbation():
    g = torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)
    weights = [torch.zeros_like(g)]
    algorithm.perturb(weights, [g], [torch.full_like(g, g.norm().item())], rho=0.5)
    expected = reference.sam_perturbation([np.zeros(3)], [g.numpy()], 0.5)
    np.testing.assert_allclose(weights[0].numpy(), expected[0], rtol=1e-15)


@pytest.mark.parametrize(("order", "divisor"), [("precision_first", 2.5), ("mean_first", 2.0)])
def test_order(order, divisor):
    mean, exp_avg, s = one(0), one(0), one(2)
    algorithm.update(
        mean, exp_avg, s, one(1), one(3),
        lr=1.0, beta1=0.0, beta2=0.5, weight_decay=0.0, damping=0.0, order=order,
    )  # fmt: skip
    assert s[0].item() == 2.5
    assert mean[0].item() == -1 / divisor
