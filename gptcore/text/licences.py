"""Under which licence, and in which language, text stands, as far as its sources say so themselves.

Nothing is fetched. A source may state its licence in the config; that of Python packages stands in the source's
version, that of `package:` files in the installed distribution's metadata, that of a dataset of the hub in the card
that streaming it has left in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptcore.durable import sha256_json
from gptcore.text.distributions import licence_of_import
from gptcore.text.hub import local_folder
from gptcore.text.listing import PACKAGE
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
    """Version, commit or digest: of several files that of the list of their digests."""
    licence: str | None
    """As the source words it, an SPDX expression where it is one; None where nothing is known."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes; empty where nothing is known."""
    documents: int = 0
    """Of a corpus: in its train split."""
    bytes: int = 0
    """Of them, UTF-8."""
    split: str | None = None
    """Of a skill's own data: the split that all its rows belong to; None where they are shared out."""


def origins(sources: Sequence[Mapping[str, Any]], data_card: Mapping[str, Any]) -> Iterator[Origin]:
    """Where a corpus comes from. sources: as its config has them; data_card: its data_card.json.

    Packages that are held out are no origin: nothing was trained on them.
    """
    for name, package in sorted(data_card["packages"].items()):
        if package["documents"]["train"]:
            yield _counted(_package(name, package), package)
    for source, read in zip(sources, data_card["sources"], strict=True):
        if source["kind"] != "python_docs":
            yield _counted(_origin(source, read["version"]), read)


def own_origins(
    sources: Sequence[Mapping[str, Any]], versions: Sequence[Mapping[str, Any]], places: Sequence[Mapping[str, Any]]
) -> Iterator[Origin]:
    """Where a skill's own data come from. sources, places: as the config of its items has them; versions: of these."""
    for source, version, place in zip(sources, versions, places, strict=True):
        if source["kind"] == "python_docs":
            found = [_package(name, package) for name, package in sorted(version["packages"].items())]
        else:
            found = [_origin(source, version)]
        for origin in found:
            yield replace(origin, split=place["split"])


def _counted(origin: Origin, read: Mapping[str, Any]) -> Origin:
    return replace(origin, documents=read["documents"]["train"], bytes=read["bytes"]["train"])


def _package(name: str, package: Mapping[str, Any]) -> Origin:
    return Origin("python_docs", name, package["version"], package["licence"], (DOCS_LANGUAGE,))


def _origin(source: Mapping[str, Any], version: Mapping[str, Any]) -> Origin:
    """One that is no list of Python packages."""
    kind, stated = source["kind"], source.get("licence")
    if kind == "hub":
        card = dataset_card(source["dataset"], version.get("commit"))
        licence = stated or ", ".join(_several(card.get("license"))) or None
        return Origin(kind, source["dataset"], _version(version), licence, tuple(_several(card.get("language"))))
    if kind == "url":
        return Origin(kind, source["url"], _version(version), stated)
    if kind == "web":
        return Origin(kind, ", ".join([*source["pages"], *source["sitemaps"]]), source["snapshot"], stated)
    if kind == "wikipedia":
        stated = WIKIPEDIA_LICENCE
    elif stated is None:
        stated = _of_packages(source["paths"])
    return Origin(kind, ", ".join(map(_shown, source["paths"])), _version(version), stated)


def _version(version: Mapping[str, Any]) -> str:
    """What identifies the bytes, in one word."""
    if files := version.get("files"):
        return str(files[0][1] if len(files) == 1 else sha256_json(files))
    return str(next((version[name] for name in ("commit", "digest", "sha256", "etag") if version.get(name)), ""))


def _shown(path: str) -> str:
    """Where files lie on a disk is told to nobody; inside a package it is the same everywhere."""
    return path if path.startswith(PACKAGE) else Path(path).name


def _of_packages(paths: Sequence[str]) -> str | None:
    """The licences of the installed packages that files lie in; None where one is not known."""
    if not all(path.startswith(PACKAGE) for path in paths):
        return None
    found = {licence_of_import(path.removeprefix(PACKAGE).partition("/")[0]) for path in paths}
    return None if None in found else ", ".join(sorted(map(str, found)))


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
