"""What stands between a recorded run and the same bytes here, found before any work: data, libraries, code, machine."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptcore.config import DIAL_FIELDS, Preset, Runtime
from gptcore.evaluation.task_catalogue import Catalogue, check_tasks
from gptcore.evaluation.task_data import unpinned
from gptcore.hardware import processor, resolve_device, usable_threads
from gptcore.presets import validated
from gptcore.recorded_sources import Seen, source_name
from gptcore.speed import this_machine
from gptcore.stages import code_digest, reads_tasks, stages
from gptcore.store import Manifest
from gptcore.text.distributions import canonical_name

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_record import RecordedStage

ELSEWHERE: dict[str, Any] = {
    "engine": "local", "ray_address": None, "nodes": 1, "node_rank": 0, "rendezvous": None,
}  # fmt: skip
"""Of `runtime`, what a rebuild never asks for: other machines."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as the record says."""

    kind: Literal["data", "pages", "unpinned", "library", "code", "machine"]
    what: str
    """Of data the source, of a library its name, else the stage or the part."""
    recorded: str | None
    here: str | None
    way_out: str | None = None
    """A command, where one helps."""
    stages: tuple[str, ...] = ()
    """Of pages, what is not pinned, and machine: the stages that it concerns."""

    def line(self) -> str:
        """For a person."""
        words = f"{self.kind:<8} {self.what}: {self.recorded or 'none'} recorded, {self.here or 'none'} here"
        words += f" ({', '.join(self.stages)})" if self.stages else ""
        return f"{words}; {self.way_out}" if self.way_out else words

    def row(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


# What is rebuilt


def recorded_preset(values: Mapping[str, Any], recorded: Mapping[str, RecordedStage], what: str) -> Preset:
    """The preset as it was resolved: nothing is asked of the dial again, and `dtype: auto` is what it was then."""
    pretrain = {name: value for name, value in values["pretrain"].items() if name not in DIAL_FIELDS}
    fixed = {**values, "pretrain": pretrain, "finetune": {k: dict(v) for k, v in values.get("finetune", {}).items()}}
    for name, stage in recorded.items():
        if dtype := stage.manifest.identity["config"].get("dtype"):
            section = pretrain if name == "pretrain" else fixed["finetune"].get(name.removeprefix("finetune-"))
            if section is not None and "dtype" in section:
                section["dtype"] = dtype
    return validated(Preset, fixed, what)


def execution_of(name: str, recorded: RecordedStage, preset: Preset) -> list[str]:
    """The overrides of the preset with which a stage runs as it ran, as far as this machine can."""
    then, around = recorded.manifest.execution, recorded.manifest.surroundings
    runtime = {field: then[field] for field in Runtime.model_fields if field in then} | ELSEWHERE
    runtime["device"] = then["resolved_device"] if can_use(then["resolved_device"]) else "cpu"
    devices = around.get("devices") or 1
    if runtime["threads"] is None and around.get("threads") and usable_threads(Runtime()) != around["threads"]:
        runtime["threads"] = max(1, around["threads"] // devices)
    if recorded.micro_batch_tokens:
        runtime["micro_batch_tokens"] = recorded.micro_batch_tokens
    wanted = {"runtime": runtime}
    if around.get("devices"):
        enough = runtime["device"] == "cpu" or devices <= gpus()
        section = "pretrain" if name == "pretrain" else name.replace("-", ".", 1)
        wanted[section] = {"devices": devices, "parallel": around["parallel"]} if enough else {"devices": 1}
    given = preset.model_dump(mode="json")
    given["runtime"]["device"] = resolve_device(preset.runtime)
    return [
        f"{section}.{field}={json.dumps(value)}"
        for section, fields in wanted.items()
        for field, value in fields.items()
        if value != _at(given, section)[field]
    ]


def _at(values: Any, section: str) -> Any:
    """`finetune.qa` inside a preset's values."""
    for part in section.split(".", 1):
        values = values[part]
    return values


def can_use(device: str) -> bool:
    """Whether this machine has such a device."""
    return device == "cpu" or resolve_device(Runtime()) == device


def gpus() -> int:
    """GPUs that a driver shows."""
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nvidia*"))


# What differs


def data_differences(sources: Sequence[Seen], pins: Mapping[str, str]) -> list[Difference]:
    """Every source that is not what it was. pins: version by name of all that was installed."""
    found = []
    for source in sources:
        if source.then is None:
            continue
        packages = [f"{name}=={pins[name]}" for name in map(canonical_name, source.packages) if name in pins]
        way_out = f"pip install {' '.join(packages)}" if packages else None
        if source.problem:
            found.append(Difference("data", source.name, "readable", source.problem, way_out))
            continue
        for path, (a, b) in changes(source.then, source.now).items():
            found.append(Difference("data", f"{source.name} {path}", a, b, _way_to_data(path, a) or way_out))
    return found


def pins_of(requirements: str) -> dict[str, str]:
    """Version by canonical name, of lines `name==version`."""
    pairs = (line.split("==", 1) for line in requirements.splitlines() if re.match(r"[\w.-]+==", line))
    return {canonical_name(name): version.strip() for name, version in pairs}


def changes(old: Any, new: Any, path: str = "") -> dict[str, tuple[str | None, str | None]]:
    """What two versions of a source say differently, leaf by leaf; lists of [file, sha256] by the file's name."""
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {
            name: pair
            for key in dict.fromkeys([*old, *new])
            for name, pair in changes(old.get(key), new.get(key), f"{path}.{key}" if path else str(key)).items()
        }
    if isinstance(old, Mapping) or isinstance(new, Mapping):  # only one has it: each of its leaves
        either = old if isinstance(old, Mapping) else new
        absent = dict.fromkeys(either)
        return changes(old, absent, path) if either is old else changes(absent, new, path)
    return {} if old == new else {path: (None if old is None else str(old), None if new is None else str(new))}


def _by_name(value: Any) -> Any:
    """[[file, sha256], …] as a mapping."""
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return dict(value)
    return value


def _way_to_data(path: str, recorded: str | None) -> str | None:
    package = re.fullmatch(r"packages\.(.+)\.version", path)
    return f"pip install {package[1]}=={recorded}" if package and recorded and package[1] != "python" else None


def pages(preset: Preset) -> list[Difference]:
    """Web sources, whose version is the name of a snapshot: their pages are fetched anew, whatever they say by now."""
    return [
        Difference(
            "pages", source_name(source.model_dump(mode="json")), "those of then", "fetched anew", None, ("corpus",)
        )
        for source in preset.corpus.sources
        if source.kind == "web"
    ]


def tasks_not_pinned(preset: Preset, recorded: Mapping[str, RecordedStage], cache: Path) -> list[Difference]:
    """Standard tasks of which no version says what they read. ValueError for a task that is not known here."""
    names = stages(preset)
    read_by = tuple(name for name in recorded if name in names and reads_tasks(names[name], preset))
    if not read_by:
        return []
    tasks = check_tasks(preset.benchmark.tasks, Catalogue(cache))
    return [
        Difference("unpinned", f"data of task {name}", "no version", read, None, read_by)
        for name, read in unpinned(tasks).items()
    ]


def library_differences(recorded: Mapping[str, RecordedStage], here: Mapping[str, str]) -> list[Difference]:
    """Every library that another version of is installed here. here: versions by normalized name."""
    then: dict[str, set[str]] = defaultdict(set)
    for stage in recorded.values():
        for name, version in libraries_of(stage.manifest).items():
            then[name].add(version)
    return [
        Difference("library", name, ", ".join(sorted(versions)), here.get(name), f"pip install {name}=={min(versions)}")
        for name, versions in sorted(then.items())
        if versions != {here.get(name)}
    ]


def libraries_of(manifest: Manifest) -> dict[str, str]:
    """Library versions that a stage's manifest knows, by normalized name."""
    keyed = {re.sub(r"[-_.]+", "-", name).lower(): v for name, v in manifest.identity["libraries"].items()}
    return {**manifest.surroundings.get("libraries", {}), **keyed}


def code_differences(preset: Preset, recorded: Mapping[str, RecordedStage]) -> list[Difference]:
    """Every stage whose code is another here, with the commit it was."""
    found = []
    for name, stage in stages(preset).items():
        if name in recorded and (then := recorded[name].manifest).code_digest != (now := code_digest(stage.code)):
            commit = then.git.get("commit")
            dirty = " (it had changes that no commit holds)" if then.git.get("dirty") else ""
            way = f"git checkout {commit}{dirty}" if commit else None
            found.append(Difference("code", name, then.code_digest[:12], now[:12], way))
    return found


def machine_differences(recorded: Mapping[str, RecordedStage], python: str) -> list[Difference]:
    """Where a stage ran on another machine than it will; what the rebuild sets itself (threads) is none."""
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name, stage in recorded.items():
        then, around = stage.manifest.execution, stage.manifest.surroundings
        device = then["resolved_device"]
        pairs = {
            "device": (device, device if can_use(device) else "cpu"),
            "processor": (around.get("processor"), processor()),
            "python": (around.get("python"), python),
            "machines": (str(then.get("nodes") or 1), "1"),
        }
        if device == "cuda":
            pairs["gpu"] = (around.get("gpu"), this_machine(Runtime()).name)
            if (around.get("devices") or 1) > gpus():
                pairs["devices"] = (str(around["devices"]), str(gpus()))
        if stage.micro_batch_tokens and then.get("micro_batch_tokens") != stage.micro_batch_tokens:
            pairs["micro_batch_tokens"] = ("lowered by memory while it ran", f"{stage.micro_batch_tokens} throughout")
        for part, (old, new) in pairs.items():
            if old is not None and old != new:
                found[part, str(old), str(new)].append(name)
    return [Difference("machine", part, old, new, stages=tuple(names)) for (part, old, new), names in found.items()]
