"""Which commit is running."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any


@cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout gptmill runs from; {"commit": None} outside one."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(changed.stdout.strip())}
