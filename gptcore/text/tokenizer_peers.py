"""Tokenizers to compare: ours, any other tokenizer.json, and those of GPT-2 and GPT-4 from tiktoken's cache."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

from gptcore.tokenizer_file import WHOLE

TIKTOKEN_FILES = {
    "gpt2": (
        "gpt2",
        "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
        "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json",
    ),
    "gpt4": ("cl100k_base", "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"),
}
"""By name here: the encoding's name, and the addresses of its files (tiktoken_ext/openai_public.py), whose digests
name them in the cache (tiktoken/load.py)."""


class NotHere(ValueError):
    """A tokenizer whose files would have to be fetched: the comparison goes on without it."""


@dataclass(frozen=True)
class Peer:
    """One tokenizer, ready to encode ordinary text, in which special tokens are text."""

    name: str
    vocab_size: int
    encodes_by: str
    """The library that encodes: tiktoken or tokenizers."""
    encode: Callable[[str], list[int]]
    decode: Callable[[Iterable[int]], str]


def named_peer(name: str) -> Peer:
    """`gpt2` or `gpt4` from tiktoken's cache; NotHere, in one line, where its files are not in it.

    No network is asked for files that are missing: a benchmark that waits for one tells nothing.
    """
    import tiktoken

    encoding_name, *addresses = TIKTOKEN_FILES[name]
    folder = _cache()
    if not all((folder / sha1(address.encode()).hexdigest()).is_file() for address in addresses):
        raise NotHere(
            f"{name} cannot be had offline: its files are not in tiktoken's cache {folder} (TIKTOKEN_CACHE_DIR); "
            f"tiktoken.get_encoding({encoding_name!r}) fetches them where there is a network"
        )
    try:
        encoding = tiktoken.get_encoding(encoding_name)
    except (OSError, ValueError) as error:
        raise NotHere(f"{name} cannot be had: its files in {folder} are damaged ({type(error).__name__})") from error
    return Peer(name, encoding.n_vocab, "tiktoken", encoding.encode_ordinary, lambda ids: encoding.decode(list(ids)))


def _cache() -> Path:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable])
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def peer_of(name: str, directory: Path) -> Peer:
    """The tokenizer of a directory under a name: read as our pipeline would where it can, else by `tokenizers`.

    FileNotFoundError without a tokenizer; ValueError for a damaged one.
    """
    from gptcore.text.tokenizer import TextTokenizer

    try:
        ours = TextTokenizer.load(directory)
    except ValueError:
        return _foreign(name, directory / WHOLE)
    return Peer(name, ours.vocab_size, ours.encodes_by, ours.encode, ours.decode)


def _foreign(name: str, path: Path) -> Peer:
    from tokenizers import Tokenizer as LibraryTokenizer

    try:
        reader = LibraryTokenizer.from_str(path.read_text("utf-8"))
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{path} is damaged, or no tokenizer.json: {' '.join(str(error).split())}") from None
    reader.encode_special_tokens = True
    reader.no_truncation()
    reader.no_padding()

    def encode(text: str) -> list[int]:
        try:
            ids: list[int] = reader.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except Exception as error:
            raise ValueError(f"{name} has no tokens for a text: {' '.join(str(error).split())}; leave it out") from None
        return ids

    def decode(ids: Iterable[int]) -> str:
        text: str = reader.decode(list(ids), skip_special_tokens=False)
        return text

    return Peer(name, reader.get_vocab_size(), "tokenizers", encode, decode)
