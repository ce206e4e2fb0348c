"""The tokenizer stage."""

from __future__ import annotations

from prefect import task

from gptcore.stages import init_version
from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="tokenizer", task_run_name="tokenizer", **STAGE_TASK)
def tokenizer(session: Session) -> StageResult:
    """A tokenizer trained on the train split, or that of `tokenizer.take` or `model.init`."""
    preset = session.preset

    def prepare() -> StageFunction:
        if preset.model.init is not None:
            from gptcore.adapters.pretrained import checked_start
            from gptcore.text.takeover import take_over_tokenizer

            directory = checked_start(preset.model, init_version(preset, session.sources))
            return lambda work: take_over_tokenizer(preset.tokenizer, directory, work)
        if preset.tokenizer.take is not None:
            from gptcore.pretrained import check_unchanged, tokenizer_directory
            from gptcore.text.takeover import take_over_tokenizer

            directory = tokenizer_directory(preset.tokenizer.take)
            check_unchanged(directory, init_version(preset, session.sources))
            return lambda work: take_over_tokenizer(preset.tokenizer, directory, work)
        from gptcore.text.tokenizer import train_tokenizer

        return lambda work: train_tokenizer(preset.tokenizer, work)

    return session.stage("tokenizer", prepare)
