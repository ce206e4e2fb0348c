"""Where gptmill keeps things."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$GPTMILL_HOME`, or .gptmill in the working directory; absolute, not created."""
    return Path(os.environ.get("GPTMILL_HOME") or ".gptmill").absolute()


def tracking_uri(at: Path) -> str:
    """`$MLFLOW_TRACKING_URI`, or SQLite in the home with an absolute path."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{at / 'mlflow.db'}"
