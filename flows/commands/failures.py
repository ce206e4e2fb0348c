"""How commands end badly: one line on stderr."""

from __future__ import annotations

import sys

REFUSED, FAILED = 2, 1


def refuse(problem: object) -> int:
    """Nothing was done; exit code 2."""
    print(f"gptmill: {problem}", file=sys.stderr)
    return REFUSED


def one_line(problem: BaseException) -> str:
    """An exception as one line, named where it says nothing itself."""
    text = " ".join(str(problem).split())
    return text or type(problem).__name__
