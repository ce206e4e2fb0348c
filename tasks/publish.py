"""The publish stage."""

from __future__ import annotations

from prefect import task

from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="publish", **STAGE_TASK)
def publish(session: Session) -> StageResult:
    """Tuned models to registered MLflow model versions; champion moves only through the gate."""

    def prepare() -> StageFunction:
        from gptcore.adapters.publish import publish as register

        return lambda work: register(session, work)

    return session.stage("publish", prepare)
