"""From data to pixels, and where an axis has its ticks."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

Kind = Literal["linear", "log", "sqrt"]

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": float,
    "log": math.log10,
    "sqrt": math.sqrt,
}


class Scale:
    """A map from an interval of data to an interval of pixels.

    Args:
        low: where the data begin; positive on a logarithmic scale.
        high: where they end, above ``low``.
        start: pixel of ``low``.
        end: pixel of ``high``.
        kind: ``"linear"``, ``"log"`` or, for shares of very different size, ``"sqrt"``.

    Example:
        >>> from bsam.experiments.report.scales import Scale
        >>> Scale(1.0, 100.0, start=0.0, end=200.0, kind="log")(10.0)
        100.0
    """

    def __init__(
        self, low: float, high: float, start: float, end: float, kind: Kind = "linear"
    ) -> None:
        self.low, self.high, self.kind = low, high, kind
        self._shape = _SHAPES[kind]
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; one outside lands on the edge.

        Args:
            value: finite.
        """
        low, high = self._shape(self.low), self._shape(self.high)
        here = self._shape(min(max(value, self.low), self.high))
        return self._start + (here - low) / (high - low) * (self._end - self._start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return round values inside the interval.

        Args:
            count: about how many.
        """
        if self.kind == "log":
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def around(values: Sequence[float], room: float = 0.05) -> tuple[float, float]:
    """Return an interval that has all finite values inside, with some room.

    Args:
        values: any numbers; (0, 1) is returned if none is finite.
        room: share of the interval to add at both ends.
    """
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    extra = (high - low) * room or max(abs(high), 1e-3) * 0.1
    return low - extra, high + extra


def around_logarithms(values: Sequence[float], room: float = 0.05) -> tuple[float, float]:
    """Return the same for a logarithmic scale; values that are not positive are left out.

    Args:
        values: any numbers.
        room: as for :func:`around`.
    """
    logarithms = [math.log10(value) for value in values if 0.0 < value < math.inf]
    low, high = around(logarithms, room)
    return 10.0**low, 10.0**high


def tick_text(value: float) -> str:
    """Return a tick's number as short as it can be said.

    Args:
        value: finite.

    Example:
        >>> from bsam.experiments.report.scales import tick_text
        >>> [tick_text(value) for value in (0.30000000000000004, 2.0, 1000.0)]
        ['0.3', '2', '1000']
    """
    return f"{round(value, 10) + 0.0:g}".replace("-", "\N{MINUS SIGN}")


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    candidates = (power, power * 2.0, power * 5.0, power * 10.0)
    return min(candidates, key=lambda candidate: abs(math.log(candidate / step)))


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = math.log10(high / low)
    factors = (1,) if wide > 3.0 else (1, 2, 5) if wide > 0.7 else tuple(range(1, 10))
    return [t for p in powers for f in factors if low <= (t := f * 10.0**p) <= high * (1 + 1e-9)]
