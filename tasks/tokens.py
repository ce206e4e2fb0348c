"""The tokens stage."""

from __future__ import annotations

from prefect import task

from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="tokens", task_run_name="tokens", **STAGE_TASK)
def tokens(session: Session) -> StageResult:
    """Documents to memory-mapped token shards."""

    def prepare() -> StageFunction:
        from gptcore.text.tokens import build_tokens

        return lambda work: build_tokens(session.preset.tokens, work)

    return session.stage("tokens", prepare)
