"""The tokenizer stage."""

from __future__ import annotations

from prefect import task

from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="tokenizer", task_run_name="tokenizer", **STAGE_TASK)
def tokenizer(session: Session) -> StageResult:
    """Byte-level BPE from the train split."""

    def prepare() -> StageFunction:
        from gptcore.text.tokenizer import train_tokenizer

        return lambda work: train_tokenizer(session.preset.tokenizer, work)

    return session.stage("tokenizer", prepare)
