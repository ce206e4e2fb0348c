"""One invocation of the pipeline: its plan, its store, its MLflow parent run, and the envelope every stage runs in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptcore.config import Preset
from gptcore.durable import sha256_json
from gptcore.hardware import resolve_device
from gptcore.plan import StagePlan, make_plan, resolve_sources
from gptcore.presets import load_preset
from gptcore.stages import Stage, code_digest, stages
from gptcore.store import Attempts, Damaged, FileRecord, Manifest, Store
from gptcore.work import Outcome, Work
from tasks.home import home, tracking_uri
from tasks.provenance import git_state
from tasks.result import Display, Quiet, StageResult
from tasks.tracking import ParentTracking, Status

StageFunction = Callable[[Work], Outcome]


class NotFresh(RuntimeError):
    """A stage was asked for alone, and what it reads is not there."""


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
    ) -> None:
        self.preset, self.sources, self.selected, self.force = preset, sources, list(selected), set(force)
        self.home = at or home()
        self.store = Store(self.home / "store")
        self.display: Display = display or Quiet()
        self.results: dict[str, StageResult] = {}
        self.running: tuple[str, str | None] | None = None
        """Key and MLflow run of the stage at work."""
        self._verified: set[str] = set()
        identity = sha256_json([preset.model_dump(mode="json", exclude={"runtime"}), sources])
        self.tracking = ParentTracking(preset, identity, self.home, tracking_uri(self.home), self.display.say)

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
        result = self._reuse(planned)
        if result is None:
            with self.store.lock(name, planned.key, lambda: self.display.say(f"{name}: waiting for another run of it")):
                planned = self._ready(name)
                result = self._reuse(planned)  # the run waited for may have finished it
                if result is None:
                    if planned.manifest:
                        self.store.discard(name, planned.manifest.key)
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
                f"make it so with: gptmill run {self.preset.name} --until {waiting[-1]}"
            )
        return planned[name]

    # Reusing

    def _reuse(self, planned: StagePlan) -> StageResult | None:
        """The finished stage, if there is one, it is intact, and nobody forces it."""
        manifest = planned.manifest
        if manifest is None or planned.name in self.force:
            return None
        plan = self.plan()
        readers = [n for n, s in stages(self.preset).items() if planned.name in s.inputs and n in self.selected]
        if any(plan[n].manifest is None or n in self.force for n in readers):
            try:
                self._verify(manifest)
            except Damaged as damage:
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

    def _verify(self, manifest: Manifest) -> None:
        """Check sha256 of a stage's files once an invocation; a damaged stage is removed before Damaged is raised."""
        if manifest.key in self._verified:
            return
        try:
            self.store.verify(manifest)
        except Damaged:
            self.store.discard(manifest.stage, manifest.key)
            raise
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
                raise NotFresh(
                    f"{damage}; it was removed, rebuild it with: gptmill run {self.preset.name} --until {name}"
                ) from None
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
        )
        run = self.tracking.open_stage(stage.name, planned, directory, self._tags(stage, planned))
        self.running = (planned.key, run.run_id)
        self.display.stage_started(stage.name, resumed)
        started = time.monotonic()
        status: Status = "FAILED"
        try:
            with work.signals():
                with run.following(work):
                    outcome = function(work)
                work.drop_scratch()
                manifest = self._commit(stage, planned, directory, outcome, attempts, started, run.run_id)
            status = "FINISHED"
        except Exception:
            raise
        except BaseException:
            status = "KILLED"
            raise
        finally:
            work.metrics.close()
            if status == "FINISHED":
                run.finish(manifest)
            else:
                attempts.spent(time.monotonic() - started)
                run.stop(status)
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

    def _commit(
        self,
        stage: Stage,
        planned: StagePlan,
        directory: Path,
        outcome: Outcome,
        attempts: Attempts,
        started: float,
        run_id: str | None,
    ) -> Manifest:
        def manifest(files: dict[str, FileRecord], digest: str) -> Manifest:
            assert planned.key and planned.identity
            attempts.spent(time.monotonic() - started)
            tries = attempts.all()
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
            )

        return self.store.commit(manifest, directory, outcome.results)

    def _tags(self, stage: Stage, planned: StagePlan) -> dict[str, str]:
        assert planned.identity
        git = git_state()
        seed = planned.identity["config"].get("seed")
        return {
            "git.commit": str(git["commit"]),
            "git.dirty": str(git["dirty"]),
            "key": str(planned.key),
            "device": resolve_device(self.preset.runtime),
            **({"seed": str(seed)} if seed is not None else {}),
            **{f"input.{name}": digest for name, digest in planned.identity["inputs"].items()},
        }

    def summary(self) -> dict[str, Any]:
        """What `run --json` prints, but for the seconds."""
        return {
            "preset": self.preset.name,
            "run_id": self.tracking.parent_run_id,
            "stages": {name: result.row() for name, result in self.results.items()},
        }


_active: Session | None = None
_display: Display | None = None


@contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Sessions opened inside tell this display what happens."""
    global _display
    before, _display = _display, display
    try:
        yield
    finally:
        _display = before


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
    at = home()
    every = list(stages(loaded))
    session = Session(loaded, resolve_sources(loaded, at), selected or every, force, _display, at)
    _active = session
    try:
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
