"""The publish stage."""

from __future__ import annotations

from prefect import task

from gptcore.presets import skills_of
from gptcore.work import Outcome, Work
from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="publish", task_run_name="publish", **STAGE_TASK)
def publish(session: Session) -> StageResult:
    """Tuned models to registered MLflow model versions; champion moves only through the gate."""

    def prepare() -> StageFunction:
        from gptcore.adapters.mlflow_models import ModelRegistry
        from gptcore.adapters.publish import publish as register

        preset = session.preset
        skills = skills_of(preset)

        def stage(work: Work) -> Outcome:
            assert session.running
            key, run_id = session.running
            tracker = session.tracking.tracker()
            if run_id is None:
                raise ConnectionError(
                    f"MLflow at {tracker.uri} did not take this stage's run, so nothing was published"
                )
            return register(preset.publish, preset.name, skills, ModelRegistry(tracker, run_id, key), work)

        return stage

    return session.stage("publish", prepare)
