"""Losses written as text, such as ``log(1 + exp(-theta)) + 0.1*theta**2``.

The text is parsed by Python's own parser and never run as Python: of its tree only numbers,
``theta``, arithmetic and the functions below are allowed, everything else is refused by name.
"""

import ast
import difflib
import math
import re
import warnings
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

LONGEST, DEEPEST, LARGEST_EXPONENT = 400, 60, 20
"""Limits: characters, operations inside each other, absolute value of an exponent."""


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


def _largest(*values: Tensor) -> Tensor:
    return reduce(torch.maximum, values)


def _smallest(*values: Tensor) -> Tensor:
    return reduce(torch.minimum, values)


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], int, int]] = {
    "abs": (torch.abs, 1, 1),
    "atan": (torch.atan, 1, 1),
    "clip": (_clip, 3, 3),
    "cos": (torch.cos, 1, 1),
    "cosh": (torch.cosh, 1, 1),
    "erf": (torch.erf, 1, 1),
    "exp": (torch.exp, 1, 1),
    "log": (torch.log, 1, 1),
    "log1p": (torch.log1p, 1, 1),
    "logaddexp": (torch.logaddexp, 2, 2),
    "max": (_largest, 2, 9),
    "min": (_smallest, 2, 9),
    "relu": (torch.relu, 1, 1),
    "sigmoid": (torch.sigmoid, 1, 1),
    "sin": (torch.sin, 1, 1),
    "softplus": (_softplus, 1, 1),
    "sqrt": (torch.sqrt, 1, 1),
    "tanh": (torch.tanh, 1, 1),
    "where": (torch.where, 3, 3),
}
"""What may be called: the function, the fewest and the most arguments."""

CONSTANTS = {"pi": math.pi, "e": math.e}
VARIABLE = "theta"

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_ALIASES = {
    **dict.fromkeys(("ln", "Log"), "log"),
    **dict.fromkeys(("x", "t", "w", "m", "th", "omega", "Theta", "θ"), VARIABLE),
    **dict.fromkeys(("fabs", "absolute", "Abs"), "abs"),
    **dict.fromkeys(("arctan",), "atan"),
    **dict.fromkeys(("maximum",), "max"),
    **dict.fromkeys(("minimum",), "min"),
    **dict.fromkeys(("clamp",), "clip"),
    **dict.fromkeys(("logistic", "expit"), "sigmoid"),
    **dict.fromkeys(("E",), "e"),
}
ALLOWED = (
    f"{VARIABLE}, numbers, {', '.join(CONSTANTS)}, + - * / **, comparisons inside where(), and "
    f"the functions {', '.join(FUNCTIONS)}"
)
"""In words, what an expression may be made of."""


class Expression:
    """A loss in one dimension, made from text.

    Args:
        text: such as ``"log(1 + exp(-theta)) + 0.1*theta**2"``.
        argument: what messages call it.

    Raises:
        ValueError: that names the piece that is not allowed, what is, and what to do.

    Example:
        >>> import torch
        >>> from bsam.relaxation.expressions import Expression
        >>> loss = Expression("abs(theta) - 1")
        >>> loss(torch.tensor([[-3.0], [1.0]]))
        tensor([2., 0.])
    """

    def __init__(self, text: str, argument: str = "loss") -> None:
        self.text = text.strip()
        self._argument = argument
        self._body = self._parsed()
        self._check(self._body, 1)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the loss.

        Args:
            theta: of shape (..., 1), floating point; float64 for accuracy.

        Returns:
            Of shape (...).
        """
        point = theta[..., 0]
        return _evaluate(self._body, point).expand(point.shape)

    def _parsed(self) -> ast.expr:
        if not self.text:
            raise self._refused("is empty", f"write one such as abs({VARIABLE})")
        if len(self.text) > LONGEST:
            raise self._refused(
                f"has {len(self.text)} characters", f"must have at most {LONGEST}; shorten it"
            )
        try:
            with warnings.catch_warnings(action="ignore"):  # they are about Python programs
                return ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = getattr(error, "msg", None) or "cannot be parsed"
            column = getattr(error, "offset", None)
            place = f" at character {column}" if column else ""
            advice = "write products with *, as in 2*theta, powers with **, and close brackets"
            raise self._refused(f"is not an expression ({reason}{place})", advice) from None

    def _refused(self, what: str, advice: str) -> ValueError:
        shown = self.text if len(self.text) <= 80 else f"{self.text[:77]}..."
        return ValueError(f"{self._argument}={shown}: {what}; {advice}.")

    def _piece(self, node: ast.AST) -> str:
        source = ast.get_source_segment(self.text, node) or type(node).__name__
        return f"'{source}'" if len(source) <= 40 else f"'{source[:37]}...'"

    def _check(self, node: ast.expr, depth: int, condition: bool = False) -> None:
        """Refuse a tree with anything in it that is not allowed."""
        if depth > DEEPEST:
            raise self._refused(
                f"has more than {DEEPEST} operations inside each other", "simplify it"
            )
        if isinstance(node, ast.Compare) and condition:
            inner = self._compared(node)
        elif isinstance(node, ast.BinOp):
            inner = self._operands(node)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            inner = [node.operand]
        elif isinstance(node, ast.Call):
            inner = self._arguments(node)
        elif isinstance(node, ast.Constant | ast.Name):
            return self._check_leaf(node)
        else:
            raise self._not_allowed(node)
        called = isinstance(node, ast.Call) and ast.unparse(node.func) == "where"
        for number, each in enumerate(inner):
            self._check(each, depth + 1, condition=called and number == 0)
        return None

    def _not_allowed(self, node: ast.expr) -> ValueError:
        advice = f"allowed are {ALLOWED}"
        if isinstance(node, ast.Compare):
            advice = "comparisons stand only first inside where, as in where(theta < 0, 1, 2)"
        elif isinstance(node, ast.Attribute):
            advice = f"write functions without a prefix, as in exp({VARIABLE}); {advice}"
        elif isinstance(node, ast.IfExp):
            advice = "write where(theta < 0, 1, 2) instead of 1 if theta < 0 else 2"
        return self._refused(f"{self._piece(node)} is not allowed", advice)

    def _compared(self, node: ast.Compare) -> list[ast.expr]:
        if len(node.ops) > 1 or type(node.ops[0]) not in _COMPARISONS:
            raise self._refused(
                f"{self._piece(node)} is not allowed", "compare two things with <, <=, > or >="
            )
        return [node.left, *node.comparators]

    def _operands(self, node: ast.BinOp) -> list[ast.expr]:
        if isinstance(node.op, ast.BitXor):
            raise self._refused(
                f"'^' in {self._piece(node)} is no power here", "write **, as in theta**2"
            )
        if type(node.op) not in _OPERATORS:
            raise self._refused(f"{self._piece(node)} is not allowed", f"allowed are {ALLOWED}")
        if isinstance(node.op, ast.Pow):
            self._check_exponent(node.right)
            return [node.left]
        return [node.left, node.right]

    def _check_exponent(self, node: ast.expr) -> None:
        value = _number(node)
        if value is None or not abs(value) <= LARGEST_EXPONENT:
            raise self._refused(
                f"the exponent {self._piece(node)} is not allowed",
                f"must be a number between -{LARGEST_EXPONENT} and {LARGEST_EXPONENT}; for others "
                "write exp(...)",
            )

    def _arguments(self, node: ast.Call) -> list[ast.expr]:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if not name or name not in FUNCTIONS:
            if isinstance(node.func, ast.Name):
                raise self._unknown(name, "function")
            raise self._not_allowed(node.func)
        _, fewest, most = FUNCTIONS[name]
        if node.keywords or any(isinstance(each, ast.Starred) for each in node.args):
            raise self._refused(
                f"{self._piece(node)} has named or starred arguments", f"write {name}(...) plainly"
            )
        if not fewest <= len(node.args) <= most:
            count = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise self._refused(
                f"{self._piece(node)} has {len(node.args)} arguments",
                f"{name} takes {count}",
            )
        if name == "where" and not isinstance(node.args[0], ast.Compare):
            raise self._refused(
                f"{self._piece(node.args[0])} is no comparison",
                "where begins with one, as in where(theta < 0, 1, 2)",
            )
        return node.args

    def _check_leaf(self, node: ast.Constant | ast.Name) -> None:
        if isinstance(node, ast.Name):
            if node.id in FUNCTIONS:
                raise self._refused(f"'{node.id}' is a function", f"write {node.id}(...)")
            if node.id != VARIABLE and node.id not in CONSTANTS:
                raise self._unknown(node.id, "name")
        elif _number(node) is None:
            raise self._refused(f"{self._piece(node)} is no real number", f"allowed are {ALLOWED}")

    def _unknown(self, name: str, kind: str) -> ValueError:
        known = list(FUNCTIONS) if kind == "function" else [VARIABLE, *CONSTANTS]
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
        meant = _ALIASES.get(name) or (close[0] if close else None)
        advice = (
            f"did you mean {meant}? Allowed are {ALLOWED}" if meant else f"allowed are {ALLOWED}"
        )
        return self._refused(f"'{name}' is no known {kind}", advice)


def _number(node: ast.expr) -> float | None:
    """Return the number that a tree of literals stands for, or None."""
    if isinstance(node, ast.Constant):
        real = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        value = _as_float(node.value) if real else math.nan
        return value if math.isfinite(value) else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(node.operand)
        return -value if value is not None and isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        above, below = _number(node.left), _number(node.right)
        return above / below if above is not None and below else None
    return None


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _evaluate(node: ast.expr, theta: Tensor) -> Tensor:
    """Return the value of a tree that was checked."""
    if isinstance(node, ast.Constant | ast.Name):
        return _leaf(node, theta)
    if isinstance(node, ast.UnaryOp):
        value = _evaluate(node.operand, theta)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _evaluate(node.left, theta) ** (_number(node.right) or 0.0)
    if isinstance(node, ast.BinOp):
        both = _evaluate(node.left, theta), _evaluate(node.right, theta)
        return _OPERATORS[type(node.op)](*both)
    if isinstance(node, ast.Compare):
        both = _evaluate(node.left, theta), _evaluate(node.comparators[0], theta)
        return _COMPARISONS[type(node.ops[0])](*both)
    assert isinstance(node, ast.Call)
    return _called(node, theta)


def _leaf(node: ast.Constant | ast.Name, theta: Tensor) -> Tensor:
    if isinstance(node, ast.Name):
        return theta if node.id == VARIABLE else theta.new_tensor(CONSTANTS[node.id])
    return theta.new_tensor(_number(node))


def _called(node: ast.Call, theta: Tensor) -> Tensor:
    """Return the value of a call; logarithms of exponentials without ever overflowing."""
    name = ast.unparse(node.func)
    if name in ("log", "log1p") and (inner := _logarithm(node.args[0], theta)) is not None:
        return inner if name == "log" else _softplus(inner)
    function = FUNCTIONS[name][0]
    return function(*(_evaluate(each, theta) for each in node.args))


def _logarithm(node: ast.expr, theta: Tensor) -> Tensor | None:
    """Return the logarithm of a tree whose value can only be positive; of others None.

    So ``log(1 + exp(theta))`` and ``log(cosh(theta))`` are finite where their insides are not.
    """
    if (value := _number(node)) is not None:
        return theta.new_tensor(math.log(value)) if value > 0.0 else None
    if isinstance(node, ast.Call):
        return _logarithm_of_call(node, theta)
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add | ast.Mult | ast.Div):
        return None
    left, right = _logarithm(node.left, theta), _logarithm(node.right, theta)
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.Add):
        return torch.logaddexp(left, right)
    return left + right if isinstance(node.op, ast.Mult) else left - right


def _logarithm_of_call(node: ast.Call, theta: Tensor) -> Tensor | None:
    name = ast.unparse(node.func)
    if name not in ("exp", "cosh", "sigmoid"):
        return None
    inner = _evaluate(node.args[0], theta)
    if name == "exp":
        return inner
    if name == "cosh":
        return torch.logaddexp(inner, -inner) - math.log(2.0)
    return -_softplus(-inner)


def is_a_bare_name(text: str) -> bool:
    """Say whether a text looks like the name of a loss, not like an expression.

    Args:
        text: what was given.
    """
    words = set(re.split(r"[-_ ]", text))
    known = {VARIABLE, *CONSTANTS}
    return bool(re.fullmatch(r"[A-Za-z][\w -]*", text)) and not words & known
