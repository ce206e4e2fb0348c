"""lm-eval's tasks by name, read from their YAML files: what a name stands for. lm-eval is never imported."""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from gptcore.durable import write_json
from gptcore.hardware import library_version

OWN_TASKS = Path(str(importlib.resources.files("configs") / "benchmarks"))
"""The folder of the project's own tasks, looked through before lm-eval's."""
GROUP_FIELDS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag", "include"})
"""Keys of a group's YAML; any other one is handed down to its members."""
OUTPUTS = ("loglikelihood", "loglikelihood_rolling", "multiple_choice", "generate_until")
"""The kinds of output that the adapter gives."""
INDEX = 1
"""Raised when the index on disk is written otherwise."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML whose `!function` stays a name."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix} {node.value}")
_NAMING = re.compile(
    rb"^[\"']?(?:task|group|tag|include|class)[\"']?[ \t]*:.*\n?(?:(?:[ \t\-\]#].*)?\n|[ \t\-\]#].*)*", re.MULTILINE
)
"""The keys of a YAML that say what it defines, each with the lines that belong to it."""


@dataclass(frozen=True)
class TaskFile:
    """A task as its YAML, with what it includes and what its group hands down."""

    name: str
    config: Mapping[str, Any]
    folder: Path
    """Of the YAML."""
    behind: tuple[str, ...] = ()
    """Its name, and those of the tags and groups that it was reached by."""


@dataclass(frozen=True)
class _Index:
    files: dict[str, str] = field(default_factory=dict)
    """Tasks and groups by name."""
    tags: dict[str, list[str]] = field(default_factory=dict)
    """The tasks behind each tag."""


@dataclass(frozen=True)
class Catalogue:
    """The tasks of some folders, and behind them lm-eval's own."""

    cache: Path
    """Folder for the index of lm-eval's 14,000 files, which takes seconds to make and a few hundredths to read."""
    folders: Sequence[Path] = (OWN_TASKS,)

    def tasks(self, name: str) -> list[TaskFile]:
        """The tasks that a task's, group's or tag's name stands for. ValueError for a name that nobody defines."""
        found = list(self._expanded(name, {}, ()))
        if not found:
            raise ValueError(f"benchmark task {name!r} is a group without tasks")
        return found

    def folders_of(self, name: str) -> list[str]:
        """The folders that hold every YAML behind a name, none inside another."""
        every = {self._path(name).parent} if self.path_of(name) else set()
        every |= {task.folder for task in self.tasks(name)}
        return sorted(str(folder) for folder in every if not any(parent in every for parent in folder.parents))

    def _expanded(self, name: str, overrides: Mapping[str, Any], inside: tuple[str, ...]) -> Iterator[TaskFile]:
        if name in inside:
            raise ValueError(f"benchmark group {name!r} holds itself")
        path = self.path_of(name)
        if path is None:
            for member in self._tagged(name):
                yield from self._expanded(member, overrides, (*inside, name))
            return
        config = read_task(path)
        if "group" in config and "class" not in config:
            yield from self._members(config, overrides, (*inside, name), path.parent)
        else:
            yield TaskFile(name, {**config, **overrides}, path.parent, (*inside, name))

    def _members(
        self, group: Mapping[str, Any], overrides: Mapping[str, Any], inside: tuple[str, ...], folder: Path
    ) -> Iterator[TaskFile]:
        handed = {**{k: v for k, v in group.items() if k not in GROUP_FIELDS}, **overrides}
        listed = group.get("task") or []
        for member in [listed] if isinstance(listed, str) else listed:
            if isinstance(member, str):
                yield from self._expanded(member, handed, inside)
                continue
            own = {**handed, **{k: v for k, v in member.items() if k not in GROUP_FIELDS}}
            if "group" in member and not self._defined(member["group"]):
                yield from self._members(member, handed, inside, folder)
            elif "group" in member or self._defined(member["task"]):
                yield from self._expanded(member.get("group") or member["task"], own, inside)
            else:
                yield TaskFile(f"{inside[-1]}::{member['task']}", own, folder, inside)

    # Where names stand

    def _defined(self, name: str) -> bool:
        return self.path_of(name) is not None or any(name in index.tags for _, index in self._indices())

    def _path(self, name: str) -> Path:
        path = self.path_of(name)
        assert path is not None
        return path

    def path_of(self, name: str) -> Path | None:
        """The YAML of a task or group; None for a tag, and for a name that nobody defines."""
        places = [*self._own, *((folder, _indexed_once(folder)) for folder in _namesakes(name))]
        for root, index in places:
            if name in index.files:
                return root / index.files[name]
        return shipped_tasks() / self._shipped.files[name] if name in self._shipped.files else None

    def _tagged(self, name: str) -> list[str]:
        for _, index in self._indices():
            if name in index.tags:
                return sorted(index.tags[name])
        raise ValueError(f"unknown benchmark task {name!r}{self._near(name)}; `python -m lm_eval ls tasks` lists all")

    def _near(self, name: str) -> str:
        known = {n for _, index in self._indices() for n in (*index.files, *index.tags)}
        near = get_close_matches(name, known, n=4, cutoff=0.7)
        return f"; near it: {', '.join(near)}" if near else ""

    def _indices(self) -> Iterator[tuple[Path, _Index]]:
        """Lazily: a name of the folders given needs no look at lm-eval's."""
        yield from self._own
        yield shipped_tasks(), self._shipped

    @cached_property
    def _own(self) -> list[tuple[Path, _Index]]:
        return [(folder, _indexed(folder)) for folder in self.folders]

    @cached_property
    def _shipped(self) -> _Index:
        stamp = {"index": INDEX, "lm-eval": library_version("lm-eval")}
        path = self.cache / "lm_eval_tasks.json"
        try:
            known = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            known = None
        if isinstance(known, dict) and known.get("of") == stamp:
            return _Index(known["files"], known["tags"])
        index = _indexed(shipped_tasks())
        write_json(path, {"of": stamp, "files": index.files, "tags": index.tags})
        return index


@cache
def shipped_tasks() -> Path:
    """The folder of lm-eval's own tasks. ValueError where lm-eval is not installed."""
    spec = importlib.util.find_spec("lm_eval")  # finds the package without running it
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("standard benchmarks need lm-eval: pip install 'lm_eval==0.4.13'")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def _namesakes(name: str) -> list[Path]:
    """The folders of lm-eval that are called as a task begins, the longest name first; most tasks stand in one."""
    parts = name.split("_")
    begun = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
    return [folder for start in begun if start and (folder := shipped_tasks() / start).is_dir()]


@cache
def _indexed_once(root: Path) -> _Index:
    return _indexed(root)


def _indexed(root: Path) -> _Index:
    """Every name that a YAML below `root` defines; of two files the first counts, as with lm-eval."""
    index = _Index()
    read: dict[Path, dict[str, Any]] = {}

    def naming(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
        """What a file says of its names, with what it takes over from others."""
        if path not in read:
            read[path] = _naming(path)
        own = read[path]
        includes = own.get("include") or []
        taken: dict[str, Any] = {}
        for name in [includes] if isinstance(includes, str) else includes:
            other = Path(os.path.normpath(path.parent / name))
            if other not in seen and (other in read or other.is_file()):
                taken |= naming(other, (*seen, other))
        return {**taken, **own}

    for path in sorted(root.glob("**/*.yaml"), key=lambda p: p.as_posix()):
        found = naming(path, (path,))
        name = found.get("task") if "class" in found else found.get("group") or found.get("task")
        if not isinstance(name, str) or name in index.files:
            continue
        index.files[name] = path.relative_to(root).as_posix()
        if "group" not in found:
            tags = found.get("tag") or []
            for tag in [tags] if isinstance(tags, str) else tags:
                index.tags.setdefault(tag, []).append(name)
    return index


def _naming(path: Path) -> dict[str, Any]:
    """Only the keys that name things are parsed: the whole files would take ten times as long."""
    text = path.read_bytes()
    try:
        found = yaml.load(b"".join(_NAMING.findall(text)), _Loader)
    except yaml.YAMLError:
        try:
            found = yaml.load(text, _Loader)
        except yaml.YAMLError:
            return {}  # lm-eval passes over such a file, too
    return found if isinstance(found, dict) else {}


def read_task(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A task's YAML with what it includes, its own keys above those. ValueError for one that cannot be read."""
    config, includes = parsed(path)
    merged: dict[str, Any] = {}
    for other in includes:
        if other in seen:
            raise ValueError(f"{path} includes itself")
        merged |= read_task(other, (*seen, other))
    return {**merged, **config}


def parsed(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """The keys of a task's YAML, and the files that it takes over from. ValueError for one that cannot be read."""
    try:
        config = yaml.load(path.read_bytes(), _Loader)
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a benchmark task: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a benchmark task: it holds no keys")
    includes = config.pop("include", None) or []
    return config, [(path.parent / name).resolve() for name in ([includes] if isinstance(includes, str) else includes)]


def samples(generation: Mapping[str, Any]) -> bool:
    """Whether a task's generation draws its tokens."""
    drawn = generation.get("do_sample")
    return bool(generation.get("temperature")) if drawn is None else bool(drawn)


def problem_of(task: TaskFile) -> str | None:
    """Why the adapter cannot measure a task, if so."""
    config, output = task.config, task.config.get("output_type", "generate_until")
    if any(config.get(key) for key in ("doc_to_image", "doc_to_audio")):
        return "it shows pictures or sounds, and the models read text"
    if config.get("unsafe_code"):
        return "it runs generated code, which gptmill never does"
    if "class" in config:
        return None
    if output not in OUTPUTS:
        return f"its output_type {output!r} is none of {', '.join(OUTPUTS)}"
    if output == "generate_until" and samples(config.get("generation_kwargs") or {}):
        return "it samples, and only greedy generation is comparable between runs"
    if not config.get("dataset_path") and not config.get("custom_dataset"):
        return "it names no dataset; heldout and skill are measured on every model without being listed"
    return None


def check_tasks(names: Sequence[str], catalogue: Catalogue, what: str = "benchmark.tasks") -> list[TaskFile]:
    """Every task behind a list of names. One ValueError that names all unknown and all impossible ones."""
    found: dict[str, TaskFile] = {}
    problems: list[str] = []
    for name in names:
        try:
            tasks = catalogue.tasks(name)
        except ValueError as problem:
            problems.append(str(problem))
            continue
        for task in tasks:
            if reason := problem_of(task):
                problems.append(f"benchmark task {task.name!r}{f' of {name}' if task.name != name else ''}: {reason}")
            if task.name in found:
                problems.append(f"benchmark task {task.name!r} is listed twice, as itself or through a group")
            found[task.name] = task
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems[:8])}{f'; and {len(problems) - 8} more' * (len(problems) > 8)}")
    return list(found.values())
