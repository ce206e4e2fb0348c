"""The tokenizer of a directory as tokenizer.json describes it, and with our special tokens added: plain JSON.

GPT-2's older form, vocab.json beside merges.txt, is read as the tokenizer.json that it stands for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptcore.config import SPECIAL_TOKENS

Saved = dict[str, Any]
"""What a tokenizer.json holds."""

WHOLE, PARTS = "tokenizer.json", ("vocab.json", "merges.txt")
BESIDE = ("added_tokens.json", "tokenizer_config.json")
"""What the older form says besides, where it is there."""
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")
"""Classes of transformers for which vocab.json and merges.txt say everything."""


def files_of(directory: Path) -> list[Path]:
    """The files that `read_saved` reads; FileNotFoundError where there is no tokenizer."""
    if (directory / WHOLE).is_file():
        return [directory / WHOLE]
    if not all((directory / name).is_file() for name in PARTS):
        raise FileNotFoundError(f"{directory} holds no tokenizer: neither {WHOLE} nor {' and '.join(PARTS)}")
    return [directory / name for name in (*PARTS, *BESIDE) if (directory / name).is_file()]


def read_saved(directory: Path) -> Saved:
    """The directory's tokenizer. FileNotFoundError where there is none, ValueError for one that is damaged."""
    path = files_of(directory)[0]
    try:
        saved = json.loads(path.read_bytes())
        if path.name != WHOLE:
            saved = _joined(saved, directory)
        _ids(saved)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or no tokenizer that can be taken: {error!r}") from error
    found: Saved = saved
    return found


def _joined(vocab: dict[str, int], directory: Path) -> Saved:
    """vocab.json and merges.txt in one. Pieces that no merge makes are special tokens: GPT-2 has one, its last."""
    settings = _json_of(directory / "tokenizer_config.json")
    kind = settings.get("tokenizer_class")
    if kind not in GPT2_CLASSES:
        raise ValueError(f"tokenizer_class {kind!r} says more than vocab.json and merges.txt; save a {WHOLE} with it")
    lines = (directory / "merges.txt").read_text("utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    made = {left + right for left, right in merges}
    others = {piece: i for piece, i in vocab.items() if len(piece) > 1 and piece not in made}
    added = sorted({**others, **_json_of(directory / "added_tokens.json")}.items(), key=lambda token: token[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token, i) for token, i in added],
        "normalizer": None,
        "pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": bool(settings.get("add_prefix_space"))},
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def _json_of(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return values


def _added(token: str, i: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": token, **flags, "special": True}


def ids_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Piece -> id of a tokenizer.json's model; a Unigram's ids are places in its list."""
    if model.get("type") == "Unigram":
        return {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    found: dict[str, int] = model["vocab"]
    return found


def _ids(saved: Mapping[str, Any]) -> dict[str, int]:
    return {**ids_of(saved["model"]), **{token["content"]: token["id"] for token in saved["added_tokens"]}}


def size_of(saved: Mapping[str, Any]) -> int:
    """One more than the largest id."""
    return max(_ids(saved).values()) + 1


def missing_tokens(saved: Mapping[str, Any]) -> list[str]:
    """Our special tokens that the tokenizer lacks."""
    known = _ids(saved)
    return [token for token in SPECIAL_TOKENS if token not in known]


def extended(saved: Mapping[str, Any]) -> Saved:
    """The same with our special tokens: those it lacks follow its last id. No token is put around a text any more."""
    known, after = _ids(saved), size_of(saved)
    ours = {token: known[token] for token in SPECIAL_TOKENS if token in known}
    ours |= {token: after + i for i, token in enumerate(missing_tokens(saved))}
    others = [token for token in saved["added_tokens"] if token["content"] not in ours]
    added = [*others, *(_added(token, i) for token, i in ours.items())]
    whole = {"added_tokens": sorted(added, key=lambda token: token["id"])}
    return {**saved, **whole, "truncation": None, "padding": None, "post_processor": None}
