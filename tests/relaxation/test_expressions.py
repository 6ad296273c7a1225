"""Expressions: what they mean, that they stay finite, and that nothing else gets in."""

import contextlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsam.relaxation.expressions import CONSTANTS, FUNCTIONS, Expression

POINTS = torch.linspace(-3.0, 3.0, 61, dtype=torch.float64)


def value(text, theta):
    return Expression(text)(torch.tensor([[theta]], dtype=torch.float64)).item()


MEANINGS = {
    "theta": lambda t: t,
    "-theta + 2": lambda t: 2 - t,
    "1 - 2 - theta": lambda t: -1 - t,
    "2*theta/4*3": lambda t: 1.5 * t,
    "-theta**2": lambda t: -(t**2),
    "2**-2 * theta": lambda t: t / 4,
    "(1 + theta**2)**(1/2)": lambda t: math.sqrt(1 + t * t),
    "(1 + theta**2)**-.5": lambda t: 1 / math.sqrt(1 + t * t),
    "abs(theta)": abs,
    "atan(theta)": math.atan,
    "clip(theta, -1, 1/2)": lambda t: min(max(t, -1), 0.5),
    "cos(theta) + sin(2*theta)": lambda t: math.cos(t) + math.sin(2 * t),
    "cosh(theta)": math.cosh,
    "erf(theta)": math.erf,
    "exp(-theta)": lambda t: math.exp(-t),
    "log(1 + exp(-theta))": lambda t: math.log(1 + math.exp(-t)),
    "log(3*exp(theta)/cosh(theta) + sigmoid(theta))": lambda t: math.log(
        3 * math.exp(t) / math.cosh(t) + 1 / (1 + math.exp(-t))
    ),
    "log(2 + theta**2)": lambda t: math.log(2 + t * t),
    "log1p(theta**2) + log1p(exp(theta))": lambda t: math.log1p(t * t) + math.log1p(math.exp(t)),
    "logaddexp(theta, 0)": lambda t: math.log(1 + math.exp(t)),
    "max(theta, 0, -theta)": abs,
    "min(theta, theta**2)": lambda t: min(t, t * t),
    "relu(theta)": lambda t: max(t, 0),
    "sigmoid(theta)": lambda t: 1 / (1 + math.exp(-t)),
    "softplus(theta)": lambda t: math.log(1 + math.exp(t)),
    "sqrt(abs(theta))": lambda t: math.sqrt(abs(t)),
    "tanh(theta)": math.tanh,
    "where(theta < 1, theta, 7)": lambda t: t if t < 1 else 7,
    "where(theta >= 1, pi, e)": lambda t: math.pi if t >= 1 else math.e,
    "4": lambda _: 4,
}


@pytest.mark.parametrize("text", MEANINGS)
def test_it_means_what_it_says(text):
    expected = [MEANINGS[text](t) for t in POINTS.tolist()]
    found = Expression(text)(POINTS[:, None])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_every_function_and_constant_is_among_the_meanings():
    together = " ".join(MEANINGS)
    assert all(f"{name}(" in together for name in FUNCTIONS)
    assert all(name in together for name in CONSTANTS)


def test_shapes_and_gradients():
    theta = torch.randn(2, 3, 1, dtype=torch.float64, requires_grad=True)
    for text in ("theta**2", "1"):
        assert Expression(text)(theta).shape == (2, 3)
    Expression("log(1 + exp(theta))")(theta).sum().backward()
    torch.testing.assert_close(theta.grad, torch.sigmoid(theta.detach()))


@pytest.mark.parametrize(
    ("text", "theta", "expected"),
    [
        ("log(1 + exp(-theta))", -1e4, 1e4),
        ("log(1 + exp(-theta))", 1e4, 0.0),
        ("log(exp(theta) + exp(-theta))", 1e5, 1e5),
        ("log(cosh(theta))", -1e6, 1e6 - math.log(2)),
        ("log(sigmoid(theta))", -1e6, -1e6),
        ("log1p(exp(2*theta))", 1e6, 2e6),
        ("-log(1/(1 + exp(-theta)))", -1e5, 1e5),
        ("softplus(theta)", 1e200, 1e200),
    ],
)
def test_logarithms_of_exponentials_do_not_overflow(text, theta, expected):
    assert value(text, theta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; write one such as abs(theta)"),
        ("theta^2", "'^' in 'theta^2' is no power here; write **"),
        ("2theta", "is not an expression (invalid decimal literal"),
        ("(theta", "close brackets"),
        ("theta\0", "is not an expression"),
        ("x**2", "'x' is no known name; did you mean theta?"),
        ("thta**2", "'thta' is no known name; did you mean theta?"),
        ("ln(theta)", "'ln' is no known function; did you mean log?"),
        ("softpluss(theta)", "did you mean softplus?"),
        ("qqq(theta)", "'qqq' is no known function; allowed are theta, numbers, pi, e"),
        ("log + 1", "'log' is a function; write log(...)"),
        ("math.exp(theta)", "'math.exp' is not allowed; write functions without a prefix"),
        ("theta.real", "'theta.real' is not allowed"),
        ("theta[0]", "'theta[0]' is not allowed"),
        ("theta // 2", "'theta // 2' is not allowed"),
        ("theta % 2", "'theta % 2' is not allowed"),
        ("~theta", "'~theta' is not allowed"),
        ("not theta", "'not theta' is not allowed"),
        ("theta and 1", "'theta and 1' is not allowed"),
        ("[theta]", "'[theta]' is not allowed"),
        ("{theta}", "'{theta}' is not allowed"),
        ("(theta, 1)", "'(theta, 1)' is not allowed"),
        ("lambda: 0", "'lambda: 0' is not allowed"),
        ("[t for t in (1,)]", "is not allowed"),
        ("(t := 3)", "is not allowed"),
        ("f'{theta}'", "is not allowed"),
        ("'theta'", "is no real number"),
        ("1j*theta", "'1j' is no real number"),
        ("True*theta", "'True' is no real number"),
        ("None", "'None' is no real number"),
        ("...", "'...' is no real number"),
        ("1e999*theta", "'1e999' is no real number"),
        ("1" * 380, "is no real number"),
        ("theta < 1", "comparisons stand only first inside where"),
        ("where(0 < theta < 1, 1, 2)", "compare two things with <"),
        ("where(theta == 1, 1, 2)", "compare two things with <"),
        ("where(theta, 1, 2)", "'theta' is no comparison; where begins with one"),
        ("where(theta < 1, 1)", "has 2 arguments; where takes 3"),
        ("1 if theta < 0 else 2", "write where(theta < 0, 1, 2)"),
        ("abs(theta, 1)", "has 2 arguments; abs takes 1"),
        ("max(theta)", "has 1 arguments; max takes 2 to 9"),
        ("min(theta, key=1)", "has named or starred arguments"),
        ("max(*theta)", "has named or starred arguments"),
        ("theta**theta", "the exponent 'theta' is not allowed; must be a number between -20"),
        ("theta**21", "the exponent '21' is not allowed"),
        ("9**9**9", "the exponent '9**9' is not allowed"),
        ("theta**(1/0)", "the exponent '1/0' is not allowed"),
        ("__import__('os').system('true')", "is not allowed"),
        ("exec('1')", "'exec' is no known function"),
        ("theta.__class__.__bases__", "is not allowed"),
        ("theta + " * 60 + "1", "must have at most 400; shorten it"),
        ("-" * 390 + "theta", "has more than 60 operations inside each other; simplify it"),
        ("(" * 150 + "theta", "is not an expression"),
        ("import os", "is not an expression"),
        ("theta; 1", "is not an expression"),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(ValueError, match=r"^--loss=") as caught:
        Expression(text, "--loss")
    message = str(caught.value)
    assert words in message
    assert message.endswith(".")
    assert len(message) < 600


@given(
    st.text(max_size=40) | st.text("theta+-*/()0123456789.,<>=[]'\"\\{}:lambdifor _^", max_size=60)
)
def test_any_text_is_an_expression_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert Expression(text)(POINTS[:, None]).shape == POINTS.shape
