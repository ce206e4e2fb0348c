"""`gptmill reproduce`: a run built again from its MLflow record alone, and its digests compared stage by stage.

1. Read the record. 2. Say what differs here: data, libraries, code, machine; other data is refused. 3. Build in a
home of its own, with the recorded execution config. 4. Compare digests.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.failures import FAILED, refuse
from flows.commands.reproduce_words import closing, left_out, table
from flows.commands.run import ended_early, pipeline_on
from gptcore.adapters.mlflow_lookup import PRESET, REQUIREMENTS, SQLITE
from gptcore.config import Preset
from gptcore.durable import write_bytes, write_json
from gptcore.home import home, tracking_uri
from gptcore.plan import make_plan
from gptcore.presets import ConfigError, skills_given, written
from gptcore.recorded_sources import Seen, look_again
from gptcore.reproduction import (
    Difference,
    code_differences,
    data_differences,
    execution_of,
    library_differences,
    machine_differences,
    pages,
    pins_of,
    recorded_preset,
    tasks_not_pinned,
)
from gptcore.stages import OUTSIDE_DIGEST, stages
from gptcore.store import Damaged, Manifest, Store, read_json, recorded_in
from gptcore.verdicts import Verdict, first_difference, verdicts
from gptcore.work import Interrupted
from tasks.invocation import claim

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_record import Record
    from gptcore.adapters.mlflow_runs import Tracker

MARKER = "REPRODUCTION.json"
"""In the folder of a rebuild: which run it is of, and the invocation that its MLflow run is found by."""
LOCK = "reproduce"


def main(options: argparse.Namespace) -> int:
    """Exit code 0 where every stage agrees, 1 where one differs or failed, 2 where nothing was begun."""
    at = home()
    uri = tracking_uri(at)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return refuse(f"there is no run yet in {uri}: `gptmill run PRESET` makes one")
    from gptcore.adapters.mlflow_client import TrackerAway
    from gptcore.adapters.mlflow_record import read_record
    from gptcore.adapters.mlflow_runs import Tracker

    try:
        tracker = Tracker(uri, at, _tell)
        record = read_record(tracker, options.run)
        with skills_given(record.skills):
            return _reproduce(options, tracker, record, at)
    except TrackerAway as away:
        _tell(str(away))
        return FAILED
    except (ConfigError, ValueError, OSError) as problem:
        return refuse(problem)


def _reproduce(options: argparse.Namespace, tracker: Tracker, record: Record, at: Path) -> int:
    run = record.run
    preset = recorded_preset(record.preset, record.stages, f"{PRESET} of run {run.run_id[:8]}")
    selected = _selected(preset, record, options.last)
    into = Path(options.into).absolute() if options.into else at / "reproductions" / run.run_id[:8]
    unknown = [name for name in selected if not record.stages[name].manifest.surroundings]
    seen = look_again(preset, {name: record.stages[name] for name in selected}, at)
    data = data_differences(seen, pins_of(record.requirements))
    differences = [*data, *_differences(preset, record, selected, at)]
    for difference in differences:
        _tell(difference.line())
    refusal = _refusal(data, seen, unknown, record, options.anyway)
    if refusal:
        return refuse(refusal)
    with _folder(into, run.run_id) as marker:
        write_bytes(into / PRESET, written(preset.model_dump(mode="json")).encode())
        write_bytes(into / REQUIREMENTS, record.requirements.encode())
        if any(d.kind == "library" for d in differences):
            _tell(f"all that was installed: pip install -r {shlex.quote(str(into / REQUIREMENTS))}")
        sources = [source.now for source in seen]
        code = _build(options, tracker, record, preset, into, marker["invocation"], sources, selected)
        if code is not None and code != FAILED:
            return code
        found = _finished(preset, into, sources, selected)
        order = [name for name in stages(preset) if name not in OUTSIDE_DIGEST]
        said = verdicts(order, record.stages, {n: m for n, m in found.items() if n in selected}, differences)
        again = _own_run(into, found, tracker.uri)
        answer = _answer(record, into, again, differences, said)
        _record(tracker, again, answer)
    to = sys.stderr if options.json else sys.stdout
    print(f"{table(said)}\n{left_out(run.stages)}{closing(said)}", file=to)
    if options.json:
        print(json.dumps(answer))
    return FAILED if code == FAILED or first_difference(said) else 0


def _selected(preset: Preset, record: Record, last: str | None) -> list[str]:
    """The stages to build, in order. ValueError for one that today's code does not know."""
    names = [name for name in stages(preset) if name not in OUTSIDE_DIGEST]
    if strange := sorted(set(record.stages) - set(names)):
        commit = record.stages[strange[0]].manifest.git.get("commit")
        raise ValueError(f"this code has no stage {strange[0]}; that of the record: git checkout {commit}")
    if last is None:
        return [name for name in names if name in record.stages]
    if last not in record.stages:
        there = ", ".join(name for name in names if name in record.stages)
        raise ValueError(f"--until {last}: the record holds no such stage to rebuild; there are: {there}")
    return [name for name in names[: names.index(last) + 1] if name in record.stages]


# Before any work


def _differences(preset: Preset, record: Record, selected: Sequence[str], at: Path) -> list[Difference]:
    from tasks.provenance import installed

    recorded = {name: record.stages[name] for name in selected}
    return [
        *pages(preset),
        *tasks_not_pinned(preset, recorded, at / "cache"),
        *library_differences(recorded, installed()),
        *code_differences(preset, recorded),
        *machine_differences(recorded, platform.python_version()),
    ]


def _refusal(
    data: Sequence[Difference],
    seen: Sequence[Seen],
    unknown: Sequence[str],
    record: Record,
    anyway: bool,
) -> str | None:
    """Why nothing shall be begun."""
    if any(source.problem and source.then is not None for source in seen):
        where = f" (the run was started in {d})" if (d := record.run.tags.get("directory")) else ""
        return f"a source cannot be read, so nothing can be rebuilt{where}"
    if data and not anyway:
        return (
            f"{len(data)} differences of data, named above: the digests cannot agree; --anyway builds from what is here"
        )
    if unknown and not anyway:
        return (
            f"the record lacks what {', '.join(unknown)} ran on (made by an older gptmill): threads and libraries "
            "cannot be compared; --anyway takes them as they are here"
        )
    return None


@contextmanager
def _folder(into: Path, run_id: str) -> Iterator[dict[str, Any]]:
    """The home of the rebuild, held against others; ValueError where another thing lies there."""
    marker = read_json(into / MARKER)
    if marker is None and into.exists() and any(path.name != f"{LOCK}.lock" for path in into.iterdir()):
        raise ValueError(f"{into} is no reproduction, and not empty; give another folder with --into")
    if marker is not None and marker["reproduces"] != run_id:
        raise ValueError(f"{into} holds a reproduction of run {marker['reproduces'][:8]}; give another with --into")
    owner = claim(into, LOCK)
    if owner is None:
        raise ValueError(f"another process is at work in {into}; wait for it, or give another folder with --into")
    try:
        if marker is None:
            marker = {"reproduces": run_id, "invocation": uuid.uuid4().hex}
            write_json(into / MARKER, marker)
        yield marker
    finally:
        owner.forget()


# Building


def _build(
    options: argparse.Namespace,
    tracker: Tracker,
    record: Record,
    preset: Preset,
    into: Path,
    invocation: str,
    sources: list[dict[str, Any]],
    selected: Sequence[str],
) -> int | None:
    """Run what is not finished in the rebuild's home; an exit code where that ended early."""
    store = Store(into / "store")
    for name, manifest in _finished(preset, into, sources, selected).items():
        try:
            store.verify(manifest)
        except Damaged as damage:
            _tell(f"{damage}; rebuilding it")
            store.discard(name, manifest.key)
    waiting = [n for n in selected if n not in _finished(preset, into, sources, selected)]
    if not waiting:
        return None
    from flows.display import display_for

    display = display_for(sys.stderr if options.json else sys.stdout)
    try:
        learning = any("torch" in stages(preset)[name].libraries for name in waiting)
        with pipeline_on(display, learning) as pipeline:
            from tasks.session import Rebuild, rebuilding  # imports Prefect, whose server has to be named before
            from tasks.tracking import Reproduction

            with rebuilding(Rebuild(into, tracker.uri, sources, Reproduction(record.run.run_id, invocation))):
                for first, last, overrides in _groups(preset, record, selected):
                    pipeline(preset=str(into / PRESET), overrides=overrides, first=first, last=last)
    except (Exception, KeyboardInterrupt, Interrupted) as problem:
        return ended_early(problem, _command(options, record.run.run_id))
    finally:
        display.close()
    return None


def _groups(preset: Preset, record: Record, selected: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Stages that follow each other and ran alike: the first, the last, and what their execution overrides."""
    order = list(stages(preset))

    def alike(name: str) -> tuple[int, list[str]]:
        gap = order.index(name) - selected.index(name)  # grows where the record lacks a stage in between
        return gap, execution_of(name, record.stages[name], preset)

    for (_, overrides), names in groupby(selected, alike):
        group = list(names)
        yield group[0], group[-1], overrides


def _finished(
    preset: Preset, into: Path, sources: list[dict[str, Any]], selected: Sequence[str]
) -> dict[str, Manifest]:
    """The manifests of the selected stages that are finished there."""
    plan = make_plan(preset, Store(into / "store"), sources)
    return {name: manifest for name in selected if (manifest := plan[name].manifest)}


def _command(options: argparse.Namespace, run_id: str) -> str:
    parts = ["gptmill reproduce", run_id[:8]]  # `latest` may be another by then
    parts += [f"--into {shlex.quote(options.into)}"] if options.into else []
    parts += [f"--until {options.last}"] if options.last else []
    return " ".join([*parts, *(["--anyway"] if options.anyway else [])])


# Telling


def _own_run(into: Path, found: dict[str, Manifest], uri: str) -> str | None:
    """The MLflow run of the rebuild."""
    store = Store(into / "store")
    records = (recorded_in(store.directory(name, manifest.key), uri) for name, manifest in found.items())
    return next((record["parent_run_id"] for record in records if record), None)


def _answer(
    record: Record, into: Path, again: str | None, differences: Sequence[Difference], said: Sequence[Verdict]
) -> dict[str, Any]:
    first = first_difference(said)
    return {
        "run_id": record.run.run_id,
        "preset": record.run.preset,
        "reproduction_run_id": again,
        "into": str(into),
        "agrees": first is None and any(v.verdict == "agrees" for v in said),
        "first_difference": first.stage if first else None,
        "differences": [difference.row() for difference in differences],
        "left_out": [name for name in OUTSIDE_DIGEST if name in record.run.stages],
        "stages": {verdict.stage: verdict.row() for verdict in said},
    }


def _record(tracker: Tracker, again: str | None, answer: dict[str, Any]) -> None:
    """Keep the answer on the rebuild's own run."""
    if again is None:
        return
    from gptcore.adapters.mlflow_client import TrackerAway

    try:
        tracker.log_json(again, answer, "reproduction.json")
        tracker.tag(again, {"agrees": str(answer["agrees"]), "first_difference": answer["first_difference"] or "none"})
    except TrackerAway as away:
        _tell(f"{away}; the answer is not kept there")


def _tell(line: str) -> None:
    print(f"gptmill: {line}", file=sys.stderr)
