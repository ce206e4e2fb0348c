"""What every stage's Prefect task shares."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task


def passing_fault(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may be gone next time: a connection or a time-out, not bad data or a full disk."""
    fault = state.result(raise_on_failure=False)
    return isinstance(fault, ConnectionError | TimeoutError)


# NO_CACHE: Prefect's own cache misses edits in helpers, and hits after the files are gone.
STAGE_TASK: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": [2, 10],
    "retry_condition_fn": passing_fault,
}
