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
    from gptcore.work import Work


@task(name="corpus", task_run_name="corpus", **STAGE_TASK)
def corpus(session: Session) -> StageResult:
    """Sources to cleaned, deduplicated, split documents."""

    def prepare() -> StageFunction:
        from gptcore.text.corpus import build_corpus
        from gptcore.text.skill_items import held_texts

        versions, tasks = corpus_versions(session.preset, session.sources), standard_benchmarks(session.preset)

        def benchmarks(work: Work) -> Benchmarks:
            own = [(name, held_texts(directory)) for name, directory in work.inputs.items()]
            if not tasks:
                return own
            from gptcore.adapters.lm_eval_tasks import OWN_TASKS, standard_texts  # lm-eval takes seconds

            data = session.preset.benchmark.data_dir, task_data(session.sources)
            return [*own, *(pair for name in tasks for pair in standard_texts(name, [OWN_TASKS], *data))]

        return lambda work: build_corpus(session.preset.corpus, versions, work, lambda: benchmarks(work))

    return session.stage("corpus", prepare)
