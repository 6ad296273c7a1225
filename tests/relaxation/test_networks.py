"""A network's loss as a function of its parameters; numbers that know how they were found."""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
from relaxation.losses import absolute

from bsam import relaxation
from bsam.relaxation import Maximum, Value, loss_of


def network(seed=0):
    torch.manual_seed(seed)
    layers = torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1)
    return torch.nn.Sequential(*layers)


DATA = (torch.randn(5, 2, generator=torch.Generator().manual_seed(1)), torch.ones(5, 1))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_it_is_the_sum_of_the_plain_losses(reduction):
    model = network()

    def loss_fn(outputs, targets):
        return torch.nn.functional.mse_loss(outputs, targets, reduction=reduction)

    loss = loss_of(model, loss_fn, *DATA, reduction=reduction)
    model.eval()
    plain = torch.nn.functional.mse_loss(model(DATA[0]), DATA[1], reduction="sum")
    assert loss(loss.mean).item() == pytest.approx(plain.item(), rel=1e-5)
    assert loss.num_data == 5


def test_every_row_is_a_network_of_its_own():
    model = network()
    loss = loss_of(model, torch.nn.functional.mse_loss, *DATA)
    theta = loss.mean + torch.randn(2, 3, len(loss.mean), dtype=torch.float64)
    found = loss(theta)
    assert found.shape == (2, 3)
    assert found.dtype == torch.float64
    other = copy.deepcopy(model).double().eval()
    torch.nn.utils.vector_to_parameters(theta[1, 2], other.parameters())
    plain = torch.nn.functional.mse_loss(other(DATA[0].double()), DATA[1].double())
    assert found[1, 2].item() == pytest.approx(5 * plain.item())


def test_the_model_is_left_as_it_is():
    model = network()
    before = copy.deepcopy(model.state_dict())
    loss = loss_of(model, torch.nn.functional.mse_loss, *DATA)
    loss(loss.mean + 1.0)
    assert model.training
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_gradients_flow():
    model = network()
    loss = loss_of(model, torch.nn.functional.mse_loss, *DATA)
    theta = loss.mean.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(theta), theta)
    plain = copy.deepcopy(model).double().eval()
    (5 * torch.nn.functional.mse_loss(plain(DATA[0].double()), DATA[1].double())).backward()
    wanted = torch.cat([p.grad.flatten() for p in plain.parameters()])
    torch.testing.assert_close(slope, wanted)


def test_frozen_parameters_are_not_among_theta():
    model = network()
    model[0].weight.requires_grad_(False)
    loss = loss_of(model, torch.nn.functional.mse_loss, *DATA)
    assert len(loss.mean) == 3 + 3 + 1
    assert "0.weight" not in loss.shapes
    whole = loss_of(network(), torch.nn.functional.mse_loss, *DATA)
    assert loss(loss.mean).item() == pytest.approx(whole(whole.mean).item())


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"reduction='none'.*how loss_fn treats examples"):
        loss_of(network(), torch.nn.functional.mse_loss, *DATA, reduction="none")
    with pytest.raises(ValueError, match="model: has no parameter that requires a gradient"):
        loss_of(network().requires_grad_(False), torch.nn.functional.mse_loss, *DATA)
    with pytest.raises(TypeError, match="model"):
        loss_of(lambda x: x, torch.nn.functional.mse_loss, *DATA)


def test_it_goes_with_the_functions():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.5)
    inputs, targets = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)
    loss = loss_of(model, torch.nn.functional.mse_loss, inputs, targets)  # 5 theta^2
    assert relaxation.relaxed_loss(loss, loss.mean, 0.1) == pytest.approx(5 * 0.35)
    assert relaxation.expected_loss(loss, loss.mean, 0.1) == pytest.approx(5 * 0.35)
    assert math.isinf(relaxation.max_loss(loss, loss.mean, 0.11))


# ------------------------------------------------------------------ results


def test_a_value_is_a_float_that_knows_more():
    value = Value(2.0, kind="estimate", lower=1.5, upper=3.0, method="by hand")
    assert isinstance(value, float)
    assert type(value + 1) is float
    assert (value * 2, value < 3, round(value, 1), f"{value:.1f}") == (4.0, True, 2.0, "2.0")
    assert value.error == 0.75
    assert Value(1.0).error == 0.0
    infinite = Value(math.inf)
    assert math.isinf(infinite)
    assert (infinite.error, infinite.kind) == (0.0, "value")


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))]
)
def test_copies_know_it_too(again):
    value = again(Value(2.0, kind="estimate", lower=1.5, upper=3.0, method="by hand"))
    assert type(value) is Value
    assert (value, value.kind, value.lower, value.upper) == (2.0, "estimate", 1.5, 3.0)
    assert value.method == "by hand"
    largest = again(relaxation.max_loss(absolute, 0.5, 0.49))
    assert type(largest) is Maximum
    assert largest.maximizers[0].item() == pytest.approx(0.99)
    assert largest.is_unique


def test_scipy_is_imported_at_first_use():
    program = (
        "import sys, bsam\n"
        "assert 'scipy' not in sys.modules, 'scipy came with bsam'\n"
        "value = bsam.relaxation.relaxed_loss(lambda t: t[..., 0].abs(), 0.5, 0.49)\n"
        "assert abs(value - 0.74 ** 0.5) < 1e-6\n"
        "assert 'scipy' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
