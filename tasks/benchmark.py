"""The benchmark-<model> stages."""

from __future__ import annotations

from prefect import task

from gptcore.presets import skills_of
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
        skills = {name: skill for name, skill in skills_of(preset).items() if name in tunings}
        stage = "pretrain" if model == "base" else f"finetune-{model}"
        data = task_data(session.sources)
        return lambda work: measure(preset.benchmark, tunings, skills, stage, work, data)

    return session.stage(f"benchmark-{model}", prepare)
