"""The schema of `corpus.sources`: where text comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gptcore.config_part import Part, Positive, Strings, as_tuple


class PythonDocs(Part):
    """Docstrings of installed Python packages, read with `ast`; nothing is imported or executed."""

    kind: Literal["python_docs"] = "python_docs"
    """Which source this is."""
    stdlib: bool = True
    """Whether the standard library is read too."""
    packages: Strings = ()
    """Distribution names (as in `pip list`), each of which must be installed."""


class HubDataset(Part):
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


class Files(Part):
    """Local files: txt, jsonl, parquet, each also as .gz or .zst."""

    kind: Literal["files"]
    """Which source this is."""
    paths: Strings
    """Paths or globs. A txt file is one document; jsonl and parquet have one a row."""
    text_field: str = "text"
    """The column or key that holds the text."""


class Url(Part):
    """One file behind http or https: same formats as `files`."""

    kind: Literal["url"]
    """Which source this is."""
    url: str = Field(pattern=r"^https?://")
    """The address."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Expected digest of the downloaded bytes; without it the server's ETag is the version."""
    text_field: str = "text"
    """The column or key that holds the text."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds without a byte before a try is given up."""
    attempts: Positive = 5
    """Tries, with exponential back-off between them."""


class Wikipedia(Part):
    """Dump files of one MediaWiki, such as `enwiki-latest-pages-articles.xml.bz2`: its articles as plain text."""

    kind: Literal["wikipedia"]
    """Which source this is."""
    paths: Strings
    """Paths or globs of XML exports, each also as .bz2 or .gz."""
    max_documents: Positive | None = None
    """Stop after this many documents of each dump file."""


Source = Annotated[PythonDocs | HubDataset | Files | Url | Wikipedia, Field(discriminator="kind")]
Sources = Annotated[tuple[Source, ...], BeforeValidator(as_tuple), Field(min_length=1)]
