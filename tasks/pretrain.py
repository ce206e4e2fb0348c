"""The pretrain stage."""

from __future__ import annotations

from prefect import task

from gptcore.stages import init_version
from gptcore.work import Outcome, Work
from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="pretrain", task_run_name="pretrain", **STAGE_TASK)
def pretrain(session: Session) -> StageResult:
    """Token shards to the base model."""

    def prepare() -> StageFunction:
        from gptcore.training.pretrain import pretrain as train

        model, config = session.preset.model, session.preset.pretrain
        if model.init is None:
            return lambda work: train(model, config, work)
        from gptcore.adapters.pretrained import take_over

        version = init_version(session.preset, session.sources)

        def from_there(work: Work) -> Outcome:
            take_over(model, work, version)
            return train(model, config, work)

        return from_there

    return session.stage("pretrain", prepare)
