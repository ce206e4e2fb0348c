"""A cancelled flow run ends as Cancelled, though its stage took the signal."""

from __future__ import annotations

from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled


def settle_cancelled(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A flow's on_crashed hook: make it Cancelled where a cancel was asked for.

    Prefect's runner asks by SIGTERM, and by SIGKILL 30 seconds later. While a stage is at work the signal is the
    stage's, which saves and stops; the engine, whose own handler would have known why it came, calls that a crash. The
    server remembers that Cancelling came before.
    """
    with get_client(sync_client=True) as client:
        if any(past.is_cancelling() for past in client.read_flow_run_states(flow_run.id)):
            message = "Cancelled; the stage at work was stopped in order, and a run with the same parameters resumes."
            client.set_flow_run_state(flow_run.id, Cancelled(message=message), force=True)
