"""Where the tracker is and whether it holds a run, answered without importing MLflow (which takes seconds)."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

SQLITE = "sqlite:///"
ANSWER_WITHIN_S = 2.0
PRESET, SKILLS, REQUIREMENTS = "preset.yaml", "skills.yaml", "requirements.txt"
"""Artifacts of a parent run: with each stage's MANIFEST.json all that `gptmill reproduce` needs."""


class Presence(Enum):
    """What a tracker says about a run."""

    PRESENT = "present"
    ABSENT = "absent"
    """Never there, or deleted."""
    UNKNOWN = "unknown"
    """The tracker did not answer, or is of a kind that only MLflow's client can ask."""


def default_uri(home: Path) -> str:
    """The tracking URI of the database below `home`."""
    return f"{SQLITE}{home.resolve() / 'mlflow.db'}"


def run_presence(uri: str, run_ids: Iterable[str]) -> dict[str, Presence]:
    """Whether each run stands in the tracker behind `uri`; takes 2 s at most per unanswered tracker, not per run."""
    wanted = list(dict.fromkeys(run_ids))
    if not wanted:
        return {}
    if uri.startswith(SQLITE):
        return _in_database(Path("/" + uri.removeprefix(SQLITE).lstrip("/")), wanted)
    if uri.startswith(("http://", "https://")):
        return _on_server(uri.rstrip("/"), wanted)
    return dict.fromkeys(wanted, Presence.UNKNOWN)


def _in_database(path: Path, run_ids: list[str]) -> dict[str, Presence]:
    if not path.exists():
        return dict.fromkeys(run_ids, Presence.ABSENT)
    marks = ",".join("?" * len(run_ids))
    query = f"SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active' AND run_uuid IN ({marks})"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=ANSWER_WITHIN_S)) as database:
            found = {row[0] for row in database.execute(query, run_ids)}
    except sqlite3.DatabaseError:  # locked for long, half initialised, or no database at all
        return dict.fromkeys(run_ids, Presence.UNKNOWN)
    return {run_id: Presence.PRESENT if run_id in found else Presence.ABSENT for run_id in run_ids}


def _on_server(uri: str, run_ids: list[str]) -> dict[str, Presence]:
    answers = dict.fromkeys(run_ids, Presence.UNKNOWN)
    for run_id in run_ids:
        try:
            run = _get(f"{uri}/api/2.0/mlflow/runs/get?run_id={quote(run_id)}")
            active = run["run"]["info"]["lifecycle_stage"] == "active"
            answers[run_id] = Presence.PRESENT if active else Presence.ABSENT
        except HTTPError as error:
            if error.code != 404 or b"RESOURCE_DOES_NOT_EXIST" not in error.read():
                break
            answers[run_id] = Presence.ABSENT
        except (OSError, ValueError, KeyError, TypeError):
            break
    return answers


def _get(address: str) -> Any:
    headers = {}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    with urlopen(Request(address, headers=headers), timeout=ANSWER_WITHIN_S) as response:
        return json.loads(response.read())
