"""What the person at the terminal sees: a bar per stage, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from gptcore.evaluation.headline import ERRORS
from tasks.result import StageResult


def shown_values(shown: dict[str, float | str]) -> str:
    """`loss 2.31  lr 0.001`, from the values a stage shows beside its bar."""
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())


def headline(result: StageResult) -> str:
    """The metrics of a finished stage that fit on its line."""
    kept = {k: v for k, v in result.metrics.items() if not k.endswith(ERRORS)}
    return "  ".join(
        f"{k.split('/', 1)[-1]} {v:,.4g}" if v < 1e4 else f"{k.split('/', 1)[-1]} {v:,.0f}"
        for k, v in list(kept.items())[:4]
    )


class _Rate(ProgressColumn):
    """Units a second, in the stage's own unit."""

    def render(self, task: Task) -> Text:
        if task.finished or not task.speed:
            return Text("")
        return Text(f"{task.speed:,.3g} {task.fields['unit']}/s", style="progress.data.speed")


class Bars:
    """Live bars on a terminal."""

    def __init__(self, console: Console) -> None:
        self.bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=28),
            _Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[shown]}"),
            console=console,
            refresh_per_second=4,
        )
        self.console = console
        self._tasks: dict[str, TaskID] = {}
        self.bars.start()

    def stage_started(self, name: str, resumed: bool) -> None:
        """Open the stage's bar."""
        shown = "resuming" if resumed else ""
        self._tasks[name] = self.bars.add_task(name, total=None, unit="", shown=shown)

    def progress(self, name: str, done: float, total: float, unit: str, **shown: float | str) -> None:
        """Move the stage's bar."""
        if name in self._tasks:
            self.bars.update(self._tasks[name], completed=done, total=total, unit=unit, shown=shown_values(shown))

    def stage_finished(self, result: StageResult) -> None:
        """Close the stage's bar, leaving a line."""
        if result.name in self._tasks:
            self.bars.remove_task(self._tasks.pop(result.name))
        self.console.print(finished_line(result), highlight=False)

    def say(self, line: str) -> None:
        """A line above the bars."""
        self.console.print(f"  {line}", style="yellow", highlight=False, markup=False)

    def close(self) -> None:
        """Take the bars away."""
        self.bars.stop()


class Lines:
    """Plain lines for logs: starts, ends, news, and where a long stage stands every ten seconds."""

    every_s = 10.0

    def __init__(self, to: IO[str]) -> None:
        self.to = to
        self._last: dict[str, float] = {}

    def _print(self, line: str) -> None:
        print(line, file=self.to, flush=True)

    def stage_started(self, name: str, resumed: bool) -> None:
        """A line when a stage begins."""
        self._last[name] = time.monotonic()
        self._print(f"{name}: {'resuming' if resumed else 'running'}")

    def progress(self, name: str, done: float, total: float, unit: str, **shown: float | str) -> None:
        """A line now and then."""
        now = time.monotonic()
        if now - self._last.get(name, now) >= self.every_s:
            self._last[name] = now
            self._print(f"{name}: {done:,.6g} of {total:,.6g} {unit}  {shown_values(shown)}".rstrip())

    def stage_finished(self, result: StageResult) -> None:
        """A line when a stage ends."""
        self._print(finished_line(result))

    def say(self, line: str) -> None:
        """The line."""
        self._print(f"  {line}")

    def close(self) -> None:
        """Nothing to take away."""


def finished_line(result: StageResult) -> str:
    """`pretrain  ran  102.3 s  val_bits_per_byte 1.43`."""
    seconds = f"{result.seconds:.1f} s" if result.status != "reused" else ""
    return f"{result.name:<24} {result.status:<8} {seconds:>8}  {headline(result)}".rstrip()


def display_for(stream: IO[str]) -> Bars | Lines:
    """Bars where the stream is a terminal, lines elsewhere."""
    return Bars(Console(file=stream)) if stream.isatty() else Lines(stream)
