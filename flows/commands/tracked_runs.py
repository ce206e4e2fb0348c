"""`gptmill runs` and `gptmill compare`: past runs, as MLflow remembers them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.comparing import compared
from flows.commands.failures import FAILED, refuse
from flows.commands.run import headlines
from flows.commands.tables import aligned, printed, shown
from gptcore.adapters.mlflow_lookup import SQLITE
from gptcore.home import home, tracking_uri

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_history import PipelineRun
    from gptcore.adapters.mlflow_runs import Tracker


def main(options: argparse.Namespace) -> int:
    """Ask the tracker and print."""
    at = home()
    uri = tracking_uri(at)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        if options.command == "compare":
            return refuse(f"there is no run yet in {uri}: `gptmill run PRESET` makes one")
        printed(options, _none_yet(options), {"runs": []})
        return 0
    from gptcore.adapters.mlflow_client import TrackerAway
    from gptcore.adapters.mlflow_runs import Tracker

    commands: dict[str, Callable[[argparse.Namespace, Tracker], int]] = {"runs": _runs, "compare": compared}
    try:
        return commands[options.command](options, Tracker(uri, at, lambda line: print(line, file=sys.stderr)))
    except TrackerAway as away:
        print(f"gptmill: {away}", file=sys.stderr)
        return FAILED


def _runs(options: argparse.Namespace, tracker: Tracker) -> int:
    from gptcore.adapters.mlflow_history import find_runs

    if options.limit < 1:
        return refuse(f"--limit {options.limit}: at least 1")
    found = find_runs(tracker, options.preset, options.limit)
    printed(options, runs_table(found) if found else _none_yet(options), {"runs": [_row(run) for run in found]})
    return 0


def _none_yet(options: argparse.Namespace) -> str:
    preset = options.preset or "PRESET"
    return f"no runs{f' of {preset}' if options.preset else ''} yet: `gptmill run {preset}` makes one"


def _row(run: PipelineRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id, "preset": run.preset, "status": run.status, "started": run.started,
        "seconds": run.seconds, "metrics": dict(run.metrics),
    }  # fmt: skip


def runs_table(runs: Sequence[PipelineRun]) -> str:
    """Newest first, one line a run, with the headline metrics that any of them has."""
    columns = headlines(name for run in runs for name in run.metrics)
    head = ["run", "preset", "started", "status", "seconds", *columns]
    rows = [
        [
            run.run_id[:8],
            run.preset,
            datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M"),
            run.status,
            f"{run.seconds:,.1f}" if run.seconds is not None else "",
            *(shown(run.metrics.get(name)) for name in columns),
        ]
        for run in runs
    ]
    return aligned([head, *rows], numbers_from=4)
