"""A session's record in MLflow. An outage is said once a stage and costs nothing else: the store holds everything."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from prefect.runtime import flow_run

from gptcore.adapters.mlflow_lookup import Presence, run_presence
from gptcore.config import Preset
from gptcore.durable import canonical_json, sha256_json, write_json
from gptcore.plan import StagePlan
from gptcore.store import MANIFEST, TRACKING, Manifest, read_json, recorded_in
from gptcore.work import Work
from tasks.invocation import ENDED, Owner, abandoned, claim
from tasks.prefect_runs import end_as_crashed
from tasks.provenance import parent_tags, parent_texts, stage_tags

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_runs import StageFacts, StageRun, Tracker

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Finished(Protocol):
    """What the parent run shows of a stage."""

    @property
    def digest(self) -> str:
        """Output digest."""

    @property
    def metrics(self) -> dict[str, float]:
        """Final metrics."""

    @property
    def mlflow_run_id(self) -> str | None:
        """Its own run."""

    @property
    def path(self) -> str:
        """Its directory."""


@dataclass(frozen=True)
class Reproduction:
    """What marks the parent run of a rebuild, which is no pipeline run of its own: `latest` and `runs` pass it over."""

    run_id: str
    """Of the run that is rebuilt."""
    invocation: str
    """Its parent run is found by this, however often the rebuild is begun."""

    def tags(self) -> dict[str, str]:
        """Of the parent run."""
        return {"gptmill.role": "reproduction", "reproduces": self.run_id}


class StageTracking:
    """One stage's run while it works; `run_id` is None in an outage."""

    def __init__(self, parent: ParentTracking, run: StageRun | None, directory: Path) -> None:
        self._parent, self._run, self._directory = parent, run, directory
        self.run_id = run.run_id if run else None

    @contextmanager
    def following(self, work: Work) -> Iterator[None]:
        """Send the stage's metrics as they come, and the machine's beside them while a model trains."""
        with ExitStack() as stack:
            if self._run:
                from gptcore.adapters.mlflow_metrics import SystemSampler

                self._run.follow(work.directory / "metrics.jsonl")
                if trains(self._directory.parent.name):
                    stack.enter_context(SystemSampler(work.directory / "system.jsonl"))
                    self._run.follow(work.directory / "system.jsonl")
            yield

    def finish(self, manifest: Manifest) -> None:
        """End the run with the stage's final metrics and files."""
        complete = False
        if self._run:
            from gptcore.adapters.mlflow_client import TrackerAway
            from gptcore.adapters.mlflow_tables import log_sample_tables

            try:
                tracker = self._parent.tracker()
                tracker.log_artifacts(self._run.run_id, self._directory, final_files(manifest))
                log_sample_tables(tracker, self._run.run_id, self._directory)
                tracker.tag(self._run.run_id, {"digest": manifest.output_digest})
                complete = self._run.finish("FINISHED", manifest.metrics)
            except TrackerAway as away:
                self._parent.say(f"{away}; it will be told at the next run")
        self._parent.note(self._directory, self.run_id, complete)

    def stop(self, status: Status) -> None:
        """End the run of a stage that failed or was interrupted."""
        if self._run:
            self._run.finish(status, timeout=10.0)


class ParentTracking:
    """The parent run: opened by the first stage that runs, so that a run with nothing to do leaves no row."""

    def __init__(
        self,
        preset: Preset,
        identity: str,
        home: Path,
        uri: str,
        say: Callable[[str], None],
        reproduction: Reproduction | None = None,
    ) -> None:
        self._preset, self._identity, self._home, self.uri, self.say = preset, identity, home, uri, say
        self._reproduction = reproduction
        self._tracker: Tracker | None = None
        self._owner: Owner | None = None
        self._folder = home / "invocations"
        self.parent_run_id: str | None = None

    def tracker(self) -> Tracker:
        """The connection; raises TrackerAway."""
        if self._tracker is None:
            from gptcore.adapters.mlflow_runs import Tracker

            self._tracker = Tracker(self.uri, self._home, self.say)
        return self._tracker

    def begin(self) -> None:
        """Settle what dead processes left, and take this invocation's place, or again the place of one of them."""
        self._owner = owner = self._take_over() or self._new_owner()
        died = owner.values.pop(ENDED, None) is None and "run_id" in owner.values
        owner.remember(flow_run_id=flow_run.id)
        if died:
            from gptcore.adapters.mlflow_client import TrackerAway

            try:
                self.parent()
            except TrackerAway as away:
                self.say(f"{away}; the run that was killed is ended later")

    def parent(self) -> str:
        """The parent run's id: reopened where the same invocation ended early before, else new; raises TrackerAway."""
        if self.parent_run_id is None:
            owner = self._owner
            assert owner is not None
            again = self._reproduction
            run_id = self.tracker().open_parent(
                self._preset.name,
                f"reproduction of {again.run_id[:8]}" if again else self._preset.name,
                self._preset.model_dump(mode="json"),
                {
                    "gptmill.invocation": owner.values["invocation"],
                    **parent_tags(),
                    **(again.tags() if again else {}),
                    **_prefect_tags(owner.values["flow_run_id"]),
                },
            )
            owner.remember(run_id=run_id)
            self.tracker().log_texts(run_id, parent_texts(self._preset))
            self.parent_run_id = run_id  # last: an outage before it, and the next stage tries again
        return self.parent_run_id

    def _take_over(self) -> Owner | None:
        """What dead processes left: their runs end in Prefect and MLflow, and the invocation that is ours is kept."""
        ours: Owner | None = None
        for owner in abandoned(self._folder):
            end_as_crashed(owner.values.get("flow_run_id"))
            mine = ours is None and (owner.values["identity"], owner.values["uri"]) == (self._identity, self.uri)
            settled = self._kill_runs(owner, parent_too=not mine)
            if mine:
                ours = owner
            elif settled:
                owner.forget()
            else:
                owner.release()
        return ours

    def _kill_runs(self, owner: Owner, parent_too: bool) -> bool:
        """End an abandoned invocation's MLflow runs as KILLED; False where its tracker is another one, or away."""
        run_id = owner.values.get("run_id")
        if run_id is None:
            return True
        if owner.values["uri"] != self.uri:
            return False
        from gptcore.adapters.mlflow_client import TrackerAway

        try:
            if run_presence(self.uri, [run_id])[run_id] is not Presence.ABSENT:
                self.tracker().kill_unfinished(run_id, parent_too=parent_too)
        except TrackerAway as away:
            self.say(f"{away}; the runs of a killed process are ended later")
            return False
        return True

    def _new_owner(self) -> Owner:
        invocation = self._reproduction.invocation if self._reproduction else uuid.uuid4().hex
        owner = claim(self._folder, invocation)
        assert owner is not None
        owner.remember(invocation=invocation, identity=self._identity, uri=self.uri)
        return owner

    def open_stage(self, name: str, planned: StagePlan, directory: Path, tags: Mapping[str, str]) -> StageTracking:
        """The stage's child run, reopened if an earlier try of the stage left one in this tracker."""
        from gptcore.adapters.mlflow_client import TrackerAway

        assert planned.key and planned.identity
        before = recorded_in(directory, self.uri)
        run_id = before["run_id"] if before else None
        try:
            run = self.tracker().open_stage(
                self.parent(), self._facts(name, planned.key, planned.identity, tags), run_id
            )
        except TrackerAway as away:
            self.say(f"{away}; {name} goes on, its record waits on disk")
            return StageTracking(self, None, directory)
        self.note(directory, run.run_id, False)
        return StageTracking(self, run, directory)

    def _facts(self, name: str, key: str, identity: Mapping[str, Any], tags: Mapping[str, str]) -> StageFacts:
        from gptcore.adapters.mlflow_runs import StageFacts, StageInput

        inputs = tuple(
            StageInput(upstream, digest, f"store/{upstream}") for upstream, digest in identity["inputs"].items()
        )
        if "sources" in identity:
            # Behind the sources stand the files that decontamination is held against, if there are some.
            sources = [*identity["config"]["sources"], {"kind": "files", "for": "decontaminate"}]
            inputs += tuple(
                StageInput(source["kind"], sha256_json(version), canonical_json(source).decode(), version)
                for source, version in zip(sources, identity["sources"], strict=False)
            )
        if "init" in identity:
            inputs += (
                StageInput(
                    "init", sha256_json(identity["init"]), str(self._preset.model.init or self._preset.tokenizer.take)
                ),
            )
        return StageFacts(name, key, identity["config"], {**tags, **_prefect_tags(flow_run.id)}, inputs)

    def note(self, directory: Path, run_id: str | None, complete: bool) -> None:
        """Write beside the stage which run of this tracker holds it."""
        write_json(
            directory / TRACKING,
            {
                **(read_json(directory / TRACKING) or {}),
                self.uri: {"run_id": run_id, "parent_run_id": self.parent_run_id, "complete": complete},
            },
        )

    def lacks(self, directory: Path) -> bool:
        """Whether this tracker answers, and has no run of a finished stage."""
        from gptcore.adapters.mlflow_client import TrackerAway

        run_id = (recorded_in(directory, self.uri) or {}).get("run_id")
        if run_id is not None and run_presence(self.uri, [run_id])[run_id] is not Presence.ABSENT:
            return False
        try:
            self.parent()
        except TrackerAway:
            return False
        return True

    def ensure_recorded(self, manifest: Manifest, directory: Path) -> str | None:
        """The run that holds a reused stage; logged again from the store where this tracker has none."""
        record = recorded_in(directory, self.uri) or {}
        run_id: str | None = record.get("run_id")
        here = run_id is not None and run_presence(self.uri, [run_id])[run_id] is Presence.PRESENT
        if here and record["complete"]:
            return run_id
        from gptcore.adapters.mlflow_client import TrackerAway
        from gptcore.adapters.mlflow_tables import log_sample_tables

        device = str(manifest.execution.get("resolved_device"))
        tags = {
            **stage_tags(manifest.key, manifest.identity, manifest.git, device),
            "digest": manifest.output_digest,
            "replayed": "true",
        }
        try:
            run_id = self.tracker().replay(
                self.parent(),
                self._facts(manifest.stage, manifest.key, manifest.identity, tags),
                directory,
                final_files(manifest),
                manifest.metrics,
                manifest.finished - manifest.seconds,
                manifest.finished,
                run_id if here else None,
            )
            log_sample_tables(self.tracker(), run_id, directory)
        except TrackerAway as away:
            self.say(f"{away}; {manifest.stage} will be told at the next run")
            return run_id
        self.note(directory, run_id, True)
        return run_id

    def close(self, status: Status, results: Mapping[str, Finished]) -> None:
        """End the parent run, if one was opened, with every stage's digest, run and final metrics on it."""
        owner = self._owner
        if owner is None:
            return
        if "run_id" not in owner.values:
            owner.forget()
            return
        from gptcore.adapters.mlflow_client import TrackerAway
        from gptcore.adapters.mlflow_runs import StageResult

        try:
            parent, tracker = self.parent(), self.tracker()
            shown = {
                n: StageResult(r.mlflow_run_id, r.digest, r.metrics, Path(r.path) if trains(n) else None)
                for n, r in results.items()
            }
            tracker.summarize_parent(parent, shown)
            if status != "FINISHED":
                tracker.kill_unfinished(parent)
            tracker.close(parent, status)
        except TrackerAway as away:
            self.say(f"{away}; the run's summary will be told at the next run")
            owner.release()
            return
        if status == "FINISHED":
            owner.forget()
        else:
            owner.remember(**{ENDED: status})
            owner.release()


def trains(stage: str) -> bool:
    """Whether a stage trains a model: it has curves, and the machine is watched while it works."""
    return stage == "pretrain" or stage.startswith("finetune-")


def final_files(manifest: Manifest) -> list[str]:
    """What a run gets as artifacts: everything but checkpoints and metric logs, and the manifest itself."""
    return [
        *(
            n
            for n in manifest.files
            if (not n.startswith("checkpoints/") and not n.endswith(".jsonl")) or n in _results(manifest)
        ),
        MANIFEST,
    ]


def _results(manifest: Manifest) -> set[str]:
    return {name for name, record in manifest.files.items() if record.result}


def _prefect_tags(flow_run_id: str | None) -> dict[str, str]:
    return {"prefect.flow_run_id": flow_run_id} if flow_run_id else {}
