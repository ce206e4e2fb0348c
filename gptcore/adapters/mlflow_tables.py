"""Per-sample outputs as tables that MLflow's UI shows, and sets side by side for several runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcore.adapters.mlflow_client import asking

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_runs import Tracker

MOST_ROWS, MOST_CHARS = 500, 1000
"""Of a table, of one cell: a browser loads it whole. The stage's samples-<task>.jsonl holds everything."""
FOLDER = "tables"
LOGGED = "mlflow.loggedArtifacts"
"""The tag by which the UI knows an artifact for a table."""
FIRST, LAST = ("id", "kind", "fields", "target", "prediction", "scores"), ("baseline", "baseline_scores")
"""Of a sample, in the order in which a reader wants them; its file has them by the alphabet."""


def log_sample_tables(tracker: Tracker, run_id: str, directory: Path) -> list[str]:
    """Give a benchmark stage's run a table for each samples-<task>.jsonl; the artifacts' names. Raises TrackerAway.

    It writes what `MlflowClient.log_table` would, but logging a second time replaces the table, and adds no rows.
    """
    names = []
    for path in sorted(directory.glob("samples-*.jsonl")):
        name = f"{FOLDER}/{path.stem.removeprefix('samples-')}.json"
        with path.open(encoding="utf-8") as lines:
            written = json.dumps(sample_table([json.loads(line) for line in lines]), ensure_ascii=False)
        with asking(tracker.uri):
            tracker.client.log_text(run_id, written, name)
        names.append(name)
    if names:
        shown = json.dumps([{"path": name, "type": "table"} for name in names])
        tracker.tag(run_id, {LOGGED: shown})
    return names


def sample_table(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns and rows: what identifies a sample, its fields, target and prediction, every score, the baseline last.

    Of many samples evenly chosen ones, the same in every run with the same samples.
    """
    if len(samples) > MOST_ROWS:
        samples = [samples[number * len(samples) // MOST_ROWS] for number in range(MOST_ROWS)]
    rows = [_row(sample) for sample in samples]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}


def _row(sample: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    between = [name for name in sample if name not in (*FIRST, *LAST)]
    for name in (name for name in (*FIRST, *between, *LAST) if name in sample):
        value = sample[name]
        if name in ("fields", "scores"):
            row |= {inner: _cell(of) for inner, of in value.items()}
        elif name == "baseline_scores":
            row |= {f"{inner}_baseline": _cell(of) for inner, of in value.items()}
        else:
            row[name] = _cell(value)
    return row


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return words if len(words) <= MOST_CHARS else f"{words[:MOST_CHARS]} …"
