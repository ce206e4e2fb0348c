"""What checkpoints are called. Imports no torch, so that `plan` can ask."""

from __future__ import annotations

import json
import re
from pathlib import Path

MARKER = "MARKER.json"
"""Written last: {"files": {name: {"bytes": n, "sha256": hex}}, "milestone": bool}. A checkpoint without it is none."""


def directory_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step is: step-000400."""
    return root / f"step-{step:06d}"


def step_of(directory: Path) -> int:
    """The inverse."""
    return int(directory.name.removeprefix("step-"))


def committed(root: Path) -> list[Path]:
    """Checkpoints with a marker, the newest first."""
    found = [p for p in root.glob("step-*") if re.fullmatch(r"step-\d{6,}", p.name) and (p / MARKER).is_file()]
    return sorted(found, key=step_of, reverse=True)


def damage(directory: Path) -> str | None:
    """What is visibly wrong with a checkpoint (a file gone or of another size; a torn marker), or None."""
    try:
        files = json.loads((directory / MARKER).read_bytes())["files"]
        for name, expected in files.items():
            size = (directory / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes, not {expected['bytes']}"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is gone"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MARKER} is damaged"
    return None


def is_milestone(directory: Path) -> bool:
    """Whether a checkpoint is kept for good; a damaged one is not."""
    return damage(directory) is None and bool(json.loads((directory / MARKER).read_bytes()).get("milestone"))


def latest_step(root: Path) -> int | None:
    """The step a run would resume from, or None."""
    return next((step_of(p) for p in committed(root) if damage(p) is None), None)
