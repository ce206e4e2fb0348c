"""One invocation of the pipeline: its plan, its store, its MLflow parent run, and the envelope every stage runs in."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from gptcore.adapters.ray_tasks import RayTasks
from gptcore.config import Preset, no_counterpart
from gptcore.energy import metered
from gptcore.hardware import resolve_device
from gptcore.home import home, tracking_uri
from gptcore.plan import StagePlan, make_plan, resolve_sources
from gptcore.presets import load_preset
from gptcore.stages import Stage, code_digest, stages
from gptcore.store import Attempts, Damaged, FileRecord, Manifest, Store, recorded_in
from gptcore.work import Outcome, Work, suppress_full_disk
from tasks.invocation import invocation_identity
from tasks.provenance import git_state, stage_tags, surroundings
from tasks.result import Display, NotFresh, Quiet, StageResult
from tasks.tracking import ParentTracking, Reproduction, Status

StageFunction = Callable[[Work], Outcome]


@dataclass(frozen=True)
class Rebuild:
    """A recorded run that is being built again: in a home of its own, from the versions of its sources."""

    home: Path
    uri: str
    """The tracker that holds the record."""
    sources: list[dict[str, Any]]
    reproduction: Reproduction


class Session:
    """An invocation. Not a dataclass: Prefect would walk through its fields looking for futures."""

    def __init__(
        self,
        preset: Preset,
        sources: list[dict[str, Any]],
        selected: Sequence[str],
        force: Sequence[str] = (),
        display: Display | None = None,
        at: Path | None = None,
        command: str | None = None,
        rebuild: Rebuild | None = None,
    ) -> None:
        """command: the `gptmill run` of this preset and its overrides, for advice."""
        self.preset, self.sources, self.selected, self.force = preset, sources, list(selected), set(force)
        self.home = at or home()
        self.store = Store(self.home / "store")
        self.display: Display = display or Quiet()
        self.command = command or f"gptmill run {preset.name}"
        self.results: dict[str, StageResult] = {}
        self.running: tuple[str, str | None] | None = None
        """Key and MLflow run of the stage at work."""
        self._verified: set[str] = set()
        identity = invocation_identity(preset, sources)
        self.tracking = ParentTracking(
            preset,
            identity,
            self.home,
            rebuild.uri if rebuild else tracking_uri(self.home),
            self.display.say,
            rebuild.reproduction if rebuild else None,
        )

    @property
    def skills(self) -> list[str]:
        """The preset's fine-tuning skills, in order."""
        return list(self.preset.finetune)

    def plan(self) -> dict[str, StagePlan]:
        """Every stage's state now."""
        return make_plan(self.preset, self.store, self.sources)

    def stage(self, name: str, prepare: Callable[[], StageFunction]) -> StageResult:
        """Reuse a finished stage, or run it: the envelope around every stage function.

        prepare: imports what the stage needs and returns its function; called only when it will run.
        """
        planned = self._ready(name)
        assert planned.key
        result = self._reuse(planned, quiet=True)
        if result is None:
            with self.store.lock(name, planned.key, lambda: self.display.say(f"{name}: waiting for another run of it")):
                planned = self._ready(name)
                result = self._reuse(planned)  # the run waited for may have finished it
                if result is None:
                    self._make_way(planned)
                    self.force.discard(name)
                    result = self._run(stages(self.preset)[name], planned, prepare())
        self.results[name] = result
        self.display.stage_finished(result)
        return result

    def _ready(self, name: str) -> StagePlan:
        planned = self.plan()
        if planned[name].key is None:
            waiting = [n for n in stages(self.preset)[name].inputs if planned[n].manifest is None]
            raise NotFresh(
                f"{name} reads {', '.join(waiting)}, which is not fresh; "
                f"make it so with: {self.command} --until {waiting[-1]}"
            )
        return planned[name]

    # Reusing

    def _reuse(self, planned: StagePlan, quiet: bool = False) -> StageResult | None:
        """The finished stage, if there is one, it is intact, and nobody forces it."""
        manifest = planned.manifest
        if manifest is None or planned.name in self.force or self._unpublished(planned):
            return None
        plan = self.plan()
        readers = [n for n, s in stages(self.preset).items() if planned.name in s.inputs and n in self.selected]
        if any(plan[n].manifest is None or n in self.force for n in readers):
            try:
                self._verify(manifest)
            except Damaged as damage:
                if not quiet:
                    self.display.say(f"{damage}; rebuilding it")
                return None
        run_id = self.tracking.ensure_recorded(manifest, self._directory(manifest))
        return StageResult(
            manifest.stage,
            "reused",
            manifest.key,
            manifest.output_digest,
            0.0,
            manifest.metrics,
            str(self._directory(manifest)),
            run_id,
        )

    def _unpublished(self, planned: StagePlan) -> bool:
        """Whether the models of a finished `publish` are registered elsewhere than in this tracker."""
        assert planned.manifest
        return planned.name == "publish" and self.tracking.lacks(self._directory(planned.manifest))

    def _make_way(self, planned: StagePlan) -> None:
        """Before a finished stage runs again: publication goes on in another tracker, anything else begins anew."""
        if planned.manifest is None:
            return
        if planned.name not in self.force and self._unpublished(planned):
            self.store.reopen(planned.name, planned.manifest.key)
        else:
            self.store.discard(planned.name, planned.manifest.key)

    def _verify(self, manifest: Manifest) -> None:
        """Check sha256 of a stage's files once an invocation; raises Damaged."""
        if manifest.key not in self._verified:
            self.store.verify(manifest)
            self._verified.add(manifest.key)

    def _directory(self, manifest: Manifest) -> Path:
        return self.store.directory(manifest.stage, manifest.key)

    # Running

    def _inputs(self, stage: Stage) -> dict[str, Path]:
        plan = self.plan()
        paths = {}
        for name in stage.inputs:
            manifest = plan[name].manifest
            assert manifest
            try:
                self._verify(manifest)
            except Damaged as damage:
                raise NotFresh(f"{damage}; rebuild it with: {self.command} --until {name} --force {name}") from None
            paths[name] = self._directory(manifest)
        return paths

    def _run(self, stage: Stage, planned: StagePlan, function: StageFunction) -> StageResult:
        assert planned.key and planned.identity
        inputs = self._inputs(stage)
        directory, resumed = self.store.begin(stage.name, planned.key, planned.identity)
        attempts = Attempts(directory)
        attempts.begin()
        work = Work(
            directory,
            inputs,
            self.preset.runtime,
            on_progress=lambda done, total, unit, **shown: self.display.progress(
                stage.name, done, total, unit, **shown
            ),
            on_say=lambda line: self.display.say(f"{stage.name}: {line}"),
            kept=self._kept(stage),
            cache=self.home / "cache",
            spread=self._spread(),
        )
        run = self.tracking.open_stage(stage.name, planned, directory, self._tags(planned))
        self.running = (planned.key, run.run_id)
        self.display.stage_started(stage.name, resumed)
        started = time.monotonic()
        status: Status = "FAILED"
        with metered(resolve_device(self.preset.runtime) == "cuda") as meter:

            def spent() -> list[dict[str, float]]:
                attempts.spent(time.monotonic() - started, meter.look())
                return attempts.all()

            try:
                with work.signals():
                    with run.following(work):
                        outcome = function(work)
                    work.drop_scratch()
                    work.metrics.position()  # lines that waited for room must not come after the manifest
                    manifest = self._commit(stage, planned, directory, outcome, spent, run.run_id)
                status = "FINISHED"
            except Exception:
                raise
            except BaseException:
                status = "KILLED"
                raise
            finally:
                if status == "FINISHED":
                    run.finish(manifest)
                else:
                    with suppress_full_disk():
                        spent()
                    run.stop(status)
                with suppress_full_disk():
                    work.metrics.close()
        return StageResult(
            stage.name,
            "resumed" if resumed else "ran",
            manifest.key,
            manifest.output_digest,
            manifest.seconds,
            manifest.metrics,
            str(directory),
            run.run_id,
        )

    def _kept(self, stage: Stage) -> Path | None:
        """Where a stage that reads sources leaves units for later runs; who forces it wants everything made anew."""
        if not (stage.root and self.preset.runtime.keep_parts) or stage.skill or stage.name in self.force:
            return None
        return self.store.root / stage.name / "parts"

    def _spread(self) -> RayTasks | None:
        runtime = self.preset.runtime
        return RayTasks(runtime.ray_address) if runtime.engine == "ray" else None

    def _commit(
        self,
        stage: Stage,
        planned: StagePlan,
        directory: Path,
        outcome: Outcome,
        spent: Callable[[], list[dict[str, float]]],
        run_id: str | None,
    ) -> Manifest:
        def manifest(files: dict[str, FileRecord], digest: str) -> Manifest:
            assert planned.key and planned.identity
            tries = spent()
            return Manifest(
                stage=stage.name,
                key=planned.key,
                identity=planned.identity,
                output_digest=digest,
                files=files,
                metrics=outcome.metrics,
                seconds=round(sum(t["seconds"] for t in tries), 3),
                attempts=len(tries),
                finished=time.time(),
                preset=self.preset.name,
                code_digest=code_digest(stage.code),
                git=git_state(),
                execution={
                    **self.preset.runtime.model_dump(mode="json"),
                    "resolved_device": resolve_device(self.preset.runtime),
                },
                mlflow_run_id=run_id,
                mlflow_parent_run_id=self.tracking.parent_run_id,
                notes=outcome.notes,
                joules=round(sum(known), 3) if (known := [t["joules"] for t in tries if "joules" in t]) else None,
                surroundings=surroundings(stage, self.preset),
            )

        return self.store.commit(manifest, directory, outcome.results)

    def _tags(self, planned: StagePlan) -> dict[str, str]:
        assert planned.identity
        return stage_tags(str(planned.key), planned.identity, git_state(), resolve_device(self.preset.runtime))

    def summary(self) -> dict[str, Any]:
        """What `run --json` prints, but for the seconds."""
        return {
            "preset": self.preset.name,
            "run_id": self.tracking.parent_run_id or self._held_by(),
            "stages": {name: result.row() for name, result in self.results.items()},
        }

    def _held_by(self) -> str | None:
        """The pipeline run that holds the last of stages that were all reused."""
        if not self.results:
            return None
        last = list(self.results.values())[-1]
        record = recorded_in(Path(last.path), self.tracking.uri)
        return record["parent_run_id"] if record else None


_active: Session | None = None
_display: Display | None = None
_rebuild: Rebuild | None = None


@contextmanager
def rebuilding(rebuild: Rebuild) -> Iterator[None]:
    """Sessions opened inside work in its home, on its sources, and are recorded as its."""
    global _rebuild
    before, _rebuild = _rebuild, rebuild
    try:
        yield
    finally:
        _rebuild = before


@contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Sessions opened inside tell this display what happens."""
    global _display
    before, _display = _display, display
    try:
        yield
    finally:
        _display = before


def _command(preset: str, overrides: Sequence[str]) -> str:
    return " ".join(["gptmill run", shlex.quote(preset), *(f"--set {shlex.quote(o)}" for o in overrides)])


@contextmanager
def opened(
    preset: str, overrides: Sequence[str] = (), selected: Sequence[str] | None = None, force: Sequence[str] = ()
) -> Iterator[Session]:
    """The session of the pipeline around this call, or one of its own; closing it ends its MLflow parent run."""
    global _active
    if _active is not None:
        yield _active
        return
    loaded = load_preset(preset, overrides)
    if _display is None and flow_run.id and (unpublished := no_counterpart(loaded.model)):
        get_run_logger().warning(unpublished)  # where nobody watches; `gptmill run` has said it
    at = _rebuild.home if _rebuild else home()
    sources = _rebuild.sources if _rebuild else resolve_sources(loaded, at)
    every = list(stages(loaded))
    session = Session(loaded, sources, selected or every, force, _display, at, _command(preset, overrides), _rebuild)
    _active = session
    try:
        session.tracking.begin()
        yield session
    except Exception:
        session.tracking.close("FAILED", session.results)
        raise
    except BaseException:
        session.tracking.close("KILLED", session.results)
        raise
    else:
        session.tracking.close("FINISHED", session.results)
    finally:
        _active = None
