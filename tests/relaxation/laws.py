"""Laws that the relaxation keeps for every loss, and that a wrong one breaks.

A law takes a loss and a Gaussian and raises AssertionError where it is broken. ``test_laws.py``
draws the Gaussians, ``test_teeth.py`` plants faults.
"""

import math

import torch

from bsam import relaxation

SLACK = 1e-6


def near(found, wanted, tolerance=SLACK):
    """Whether two numbers are the same up to an absolute and a relative tolerance."""
    if math.isinf(wanted):
        return found == wanted
    return abs(found - wanted) <= tolerance * max(1.0, abs(wanted))


def same(found, wanted, tolerance=SLACK, of=""):
    assert near(found, wanted, tolerance), f"{of}: {found!r} is not {wanted!r}"


def at_most(lower, upper, of=""):
    slack = SLACK * max(1.0, abs(upper)) if math.isfinite(upper) else 0.0
    assert lower <= upper + slack, f"{of}: {lower!r} exceeds {upper!r}"


def variances(mean, variance):
    mean = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
    return torch.as_tensor(variance, dtype=torch.float64).expand(len(mean))


def is_isotropic(variance):
    return not isinstance(variance, torch.Tensor) or variance.dim() == 0


# ------------------------------------------------------------------ the order of the two sides


def relaxed_is_above_expected(loss, mean, variance):
    """f** <= f."""
    expected = relaxation.expected_loss(loss, mean, variance)
    at_most(expected.lower, relaxation.relaxed_loss(loss, mean, variance), "E_q[l] <= -f**")


def relaxed_is_above_the_loss(loss, mean, variance):
    """A point mass at the mean has less than the second moment; what is missing can be far out.

    So l(m) + v times the growth of the loss is below -f**; of a loss that is not below zero far
    out, l(m) is.
    """
    at_mean = loss(torch.as_tensor(mean, dtype=torch.float64).reshape(1, -1))[0].item()
    at_most(at_mean, relaxation.relaxed_loss(loss, mean, variance), "l(m) <= -f**")


# ------------------------------------------------------------------ worst cases


def worst_case_has_the_moments(loss, mean, variance, worst=None):
    worst = worst or relaxation.worst_case_distribution(loss, mean, variance)
    v = variances(mean, variance)
    mean = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
    same(worst.weights.sum().item(), 1.0, of="sum of weights")
    assert (worst.weights >= 0).all()
    spread = worst.weights @ (worst.atoms - mean).square()
    wanted = v.sum() if is_isotropic(variance) else v
    found = (spread.sum() if is_isotropic(variance) else spread) + worst.escaping
    assert ((worst.mean - mean).abs() <= SLACK * v.sqrt()).all(), (worst.mean, mean)
    assert ((found - wanted).abs() <= SLACK * wanted).all(), (found, wanted)


def worst_case_attains_its_value(loss, mean, variance, worst=None):
    """By its atoms alone, if no mass escapes; otherwise they are below."""
    worst = worst or relaxation.worst_case_distribution(loss, mean, variance)
    if math.isinf(worst.value):
        assert not worst.attained
        return
    attained = (worst.weights @ loss(worst.atoms)).item()
    if worst.attained:
        same(attained, worst.value, of="expected loss of the atoms")
        moved = worst.second_moment - worst.mean.square()
        assert (moved >= -1e-9).all()


def paraboloid_lies_above_and_touches(loss, mean, variance, worst=None):
    """The certificate: above the loss everywhere, equal at the atoms, -f** at the moments."""
    worst = worst or relaxation.worst_case_distribution(loss, mean, variance)
    if worst.paraboloid is None:
        assert math.isinf(worst.value)
        return
    v = variances(mean, variance)
    mean = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
    if len(mean) == 1:
        grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    else:
        line = torch.linspace(-8, 8, 201, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)
    grid = torch.cat([mean + v.sqrt() * grid, grid, 30 * grid])
    losses, above = loss(grid), worst.paraboloid(grid)
    slack = SLACK * (1.0 + losses.abs() + grid.square() @ worst.paraboloid.quadratic.abs())
    assert (losses <= above + slack).all(), "the paraboloid is below the loss somewhere"
    at_moments = float(worst.paraboloid(mean) + worst.paraboloid.quadratic @ v)
    same(at_moments, worst.value, 1e-5, of="the paraboloid at the moments")
    gaps = worst.weights * (worst.paraboloid(worst.atoms) - loss(worst.atoms))
    assert (gaps <= 1e-5 * max(1.0, abs(worst.value))).all(), f"does not touch: {gaps}"


def certificates_hold(loss, mean, variance, method="auto"):
    value = relaxation.relaxed_loss(loss, mean, variance, method=method)
    assert value.lower <= value <= value.upper
    return value


# ------------------------------------------------------------------ duality


def young_fenchel(loss, mean, variance, site_mean, site_variance):
    """<lam, mu> <= f*(lam) + f**(mu) <= f*(lam) + f(mu) for any two Gaussians."""
    star = relaxation.conjugate(loss, site_mean, site_variance)
    v, site_v = variances(mean, variance), variances(mean, site_variance)
    mean = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
    site_mean = torch.as_tensor(site_mean, dtype=torch.float64).reshape(-1)
    product = (site_mean / site_v * mean - (mean.square() + v) / (2 * site_v)).sum().item()
    twice = relaxation.biconjugate(loss, mean, variance)
    if math.isinf(star):
        return
    at_most(product, star + twice, "<lam, mu> <= f* + f**")
    at_most(product, star - relaxation.expected_loss(loss, mean, variance), "<lam, mu> <= f* + f")


def young_fenchel_is_an_equality_at_the_paraboloid(loss, mean, variance):
    """Where k > 0 the paraboloid c + a theta + k theta^2 is that of the site lam = (-a, -k)."""
    worst = relaxation.worst_case_distribution(loss, mean, variance)
    k, a = worst.paraboloid.quadratic, worst.paraboloid.linear
    assert (k > 0).all(), "choose a loss whose best paraboloid opens upwards"
    k = k * (1 + 1e-9)
    site_variance = 1 / (2 * k)
    given = site_variance[0].item() if is_isotropic(variance) else site_variance
    site_mean = -a * site_variance
    star = relaxation.conjugate(loss, site_mean, given)
    v = variances(mean, variance)
    mean = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
    product = (-a * mean - k * (mean.square() + v)).sum().item()
    same(product, star - worst.value, 1e-5, of="<lam, mu> = f* + f**")


# ------------------------------------------------------------------ how it changes with the loss


def a_constant_and_a_factor(loss, mean, variance, factor=3.0, constant=-2.0):
    changed = relaxation.relaxed_loss(lambda t: factor * loss(t) + constant, mean, variance)
    same(changed, factor * relaxation.relaxed_loss(loss, mean, variance) + constant)


def a_linear_term(loss, mean, variance, slope=0.7):
    """<b, theta> adds <b, m>."""
    changed = relaxation.relaxed_loss(lambda t: loss(t) + slope * t.sum(-1), mean, variance)
    added = slope * float(torch.as_tensor(mean, dtype=torch.float64).sum())
    same(changed, relaxation.relaxed_loss(loss, mean, variance) + added)


def a_quadratic_statistic(loss, mean, variance, k=0.8):
    """K |theta|^2 adds k (|m|^2 + sum v), for either sign of k."""
    changed = relaxation.relaxed_loss(lambda t: loss(t) + k * t.square().sum(-1), mean, variance)
    m = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
    added = k * float(m.square().sum() + variances(mean, variance).sum())
    same(changed, relaxation.relaxed_loss(loss, mean, variance) + added)


def translation(loss, mean, variance, shift=1.7):
    moved = relaxation.relaxed_loss(lambda t: loss(t - shift), mean + shift, variance)
    same(moved, relaxation.relaxed_loss(loss, mean, variance))


def scaling(loss, mean, variance, factor=-2.5):
    scaled = relaxation.relaxed_loss(
        lambda t: loss(factor * t), mean / factor, variance / factor**2
    )
    same(scaled, relaxation.relaxed_loss(loss, mean, variance))


def concavity(loss, first, second, share=0.4):
    """-f** is concave in (E theta, E theta^2); first and second are (m, v), P of 1."""
    (m1, v1), (m2, v2) = first, second
    mean = share * m1 + (1 - share) * m2
    square = share * (m1**2 + v1) + (1 - share) * (m2**2 + v2)
    between = relaxation.relaxed_loss(loss, mean, square - mean**2)
    ends = share * relaxation.relaxed_loss(loss, m1, v1)
    at_most(ends + (1 - share) * relaxation.relaxed_loss(loss, m2, v2), between, "concavity")


def routes_agree(loss, mean, variance, methods, tolerance):
    values = {m: certificates_hold(loss, mean, variance, m) for m in methods}
    first = values[methods[0]]
    for method, value in values.items():
        scale = max(1.0, abs(first))
        assert abs(value - first) <= tolerance * scale, f"{method}: {value}, {methods[0]}: {first}"
    proved = [value for value in values.values() if value.kind == "value"]
    lower, upper = max(v.lower for v in proved), min(v.upper for v in proved)
    at_most(lower, upper, "the bounds of the routes")
    return values


# ------------------------------------------------------------------ the side of SAM


def expansion_of_max(loss, mean, variance):
    """max_loss is l + v/2 |grad l|^2 + O(v^2): the rest falls by 4 where v falls by 2."""
    slope, value = _slope(loss, mean)

    def rest(v):
        return relaxation.max_loss(loss, mean, v) - value - v / 2 * slope.square().sum().item()

    _falls_by_four(rest, variance)


def expansion_of_expected(loss, mean, variance):
    """E_q[l] is l + v/2 tr hess l + O(v^2)."""
    m = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
    hessian = torch.autograd.functional.hessian(lambda t: loss(t[None])[0], m)
    value = loss(m[None])[0].item()

    def rest(v):
        expected = relaxation.expected_loss(loss, mean, v, tolerance=1e-12)
        return expected - value - v / 2 * hessian.trace().item()

    _falls_by_four(rest, variance)


def max_side_is_the_moreau_envelope(h, mean, variance):
    """Of h/2 theta^2: h m^2 / (2 (1 - h v)), infinite if h v > 1."""
    found = relaxation.max_loss(lambda t: h / 2 * t[..., 0].square(), mean, variance)
    wanted = h * mean**2 / (2 * (1 - h * variance)) if h * variance < 1 else math.inf
    same(found, wanted, of=f"h={h}")
    if math.isfinite(wanted):
        same(found.maximizers[0].item(), mean / (1 - h * variance), 1e-5)


def jaakkola_jordan(mean, variance):
    """For the logistic loss -f** is the classical bound at its best variational parameter."""
    r = math.sqrt(mean**2 + variance)
    bound = math.log1p(math.exp(-r)) + (r - mean) / 2
    logistic = torch.nn.functional.softplus
    same(relaxation.relaxed_loss(lambda t: logistic(-t[..., 0]), mean, variance), bound)


def _slope(loss, mean):
    theta = torch.as_tensor(mean, dtype=torch.float64).reshape(1, -1).requires_grad_(True)
    value = loss(theta)
    (slope,) = torch.autograd.grad(value.sum(), theta)
    return slope[0], value.item()


def _falls_by_four(rest, variance):
    whole, half = rest(variance), rest(variance / 2)
    assert 3.0 < whole / half < 5.0, f"the rest is {whole} at v and {half} at v / 2"
