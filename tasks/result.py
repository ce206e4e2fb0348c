"""What a run says while it works, and of each stage at its end. Light: the command line imports it at start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol


class NotFresh(RuntimeError):
    """A stage was asked for alone, and what it reads is not there, or damaged."""


class Display(Protocol):
    """Where the person watching is told what happens."""

    def stage_started(self, name: str, resumed: bool) -> None:
        """A stage begins its own work."""

    def progress(self, name: str, done: float, total: float, unit: str, **shown: float | str) -> None:
        """A stage moved on."""

    def stage_finished(self, result: StageResult) -> None:
        """A stage is finished, run or reused."""

    def say(self, line: str) -> None:
        """One line of news."""


@dataclass(frozen=True)
class StageResult:
    """What a run reports of one stage."""

    name: str
    status: str
    """ran, resumed or reused."""
    key: str
    digest: str
    seconds: float
    """Own work, all attempts; 0 when reused."""
    metrics: dict[str, float]
    path: str
    mlflow_run_id: str | None

    def row(self) -> dict[str, Any]:
        """What `run --json` prints."""
        values = asdict(self)
        values.pop("name")
        return values


class Quiet:
    """A display for nobody."""

    def stage_started(self, name: str, resumed: bool) -> None:
        """Nothing to show."""

    def progress(self, name: str, done: float, total: float, unit: str, **shown: float | str) -> None:
        """Nothing to show."""

    def stage_finished(self, result: StageResult) -> None:
        """Nothing to show."""

    def say(self, line: str) -> None:
        """Nothing to show."""
