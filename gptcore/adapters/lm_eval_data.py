"""lm-eval reads its datasets from local folders or a mirror, at the versions that were resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import lm_eval.api.task

from gptcore.evaluation.task_data import FORMATS, DataDir, folder_of, mirror, read_folder, snapshot
from gptcore.home import home

Versions = Mapping[str, Mapping[str, Any]]


@contextmanager
def reading(data_dir: DataDir, versions: Versions | None = None) -> Iterator[None]:
    """Inside, `datasets.load_dataset` takes hub ids from `data_dir`, and from the hub at the commit in `versions`.

    lm-eval has no place to say so: its tasks hold a hub id, and call `datasets` with it, some in code of their own.
    """
    library = lm_eval.api.task.datasets
    usual = library.load_dataset

    def load(path: str, name: str | None = None, *arguments: Any, **options: Any) -> Any:
        folder = None if path in FORMATS else folder_of(path, data_dir)
        if folder is not None:
            return usual(*_local(folder, name, options), *arguments, **_kept(options))
        commit = ((versions or {}).get(f"{path} (config {name})" if name else path) or {}).get("commit")
        if commit is None:
            return usual(path, name, *arguments, **options)
        try:
            return usual(path, name, *arguments, **{**options, "revision": commit})
        except (OSError, library.exceptions.DatasetsError):  # ConnectionError is an OSError
            held = snapshot(path, commit)
            if held is None:
                raise
            return usual(*_local(held, name, options), *arguments, **_kept(options))

    with ExitStack() as stack:
        if address := mirror(data_dir):
            template = hub.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(hub.ENDPOINT)
            stack.enter_context(_set(hub, "ENDPOINT", address))
            stack.enter_context(_set(hub, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}{template}"))
            stack.enter_context(_set(library.config, "HF_ENDPOINT", address))
        stack.enter_context(_set(library, "load_dataset", load))
        yield


@contextmanager
def _set(thing: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(thing, name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, before)


def _local(folder: Path, name: str | None, options: dict[str, Any]) -> tuple[str, str | None]:
    """A folder and the config to ask for; a subfolder in a config's place goes as `data_dir`."""
    patterns = options.get("data_files")
    found = read_folder(folder, name) if patterns is None else None
    if found and found.inside:
        return str(folder / found.inside), None
    declared = (folder / "README.md").exists()
    return str(folder), name if declared else None


def _kept(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a task that make sense for a folder; tables made of it go to the home, not to the user's cache."""
    own = {name: value for name, value in options.items() if name not in ("revision", "token", "trust_remote_code")}
    return {"cache_dir": str(home() / "cache" / "task_tables"), **own}
