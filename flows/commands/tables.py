"""How commands show tables and numbers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[str]], numbers_from: int | None = None) -> str:
    """Rows as columns of equal width; columns from `numbers_from` on stand to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def cell(text: str, column: int) -> str:
        right = numbers_from is not None and column >= numbers_from
        return text.rjust(widths[column]) if right else text.ljust(widths[column])

    return "\n".join("  ".join(cell(text, i) for i, text in enumerate(row)).rstrip() for row in rows)


def shown(value: float | None) -> str:
    """A number with four digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def short(value: Any) -> str:
    """A config value in 60 characters at most."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printed(options: argparse.Namespace, text: str, answer: dict[str, Any]) -> None:
    """The words to people, and with --json the answer as the last line of stdout."""
    print(text, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(answer))
