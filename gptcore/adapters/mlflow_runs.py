"""Runs in MLflow: one parent a pipeline invocation, one child a stage; explicit client and run ids everywhere.

tracker = Tracker(uri, home, say)                       # raises TrackerAway, as every method of Tracker does
parent = tracker.open_parent("quickstart", name, params, {"gptmill.invocation": id})
run = tracker.open_stage(parent, StageFacts("pretrain", key, config, tags, inputs))
run.follow(directory / "metrics.jsonl")                 # a StageRun never raises and never blocks the work
...
tracker.log_artifacts(run.run_id, directory, files)
arrived = run.finish("FINISHED", metrics)               # False: replay the stage at the next invocation
tracker.summarize_parent(parent, stages)
tracker.close(parent, "FINISHED")
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

from gptcore.adapters.mlflow_client import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    MlflowClient,
    MlflowException,
    Param,
    Run,
    RunTag,
    TrackerAway,
    asking,
    connect,
)
from gptcore.adapters.mlflow_curves import log_curves
from gptcore.adapters.mlflow_lookup import SQLITE
from gptcore.adapters.mlflow_metrics import INTERVAL_S, Follower, sent_steps
from gptcore.durable import place

Status = Literal["FINISHED", "FAILED", "KILLED"]
ROLE, STAGE, KEY, INVOCATION = "gptmill.role", "gptmill.stage", "gptmill.key", "gptmill.invocation"
PARENT = "mlflow.parentRunId"
PIPELINE = "pipeline"
"""The role of a run of the whole pipeline; a rebuild of one has another."""
LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST = 6000, 8000, 36
"""Characters that MLflow takes."""


@dataclass(frozen=True)
class StageInput:
    """What a stage reads, shown as a dataset of its run."""

    name: str
    """The upstream stage, or the source."""
    digest: str
    """Output digest; MLflow keeps its first 36 characters."""
    source: str
    """Where it lies: a path or an address."""
    version: Any = None
    """Of a source: what its content is identified by, JSON-able; becomes the dataset's profile."""


@dataclass(frozen=True)
class StageFacts:
    """What is known of a stage before it runs."""

    stage: str
    key: str
    config: Mapping[str, Any]
    """Identity config, nested as it is; becomes flat params."""
    tags: Mapping[str, str]
    """Git commit, dirty flag, Prefect run, seed, device …"""
    inputs: tuple[StageInput, ...] = ()


@dataclass(frozen=True)
class StageResult:
    """What a parent run shows of a stage, whether it ran now or was reused."""

    run_id: str | None
    digest: str
    metrics: Mapping[str, float]
    directory: Path | None = None
    """Of a training stage: where its curves are."""


class Tracker:
    """One MLflow tracker. Every method raises TrackerAway (a ConnectionError, one line) where it does not answer."""

    def __init__(self, uri: str, home: Path, say: Callable[[str], None]) -> None:
        self.uri, self.home, self.say = uri, home.resolve(), say
        self.client: MlflowClient = connect(uri, self.home)

    def experiment(self, preset: str) -> str:
        """Id of the preset's experiment, made when there is none, restored when someone deleted it.

        On SQLite its artifacts go below `<home>/mlartifacts`; a server decides for itself.
        """
        with asking(self.uri):
            found = self.client.get_experiment_by_name(preset)
            if found is None:
                local = str(self.home / "mlartifacts" / preset) if self.uri.startswith(SQLITE) else None
                try:
                    return str(self.client.create_experiment(preset, artifact_location=local))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was quicker
                        raise
                    found = self.client.get_experiment_by_name(preset)
                    assert found is not None
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)

    def open_parent(self, preset: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Make the run of one pipeline invocation, or reopen the one with the same `gptmill.invocation` tag; its id.

        A pipeline's name ends in the id's first 8 characters, so that the curves of two runs are told apart in a chart.
        """
        tags = {ROLE: PIPELINE, **tags}
        with asking(self.uri):
            experiment = self.experiment(preset)
            found = self._find(experiment, {INVOCATION: tags[INVOCATION]}) if INVOCATION in tags else None
            run_id = str(self._open(experiment, name, params, tags, found).info.run_id)
            if found is None and tags[ROLE] == PIPELINE:  # a reproduction's name tells whose it is
                self.client.update_run(run_id, name=f"{name} {run_id[:8]}")
            return run_id

    def reopen(self, run_id: str) -> bool:
        """Set a run RUNNING again; False where it is not there any more."""
        with asking(self.uri):
            if self._get(run_id) is None:
                return False
            self.client.update_run(run_id, status="RUNNING")
            return True

    def open_stage(
        self, parent_run_id: str, facts: StageFacts, run_id: str | None = None, interval: float = INTERVAL_S
    ) -> StageRun:
        """Make a stage's child run, or reopen it: the one named, or the parent's own child of the same stage and key.

        `interval`: seconds between batches of metrics.
        """
        with asking(self.uri):
            run, reopened = self._open_child(parent_run_id, facts, run_id)
            return StageRun(self, run.info.run_id, reopened, interval)

    def _open_child(
        self, parent_run_id: str, facts: StageFacts, run_id: str | None, started_ms: int | None = None
    ) -> tuple[Run, bool]:
        experiment = self.client.get_run(parent_run_id).info.experiment_id
        own = {PARENT: parent_run_id, STAGE: facts.stage, KEY: facts.key}
        found = self._get(run_id) if run_id else None
        found = found or self._find(experiment, own)
        if found and started_ms is not None:
            del own[PARENT]  # a replay completes a run where it stands
        run = self._open(experiment, facts.stage, facts.config, {**facts.tags, **own}, found, started_ms)
        if facts.inputs:
            self.client.log_inputs(
                run.info.run_id,
                [
                    DatasetInput(
                        Dataset(
                            i.name[:500],
                            i.digest[:LONGEST_DIGEST],
                            "local",
                            json.dumps({"uri": i.source}),
                            profile=None if i.version is None else json.dumps(i.version, ensure_ascii=False),
                        ),
                        [InputTag("mlflow.data.context", facts.stage)],
                    )
                    for i in facts.inputs
                ],
            )
        return run, found is not None

    def _open(
        self,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        found: Run | None,
        started_ms: int | None = None,
    ) -> Run:
        every = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "gptmill", "mlflow.source.type": "JOB", **tags}
        cut = {key: str(value)[:LONGEST_TAG] for key, value in every.items()}
        run = found or self.client.create_run(experiment, start_time=started_ms, tags=cut, run_name=name)
        run_id, known = run.info.run_id, run.data.params
        missing = [Param(key, value) for key, value in flatten(params).items() if key not in known]
        self.client.log_batch(run_id, params=missing, tags=[RunTag(k, v) for k, v in cut.items()], synchronous=True)
        if found and found.info.status != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        return run

    def _get(self, run_id: str) -> Run | None:
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _find(self, experiment: str, tags: Mapping[str, str]) -> Run | None:
        runs = self.client.search_runs([experiment], _all_of(tags), max_results=1)
        return runs[0] if runs else None

    def close(self, run_id: str, status: Status, ended_ms: int | None = None) -> None:
        """End a run. `ended_ms`: when it ended, if not now."""
        with asking(self.uri):
            self.client.set_terminated(run_id, status, end_time=ended_ms)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Put tags on a run."""
        with asking(self.uri):
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()], synchronous=True)

    def log_final(self, run_id: str, metrics: Mapping[str, float], at_ms: int | None = None) -> None:
        """Log headline metrics once: at step 0, or after the last step where the run has a curve of that name."""
        with asking(self.uri):
            known = self.client.get_run(run_id).data.metrics
            changed = {key: value for key, value in metrics.items() if known.get(key) != value}
            steps = sent_steps(self.client, run_id) if changed.keys() & known.keys() else {}
            now = at_ms or round(time.time() * 1000)
            points = [Metric(k, v, now, max(steps.get(k, ()), default=-1) + 1) for k, v in changed.items()]
            self.client.log_batch(run_id, metrics=points, synchronous=True)

    def log_artifacts(self, run_id: str, directory: Path, files: Iterable[str], artifact_path: str = "") -> None:
        """Give a run finished files, by names relative to `directory`, below `artifact_path`.

        A local artifact folder gets hard links, so that the bytes stand on disk once; a server gets an upload of
        what it does not hold yet.
        """
        with asking(self.uri):
            root = local_path(self.client.get_run(run_id).info.artifact_uri)
        held: dict[str, dict[str, int | None]] = {}
        for name in files:
            target = Path(artifact_path) / name
            if root is not None:
                place_once(directory / name, root / target)
                continue
            size = (directory / name).stat().st_size
            folder = "" if target.parent == Path() else target.parent.as_posix()
            with asking(self.uri):
                if folder not in held:
                    held[folder] = {f.path: f.file_size for f in self.client.list_artifacts(run_id, folder or None)}
                if held[folder].get(target.as_posix()) != size:
                    self.client.log_artifact(run_id, str(directory / name), folder or None)

    def log_json(self, run_id: str, value: Any, name: str) -> None:
        """Give a run a JSON artifact made of a value (config, manifest)."""
        with asking(self.uri):
            self.client.log_text(run_id, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", name)

    def log_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Give a run text artifacts by name."""
        with asking(self.uri):
            for name, text in texts.items():
                self.client.log_text(run_id, text, name)

    def summarize_parent(self, parent_run_id: str, stages: Mapping[str, StageResult]) -> None:
        """Make one parent row compare a whole pipeline: every stage's run id and digest as tags, curves, final metrics.

        The step of a curve's point is the tokens seen; a final metric that differs from its last point comes after it.
        """
        with asking(self.uri):
            tags = {f"stage.{name}.digest": result.digest for name, result in stages.items()}
            tags |= {f"stage.{name}.run_id": result.run_id for name, result in stages.items() if result.run_id}
            self.client.log_batch(parent_run_id, tags=[RunTag(k, v) for k, v in tags.items()], synchronous=True)
            for name, result in stages.items():
                if result.directory is not None:
                    log_curves(self, parent_run_id, name, result.directory)
            metrics = {key: value for result in stages.values() for key, value in result.metrics.items()}
            self.log_final(parent_run_id, metrics)

    def replay(
        self,
        parent_run_id: str,
        facts: StageFacts,
        directory: Path,
        files: Iterable[str],
        metrics: Mapping[str, float],
        started: float,
        finished: float,
        run_id: str | None = None,
    ) -> str:
        """Log a finished stage from the store: into the run named if it is there, else into a new child; its id.

        `started`, `finished`: Unix times. Metric points keep the times at which they were recorded.
        """
        with asking(self.uri):
            run, reopened = self._open_child(parent_run_id, facts, run_id, round(started * 1000))
            found = run.info.run_id
            Follower(self.client, self.uri, found, reopened, self.say).send(metric_logs(directory))
            self.log_artifacts(found, directory, files)
            self.log_final(found, metrics, round(finished * 1000))
            self.close(found, "FINISHED", round(finished * 1000))
            return str(found)

    def kill_unfinished(self, parent_run_id: str, keep: Iterable[str] = (), parent_too: bool = False) -> list[str]:
        """Set a dead invocation's RUNNING children (and, if asked, itself) to KILLED; the ids of those it ended."""
        with asking(self.uri):
            parent = self.client.get_run(parent_run_id)
            children = self.client.search_runs(
                [parent.info.experiment_id], f"{_all_of({PARENT: parent_run_id})} AND attributes.status = 'RUNNING'"
            )
            ended = [run.info.run_id for run in children if run.info.run_id not in set(keep)]
            if parent_too and parent.info.status == "RUNNING":
                ended.append(parent_run_id)
            for run_id in ended:
                self.client.set_terminated(run_id, "KILLED")
            return ended

    def unfinished_parents(self, preset: str) -> list[str]:
        """Ids of the preset's pipeline runs that are RUNNING; the caller knows which of them still live."""
        with asking(self.uri):
            query = f"{_all_of({ROLE: 'pipeline'})} AND attributes.status = 'RUNNING'"
            return [run.info.run_id for run in self.client.search_runs([self.experiment(preset)], query)]


class StageRun:
    """A stage's run while the stage works. Nothing here raises or waits for the tracker, except `finish`, boundedly."""

    def __init__(self, tracker: Tracker, run_id: str, reopened: bool, interval: float) -> None:
        self.run_id = run_id
        self._tracker = tracker
        self._follower = Follower(tracker.client, tracker.uri, run_id, reopened, tracker.say, interval)

    def follow(self, metric_log: Path) -> None:
        """Send a metric log's lines as they come (metrics.jsonl, system.jsonl); the file need not exist yet."""
        self._follower.follow(metric_log)

    def finish(self, status: Status, metrics: Mapping[str, float] | None = None, timeout: float = 30.0) -> bool:
        """Send what is left, log the final metrics, end the run.

        False, said in one line, where something did not arrive within about `timeout` seconds: the run may still
        stand as RUNNING in the tracker, and `Tracker.replay` with this run id completes it.
        """
        arrived = self._follower.stop(timeout)
        try:
            if not self._follower.away:
                self._tracker.log_final(self.run_id, metrics or {})
                self._tracker.close(self.run_id, status)
        except (TrackerAway, MlflowException) as error:
            self._follower.problem = str(error).splitlines()[0]
            arrived = False
        if not arrived:
            self._tracker.say(f"run {self.run_id[:8]} is not whole in MLflow ({self._follower.problem})")
        return arrived


def metric_logs(directory: Path) -> list[Path]:
    """The metric logs a stage directory may hold."""
    return [path for path in (directory / "metrics.jsonl", directory / "system.jsonl") if path.exists()]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested config as MLflow params: dotted names, text values; lists of plain values stay one JSON value."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            flat |= flatten({str(i): item for i, item in enumerate(value)}, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[name] = text[:LONGEST_PARAM]
    return flat


def local_path(uri: str) -> Path | None:
    """The folder behind an artifact URI of this machine; None for one that has to be uploaded to."""
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(uri) if parsed.scheme == "" and uri.startswith("/") else None


def place_once(source: Path, target: Path) -> None:
    """Hard-link unless it is linked already."""
    if not (target.exists() and target.samefile(source)):
        place(source, target)


def _all_of(tags: Mapping[str, str]) -> str:
    return " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
