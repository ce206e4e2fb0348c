"""Under which licence, and in which language, the sources of a corpus stand, as far as they say so themselves.

Nothing is fetched: the licences of distributions stand in the corpus's data card, those of datasets of the hub in the
card that streaming them has left in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcore.text.hub import local_folder
from gptcore.text.wikipedia import LICENCE as WIKIPEDIA_LICENCE

DOCS_LANGUAGE = "en"
"""Of docstrings: PEP 8 asks for English."""


@dataclass(frozen=True)
class Origin:
    """One source of text, or one package of a source."""

    kind: str
    """That of the source."""
    name: str
    version: str
    """Version, commit or digest; empty where the source has several files."""
    documents: int
    """In the train split."""
    bytes: int
    """Of them, UTF-8."""
    licence: str | None
    """As the source words it, an SPDX expression where it is one; None where nothing is known."""
    languages: tuple[str, ...]
    """ISO 639 codes; empty where nothing is known."""


def origins(sources: list[dict[str, Any]], data_card: Mapping[str, Any]) -> Iterator[Origin]:
    """Where a corpus comes from. sources: as its config has them; data_card: its data_card.json.

    Packages that are held out are no origin: nothing was trained on them.
    """
    for name, package in sorted(data_card["packages"].items()):
        if package["documents"]["train"]:
            yield _origin("python_docs", name, package["version"], package, package["licence"], (DOCS_LANGUAGE,))
    for source, read in zip(sources, data_card["sources"], strict=True):
        version = read["version"]
        match source["kind"]:
            case "hub":
                card = dataset_card(source["dataset"], version.get("commit"))
                licence, languages = ", ".join(_several(card.get("license"))), tuple(_several(card.get("language")))
                yield _origin("hub", source["dataset"], version.get("commit", ""), read, licence or None, languages)
            case "files":
                yield _origin("files", ", ".join(Path(path).name for path in source["paths"]), "", read, None, ())
            case "wikipedia":
                names = ", ".join(Path(path).name for path in source["paths"])
                yield _origin("wikipedia", names, "", read, WIKIPEDIA_LICENCE, ())
            case "url":
                yield _origin("url", source["url"], version.get("sha256") or version.get("etag") or "", read, None, ())


def _origin(
    kind: str, name: str, version: str, read: Mapping[str, Any], licence: str | None, languages: tuple[str, ...]
) -> Origin:
    return Origin(kind, name, version, read["documents"]["train"], read["bytes"]["train"], licence, languages)


def dataset_card(dataset: str, commit: str | None) -> dict[str, Any]:
    """The head of a dataset's README.md, from its folder or from the cache; empty where there is none."""
    from huggingface_hub import DatasetCard, try_to_load_from_cache

    folder = local_folder(dataset)
    if folder is None and commit is None:
        return {}
    if folder is not None:
        found: Any = folder / "README.md"
    else:
        found = try_to_load_from_cache(dataset, "README.md", revision=commit, repo_type="dataset")
    if not isinstance(found, str | Path) or not Path(found).exists():
        return {}
    head: dict[str, Any] = DatasetCard.load(found, ignore_metadata_errors=True).data.to_dict()
    return head


def _several(value: Any) -> list[str]:
    """One string, or a list of them, or nothing."""
    return [] if value is None else [str(one) for one in value] if isinstance(value, list) else [str(value)]
