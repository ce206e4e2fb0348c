"""`gptmill run`: past Prefect when everything is fresh, through the deployed flows otherwise."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from flows.commands.failures import FAILED, one_line, refuse
from flows.ephemeral_server import prefect_server
from flows.prefect_settings import prepare_prefect
from flows.uncollected import uncollected
from gptcore.adapters.mlflow_lookup import Presence, run_presence
from gptcore.adapters.ray_tasks import check_ray
from gptcore.config import Preset, no_counterpart
from gptcore.home import home, tracking_uri
from gptcore.plan import StagePlan, make_plan, resolve_sources, select
from gptcore.presets import ConfigError, load_preset
from gptcore.stages import reads_tasks, stages, task_data
from gptcore.store import Manifest, Store, recorded_in
from gptcore.work import Interrupted
from tasks.invocation import invocation_identity, was_killed
from tasks.result import Display, NotFresh


def main(options: argparse.Namespace) -> int:
    """Run the selected stages."""
    started = time.monotonic()
    at = home()
    try:
        preset = load_preset(options.preset, options.overrides)
        selected = select(preset, options.only, options.first, options.last)
        select_forced(preset, options.force)
        if preset.runtime.engine == "ray":
            check_ray()
        sources = resolve_sources(preset, at)
    except (ConfigError, ValueError, OSError) as problem:
        return refuse(problem)
    store = Store(at / "store")
    plan = make_plan(preset, store, sources)
    blocked = not_fresh_before(preset, plan, selected)
    if blocked:
        return refuse(
            f"{selected[0]} reads {blocked}, which is {plan[blocked].status} ({plan[blocked].reason}); "
            f"make it fresh with: gptmill run {shlex.quote(options.preset)}{_sets(options)} --until {blocked}"
        )
    finished = {name: manifest for name in selected if (manifest := plan[name].manifest) and name not in options.force}
    if (
        len(finished) == len(selected)
        and all(recorded(store, m, tracking_uri(at)) for m in finished.values())
        and not was_killed(at / "invocations", invocation_identity(preset, sources), tracking_uri(at))
    ):
        summary = reused_summary(preset, finished, store, tracking_uri(at))
        _conclude(summary, started, options)
        return 0
    try:
        load_tasks(preset, sources, [name for name in selected if name not in finished])
    except ValueError as problem:
        return refuse(problem)
    if unpublished := no_counterpart(preset.model):
        print(f"gptmill: warning: {unpublished}", file=sys.stderr)
    learning = any("torch" in stages(preset)[name].libraries for name in selected if name not in finished)
    return _through_prefect(options, started, learning)


def select_forced(preset: Preset, force: list[str]) -> None:
    """Refuse --force with a name that is no stage."""
    names = list(stages(preset))
    for name in force:
        if name not in names:
            raise ConfigError(f"--force {name}: no such stage; there are: {', '.join(names)}")


def load_tasks(preset: Preset, sources: list[dict[str, Any]], waiting: list[str]) -> None:
    """Load the standard tasks that stages waiting to run will measure, or raise ValueError."""
    if any(reads_tasks(stages(preset)[name], preset) for name in waiting):
        from gptcore.adapters.lm_eval_tasks import load_once  # seconds

        load_once(preset.benchmark.tasks, preset.benchmark.data_dir, task_data(sources))


def not_fresh_before(preset: Preset, plan: dict[str, StagePlan], selected: list[str]) -> str | None:
    """The last stage outside the selection that a selected one reads and that is not fresh."""
    graph = stages(preset)
    missing = [n for s in selected for n in graph[s].inputs if n not in selected and plan[n].manifest is None]
    return max(missing, key=list(graph).index) if missing else None


def recorded(store: Store, manifest: Manifest, uri: str) -> bool:
    """Whether the current tracker has everything about a finished stage, as far as can be told without importing it."""
    record = recorded_in(store.directory(manifest.stage, manifest.key), uri)
    if not record or not record["complete"]:
        return False
    return run_presence(uri, [record["run_id"]])[record["run_id"]] is not Presence.ABSENT


def reused_summary(preset: Preset, finished: dict[str, Manifest], store: Store, uri: str) -> dict[str, Any]:
    """The answer of a run that had nothing to do; it points to the MLflow run that holds the results."""
    rows = {}
    for name, manifest in finished.items():
        directory = store.directory(name, manifest.key)
        record = recorded_in(directory, uri) or {}
        rows[name] = {
            "status": "reused",
            "key": manifest.key,
            "digest": manifest.output_digest,
            "seconds": 0.0,
            "metrics": manifest.metrics,
            "path": str(directory),
            "mlflow_run_id": record.get("run_id"),
        }
        parent = record.get("parent_run_id")
    return {"preset": preset.name, "run_id": parent, "stages": rows}


def _through_prefect(options: argparse.Namespace, started: float, learning: bool) -> int:
    """The pipeline flow, on the user's Prefect server, that of `gptmill up`, or an ephemeral one.

    learning: whether a stage will run that needs torch.
    """
    from flows.display import display_for

    display = display_for(sys.stderr if options.json else sys.stdout)
    try:
        with pipeline_on(display, learning) as pipeline:
            summary = pipeline(
                preset=options.preset,
                overrides=options.overrides,
                only=options.only,
                first=options.first,
                last=options.last,
                force=options.force,
            )
    except (Exception, KeyboardInterrupt, Interrupted) as problem:
        display.close()
        return ended_early(problem, _command(options))
    display.close()
    _conclude(summary, started, options)
    return 0


@contextmanager
def pipeline_on(display: Display, learning: bool) -> Iterator[Callable[..., dict[str, Any]]]:
    """The pipeline flow with Prefect at work behind it, shown on a display; SIGTERM ends it in order.

    learning: whether a stage will run that needs torch.
    """
    prepare_prefect(home())
    with terminating(), prefect_server(home()) as server:
        with uncollected():
            from flows.pipeline import pipeline
            from tasks.session import shown_on

            display.say(f"importing {'torch and ' if learning else ''}MLflow while Prefect starts")
            warm_up(["torch"] if learning else [])
        if server:
            server.wait()
        with shown_on(display), delivered_logs():
            yield pipeline


def ended_early(problem: BaseException, command: str) -> int:
    """Say why a run ended before its end, and with which command it goes on; the exit code."""
    if isinstance(problem, Interrupted | KeyboardInterrupt):
        signum = problem.signum if isinstance(problem, Interrupted) else signal.SIGINT
        _tell(f"interrupted; everything finished so far is kept. Resume with:\n  {command}")
        return 128 + signum
    if isinstance(problem, NotFresh):
        return refuse(problem)
    _tell(f"{one_line(problem)}\nfix the cause, then resume with:\n  {command}")
    return FAILED


@contextmanager
def terminating() -> Iterator[None]:
    """Between the stages, too, SIGTERM ends the run in order; inside one, its Work takes the signal."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def warm_up(modules: Sequence[str]) -> None:
    """Import what every stage that runs needs, and these, while another process boots the server."""
    for module in (*modules, "gptcore.adapters.mlflow_runs"):
        importlib.import_module(module)


@contextmanager
def delivered_logs() -> Iterator[None]:
    """Send Prefect's queued logs and events before its server goes away."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    try:
        yield
    finally:
        APILogWorker.drain_all(timeout=10)
        EventsWorker.instance().drain()


def _tell(line: str) -> None:
    print(f"gptmill: {line}", file=sys.stderr)


def _sets(options: argparse.Namespace) -> str:
    return "".join(f" --set {shlex.quote(o)}" for o in options.overrides)


def _command(options: argparse.Namespace) -> str:
    parts = ["gptmill run", shlex.quote(options.preset)]
    for flag, value in (("--only", options.only), ("--from", options.first), ("--until", options.last)):
        if value:
            parts.append(f"{flag} {value}")
    return " ".join(parts) + _sets(options)


def _conclude(summary: dict[str, Any], started: float, options: argparse.Namespace) -> None:
    summary = {
        "preset": summary["preset"],
        "run_id": summary["run_id"],
        "seconds": round(time.monotonic() - started, 2),
        "stages": summary["stages"],
    }
    to = sys.stderr if options.json else sys.stdout
    print(closing_words(summary), file=to)
    if options.json:
        print(json.dumps(summary))


def closing_words(summary: dict[str, Any]) -> str:
    """What happened, the headline numbers, and where to look."""
    rows = summary["stages"]
    reused = sum(row["status"] == "reused" for row in rows.values())
    lines = [f"{len(rows)} stages, {reused} reused, {summary['seconds']:.1f} s"]
    metrics = {k: v for row in rows.values() for k, v in row["metrics"].items()}
    for name in headlines(metrics):
        error = metrics.get(f"{name}_stderr")
        others = [what for what in ("base", "baseline") if f"{name}_{what}" in metrics]
        beside = ", ".join(f"{what} {metrics[f'{name}_{what}']:.3f}" for what in others)
        lines.append(
            f"  {name:<28} {metrics[name]:.3f}"
            + (f" ± {error:.3f}" if error is not None else "")
            + (f"   ({beside})" if beside else "")
        )
    if "report" in rows:
        lines.append(f"report   {rows['report']['path']}/report.html")
    lines.append(f"MLflow   run {summary['run_id']}; see it with: gptmill up")
    return "\n".join(lines)


FIRST = ("pretrain/val_bits_per_byte", "heldout/bits_per_byte_base")


def headlines(metrics: Iterable[str]) -> list[str]:
    """The numbers that sum up a run: of the base model its bits per byte, of every skill what has a baseline."""
    there = set(metrics)
    return [name for name in FIRST if name in there] + sorted(name for name in there if f"{name}_baseline" in there)
