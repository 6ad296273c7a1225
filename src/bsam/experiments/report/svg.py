"""A tiny drawing layer: one plot with its axes as inline SVG.

Colours, dashes and widths are classes of page.css, so that a plot follows light, dark and print.
"""

import math
from collections.abc import Sequence
from html import escape

from bsam.experiments.report.scales import Kind, Scale, tick_text

Point = tuple[float, float]

_SHAPES = {
    "circle": "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0z",
    "square": "M-.9,-.9H.9V.9H-.9z",
    "triangle": "M0,-1.15L1.1,.85H-1.1z",
    "diamond": "M0,-1.3L1.2,0L0,1.3L-1.2,0z",
    "wedge": "M0,1.15L1.1,-.85H-1.1z",
    "pentagon": "M0,-1.2L1.15,-.35L.7,1H-.7L-1.15,-.35z",
}
SHAPES = tuple(_SHAPES)
"""Names of the markers' shapes."""


class Plot:
    """One plot; every method adds to what :meth:`render` returns.

    Args:
        x: lowest and highest value along the horizontal axis.
        y: the same along the vertical one.
        x_kind: kind of scale.
        y_kind: kind of scale.
        width: in pixels, before the page stretches it.
        height: likewise.
    """

    def __init__(
        self,
        x: Point,
        y: Point,
        *,
        x_kind: Kind = "linear",
        y_kind: Kind = "linear",
        width: int = 400,
        height: int = 270,
    ) -> None:
        self._width, self._height = width, height
        self._left, self._right, self._top, self._bottom = 48, width - 16, 28, height - 40
        self.x = Scale(*x, self._left, self._right, x_kind)
        self.y = Scale(*y, self._bottom, self._top, y_kind)
        self._parts: list[str] = []

    def axes(
        self,
        x_label: str,
        y_label: str,
        *,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
        percent: str = "",
    ) -> None:
        """Draw grid, ticks and labels; to be called first.

        Args:
            x_label: below.
            y_label: above, on the left.
            x_ticks: values; None leaves the choice to the scale.
            y_ticks: likewise.
            percent: axes, of "x" and "y", whose values are shares shown as percentages.
        """
        for value in self.y.ticks() if y_ticks is None else y_ticks:
            at = self.y(value)
            self._path(f"M{self._left},{at:.1f}H{self._right}", "grid")
            self._tick(self._left - 7, at + 4, value, "end", "y" in percent)
        for value in self.x.ticks() if x_ticks is None else x_ticks:
            at = self.x(value)
            self._path(f"M{at:.1f},{self._bottom}v4", "axis")
            self._tick(at, self._bottom + 18, value, "middle", "x" in percent)
        self._path(f"M{self._left},{self._bottom}H{self._right}", "axis")
        self.text(0, 14, y_label, "label")
        self.text(self._right, self._height - 4, x_label, "label end")

    def _tick(self, x: float, y: float, value: float, anchor: str, percent: bool) -> None:
        text = f"{tick_text(value * 100.0)} %" if percent else tick_text(value)
        self.text(x, y, text, f"tick {anchor}")

    def line(self, points: Sequence[Point], classes: str) -> None:
        """Draw a line through points; those that are not finite leave a gap.

        Args:
            points: in the units of the data.
            classes: of the page.
        """
        pieces, pen = [], "M"
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            pieces.append(f"{pen}{self.x(x):.1f},{self.y(y):.1f}")
            pen = "L"
        self._path("".join(pieces), f"line {classes}")

    def whisker(self, x: float, low: float, high: float, classes: str) -> None:
        """Draw an interval along the vertical axis.

        Args:
            x: where.
            low: its end below.
            high: its end above.
            classes: of the page.
        """
        at = self.x(x)
        self._path(f"M{at:.1f},{self.y(low):.1f}V{self.y(high):.1f}", f"whisker {classes}")

    def mark(
        self, x: float, y: float, shape: str, classes: str, tip: str = "", size: float = 3.6
    ) -> None:
        """Draw a marker, with words that appear when it is pointed at.

        Args:
            x: where.
            y: where.
            shape: one of ``SHAPES``.
            classes: of the page.
            tip: the words.
            size: its radius.
        """
        place = f"translate({self.x(x):.1f},{self.y(y):.1f}) scale({size:.3g})"
        title = f"<title>{escape(tip)}</title>" if tip else ""
        self._parts.append(
            f'<path class="mark {escape(classes)}" transform="{place}" d="{_SHAPES[shape]}">'
            f"{title}</path>"
        )

    def steps(self, edges: Sequence[float], heights: Sequence[float], classes: str) -> None:
        """Draw a histogram's outline, standing on the horizontal axis.

        Args:
            edges: of the bins.
            heights: one fewer.
            classes: of the page.
        """
        path = f"M{self.x(edges[0]):.1f},{self._bottom}"
        for edge, height in zip(edges[1:], heights, strict=True):
            path += f"V{self.y(height):.1f}H{self.x(edge):.1f}"
        self._path(f"{path}V{self._bottom}", f"steps {classes}")

    def rule(
        self, classes: str, *, x: float | None = None, y: float | None = None, label: str = ""
    ) -> None:
        """Draw a line across the plot at a value of one axis, or else the diagonal.

        Args:
            classes: of the page.
            x: value on the horizontal axis.
            y: value on the vertical axis.
            label: stands at the top of a vertical line, on the side with more room.
        """
        if x is not None:
            at = self.x(x)
            self._path(f"M{at:.1f},{self._top}V{self._bottom}", f"rule {classes}")
            rightward = at < (self._left + self._right) / 2
            side = 5 if rightward else -5
            self.text(at + side, self._top + 10, label, "note" if rightward else "note end")
        elif y is not None:
            self._path(f"M{self._left},{self.y(y):.1f}H{self._right}", f"rule {classes}")
        else:
            self._path(f"M{self._left},{self._bottom}L{self._right},{self._top}", f"rule {classes}")

    def text(self, x: float, y: float, text: str, classes: str) -> None:
        """Write, in pixels.

        Args:
            x: where.
            y: where.
            text: any characters.
            classes: of the page.
        """
        if text:
            self._parts.append(
                f'<text x="{x:.1f}" y="{y:.1f}" class="{escape(classes)}">{escape(text)}</text>'
            )

    def _path(self, path: str, classes: str) -> None:
        self._parts.append(f'<path class="{escape(classes)}" d="{path}"/>')

    def render(self, name: str) -> str:
        """Return the SVG element.

        Args:
            name: what the plot shows, in words, for those who do not see it.
        """
        return (
            f'<svg class="plot" role="img" aria-label="{escape(name)}" '
            f'viewBox="0 0 {self._width} {self._height}">{"".join(self._parts)}</svg>'
        )


def swatch(shape: str, classes: str, *, line: bool = True) -> str:
    """Return a legend's sample of a line with its marker; decoration, since words stand beside it.

    Args:
        shape: of the marker.
        classes: of the page.
        line: whether to draw the line too.
    """
    stroke = f'<path class="line {escape(classes)}" d="M1,7H33"/>' if line else ""
    return (
        f'<svg class="swatch" aria-hidden="true" viewBox="0 0 34 14">{stroke}'
        f'<path class="mark {escape(classes)}" transform="translate(17,7) scale(3.6)" '
        f'd="{_SHAPES[shape]}"/></svg>'
    )


def area_swatch(classes: str) -> str:
    """Return a legend's sample of a histogram.

    Args:
        classes: of the page.
    """
    return (
        '<svg class="swatch" aria-hidden="true" viewBox="0 0 34 14">'
        f'<path class="steps {escape(classes)}" d="M3,13V3H31V13"/></svg>'
    )
