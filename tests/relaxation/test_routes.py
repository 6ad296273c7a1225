"""Three routes to the same number, which share no more than the loss."""

import math

import pytest
from relaxation import laws
from relaxation.losses import AGREE, LINE, Known, cosine, ramp

from bsam import relaxation

ON_THE_LINE = [
    *{one.name: one for one in LINE if math.isfinite(one.relaxed)}.values(),
    Known("cosine", cosine, 0.5, 0.49, math.nan),
    Known("ramp", ramp, 0.5, 0.49, math.nan),
]
ALL = ("linear_program", "inf_sup", "transform")


@pytest.mark.parametrize("known", ON_THE_LINE, ids=str)
def test_three_routes_agree_on_the_line(known):
    methods = ALL if known.by_transform else ALL[:2]
    values = laws.routes_agree(*known.arguments, methods, 1e-4)
    if not math.isnan(known.relaxed):
        for method, value in values.items():
            laws.same(value, known.relaxed, 1e-4, of=method)


@pytest.mark.parametrize("known", [one for one in LINE if not one.by_transform], ids=str)
def test_the_grids_of_the_transform_are_near_even_where_there_are_jumps(known):
    if known.name == "one side only":
        pytest.skip("minus infinity is a jump of no size")
    found = relaxation.relaxed_loss(*known.arguments, method="transform")
    assert found == pytest.approx(known.relaxed, abs=1e-3)


@pytest.mark.parametrize("known", AGREE, ids=str)
def test_two_routes_agree_in_the_plane(known):
    """A search that missed the highest point once closed the bounds on a number 5e-5 too small."""
    values = laws.routes_agree(*known.arguments, ALL[:2], 1e-5)
    if not math.isnan(known.relaxed):
        for method, value in values.items():
            laws.same(value, known.relaxed, of=method)


@pytest.mark.parametrize("known", LINE[:3], ids=str)
def test_atoms_are_a_lower_bound_on_the_line(known):
    value = relaxation.relaxed_loss(*known.arguments, method="atoms")
    assert value.kind == "lower bound"
    assert known.relaxed - 1e-3 <= value <= known.relaxed + 1e-9
    assert math.isinf(value.upper)
