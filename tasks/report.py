"""The report stage."""

from __future__ import annotations

from prefect import task

from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="report", task_run_name="report", **STAGE_TASK)
def report(session: Session) -> StageResult:
    """One self-contained HTML page about everything above."""

    def prepare() -> StageFunction:
        from gptcore.evaluation.report import build_report

        manifests = {name: p.manifest for name, p in session.plan().items() if p.manifest}
        return lambda work: build_report(session.preset, manifests, work)

    return session.stage("report", prepare)
