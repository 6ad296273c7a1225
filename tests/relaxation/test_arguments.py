"""Arguments that are refused, and what the message says: the name, the value, what to do."""

import math

import pytest
import torch
from relaxation.losses import bump, logistic

from bsam import relaxation as r

TWO = torch.zeros(2)
THREE = torch.zeros(3)

BAD = {
    "loss is no function": (
        lambda: r.expected_loss(3.0, 0.0, 1.0),
        TypeError,
        r"loss=3\.0: must be a function",
    ),
    "loss gives one number": (
        lambda: r.relaxed_loss(lambda t: t.sum(), 0.0, 1.0),
        ValueError,
        r"loss: gave \(\) for theta of shape \(2, 1\).*to \(2,\); sum over the last",
    ),
    "loss keeps the last dimension": (
        lambda: r.max_loss(lambda t: t, 0.0, 1.0),
        ValueError,
        r"loss: gave \(2, 1\).*take theta\[\.\.\., 0\]",
    ),
    "loss gives a float": (
        lambda: r.conjugate(lambda _: 1.0, 0.0, 1.0),
        ValueError,
        r"loss: gave float",
    ),
    "loss is nan": (
        lambda: r.relaxed_loss(lambda t: t[..., 0] * math.nan, 0.0, 1.0),
        ValueError,
        r"loss: is NaN at the mean",
    ),
    "mean is a matrix": (
        lambda: r.relaxed_loss(bump, torch.zeros(2, 2), 1.0),
        ValueError,
        r"mean: of shape \(2, 2\): must be \(P,\).*flatten",
    ),
    "mean is empty": (
        lambda: r.expected_loss(bump, [], 1.0),
        ValueError,
        r"mean: of shape \(0,\).*P >= 1",
    ),
    "mean is nan": (
        lambda: r.max_loss(bump, math.nan, 1.0),
        ValueError,
        r"mean: is not finite.*finite numbers",
    ),
    "mean is a word": (
        lambda: r.max_loss(bump, "zero", 1.0),
        TypeError,
        r"mean='zero': must be a number",
    ),
    "mean is None": (
        lambda: r.implied_posterior(None, 1.0),
        TypeError,
        r"mean=None: must be a number",
    ),
    "variance is zero": (
        lambda: r.relaxed_loss(bump, 0.0, 0.0),
        ValueError,
        r"variance=0\.0: must be positive.*sd\^2",
    ),
    "variance is negative": (
        lambda: r.expected_loss(bump, 0.0, -1.0),
        ValueError,
        r"variance=-1\.0: must be positive",
    ),
    "variance is nan": (
        lambda: r.max_loss(bump, 0.0, math.nan),
        ValueError,
        r"variance=nan: must be positive and finite",
    ),
    "variance is infinite": (
        lambda: r.max_loss(bump, 0.0, math.inf),
        ValueError,
        r"variance=inf: must be positive and fin",
    ),
    "variance has another length": (
        lambda: r.relaxed_loss(bump, TWO, THREE + 1),
        ValueError,
        r"variance: of shape \(3,\): must be a number \(isotropic\).*\(2,\) \(diagonal\)",
    ),
    "one variance is zero": (
        lambda: r.implied_posterior(TWO, TWO),
        ValueError,
        r"variance=tensor.*must be positive",
    ),
    "a radius of two variances": (
        lambda: r.sam_radius(bump, TWO, TWO + 1),
        ValueError,
        r"variance=tensor.*must be a number; SAM's ball has one radius",
    ),
    "method is unknown": (
        lambda: r.relaxed_loss(bump, 0.0, 1.0, method="simplex"),
        ValueError,
        r"method='simplex'.*linear_program.*leave it out",
    ),
    "transform in the plane": (
        lambda: r.relaxed_loss(bump, TWO, 1.0, method="transform"),
        ValueError,
        r"method='transform': must be 'auto' or 'atoms' for P=2; it covers at most 1",
    ),
    "linear program in space": (
        lambda: r.relaxed_loss(bump, THREE, 1.0, method="linear_program"),
        ValueError,
        r"method='linear_program'.*P=3; it covers at most 2",
    ),
    "inf_sup in space": (
        lambda: r.biconjugate(bump, THREE, 1.0, method="inf_sup"),
        ValueError,
        r"method='inf_sup'.*P=3",
    ),
    "num_data is zero": (
        lambda: r.sam_radius(bump, 0.1, 1.0, num_data=0),
        ValueError,
        r"num_data=0: must be.*len\(train_set\)",
    ),
    "num_data is a word": (
        lambda: r.sam_variance(bump, 0.1, 0.1, num_data="all"),
        TypeError,
        r"num_data='all'",
    ),
    "rho is zero": (
        lambda: r.sam_variance(bump, 0.1, 0.0),
        ValueError,
        r"rho=0\.0: must be.*try 0\.05",
    ),
    "rho is negative": (
        lambda: r.sam_is_bayes(bump, 0.1, -0.1, weight_decay=1.0),
        ValueError,
        r"rho=-0\.1: must be",
    ),
    "weight_decay is zero": (
        lambda: r.sam_is_bayes(bump, 0.1, 0.1, weight_decay=0.0),
        ValueError,
        r"weight_decay=0\.0: must be.*needs a prior",
    ),
    "prior_precision is zero": (
        lambda: r.relaxed_bayes_objective(bump, 0.1, 0.1, prior_precision=0.0),
        ValueError,
        r"prior_precision=0\.0: must be.*num_data times the weight decay",
    ),
    "prior_precision is negative": (
        lambda: r.minimize_over_mean(bump, 0.1, 0.1, prior_precision=-1),
        ValueError,
        r"prior_precision=-1: must be",
    ),
    "jointly in space": (
        lambda: r.minimize_jointly(bump, THREE, 1.0),
        ValueError,
        r"mean: of 3 parameters.*minimize_over_mean takes any",
    ),
    "jointly with two variances": (
        lambda: r.minimize_jointly(bump, TWO, TWO + 1),
        ValueError,
        r"with a number as variance",
    ),
    "tolerance is zero": (
        lambda: r.expected_loss(bump, 0.0, 1.0, tolerance=0.0),
        ValueError,
        r"tolerance=0\.0: must be.*try 1e-6",
    ),
    "seed is negative": (lambda: r.expected_loss(bump, 0.0, 1.0, seed=-1), ValueError, r"seed=-1"),
    "hessian is not symmetric": (
        lambda: r.Quadratic([[1.0, 2.0], [0.0, 1.0]]),
        ValueError,
        r"hessian.*symmetric.*\(H \+ H\.T\) / 2",
    ),
    "linear does not fit": (
        lambda: r.Quadratic([[1.0]], linear=[1.0, 2.0]),
        ValueError,
        r"linear: of shape \(2,\)",
    ),
    "labels are 0 and 1": (
        lambda: r.LogisticRegression([[1.0], [2.0]], [0, 1]),
        ValueError,
        r"labels: must be -1 or 1 each; map 0 to -1",
    ),
    "labels do not fit": (
        lambda: r.LogisticRegression([[1.0], [2.0]], [1]),
        ValueError,
        r"features: of shape \(2, 1\) with labels \(1,\)",
    ),
    "constant is negative": (
        lambda: r.Lipschitz(bump, -1.0),
        ValueError,
        r"constant=-1\.0: must be",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_with_a_message_that_helps(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize(
    ("mean", "variance"),
    [
        (0.5, 0.49),
        ([0.5], 0.49),
        ([0.5], [0.49]),
        (torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.49, dtype=torch.float64)),
        (torch.tensor([0.5], dtype=torch.float64, requires_grad=True), 0.49),
    ],
)
def test_ways_to_say_the_same(mean, variance):
    assert r.relaxed_loss(logistic, mean, variance) == pytest.approx(0.5329283441)


def test_a_loss_in_float32_is_taken():
    def loss(theta):
        return torch.nn.functional.softplus(-theta[..., 0].float())

    assert r.relaxed_loss(loss, 0.5, 0.49) == pytest.approx(0.532928, abs=1e-4)


def test_an_overflow_far_out_is_told():
    """log(1 + e^-theta) written so that it overflows; it grows like |theta|."""

    def loss(theta):
        return torch.log(1 + torch.exp(-theta[..., 0]))

    with pytest.warns(UserWarning, match="not finite at a distance.*softplus or logaddexp"):
        value = r.relaxed_loss(loss, 0.5, 0.49)
    assert value == pytest.approx(0.5329283441)
