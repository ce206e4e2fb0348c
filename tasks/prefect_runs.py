"""Prefect's record of an invocation whose process was killed: outside a worker nobody else tells its server."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Crashed


def end_as_crashed(flow_run_id: str | None) -> None:
    """Set a flow run, its subflow runs and their task runs to Crashed where they have not ended.

    A run that this server does not know, and the one that is running this, are left alone.
    """
    if flow_run_id is None or flow_run_id == flow_run.id:
        return
    root = [UUID(flow_run_id)]
    crashed: State[Any] = Crashed(message="its process was killed")
    with get_client(sync_client=True) as client:
        flows = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=root)))
        flows += client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=root))
        )
        if not flows:
            return
        ids = [run.id for run in flows]
        tasks = client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=ids)))
        for task in tasks:
            if task.state is None or not task.state.is_final():
                client.set_task_run_state(task.id, crashed, force=True)
        for run in flows:
            if run.state is None or not run.state.is_final():
                client.set_flow_run_state(run.id, crashed, force=True)
