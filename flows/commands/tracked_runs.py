"""`gptmill runs` and `gptmill compare`: past runs, as MLflow remembers them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.failures import FAILED, refuse
from flows.commands.run import HEADLINES
from gptcore.adapters.mlflow_lookup import SQLITE
from gptcore.evaluation.comparison import Comparison, compare
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
        _print(options, _none_yet(options), {"runs": []})
        return 0
    from gptcore.adapters.mlflow_client import TrackerAway
    from gptcore.adapters.mlflow_runs import Tracker

    commands: dict[str, Callable[[argparse.Namespace, Tracker], int]] = {"runs": _runs, "compare": _compare}
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
    _print(options, runs_table(found) if found else _none_yet(options), {"runs": [_row(run) for run in found]})
    return 0


def _compare(options: argparse.Namespace, tracker: Tracker) -> int:
    from gptcore.adapters.mlflow_history import get_run

    try:
        a, b = (get_run(tracker, reference) for reference in options.runs)
    except ValueError as problem:
        return refuse(problem)
    digests = [{name: stage["digest"] for name, stage in run.stages.items() if "digest" in stage} for run in (a, b)]
    result = compare((typed(a.params), typed(b.params)), (digests[0], digests[1]), (a.metrics, b.metrics))
    _print(options, compared_text(a, b, result), {"a": a.run_id, "b": b.run_id, **result.row()})
    return 0


def _none_yet(options: argparse.Namespace) -> str:
    preset = options.preset or "PRESET"
    return f"no runs{f' of {preset}' if options.preset else ''} yet: `gptmill run {preset}` makes one"


def _row(run: PipelineRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id, "preset": run.preset, "status": run.status, "started": run.started,
        "seconds": run.seconds, "metrics": dict(run.metrics),
    }  # fmt: skip


def typed(params: Mapping[str, str]) -> dict[str, Any]:
    """MLflow's text values as what they were: JSON where they are JSON, text otherwise."""
    values: dict[str, Any] = {}
    for name, text in params.items():
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def runs_table(runs: Sequence[PipelineRun]) -> str:
    """Newest first, one line a run, with the headline metrics that any of them has."""
    shown = [name for name in HEADLINES if any(name in run.metrics for run in runs)]
    head = ["run", "preset", "started", "status", "seconds", *shown]
    rows = [
        [
            run.run_id[:8],
            run.preset,
            datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M"),
            run.status,
            f"{run.seconds:,.1f}" if run.seconds is not None else "",
            *(_value(run.metrics.get(name)) for name in shown),
        ]
        for run in runs
    ]
    return aligned([head, *rows], numbers_from=4)


def compared_text(a: PipelineRun, b: PipelineRun, result: Comparison) -> str:
    """The comparison in words and tables."""
    lines = [f"a  {a.run_id}  {a.preset}  {a.status}", f"b  {b.run_id}  {b.preset}  {b.status}", ""]
    if result.config:
        lines.append(
            aligned([["config", "a", "b"], *([f, _short(x), _short(y)] for f, (x, y) in result.config.items())])
        )
    else:
        lines.append("config: no difference")
    lines += ["", f"first stage that differs: {result.first_stage or 'none'}"]
    lines += [
        f"only in {which}: {', '.join(stages)}" for which, stages in zip("ab", result.only_in, strict=True) if stages
    ]
    rows = [
        [name, _value(d.a), _value(d.b), f"{d.delta:+.4g}", _value(d.stderr), d.verdict]
        for name, d in result.metrics.items()
    ]
    if rows:
        lines += ["", aligned([["metric", "a", "b", "b - a", "stderr", "b is"], *rows])]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], numbers_from: int | None = None) -> str:
    """Rows as columns of equal width; columns from `numbers_from` on stand to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def cell(text: str, column: int) -> str:
        right = numbers_from is not None and column >= numbers_from
        return text.rjust(widths[column]) if right else text.ljust(widths[column])

    return "\n".join("  ".join(cell(text, i) for i, text in enumerate(row)).rstrip() for row in rows)


def _value(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _print(options: argparse.Namespace, text: str, answer: dict[str, Any]) -> None:
    print(text, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(answer))
