"""Which files define the tasks that lm-eval does not ship: their bytes are part of what a benchmark gives.

lm-eval's own are known by its version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gptcore.evaluation.task_catalogue import Catalogue, TaskFile, parsed, shipped_tasks
from gptcore.text.digests import DigestCache

VERSION = "task files"
"""What they are called among the versions of standard tasks' data."""
_FUNCTION = re.compile(r"!function\s+[\"']?([\w.]+)")


def own_version(tasks: Sequence[TaskFile], catalogue: Catalogue, cache: DigestCache) -> dict[str, Any]:
    """{VERSION: {"files": [[name, sha256], …]}} of the tasks' own files; empty where all are lm-eval's."""
    found = sorted({(_name(path, catalogue), path) for path in own_files(tasks, catalogue)})
    return {VERSION: {"files": [[name, cache.get(path)] for name, path in found]}} if found else {}


def own_files(tasks: Sequence[TaskFile], catalogue: Catalogue) -> set[Path]:
    """The YAML of every task, of the groups that it was reached by, what these include, and the code they name."""
    found: set[Path] = set()
    for name in {name for task in tasks for name in task.behind}:
        if (path := catalogue.path_of(name)) is not None:
            _collect(path.resolve(), found)
    return found


def _collect(path: Path, found: set[Path]) -> None:
    if path in found or path.is_relative_to(shipped_tasks().resolve()):
        return
    found.add(path)
    for other in parsed(path)[1]:
        _collect(other, found)
    found.update(_code(path))


def _code(path: Path) -> Iterator[Path]:
    """The Python files beside a YAML that its `!function module.name` names."""
    for function in _FUNCTION.findall(path.read_text(encoding="utf-8")):
        module = path.parent / f"{function.rpartition('.')[0].replace('.', '/')}.py"
        if module.is_file():
            yield module


def _name(path: Path, catalogue: Catalogue) -> str:
    """Relative to the folder of tasks: where that lies is no part of a result."""
    inside = next((folder for at in catalogue.folders if path.is_relative_to(folder := at.resolve())), None)
    return path.relative_to(inside).as_posix() if inside else path.name
