"""One flow a stage: what a deployment runs alone, and what the pipeline chains."""

from __future__ import annotations

from typing import Any

from prefect import flow

import tasks.benchmark
import tasks.corpus
import tasks.finetune
import tasks.items
import tasks.pretrain
import tasks.publish
import tasks.report
import tasks.tokenizer
import tasks.tokens
from flows.cancellation import settle_cancelled
from tasks.session import opened


@flow(name="items", flow_run_name="items-{skill}", on_crashed=[settle_cancelled])
def items(skill: str, preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """A skill's own data as items of three splits."""
    with opened(preset, overrides or ()) as session:
        return tasks.items.items(session, skill).row()


@flow(name="corpus", flow_run_name="corpus", on_crashed=[settle_cancelled])
def corpus(preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """Sources to cleaned, deduplicated, split documents."""
    with opened(preset, overrides or ()) as session:
        return tasks.corpus.corpus(session).row()


@flow(name="tokenizer", flow_run_name="tokenizer", on_crashed=[settle_cancelled])
def tokenizer(preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """Byte-level BPE from the train split."""
    with opened(preset, overrides or ()) as session:
        return tasks.tokenizer.tokenizer(session).row()


@flow(name="tokens", flow_run_name="tokens", on_crashed=[settle_cancelled])
def tokens(preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """Documents to memory-mapped token shards."""
    with opened(preset, overrides or ()) as session:
        return tasks.tokens.tokens(session).row()


@flow(name="pretrain", flow_run_name="pretrain", on_crashed=[settle_cancelled])
def pretrain(preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """Token shards to the base model."""
    with opened(preset, overrides or ()) as session:
        return tasks.pretrain.pretrain(session).row()


@flow(name="finetune", flow_run_name="finetune-{skill}", on_crashed=[settle_cancelled])
def finetune(skill: str, preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """The base model tuned for one skill."""
    with opened(preset, overrides or ()) as session:
        return tasks.finetune.finetune(session, skill).row()


@flow(name="benchmark", flow_run_name="benchmark-{model}", on_crashed=[settle_cancelled])
def benchmark(model: str, preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """One model's lm-eval results."""
    with opened(preset, overrides or ()) as session:
        return tasks.benchmark.benchmark(session, model).row()


@flow(name="publish", flow_run_name="publish", on_crashed=[settle_cancelled])
def publish(preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """Tuned models to registered MLflow model versions; champion moves only through the gate."""
    with opened(preset, overrides or ()) as session:
        return tasks.publish.publish(session).row()


@flow(name="report", flow_run_name="report", on_crashed=[settle_cancelled])
def report(preset: str = "quickstart", overrides: list[str] | None = None) -> dict[str, Any]:
    """One self-contained HTML page about everything above."""
    with opened(preset, overrides or ()) as session:
        return tasks.report.report(session).row()
