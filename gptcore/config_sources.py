"""The schema of `corpus.sources`: where text comes from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gptcore.config_part import Part, Positive, Strings, as_tuple

NotNegativeSeconds = Annotated[float, Field(ge=0.0)]


class SourcePart(Part):
    """What every source has."""

    weight: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The source's share of the training text, in bytes, against the other sources' weights; all have one or none. As
    much is taken as the scarcest source allows, and nothing twice. None takes everything."""


class PythonDocs(SourcePart):
    """Docstrings of installed Python packages, read with `ast`; nothing is imported or executed."""

    kind: Literal["python_docs"] = "python_docs"
    """Which source this is."""
    stdlib: bool = True
    """Whether the standard library is read too."""
    packages: Strings = ()
    """Distribution names (as in `pip list`), each of which must be installed."""


class HubDataset(SourcePart):
    """A dataset of the Hugging Face hub, streamed."""

    kind: Literal["hub"]
    """Which source this is."""
    dataset: str
    """Hub id, such as `roneneldan/TinyStories`."""
    config: str | None = None
    """The dataset's configuration name, such as `sample-10BT`."""
    split: str = "train"
    """The dataset's split."""
    revision: str = "main"
    """Branch, tag or commit; resolved to a commit, which enters the key."""
    text_field: str = "text"
    """The column that holds the text."""
    max_documents: Positive | None = None
    """Stop after this many documents."""
    licence: str | None = Field(default=None, min_length=1, exclude_if=lambda value: value is None)
    """SPDX name of the licence its text stands under, such as `CC-BY-SA-4.0`; written into each document."""


class Files(SourcePart):
    """Local files: txt, md, html, jsonl, csv, tsv, parquet, each also as .gz, .zst, .xz or .bz2, and in tar and zip."""

    kind: Literal["files"]
    """Which source this is."""
    paths: Strings
    """Paths or globs; `package:NAME/…` lies below an installed Python package. A txt, md or html file is one document;
    jsonl, csv, tsv and parquet have one a row. A file that two of them match is read once."""
    by_line: bool = False
    """Whether each line of a txt or md file is a document."""
    text_field: str = "text"
    """The column or key that holds the text."""
    licence: str | None = Field(default=None, min_length=1, exclude_if=lambda value: value is None)
    """SPDX name of the licence its text stands under, such as `CC-BY-SA-4.0`; written into each document."""


class Url(SourcePart):
    """One file behind http or https: same formats as `files`."""

    kind: Literal["url"]
    """Which source this is."""
    url: str = Field(pattern=r"^https?://")
    """The address."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Expected digest of the downloaded bytes; without it the server's ETag is the version."""
    text_field: str = "text"
    """The column or key that holds the text."""
    licence: str | None = Field(default=None, min_length=1, exclude_if=lambda value: value is None)
    """SPDX name of the licence its text stands under, such as `CC-BY-SA-4.0`; written into each document."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds without a byte before a try is given up."""
    attempts: Positive = 5
    """Tries, with exponential back-off between them."""


class Web(SourcePart):
    """Web pages: their main text. Fetched within public addresses only, as each site's robots.txt allows."""

    kind: Literal["web"]
    """Which source this is."""
    pages: Strings = ()
    """Addresses of pages."""
    sitemaps: Strings = ()
    """Addresses of site maps (XML or text, also .gz) and of indices of them; their pages follow after `pages`."""
    snapshot: str = Field(min_length=1)
    """A name for what is fetched, such as the day. It is the source's version: another one fetches anew."""
    max_pages: Positive = 10_000
    """Addresses beyond this many are left out, in the order of the lists."""
    max_page_bytes: Positive = 5_000_000
    """A longer page is skipped; counted after unpacking too."""
    licence: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Under which the pages stand; written into each document."""
    allow_private: bool = False
    """Whether hosts in private networks and this machine may be asked."""
    delay_s: NotNegativeSeconds = 1.0
    """Seconds between two requests to a host, at least; execution, not identity. So are the fields below."""
    max_delay_s: NotNegativeSeconds = 30.0
    """A longer pause that a site asks for (Crawl-delay, Retry-After) is cut to this."""
    page_seconds: Annotated[float, Field(gt=0)] = 20.0
    """Seconds for one try of a page, however slowly it comes."""
    attempts: Positive = 3
    """Tries of a page, with growing pauses between them."""
    connections: Positive = 8
    """Hosts asked at once."""

    @model_validator(mode="after")
    def _some_address(self) -> Web:
        if not (self.pages or self.sitemaps):
            raise ValueError("a web source names no address; give pages, sitemaps or both")
        return self


class Wikipedia(SourcePart):
    """Dump files of one MediaWiki, such as `enwiki-latest-pages-articles.xml.bz2`: its articles as plain text."""

    kind: Literal["wikipedia"]
    """Which source this is."""
    paths: Strings
    """Paths or globs of XML exports, each also as .bz2 or .gz."""
    max_documents: Positive | None = None
    """Stop after this many documents of each dump file."""


EXECUTION_OF_SOURCES: dict[str, frozenset[str]] = {
    "url": frozenset({"timeout_s", "attempts"}),
    "web": frozenset({"delay_s", "max_delay_s", "page_seconds", "attempts", "connections"}),
}
"""By kind, the fields that say how a source is read and not what it holds: they enter no key."""

Source = Annotated[PythonDocs | HubDataset | Files | Url | Web | Wikipedia, Field(discriminator="kind")]
Sources = Annotated[tuple[Source, ...], BeforeValidator(as_tuple), Field(min_length=1)]


def identity_of(source: Source) -> dict[str, Any]:
    """What of a source's config defines the corpus."""
    return source.model_dump(mode="json", exclude=set(EXECUTION_OF_SOURCES.get(source.kind, ())))


def reading_of(source: Source) -> dict[str, Any]:
    """What of it defines the text that is read: not how much of that is taken."""
    return {name: value for name, value in identity_of(source).items() if name != "weight"}
