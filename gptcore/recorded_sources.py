"""The sources of a recorded run, looked at anew: what each was, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcore.config import Preset, all_sources
from gptcore.config_sources import Source
from gptcore.plan import resolve_tasks, start_version
from gptcore.presets import skills_of
from gptcore.text.listing import PACKAGE

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_record import RecordedStage

Version = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """One source, `model.init` or `tokenizer.take`."""

    name: str
    then: Version | None
    """Its recorded version; None where no stage that is rebuilt reads it."""
    now: Version
    """Empty where there is none."""
    problem: str | None = None
    """Why there is none."""
    packages: tuple[str, ...] = ()
    """The installed packages that its files lie in."""


def look_again(preset: Preset, recorded: Mapping[str, RecordedStage], home: Path) -> list[Seen]:
    """Every source in the order of `resolve_sources`. The hub is asked for the recorded commit."""
    from gptcore.text.skill_rows import resolve_rows
    from gptcore.text.sources import resolve_source

    def versions(stage: str) -> list[Version]:
        return list(recorded[stage].manifest.identity["sources"]) if stage in recorded else []

    cache = home / "cache"
    found = _each(all_sources(preset.corpus), versions("corpus"), lambda source: resolve_source(source, cache))
    start: Version = {}
    for stage in recorded.values():
        start |= stage.manifest.identity.get("init", {})
    if named := preset.model.init or preset.tokenizer.take:
        try:
            found.append(Seen(named, start or None, start_version(preset, home)[0]))
        except (ValueError, OSError) as problem:
            found.append(Seen(named, start or None, {}, one_line(problem)))
    if preset.benchmark.tasks:
        found.append(_tasks(preset, recorded, home))
    for name, skill in skills_of(preset).items():
        own = tuple(place.source for place in skill.data)
        found += _each(own, versions(f"items-{name}"), lambda source: resolve_rows(source, cache))
    return found


def _tasks(preset: Preset, recorded: Mapping[str, RecordedStage], home: Path) -> Seen:
    """The data of standard tasks; empty where none is known."""
    identities = (stage.manifest.identity for stage in recorded.values())
    data = next((identity["task_data"] for identity in identities if "task_data" in identity), None)
    before = None if data is None else {"task_data": data}
    try:
        return Seen("standard tasks", before, (resolve_tasks(preset, home, recorded=data or {}) or [{}])[0])
    except (ValueError, OSError) as problem:
        return Seen("standard tasks", before, {}, one_line(problem))


def _each(sources: tuple[Source, ...], then: list[Version], resolve: Callable[[Source], Version]) -> list[Seen]:
    found = []
    for i, source in enumerate(sources):
        before = then[i] if i < len(then) else None
        commit = (before or {}).get("commit")
        name = source_name(source.model_dump(mode="json"))
        inside = [path.removeprefix(PACKAGE) for path in getattr(source, "paths", ()) if path.startswith(PACKAGE)]
        packages = tuple(dict.fromkeys(path.partition("/")[0] for path in inside))
        try:
            now = resolve(source.model_copy(update={"revision": commit}) if commit else source)
            found.append(Seen(name, before, now, packages=packages))
        except (ValueError, OSError) as problem:
            found.append(Seen(name, before, {}, one_line(problem), packages))
    return found


def source_name(source: Mapping[str, Any]) -> str:
    """How a person knows a source."""
    said = source.get("dataset") or source.get("url") or ", ".join(source.get("paths") or source.get("pages") or ())
    return f"{source['kind']} {said}".strip()


def one_line(problem: BaseException) -> str:
    """An exception in a line."""
    return " ".join(str(problem).split()) or type(problem).__name__
