"""The corpus stage."""

from __future__ import annotations

from prefect import task

from gptcore.stages import corpus_versions
from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction


@task(name="corpus", task_run_name="corpus", **STAGE_TASK)
def corpus(session: Session) -> StageResult:
    """Sources to cleaned, deduplicated, split documents."""

    def prepare() -> StageFunction:
        from gptcore.text.corpus import build_corpus

        versions = corpus_versions(session.preset, session.sources)
        return lambda work: build_corpus(session.preset.corpus, versions, work)

    return session.stage("corpus", prepare)
