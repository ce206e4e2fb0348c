"""The pretrain stage."""

from __future__ import annotations

from prefect import task

from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="pretrain", task_run_name="pretrain", **STAGE_TASK)
def pretrain(session: Session) -> StageResult:
    """Token shards to the base model."""

    def prepare() -> StageFunction:
        from gptcore.training.pretrain import pretrain as train

        return lambda work: train(session.preset.model, session.preset.pretrain, work)

    return session.stage("pretrain", prepare)
