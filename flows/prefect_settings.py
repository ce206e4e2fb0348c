"""Prefect's surroundings, set before it is imported; whatever the user has set stays."""

from __future__ import annotations

import os
from pathlib import Path

from flows.running_servers import recorded


def prepare_prefect(home: Path) -> None:
    """Prefect's API: the user's own, else that of `gptmill up`, else the ephemeral one with its data in the home."""
    up = recorded(home).get("prefect")
    if up and "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = f"{up.url}/api"
    for name, value in {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)
