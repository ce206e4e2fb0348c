"""The items-<skill> stages."""

from __future__ import annotations

from prefect import task

from gptcore.presets import load_skill
from gptcore.stages import skill_versions
from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="items", task_run_name="items-{skill}", **STAGE_TASK)
def items(session: Session, skill: str) -> StageResult:
    """A skill's own data as items of three splits."""

    def prepare() -> StageFunction:
        from gptcore.text.skill_items import build_items

        chosen = load_skill(skill, session.preset.skills_folder)
        versions = skill_versions(session.preset, session.sources, skill)
        return lambda work: build_items(chosen, versions, work)

    return session.stage(f"items-{skill}", prepare)
