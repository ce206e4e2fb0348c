"""A dataset of the Hugging Face hub, or a local folder laid out like one, streamed with `datasets`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcore.hub_access import asking_hub, endpoint
from gptcore.text.digests import DigestCache
from gptcore.text.documents import Document, Problem

if TYPE_CHECKING:
    from gptcore.config_sources import HubDataset

TIMEOUT_S = 20.0


def local_folder(dataset: str) -> Path | None:
    """The folder that `datasets` takes instead of the hub, if there is one of that name."""
    path = Path(os.path.expanduser(dataset))
    return path.resolve() if path.is_dir() else None


def resolve(source: HubDataset, cache: DigestCache) -> dict[str, Any]:
    """The version: the commit behind `revision`, or the digests of a local folder's files.

    Raises ValueError with one line when the hub cannot be reached, or has no such dataset or revision.
    """
    folder = local_folder(source.dataset)
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
        if not paths:
            raise FileNotFoundError(f"{source.dataset} is an empty folder")
        return {"kind": source.kind, "files": [[str(p.relative_to(folder)), cache.get(p)] for p in paths]}

    from huggingface_hub import HfApi

    with asking_hub(f"hub dataset {source.dataset}", source.revision):
        commit = (
            HfApi(endpoint=endpoint()).dataset_info(source.dataset, revision=source.revision, timeout=TIMEOUT_S).sha
        )
    if commit is None:
        raise ValueError(f"hub dataset {source.dataset}: {endpoint()} names no commit for {source.revision!r}")
    return {"kind": source.kind, "commit": commit}


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def units(source: HubDataset, version: dict[str, Any]) -> list[dict[str, Any]]:
    """The work: one unit, the whole stream."""
    fields = source.model_dump(mode="json", include={"dataset", "config", "split", "text_field", "max_documents"})
    return [{**fields, "licence": source.licence, "commit": version.get("commit")}]


@dataclass
class Rows:
    """A streamed dataset that knows where to go on."""

    data: Any
    text_field: str
    max_documents: int | None
    label: str
    name: str
    done: int
    licence: str | None

    def __iter__(self) -> Iterator[Document | Problem]:
        row = self.done
        if self.max_documents is not None and row >= self.max_documents:
            return
        for fields in self.data:
            row += 1
            if self.text_field not in fields:
                raise ValueError(
                    f"{self.name} has no column {self.text_field!r}; its columns are {', '.join(sorted(fields)[:10])}"
                )
            text = fields[self.text_field]
            if isinstance(text, str):
                id = f"{self.label}/{self.name}:{row}"
                yield Document(id, "hub", id, None, None, text, licence=self.licence)
            else:
                yield Problem("no_text", f"{self.name}:{row}")
            if row == self.max_documents:
                return

    def state(self) -> dict[str, Any]:
        """Where to go on from, JSON-able: files already read are not opened again."""
        state: dict[str, Any] = self.data.state_dict()
        return state


def open_rows(
    dataset: str,
    config: str | None,
    split: str,
    text_field: str,
    max_documents: int | None,
    commit: str | None,
    label: str,
    done: int,
    state: dict[str, Any] | None,
    licence: str | None = None,
) -> Rows:
    """The stream from row `done` on; `state` is what `Rows.state` gave there.

    Raises ValueError with one line for a configuration, split or file that is not there.
    """
    import datasets

    datasets.disable_progress_bars()
    folder = local_folder(dataset)
    try:
        data = datasets.load_dataset(
            str(folder) if folder else dataset, name=config, split=split, revision=commit, streaming=True
        )
        if state is not None:
            data.load_state_dict(state)
    except (ValueError, OSError) as error:
        raise ValueError(f"hub dataset {dataset}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    name = folder.name if folder else dataset
    return Rows(data, text_field, max_documents, label, name, done, licence)
