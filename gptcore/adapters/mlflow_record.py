"""All that MLflow holds about how a pipeline run was made: what `gptmill reproduce` rebuilds it from.

The parent run gives the config, every stage's run its manifest; a stage that the parent does not name (it ran alone, or
was reused and left out) is found by the digest that its reader names. No store is looked at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcore.adapters.mlflow_client import MlflowException, asking, download_artifacts
from gptcore.adapters.mlflow_history import PipelineRun, get_run
from gptcore.adapters.mlflow_lookup import PRESET, REQUIREMENTS, SKILLS
from gptcore.adapters.mlflow_runs import STAGE, Tracker, local_path
from gptcore.presets import parse_yaml
from gptcore.stages import OUTSIDE_DIGEST
from gptcore.store import MANIFEST, Manifest


class RecordLacks(ValueError):
    """A record from which a run cannot be rebuilt; every missing piece is named."""


@dataclass(frozen=True)
class RecordedStage:
    """One stage, as MLflow remembers it."""

    run_id: str
    digest: str
    """By the tag of the parent run, or of the stage that read it."""
    own_digest: str | None
    """By its own run's tag."""
    manifest: Manifest
    micro_batch_tokens: int | None = None
    """Where memory forced a smaller one than the config says."""


@dataclass(frozen=True)
class Record:
    """One pipeline run."""

    run: PipelineRun
    preset: Any
    """The preset's values, as parsed."""
    skills: Mapping[str, Any]
    requirements: str
    """As pip reads it."""
    stages: Mapping[str, RecordedStage]
    """Those it shows whose bytes can be compared, and all that these follow from."""


def read_record(tracker: Tracker, reference: str) -> Record:
    """The record of RUN. RecordLacks where something is missing, ValueError where there is no such run."""
    run = get_run(tracker, reference)
    texts = {name: read_text(tracker, run.run_id, name) for name in (PRESET, SKILLS, REQUIREMENTS)}
    lacks = [name for name, text in texts.items() if text is None]
    stages, lost = _stages(tracker, run)
    lacks += lost
    if not stages and not lost:
        lacks.append("any finished stage whose bytes could be compared")
    if lacks:
        raise RecordLacks(
            f"the record of run {run.run_id[:8]} in MLflow lacks {', '.join(lacks)}, and cannot be rebuilt from; "
            f"a new run of the preset records everything: gptmill run {run.preset} --force report"
        )
    return Record(
        run,
        parse_yaml(texts[PRESET] or "", f"{PRESET} of run {run.run_id[:8]}"),
        parse_yaml(texts[SKILLS] or "", f"{SKILLS} of run {run.run_id[:8]}") or {},
        texts[REQUIREMENTS] or "",
        stages,
    )


def _stages(tracker: Tracker, run: PipelineRun) -> tuple[dict[str, RecordedStage], list[str]]:
    """Every stage by name, and what is missing. What the parent says of a stage goes before what its reader says."""
    waiting = {
        name: (fields.get("run_id"), fields["digest"])
        for name, fields in run.stages.items()
        if name not in OUTSIDE_DIGEST and "digest" in fields
    }
    found: dict[str, RecordedStage] = {}
    lost: dict[str, str] = {}
    while waiting:
        name, (run_id, digest) = waiting.popitem()
        run_id = run_id or _run_of(tracker, run, name, digest)
        stage = _stage(tracker, run_id, digest) if run_id else None
        if stage is None:
            lost[name] = f"the {MANIFEST} of {name}" if run_id else f"the run of {name} that left {digest[:12]}"
            continue
        found[name] = stage
        for upstream, read in stage.manifest.identity["inputs"].items():
            if upstream not in found and upstream not in lost:
                waiting.setdefault(upstream, (None, read))
    return found, sorted(lost.values())


def _run_of(tracker: Tracker, run: PipelineRun, stage: str, digest: str) -> str | None:
    """A run of the stage that left these bytes."""
    with asking(tracker.uri):
        experiment = tracker.client.get_run(run.run_id).info.experiment_id
        query = f"tags.`{STAGE}` = '{stage}' AND tags.digest = '{digest}' AND attributes.status = 'FINISHED'"
        found = tracker.client.search_runs([experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None


def _stage(tracker: Tracker, run_id: str, digest: str) -> RecordedStage | None:
    text = read_text(tracker, run_id, MANIFEST)
    if text is None:
        return None
    manifest = Manifest.parse(text.encode())
    with asking(tracker.uri):
        data = tracker.client.get_run(run_id).data
    forced = data.metrics.get(f"{manifest.stage}/micro_batch_tokens")
    return RecordedStage(run_id, digest, data.tags.get("digest"), manifest, None if forced is None else int(forced))


def read_text(tracker: Tracker, run_id: str, name: str) -> str | None:
    """A text artifact of a run; None where the run or the artifact is not there."""
    with asking(tracker.uri), tempfile.TemporaryDirectory() as folder:
        try:
            root = local_path(tracker.client.get_run(run_id).info.artifact_uri)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if root is None:
            if name not in {file.path for file in tracker.client.list_artifacts(run_id)}:
                return None
            path = Path(
                download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder, tracking_uri=tracker.uri)
            )
        else:
            path = root / name
        return path.read_text(encoding="utf-8") if path.is_file() else None
