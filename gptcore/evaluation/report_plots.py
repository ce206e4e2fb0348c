"""Plots as inline SVG: text stays text, ink follows the page's colour, nothing is fetched."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

INK = "#010203"
"""Stands for the page's text colour, light or dark; replaced by `currentColor` in the finished SVG."""
COLOURS = ("#3e7bd6", "#d9730d", "#8a8f98", "#2f9e6e", "#a05fc4")
"""Told apart on light and dark ground alike."""
POINTS = 400
"""A longer curve is averaged down to this many points."""
INCHES = (5.6, 3.0)


@dataclass(frozen=True)
class Line:
    """One curve."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    marked: bool = False
    """Whether every point gets a dot: for the few of an evaluation."""


@dataclass(frozen=True)
class Bars:
    """One bar a group."""

    label: str
    values: Sequence[float | None]
    stderr: Sequence[float | None]


def curves(name: str, lines: Sequence[Line], x_label: str, y_label: str, from_zero: bool = False) -> str:
    """Curves over a common axis, as an SVG element. A long one is shown as means of its neighbouring points.

    name: unique on the page.
    """
    figure, axes = _blank(y_label)
    axes.set_xlabel(x_label)
    for line, colour in zip(lines, COLOURS, strict=False):
        x, y = thinned(line.x), thinned(line.y)
        style = {"marker": "o", "markersize": 4, "linewidth": 1.2} if line.marked else {"linewidth": 1.4}
        axes.plot(x, y, color=colour, label=line.label, **style)
    if from_zero:
        axes.set_ylim(bottom=0)
    if len(lines) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    return _svg(figure, name)


def bars(name: str, groups: Sequence[str], series: Sequence[Bars], y_label: str) -> str:
    """Grouped bars with whiskers of two standard errors, as an SVG element; a None leaves a gap.

    name: unique on the page.
    """
    figure, axes = _blank(y_label)
    width = 0.8 / len(series)
    for number, (one, colour) in enumerate(zip(series, COLOURS, strict=False)):
        there = [i for i, value in enumerate(one.values) if value is not None]
        places = [i - 0.4 + width * (number + 0.5) for i in there]
        axes.bar(places, [one.values[i] for i in there], width * 0.92, color=colour, label=one.label)
        for i, place in zip(there, places, strict=True):
            error, value = one.stderr[i], one.values[i]
            if error is not None:
                axes.errorbar(place, value, 2 * error, color=INK, linewidth=1, capsize=2)
    axes.set_xticks(range(len(groups)), groups, rotation=0 if len(groups) < 5 else 20)
    axes.set_ylim(bottom=0)
    axes.grid(False, axis="x")
    axes.legend(frameon=False, labelcolor=INK)
    return _svg(figure, name)


def thinned(values: Sequence[float]) -> list[float]:
    """At most POINTS values: each the mean of equally many neighbours, the last of what is left."""
    size = -(-len(values) // POINTS) or 1
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    return [sum(part) / len(part) for part in parts]


_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gptmill",
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
}


def _blank(y_label: str) -> tuple[Any, Any]:
    from matplotlib import rc_context  # a second, so only when there is something to draw
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS):
        figure = Figure(INCHES, layout="constrained")
        axes = figure.subplots()
        axes.set_ylabel(y_label)
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    """The figure as an <svg> element in the page's font and colour. name: keeps its ids apart from other figures'."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = io.StringIO()
    with rc_context(_SETTINGS):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(written, metadata=nothing)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    for pattern, replacement in (
        (r"<style.*?</style>", ""),  # it would style the page
        (r'(<svg[^>]*) width="[^"]*" height="[^"]*"', r"\1"),
        (r'<g id="[^"]*"', "<g"),
        (r'(id="|#)(?=[mp][0-9a-f]{10}\b)', rf"\1{name}-"),
        (r"font-family: [^;\"]*;? ?", ""),
        (INK, "currentColor"),
    ):
        svg = re.sub(pattern, replacement, svg, flags=re.S)
    return svg
