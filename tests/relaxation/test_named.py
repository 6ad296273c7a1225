"""Losses by name: their values, their closed forms, and what is said of unknown names."""

import math

import pytest
import torch

from bsam import relaxation
from bsam.relaxation.named import NAMED, find

VALUES = {
    "logistic": {-800.0: 800.0, 0.0: math.log(2.0), 800.0: 0.0},
    "absolute": {-2.0: 2.0, 0.0: 0.0},
    "quadratic": {-2.0: 2.0, 3.0: 4.5},
    "double-well": {-1.0: 0.0, 0.0: 1.0, 1.0: 0.0, 3.0: 4.0},
    "waves": {0.0: 0.0, 0.5: 0.5 * math.sin(1.5) + 0.025},
    "bump": {0.0: 0.0, 1.0: 1.0 - math.exp(-1.0), 40.0: 1.0},
    "hinge": {-1.0: 2.0, 1.0: 0.0, 2.0: 0.0},
    "huber": {-3.0: 2.5, 0.5: 0.125, 1.0: 0.5},
    "ramp": {-5.0: 1.0, 0.25: 0.75, 5.0: 0.0},
    "student": {0.0: 0.0, 3.0: math.log(10.0)},
    "dome": {0.0: -1.0, 2.0: -math.sqrt(5.0)},
    "quartic": {-2.0: 16.0},
}


@pytest.mark.parametrize("name", NAMED)
def test_values(name):
    for theta, loss in VALUES[name].items():
        found = find(name)(torch.tensor([[theta]], dtype=torch.float64))
        assert found.item() == pytest.approx(loss, abs=1e-15)
    assert len(NAMED[name].description) > 10


def radius(mean, sd):
    return math.hypot(mean, sd)


RELAXED = {
    "logistic": lambda m, s: math.log1p(math.exp(-radius(m, s))) + (radius(m, s) - m) / 2,
    "absolute": radius,
    "quadratic": lambda m, s: (m * m + s * s) / 2,
    "double-well": lambda m, s: m * m + s * s + 1 - 2 * abs(m),
    "bump": lambda m, s: 1 - math.exp(-(radius(m, s) ** 2)),
    "hinge": lambda m, s: (1 - m + radius(1 - m, s)) / 2,
    "dome": lambda m, _: -math.sqrt(1 + m * m),
    "quartic": lambda *_: math.inf,
}
"""Closed forms; the others have none that is short."""


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize(("mean", "sd"), [(0.5, 0.7), (-1.0, 1.0)])
def test_closed_forms(name, mean, sd):
    found = relaxation.relaxed_loss(find(name), mean, sd * sd)
    assert found == pytest.approx(RELAXED[name](mean, sd), abs=1e-5)


def test_waves_are_relaxed_to_a_parabola_between_peaks():
    assert relaxation.relaxed_loss(find("waves"), 0.5, 4.0) == pytest.approx(0.925, abs=1e-5)


def test_an_expression_is_its_own_name():
    loss = find(" theta**2 - 1 ")
    assert (loss.name, loss.description) == ("theta**2 - 1", "")
    assert loss(torch.tensor([[3.0]])).item() == 8.0
    assert find("theta")(torch.tensor([[3.0]])).item() == 3.0
    assert find("-pi")(torch.tensor([[3.0]])).item() == pytest.approx(-math.pi)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("logistc", "is no known name; did you mean logistic? Known are logistic, absolute"),
        ("double-wel", "did you mean double-well?"),
        ("Quadratic", "did you mean quadratic?"),
        ("zzz", "--loss=zzz: is no known name; known are logistic"),
        ("quadratic + 1", "'quadratic' is no known name"),
        ("y" * 1000, "is no known name"),
    ],
)
def test_names_that_are_not_there(text, words):
    with pytest.raises(ValueError, match=r"^--loss=") as caught:
        find(text, "--loss")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500
