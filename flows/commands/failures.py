"""How commands end badly: one line on stderr."""

from __future__ import annotations

import shutil
import sys

from gptcore.home import home
from gptcore.work import FULL_DISK

REFUSED, FAILED = 2, 1


def refuse(problem: object) -> int:
    """Nothing was done; exit code 2."""
    line = one_line(problem) if isinstance(problem, OSError) else problem
    print(f"gptmill: {line}", file=sys.stderr)
    return REFUSED


def one_line(problem: BaseException) -> str:
    """An exception as one line, named where it says nothing itself; a full disk with its room and the way out."""
    if isinstance(problem, OSError) and problem.errno in FULL_DISK:
        at = next(folder for folder in (home(), *home().parents) if folder.exists())
        room = shutil.disk_usage(at).free / 1e6
        return f"{problem.strerror}: {room:,.1f} MB are free under {home()}; make room, or set GPTMILL_HOME elsewhere"
    text = " ".join(str(problem).split())
    return text or type(problem).__name__
