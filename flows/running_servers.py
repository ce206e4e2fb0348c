"""What `gptmill up` started and still runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcore.store import read_json


@dataclass(frozen=True)
class Running:
    """An entry of servers.json."""

    url: str
    pid: int
    command: list[str]


def recorded(at: Path) -> dict[str, Running]:
    """Servers of servers.json whose process still runs the recorded command; a pid given to another does not count."""
    entries: dict[str, Any] = read_json(at / "servers.json") or {}
    every = {name: Running(**entry) for name, entry in entries.items()}
    return {name: running for name, running in every.items() if _command_of(running.pid) == running.command}


def _command_of(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().removesuffix("\0").split("\0")
    except OSError:
        return None
