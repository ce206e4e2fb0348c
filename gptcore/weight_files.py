"""What a model directory holds beside its weights, and weights that are not taken. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights that can run code when opened: nothing here opens them."""

Size = tuple[int, ...]


def no_weights(directory: Path) -> Exception:
    """Why a directory without safetensors is refused: a ValueError for pickled weights, else a FileNotFoundError."""
    pickled = sorted(path.name for pattern in PICKLED for path in directory.glob(pattern))
    if pickled:
        return ValueError(
            f"{directory} has only pickled weights ({pickled[0]}), which can run code when opened; "
            f"convert them to {WEIGHTS}"
        )
    return FileNotFoundError(f"{directory} holds no {WEIGHTS}; pickled weights are not taken")


def check_fits(where: Path, found: Mapping[str, Size], wanted: Mapping[str, Size]) -> None:
    """ValueError where tensors are missing, unknown or of another size than config.json says, the first three named."""
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in wanted]
    problems += [
        f"{name} is {found[name]}, config.json says {size}"
        for name, size in wanted.items()
        if name in found and found[name] != size
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{where} does not fit its config.json: {'; '.join(problems[:3])}{more}")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; FileNotFoundError, or ValueError for a file that holds something else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a model directory holds config.json and {WEIGHTS}")
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found
