"""Cases that once gave wrong numbers: each pins what was mended."""

import math

import pytest
import torch

from bsam import relaxation
from bsam.relaxation.theorem import _largest_eigenvalue


@pytest.mark.parametrize(
    ("loss", "variance", "expected"),
    [
        (lambda t: t.square().sum(-1).sqrt(), 1.0, 0.5),  # no gradient at the mean
        (lambda t: torch.log1p(torch.exp(-t)).sum(-1), 100.0, 150.0),  # overflows far out
        (lambda t: 1e-6 * t.pow(4).sum(-1), 1.0, math.inf),  # only far out
        (lambda t: torch.zeros(t.shape[:-1]), 1.0, 0.0),  # no gradient at all
    ],
)
@pytest.mark.filterwarnings("ignore:loss")
def test_the_largest_loss_of_three_parameters(loss, variance, expected):
    assert relaxation.max_loss(loss, [0.0] * 3, variance) == pytest.approx(expected)


@pytest.mark.parametrize("eigenvalues", [(3.0, -3.0, 0.5), (3.0, -3.03, 0.5), (-1.0, -2.0, -4.0)])
def test_the_largest_eigenvalue_is_not_the_one_of_largest_size(eigenvalues):
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[
        0
    ]
    hessian = turn @ torch.diag(torch.tensor(eigenvalues).double()) @ turn.T
    quadratic = relaxation.Quadratic((hessian + hessian.T) / 2)
    found = _largest_eigenvalue(quadratic, torch.zeros(3).double())
    assert found == pytest.approx(max(eigenvalues), rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "truth"),
    [
        (lambda t: (t[..., 0] > 0.1).double(), 0.460172),
        (lambda t: (t[..., 0] - 0.1).abs(), 0.801873),
    ],
)
def test_the_error_of_a_rule_in_the_plane_is_not_hidden_by_symmetry(loss, truth):
    value = relaxation.expected_loss(loss, [0.0, 0.0], 1.0)
    assert abs(value - truth) <= value.error


def test_two_jumps_close_together_are_found():
    value = relaxation.expected_loss(
        lambda t: ((t[..., 0] > 0.3) & (t[..., 0] < 0.31)).double(), 0.0, 1.0
    )
    assert value == pytest.approx(0.003808, abs=1e-6)


def test_mass_that_escapes_between_directions_is_in_the_upper_bound():
    angle = math.radians(17.25)
    way = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    for method in ("inf_sup", "linear_program"):
        value = relaxation.relaxed_loss(
            lambda t: torch.relu(t @ way - 1.0).square(), [0.0, 0.0], 10.0, method=method
        )
        assert value.lower <= 20.0 + 1e-6
        assert value.upper >= 20.0


def test_a_cone_that_unequal_variances_squeeze_is_seen_to_outgrow_a_square():
    def cone(t):
        inside = torch.relu(t[..., 1] - t[..., 0]) * torch.relu(1.5 * t[..., 0] - t[..., 1])
        return inside**1.5

    assert relaxation.relaxed_loss(cone, [1.0, 1.0], torch.tensor([1.0, 1e-4])) == math.inf


def test_the_transform_says_how_far_off_it_may_be():
    value = relaxation.relaxed_loss(
        lambda t: torch.nn.functional.softplus(-1e5 * t[..., 0]), 0.5, 0.49, method="transform"
    )
    assert 0.0 < value.error < 1.0


def test_a_narrow_gaussian_finds_its_valley():
    def waves(t):
        return 5 * torch.sin(7 * t[..., 0] + 1.3) + 2 * torch.sin(11.3 * t[..., 0])

    found = relaxation.minimize_over_mean(waves, 0.0, 1e-6, prior_precision=0.5)
    assert found.value <= 0.6131


def test_a_flat_loss_keeps_variances_in_range():
    found = relaxation.minimize_jointly(lambda t: 0 * t[..., 0], 0.0, 1.0)
    assert 1e-3 <= found.variance.item() * (1 + 1e-9) <= 1e3 * (1 + 2e-9)


def network_loss():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    weights = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
    return relaxation.loss_of(model, weights, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))


def test_a_networks_sum_of_losses_is_not_summed_again():
    loss = network_loss()
    with pytest.raises(ValueError, match="num_data=4: must be left out"):
        relaxation.sam_is_bayes(loss, loss.mean, 0.1, weight_decay=0.1, num_data=4)


def test_a_network_says_how_many_parameters_it_has():
    with pytest.raises(ValueError, match=r"theta: of shape \(2, 5\): must end in 8"):
        network_loss()(torch.zeros(2, 5))


def test_layers_that_cannot_be_batched_go_one_by_one():
    torch.manual_seed(0)

    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(2, 1, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    loss = relaxation.loss_of(
        Last(), torch.nn.functional.mse_loss, torch.randn(4, 3, 2), torch.randn(4, 1)
    )
    rows = torch.stack([loss.mean, 2 * loss.mean])
    assert torch.equal(loss(rows)[0], loss(loss.mean))
