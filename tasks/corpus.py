"""The corpus stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import task

from gptcore.stages import corpus_versions, standard_benchmarks, task_data
from tasks.options import STAGE_TASK
from tasks.result import StageResult
from tasks.session import Session, StageFunction

if TYPE_CHECKING:
    from gptcore.text.comparing import Benchmarks


@task(name="corpus", task_run_name="corpus", **STAGE_TASK)
def corpus(session: Session) -> StageResult:
    """Sources to cleaned, deduplicated, split documents."""

    def prepare() -> StageFunction:
        from gptcore.text.corpus import build_corpus

        versions, tasks = corpus_versions(session.preset, session.sources), standard_benchmarks(session.preset)

        def benchmarks() -> Benchmarks:
            from gptcore.adapters.lm_eval_tasks import OWN_TASKS, standard_texts  # lm-eval takes seconds

            data = session.preset.benchmark.data_dir, task_data(session.sources)
            return [pair for name in tasks for pair in standard_texts(name, [OWN_TASKS], *data)]

        return lambda work: build_corpus(session.preset.corpus, versions, work, benchmarks if tasks else tuple)

    return session.stage("corpus", prepare)
