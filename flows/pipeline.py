"""The whole pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows import stages
from flows.cancellation import settle_cancelled
from gptcore.plan import select
from gptcore.presets import load_preset
from tasks.session import opened


@flow(name="pipeline", flow_run_name="{preset}", on_crashed=[settle_cancelled])
def pipeline(
    preset: str = "quickstart",
    overrides: list[str] | None = None,
    only: str | None = None,
    first: str | None = None,
    last: str | None = None,
    force: list[str] | None = None,
) -> dict[str, Any]:
    """From a dataset's name to a benchmarked, registered model."""
    chosen = select(load_preset(preset, overrides or ()), only, first, last)
    with opened(preset, overrides or (), chosen, force or ()) as session:

        def run(stage: Callable[..., Any], name: str, **which: str) -> None:
            if name in chosen:
                stage(preset=preset, overrides=overrides, **which)

        # A subflow's heartbeat thread costs it a second, and the parent's heartbeat covers it.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            for skill in session.skills:
                run(stages.items, f"items-{skill}", skill=skill)
            run(stages.corpus, "corpus")
            run(stages.tokenizer, "tokenizer")
            run(stages.tokens, "tokens")
            run(stages.pretrain, "pretrain")
            for skill in session.skills:
                run(stages.finetune, f"finetune-{skill}", skill=skill)
            for model in ["base", *session.skills]:
                run(stages.benchmark, f"benchmark-{model}", model=model)
            run(stages.publish, "publish")
            run(stages.report, "report")
    return session.summary()
