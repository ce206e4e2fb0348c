"""Which bytes each id of a tokenizer.json stands for, and why another one cannot be taken.

Byte-level tokenizers of two forms: GPT-2's pre-tokenizer, or one Split by a regular expression before ByteLevel, as
ours and Qwen's. Their model is one of

- BPE. Ids may stand in any order but that of the merges, which is that of their ranks: tiktoken merges the pair whose
  union has the lowest id.
- BPE without a merge that takes known words whole: word level, with the bytes of all others.
- Unigram.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from gptcore.tokenizer_file import files_of, ids_of

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""What `ByteLevel` with `use_regex` splits by, as tiktoken spells it (r50k_pat_str in tiktoken_ext/openai_public.py):
the same pieces, found faster."""
FLAGS = ("single_word", "lstrip", "rstrip")
"""Of an added token: it would reach beyond its own text."""
PLAIN = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout")
"""Settings of the model that must be off."""


def _characters_of_bytes() -> dict[str, int]:
    """The printable stand-in of every byte in tokenizer.json -> the byte (bytes_to_unicode in GPT-2's encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


Kind = Literal["bpe", "unigram", "word"]
"""As `tokenizer.kind`; for bpe alone tiktoken gives the same ids."""


@dataclass(frozen=True)
class ByteVocabulary:
    """A tokenizer each of whose ids stands for certain bytes."""

    kind: Kind
    pattern: str
    """Splits a text into the parts that are encoded by themselves."""
    pieces: dict[bytes, int]
    """Bytes and longer pieces -> id."""
    special: dict[str, int]
    """Special token -> id; in ordinary text its name is text."""
    plain: dict[str, int]
    """Added tokens that are no special ones -> id: found in ordinary text too."""
    composed: bool
    """Whether text is brought to Unicode's form NFC first."""

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(chain(self.pieces.values(), self.special.values(), self.plain.values())) + 1


def readable(saved: Mapping[str, Any], directory: Path) -> ByteVocabulary:
    """What the tokenizer of a directory says; ValueError, naming it, where tiktoken could not do that."""
    try:
        return _read(saved)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else f"it is damaged, or not byte-level ({error!r})"
        raise ValueError(f"{files_of(directory)[0]} cannot be taken: {reason}") from None


def _read(saved: Mapping[str, Any]) -> ByteVocabulary:
    model, added = saved["model"], saved["added_tokens"]
    if model.get("type", "BPE") not in ("BPE", "Unigram"):
        raise ValueError(f"its model is {model['type']}, neither BPE nor Unigram")
    for setting in PLAIN:
        if model.get(setting):
            raise ValueError(f"its {setting} is {model[setting]!r}; only byte-level tokenizers without it can be taken")
    for token in added:
        for flag in FLAGS:
            if token.get(flag):
                raise ValueError(f"its token {token['content']!r} has {flag}, which reaches into the text around it")
    special = {token["content"]: int(token["id"]) for token in added if token.get("special")}
    plain = {token["content"]: int(token["id"]) for token in added if not token.get("special")}
    kind = _kind(model)
    vocab = {piece: i for piece, i in ids_of(model).items() if piece not in special and piece not in plain}
    pieces = _pieces(vocab, _merged(model) if kind == "bpe" else None)
    pattern, composed = _pattern(saved["pre_tokenizer"]), _composed(saved.get("normalizer"))
    return ByteVocabulary(kind, pattern, pieces, special, plain, composed)


def _kind(model: Mapping[str, Any]) -> Kind:
    if model.get("type") == "Unigram":
        return "unigram"
    return "bpe" if model["merges"] or not model.get("ignore_merges") else "word"


def _merged(model: Mapping[str, Any]) -> list[str]:
    """What each merge makes, in rank order."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [left + right for left, right in pairs]


def _pieces(vocab: Mapping[str, int], merged: list[str] | None) -> dict[bytes, int]:
    """Every byte, and one piece a merge, in rank order; None: any pieces."""
    byte_of = _characters_of_bytes()
    lacking = byte_of.keys() - vocab.keys()
    if lacking:
        raise ValueError(f"{len(lacking)} of the 256 bytes have no id of their own, such as {min(lacking)!r}")
    if merged is not None and sorted(vocab.keys() - byte_of.keys(), key=vocab.__getitem__) != merged:
        raise ValueError("its ids are not the bytes and one for each merge, in the order of the merges")
    return {bytes([byte_of[c] for c in piece]): i for piece, i in vocab.items()}


def _pattern(before: Mapping[str, Any]) -> str:
    match before:
        case {"type": "ByteLevel"} if before.get("use_regex", True) and not before.get("add_prefix_space", True):
            return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [{"type": "Split", "pattern": {"Regex": str(found)}} as split, last],
        }:
            cut = split.get("behavior") == "Isolated" and not split.get("invert")
            bytes_only = not last.get("use_regex", True) and not last.get("add_prefix_space", True)
            if cut and last["type"] == "ByteLevel" and bytes_only:
                return found
    raise ValueError(
        f"its pre-tokenizer {_short(before)} is neither GPT-2's nor one Split before ByteLevel, without a prefix space"
    )


def _composed(normalizer: Mapping[str, Any] | None) -> bool:
    match normalizer:
        case None | {"type": "Sequence", "normalizers": []}:
            return False
        case {"type": "NFC"} | {"type": "Sequence", "normalizers": [{"type": "NFC"}]}:
            return True
    raise ValueError(f"its normalizer {_short(normalizer)} changes the text; only NFC can be taken")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
