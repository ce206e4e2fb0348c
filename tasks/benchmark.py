"""The benchmark-<model> stages."""

from __future__ import annotations

from prefect import task

from gptcore.presets import load_skill
from gptcore.stages import task_data
from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="benchmark", task_run_name="benchmark-{model}", **STAGE_TASK)
def benchmark(session: Session, model: str) -> StageResult:
    """One model's lm-eval results: the base model on every skill, a tuned one on its own."""

    def prepare() -> StageFunction:
        from gptcore.adapters.benchmark import benchmark as measure

        preset = session.preset
        tunings = {skill: t for skill, t in preset.finetune.items() if model in ("base", skill)}
        skills = {skill: load_skill(skill) for skill in tunings}
        stage = "pretrain" if model == "base" else f"finetune-{model}"
        data = task_data(session.sources)
        return lambda work: measure(preset.benchmark, tunings, skills, stage, work, data)

    return session.stage(f"benchmark-{model}", prepare)
