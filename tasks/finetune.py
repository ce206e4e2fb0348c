"""The finetune-<skill> stages."""

from __future__ import annotations

from prefect import task

from gptcore.presets import load_skill
from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="finetune", task_run_name="finetune-{skill}", **STAGE_TASK)
def finetune(session: Session, skill: str) -> StageResult:
    """The base model tuned for one skill."""

    def prepare() -> StageFunction:
        from gptcore.training.finetune import finetune as tune

        return lambda work: tune(session.preset.finetune[skill], load_skill(skill, session.preset.skills_folder), work)

    return session.stage(f"finetune-{skill}", prepare)
