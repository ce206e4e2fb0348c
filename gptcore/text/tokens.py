"""Token shards: the corpus as flat files of ids, written once and then read through memory maps.

A shard is little-endian uint16 (uint32 for a vocabulary over 65,536), document after document, each closed by the
end-of-text token; beside it stands a file of where each document ends. index.json says how many tokens each shard
holds, of how many bytes of text, and its digest.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gptcore.config import Tokens
from gptcore.durable import sha256_file, write_json, writing
from gptcore.text.line_sizes import index_sizes
from gptcore.text.lines import index_lines, read_ends
from gptcore.text.tokenizer import TextTokenizer
from gptcore.text.workers import Message, spread_tasks
from gptcore.work import Outcome, Work

SPLITS = ("train", "validation")
CHECKED_DOCUMENTS = 200
"""Documents of each split on which tiktoken's ids are compared with those of `tokenizers`."""

Entry = dict[str, Any]


def build_tokens(config: Tokens, work: Work) -> Outcome:
    """Encode the train and validation splits, `work.runtime.workers` shards at a time.

    1. Index the lines of the corpus. 2. Plan: which documents stand in which shard. 3. Encode the shards that are not
    there yet. 4. Write index.json. A killed run goes on at the shards that are missing. Raises ValueError when a split
    has no documents, and RuntimeError when tiktoken and `tokenizers` disagree on a document.
    """
    _sweep(work.directory)
    tokenizer = TextTokenizer.load(work.inputs["tokenizer"])
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    for split in SPLITS:
        lines = work.scratch / f"{split}.lines"
        index_lines(work.inputs["corpus"], split, lines)
        index_sizes(work.inputs["corpus"], split, lines, lines.with_suffix(".sizes"))
    tasks = {split: _plan(config, work, split, dtype) for split in SPLITS}
    if not tasks["train"]:
        raise ValueError("the corpus has no training documents; add sources, or lower corpus.min_chars")
    if not tasks["validation"]:
        raise ValueError("the corpus has no validation documents; raise corpus.validation_share, or add text")

    try:
        _encode([task for split in SPLITS for task in tasks[split]], work)
    finally:
        _sweep(work.directory)  # a worker that is stopped leaves half a shard

    with writing(work.directory / "token_bytes.npy") as file:
        np.save(file, tokenizer.token_bytes(), allow_pickle=False)
    splits = {split: _summary([_committed(task) for task in tasks[split]]) for split in SPLITS}
    index = {
        "dtype": dtype.name,
        "vocab_size": tokenizer.vocab_size,
        "shuffle_seed": config.shuffle_seed,
        "splits": splits,
    }
    write_json(work.directory / "index.json", index)
    return Outcome(
        results=(
            *(f"{split}-*.{kind}" for split in SPLITS for kind in ("bin", "ends")),
            "token_bytes.npy",
            "index.json",
        ),
        metrics={
            "tokens/train": splits["train"]["tokens"],
            "tokens/validation": splits["validation"]["tokens"],
            "tokens/bytes_per_token": splits["train"]["bytes"] / splits["train"]["tokens"],
        },
    )


def _sweep(directory: Path) -> None:
    """Remove what writers that were killed left behind."""
    for stale in directory.glob(".*.part"):
        stale.unlink()


def _plan(config: Tokens, work: Work, split: str, dtype: np.dtype[Any]) -> list[Message]:
    """What each shard of a split is made of; nothing in it depends on how many workers there are.

    In the corpus's order the shards are equal in bytes, shuffled in documents, but for a document more or less.
    """
    index = work.scratch / f"{split}.lines"
    ends = read_ends(index.with_suffix(".sizes"))
    if not len(ends):
        return []
    shards = -(-int(ends[-1]) // config.shard_bytes)
    inner = np.arange(1, shards)
    if config.shuffle_seed is None:
        targets = inner * int(ends[-1]) // shards
        cuts = np.searchsorted(ends, targets.astype(ends.dtype)) + 1  # of another type, all ends would be converted
    else:
        cuts = inner * len(ends) // shards
    borders = [0, *np.unique(cuts[(cuts > 0) & (cuts < len(ends))]).tolist(), len(ends)]
    return [
        {
            "corpus": str(work.inputs["corpus"]),
            "split": split,
            "lines": str(index),
            "tokenizer": str(work.inputs["tokenizer"]),
            "directory": str(work.directory),
            "entry": str(work.scratch / f"{split}-{number:05d}.json"),
            "name": f"{split}-{number:05d}",
            "begin": begin,
            "end": end,
            "seed": config.shuffle_seed,
            "dtype": dtype.name,
            "check_every": max(1, len(ends) // CHECKED_DOCUMENTS),
        }
        for number, (begin, end) in enumerate(pairwise(borders))
    ]


def _encode(tasks: list[Message], work: Work) -> None:
    """Make the shards that are missing or damaged, and move the bar."""
    missing = [task for task in tasks if not _is_whole(task)]
    total = sum(task["end"] - task["begin"] for task in tasks)
    done = total - sum(task["end"] - task["begin"] for task in missing)
    # Closed by hand: an interrupt raised in this loop would leave the workers to the garbage collector.
    with closing(spread_tasks("gptcore.text.encode:encode_shard", missing, work)) as messages:
        for _, message in messages:
            done += message.get("documents", 0)
            work.progress(done, total, "documents")


def _committed(task: Message) -> Entry:
    """The entry of a shard that is there."""
    entry: Entry = json.loads(Path(task["entry"]).read_bytes())
    return entry


def _is_whole(task: Message) -> bool:
    """Whether a shard is committed and its files still hold the bytes that they held then."""
    if not Path(task["entry"]).exists():
        return False
    entry = _committed(task)
    path = Path(task["directory"]) / entry["file"]
    files = ((path, "sha256"), (path.with_suffix(".ends"), "ends_sha256"))
    return entry["documents"] == task["end"] - task["begin"] and all(
        file.exists() and sha256_file(file) == entry[digest] for file, digest in files
    )


def _summary(shards: list[Entry]) -> Entry:
    """A split's shards and their totals, in all and by source (the label that ids begin with)."""
    sources: dict[str, Counter[str]] = {}
    for shard in shards:
        for label, counts in shard.pop("sources").items():
            sources.setdefault(label, Counter()).update(counts)
    return {
        "shards": shards,
        "sources": {label: dict(counts) for label, counts in sorted(sources.items())},
        **{what: sum(shard[what] for shard in shards) for what in ("tokens", "bytes", "documents")},
    }
