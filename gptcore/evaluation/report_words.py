"""Values in words, for the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptcore.html_page import Markup, paragraph, text

DASH = Markup("&ndash;")
NOT_MEASURED = paragraph("Not measured.", "soft")
CONFIDENCE_95 = 1.96
"""Standard errors on either side of a value that hold the true one 95 times in 100."""


def number(value: float | None) -> str:
    """A value with three or four meaningful digits; a dash for None."""
    if value is None:
        return DASH
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.3f}" if 0.1 <= abs(value) < 10 else f"{value:.4g}"


def with_error(value: float | None, error: float | None, spread: float | None = None) -> Markup:
    """`0.483 ± 0.022`, and in small under it the 95 % interval; the spread between seeds where there are several."""
    if value is None or error is None:
        return text(DASH if value is None else f"{value:.3f}")
    reach = CONFIDENCE_95 * error
    seeds = "" if spread is None else f"; sd {spread:.3f}"
    return Markup(f"{value:.3f} ± {error:.3f}<br><small>{value - reach:.3f} to {value + reach:.3f}{seeds}</small>")


def duration(seconds: float) -> str:
    """`48.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in a unit that fits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything inside nested mappings."""
    if isinstance(values, dict) and values:
        for name, value in values.items():
            yield from flat(value, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, values
