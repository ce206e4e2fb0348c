"""`gptmill bench tokenizer`: how densely and how fast tokenizers write, side by side. Torch is never imported."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from flows.commands.failures import refuse
from gptcore.home import home, tracking_uri
from gptcore.pretrained import PREFIX, tokenizer_directory
from gptcore.text.tokenizer_comparison import compare_tokenizers, read_texts, sample_texts
from gptcore.text.tokenizer_peers import TIKTOKEN_FILES, NotHere, Peer, named_peer, peer_of
from gptcore.tokenizer_file import WHOLE

NAME_WIDTH, WIDTH = 24, 14


def main(options: argparse.Namespace) -> int:
    """Print a table, and with --json one JSON object after it."""
    peers: list[Peer] = []
    unavailable: dict[str, str] = {}
    try:
        texts = read_texts(options.text) if options.text else sample_texts()
        for reference in dict.fromkeys(options.tokenizers):
            try:
                peers.append(_peer(reference))
            except NotHere as problem:
                unavailable[reference] = str(problem)
        if not peers:
            raise ValueError(f"no tokenizer is left to measure: {'; '.join(unavailable.values())}")
        found = {**compare_tokenizers(peers, texts), "unavailable": unavailable}
    except (ValueError, OSError) as problem:
        return refuse(problem)
    for line in unavailable.values():
        print(f"note: {line}", file=sys.stderr)
    print(table(found), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(found))
    return 0


def _peer(reference: str) -> Peer:
    if reference in TIKTOKEN_FILES:
        return named_peer(reference)
    return peer_of(reference, _directory(reference))


def _directory(reference: str) -> Path:
    """Where the tokenizer of a directory, `hf:ID`, `models:/NAME@ALIAS` or `RUN/STAGE` lies."""
    if reference.startswith(PREFIX):
        return tokenizer_directory(reference)
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder
    if not reference.startswith("models:/") and (reference.startswith((".", "/", "~")) or "/" not in reference):
        raise FileNotFoundError(
            f"tokenizer directory {reference!r} does not exist; a tokenizer is a directory, hf:ID, models:/NAME@ALIAS, "
            f"RUN/STAGE, or {' or '.join(TIKTOKEN_FILES)}"
        )
    from gptcore.adapters.model_reference import model_directory  # MLflow's client takes seconds

    return model_directory(reference, tracking_uri(home()), home(), lambda line: print(line, file=sys.stderr), WHOLE)


def table(found: dict[str, Any]) -> str:
    """The comparison as text: a block of rows for each figure, a column for each tokenizer."""
    peers = found["tokenizers"]
    names = _short([*peers])
    lines = [
        _row("", names),
        _row("vocabulary", [f"{peer['vocab_size']:,}" for peer in peers.values()]),
        _row("encodes by", [peer["encodes_by"] for peer in peers.values()]),
        _row("encode MB/s", [f"{peer['encode_mb_s']:,.2f}" for peer in peers.values()]),
    ]
    for title, figure in (("bytes per token", "bytes_per_token"), ("tokens per word", "tokens_per_word")):
        lines += ["", _row(title, names)]
        for text in found["texts"]:
            rows = [peer["texts"][text] for peer in peers.values()]
            lines.append(_row(text, [_cell(row, figure) for row in rows]))
    if not all(row["exact"] for peer in peers.values() for row in peer["texts"].values()):
        lines += ["", "* these tokens do not give the text back as it was"]
    return "\n".join(lines)


def _cell(row: dict[str, Any], figure: str) -> str:
    value = row[figure]
    return ("-" if value is None else f"{value:.2f}") + ("" if row["exact"] else "*")


def _row(title: str, cells: list[str]) -> str:
    shown = title if len(title) < NAME_WIDTH else f"...{title[4 - NAME_WIDTH :]}"
    return f"{shown:<{NAME_WIDTH}}" + "".join(f"{cell:>{max(WIDTH, len(cell) + 2)}}" for cell in cells)


def _short(names: list[str]) -> list[str]:
    """The ends of long names, where they still tell them apart."""
    ends = [name if len(name) < WIDTH else f"...{name[5 - WIDTH :]}" for name in names]
    return ends if len(set(ends)) == len(ends) else names
