"""The data that standard tasks read: where it lies, which bytes it is, and what to fetch where it is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gptcore.evaluation.task_catalogue import TaskFile
from gptcore.hub_access import asking_hub, endpoint
from gptcore.presets import parse_yaml
from gptcore.text.digests import DigestCache

DataDir = str | Mapping[str, str] | None
"""`benchmark.data_dir`: a folder or mirror address, or a folder for each hub id."""
FORMATS = ("json", "csv", "parquet", "text", "arrow", "xml", "webdataset", "imagefolder", "audiofolder", "pandas")
"""What `datasets` reads by itself: a task that names one of these gives its files."""
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".arrow", ".gz", ".zst", ".zip", ".bz2", ".xz")
TIMEOUT_S = 20.0
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Need:
    """A dataset that tasks read."""

    dataset: str
    """Hub id, folder, or format."""
    config: str | None
    files: tuple[str, ...] = ()
    """`data_files` of the task's YAML, of all splits."""
    revision: str | None = None
    tasks: list[str] = field(default_factory=list, compare=False)

    def __str__(self) -> str:
        if self.dataset in FORMATS and self.files:
            return f"{self.dataset} of {', '.join(sorted(self.tasks))}"
        return f"{self.dataset} (config {self.config})" if self.config else self.dataset


@dataclass(frozen=True)
class Folder:
    """A dataset in a local folder."""

    files: tuple[Path, ...]
    """What is read."""
    inside: str | None
    """The subfolder that stands for the config where the folder's README declares none."""


def needs(tasks: Sequence[TaskFile]) -> list[Need]:
    """What the tasks read, each dataset and config once. A task whose own code fetches its data tells nothing."""
    found: dict[Need, Need] = {}
    for task in tasks:
        path, options = task.config.get("dataset_path"), task.config.get("dataset_kwargs") or {}
        if not isinstance(path, str) or "class" in task.config or task.config.get("custom_dataset"):
            continue
        named = task.config.get("dataset_name")
        files = tuple(_flat(options.get("data_files") or []))
        need = Need(path, None if named is None else str(named), files, options.get("revision"))
        found.setdefault(need, need).tasks.append(task.name)
    return list(found.values())


def pinned(found: Sequence[Need], recorded: Mapping[str, Mapping[str, Any]]) -> list[Need]:
    """The same, of the hub at the commits of recorded versions."""
    commits = {name: version["commit"] for name, version in recorded.items() if "commit" in version}
    return [replace(need, revision=commits.get(str(need), need.revision)) for need in found]


def unpinned(tasks: Sequence[TaskFile]) -> dict[str, str]:
    """Tasks whose data no version names, and what they read: another day it may be other data."""
    found = {}
    for task in tasks:
        if "class" in task.config or task.config.get("custom_dataset"):
            found[task.name] = "what its own code fetches"
        elif any("://" in name for need in needs([task]) if need.dataset in FORMATS for name in need.files):
            found[task.name] = "what lies at its address"
    return found


def _flat(value: Any) -> Iterator[str]:
    """Every path in `data_files`, which is one, a list, or a list for each split."""
    if isinstance(value, Mapping):
        for inside in value.values():
            yield from _flat(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from _flat(inside)
    else:
        yield str(value)


def mirror(data_dir: DataDir) -> str | None:
    """The hub's address for tasks, where `data_dir` is one."""
    return data_dir.rstrip("/") if isinstance(data_dir, str) and re.match("https?://", data_dir) else None


def folder_of(dataset: str, data_dir: DataDir) -> Path | None:
    """Where a hub id's data should lie on disk; None where the hub or a mirror has it."""
    if Path(dataset).is_dir() or Path(dataset).is_absolute():
        return Path(dataset)
    if isinstance(data_dir, Mapping):
        return Path(os.path.expanduser(data_dir[dataset])) if dataset in data_dir else None
    return None if data_dir is None or mirror(data_dir) else Path(os.path.expanduser(data_dir)) / dataset


def read_folder(folder: Path, config: str | None, patterns: Sequence[str] = ()) -> Folder:
    """The files of a config in a folder laid out like a dataset of the hub. FileNotFoundError says what is lacking."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    declared, inside = _declared(folder), None
    if patterns:
        found = _matching(folder, patterns)
    elif declared and (config in declared or config is None):
        found = _matching(folder, declared[config] if config in declared else next(iter(declared.values())))
    elif config in (None, "default") and not declared:
        found = _data_below(folder)
    elif (folder / str(config)).is_dir():
        found, inside = _data_below(folder / str(config)), config
    else:
        known = f"its README.md declares {', '.join(map(str, declared))}" if declared else "no README.md declares it"
        raise FileNotFoundError(f"{folder} holds no config {config!r}: {known}, and no folder is called so")
    if not found:
        raise FileNotFoundError(f"{folder} holds no data files{f' of config {config!r}' if config else ''}")
    return Folder(tuple(sorted(found)), inside)


def _declared(folder: Path) -> dict[str | None, list[str]]:
    """The file patterns of each config in the front matter of README.md, the default one first."""
    readme = folder / "README.md"
    front = (
        re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme.read_text(encoding="utf-8"), re.S) if readme.exists() else None
    )
    values = parse_yaml(front[1], str(readme)) if front else None
    configs = values.get("configs") if isinstance(values, dict) else None
    found: dict[str | None, list[str]] = {}
    for entry in sorted(configs or [], key=lambda entry: not entry.get("default")):
        below = entry.get("data_dir")
        files = [path for part in _listed(entry.get("data_files")) for path in _flat(part)]
        found[entry.get("config_name", "default")] = files or [f"{below}/**/*" if below else "**/*"]
    return found


def _listed(value: Any) -> list[Any]:
    """`data_files` of a README: a path, a list of them, or a list of {split, path}."""
    every = value if isinstance(value, list) else [] if value is None else [value]
    return [part["path"] if isinstance(part, Mapping) and "path" in part else part for part in every]


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in _plain(folder, folder.glob(str(pattern)))]


def _data_below(folder: Path) -> list[Path]:
    return [path for path in _plain(folder, folder.rglob("*")) if path.suffix.lower() in ENDINGS]


def _plain(folder: Path, paths: Iterator[Path]) -> list[Path]:
    """Files, none of them hidden."""
    return [p for p in paths if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def local_version(need: Need, data_dir: DataDir, cache: DigestCache) -> dict[str, Any] | None:
    """The digests of the files a task reads from disk; None where its data is the hub's.

    Names are relative to the folder: where it lies is no part of a result. FileNotFoundError says what is lacking.
    """
    if need.dataset in FORMATS:
        if any(re.match("[a-z]+://", name) for name in need.files):
            return {"files": "remote"}
        return {"files": [[Path(name).name, cache.get(_there(name))] for name in need.files]}
    folder = folder_of(need.dataset, data_dir)
    if folder is None:
        return None
    found = read_folder(folder, need.config, need.files)
    return {"files": [[path.relative_to(folder).as_posix(), cache.get(path)] for path in found.files]}


def _there(name: str) -> Path:
    if not Path(name).is_file():
        raise FileNotFoundError(f"there is no file {name}")
    return Path(name)


def local_versions(found: Sequence[Need], data_dir: DataDir, cache: DigestCache) -> dict[str, dict[str, Any] | None]:
    """The version of each dataset by name, None for the hub's. One ValueError names everything that is missing."""
    versions: dict[str, dict[str, Any] | None] = {}
    missing: list[str] = []
    for need in found:
        try:
            versions[str(need)] = local_version(need, data_dir, cache)
        except FileNotFoundError as problem:
            missing.append(_missing(need, str(problem), data_dir))
    if missing:
        raise ValueError("\n".join(["data of benchmark tasks is missing:", *missing]))
    return versions


def versions_of(found: Sequence[Need], data_dir: DataDir, cache: DigestCache) -> dict[str, dict[str, Any]]:
    """As `local_versions`, with the commit of each dataset of the hub; without the hub that of the local caches.

    One ValueError names everything that is in none of these.
    """
    versions = local_versions(found, data_dir, cache)
    known: dict[tuple[str, str | None], dict[str, Any]] = {}
    unreachable: str | None = None
    missing: dict[str, str] = {}
    for need in found:
        if versions[str(need)] is not None:
            continue
        asked = (need.dataset, need.revision)
        if asked not in known and unreachable is None:
            try:
                known[asked] = {"commit": _hub_commit(need, mirror(data_dir))}
            except ValueError as problem:
                if "cannot reach" not in str(problem):
                    missing[need.dataset] = _missing(need, str(problem), data_dir)
                    continue
                unreachable = str(problem)
        if asked not in known and (commit := cached_commit(need.dataset, need.revision)):
            known[asked] = {"commit": commit}
        if asked in known:
            versions[str(need)] = known[asked]
        elif need.dataset not in missing:
            missing[need.dataset] = _missing(need, f"{unreachable}, and no cache holds it", data_dir)
    if missing:
        raise ValueError("\n".join(["data of benchmark tasks is missing:", *missing.values()]))
    return {name: version for name, version in versions.items() if version is not None}


def _hub_commit(need: Need, address: str | None) -> str:
    from huggingface_hub import HfApi

    with asking_hub(f"hub dataset {need.dataset}", need.revision, address=address):
        api = HfApi(endpoint=address or endpoint())
        commit = api.dataset_info(need.dataset, revision=need.revision, timeout=TIMEOUT_S).sha
    if commit is None:
        raise ValueError(f"hub dataset {need.dataset} has no commit")
    return str(commit)


def snapshot(dataset: str, commit: str) -> Path | None:
    """The folder of a commit in the hub's cache, where `hf download` without --local-dir puts it."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.replace('/', '--')}" / "snapshots" / commit
    return folder if folder.is_dir() else None


def cached_commit(dataset: str, revision: str | None = None) -> str | None:
    """The commit of a dataset in the hub's cache, or else the latest that `datasets` has made its own tables of.

    revision: a commit is that one or none.
    """
    from huggingface_hub import constants

    wanted = revision if revision and COMMIT.fullmatch(revision) else None
    reference = Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.replace('/', '--')}" / "refs" / "main"
    held = wanted or (reference.read_text().strip() if reference.is_file() else None)
    if held and snapshot(dataset, held):
        return held
    tables = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    made = [p for p in (tables / dataset.replace("/", "___")).glob("*/*/*") if COMMIT.fullmatch(p.name)]
    made = [p for p in made if wanted in (None, p.name)]
    return max(made, key=lambda p: p.stat().st_mtime).name if made else None


def _missing(need: Need, reason: str, data_dir: DataDir) -> str:
    tasks = ", ".join(need.tasks[:3]) + (f" and {len(need.tasks) - 3} more" if need.tasks[3:] else "")
    line = f"  {tasks}: {need}: {reason}"
    if need.dataset in FORMATS or Path(need.dataset).is_absolute():
        return line
    place = folder_of(need.dataset, data_dir) or Path("DIR") / need.dataset
    told = "" if folder_of(need.dataset, data_dir) else ", and give benchmark.data_dir=DIR"
    at = f" --revision {need.revision}" if need.revision else ""
    return f"{line}; fetch it with: hf download {need.dataset} --repo-type dataset{at} --local-dir {place}{told}"
