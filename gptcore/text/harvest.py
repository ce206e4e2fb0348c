"""What a worker does: the documents of one unit, cleaned, into block files that survive a kill.

A block is committed when its `.json` stands beside its `.lines`. A line of `.lines` is PREFIX bytes that the
assembly needs, then the document as it will stand in the corpus:

    <16 hex: hash of the text> <16 hex: hash of the group> <8 hex: bytes of text> {"group": …}\\n
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from gptcore.durable import write_json, writing
from gptcore.text.documents import Document, Problem, clean_text, write
from gptcore.text.sources import Reading, read_unit
from gptcore.text.workers import Message, Tell

PREFIX = 43
BLOCK_BYTES = 16_000_000
"""Work lost to a kill at most, and the disk's share of the cost of a commit."""
NAMED_PROBLEMS = 3
"""Problems of one unit and kind that are named, not only counted."""


@dataclass
class Block:
    """A committed piece of a unit."""

    lines: Path
    items: int
    """Items of the unit behind us, this block's included."""
    end: bool
    """Whether the unit ends here."""
    state: Any
    counts: dict[str, int]
    named: dict[str, list[str]]
    damaged: list[str]
    """Files found damaged, each once; one that spans blocks may stand in several."""
    sha256: str
    """Of `lines`."""


def committed(directory: Path, key: str) -> list[Block]:
    """The committed blocks of a unit, in order."""
    blocks: list[Block] = []
    while (path := directory / f"{key}-{len(blocks):05d}.json").exists():
        blocks.append(Block(lines=path.with_suffix(".lines"), **json.loads(path.read_bytes())))
    return blocks


def text_hash(text: bytes) -> int:
    """64 bits that tell texts apart: among 10 million, two share one with a chance of 3 in a million."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def group_hash(group: str) -> int:
    """64 even bits that decide a group's split; the salt is fixed, so that a group stays where it was."""
    return int.from_bytes(hashlib.sha256(b"gptmill split 1:" + group.encode()).digest()[:8], "big")


def harvest(task: Message, tell: Tell) -> Message:
    """Read one unit to its end, going on from its last committed block.

    `task`: {"unit", "label", "key", "directory", "min_chars", "max_chars"}. Tells {"documents", "share"} and {"say"}.
    """
    directory = Path(task["directory"])
    unit, key = task["unit"], task["key"]
    if unit["kind"] == "python_docs":
        gc.disable()  # syntax trees hold no cycles; collecting them costs a tenth of the time
    blocks = committed(directory, key)
    if blocks and blocks[-1].end:
        return {}
    done, state = (blocks[-1].items, blocks[-1].state) if blocks else (0, None)
    size = sum(block.lines.stat().st_size for block in blocks)
    reading = read_unit(unit, task["label"], task["max_chars"], directory, tell, done, state)
    number = len(blocks)
    while True:
        path = directory / f"{key}-{number:05d}.lines"
        with writing(path) as file:
            taken = _fill(file, reading, task, tell, done, size)
            size += file.tell()
        if taken.end:
            try:
                reading.finish()
            except ValueError:
                for stale in directory.glob(f"{key}-*"):
                    stale.unlink()
                raise
        write_json(
            path.with_suffix(".json"),
            {
                "items": taken.items,
                "end": taken.end,
                "state": None if taken.end else reading.state(),
                "counts": dict(taken.counts),
                "named": taken.named,
                "damaged": sorted(taken.damaged),
                "sha256": taken.digest.hexdigest(),
            },
        )
        if taken.end:
            reading.clear()
            return {"documents": taken.items}
        done, number = taken.items, number + 1


@dataclass
class _Taken:
    items: int
    end: bool
    counts: Counter[str]
    named: dict[str, list[str]]
    damaged: set[str]
    digest: hashlib._Hash


def _fill(file: IO[bytes], reading: Reading, task: Message, tell: Tell, done: int, before: int) -> _Taken:
    """Documents into one block until it is full or the unit ends; `before` is the bytes of the unit's other blocks."""
    taken = _Taken(done, True, Counter(), {}, set(), hashlib.sha256())
    size, told = 0, time.monotonic()
    for item in reading.items:
        taken.items += 1
        line = _line(item, task, taken)
        if line is not None:
            file.write(line)
            taken.digest.update(line)
            size += len(line)
        if taken.items % 64 == 0 and time.monotonic() - told > 0.5:
            told = time.monotonic()
            tell({"documents": taken.items, "share": _share(task["unit"], taken.items, before + size)})
        if size >= BLOCK_BYTES:
            taken.end = False
            break
    return taken


def _share(unit: dict[str, Any], items: int, size: int) -> float:
    """How much of a unit is done, roughly, where that can be told: rows of a limit, bytes of plain text."""
    if unit["kind"] == "hub" and unit["max_documents"]:
        return float(items / unit["max_documents"])
    if unit["kind"] == "files" and "files" in unit and unit["files"][0]["path"].endswith((".jsonl", ".txt")):
        return min(0.95, size / (int(unit["bytes"]) + 1))
    return 0.0


def _line(item: Document | Problem, task: Message, taken: _Taken) -> bytes | None:
    """A document's line, or None and a count of why there is none."""
    if isinstance(item, Problem):
        _count_problem(item.kind, item.where, taken)
        if item.file is not None:
            taken.damaged.add(item.file)
        return None
    taken.counts["found"] += 1
    try:
        text = clean_text(item.text)
    except UnicodeEncodeError:
        _count_problem("undecodable", item.id, taken)
        return None
    if len(text) > task["max_chars"]:
        taken.counts["cut"] += 1
        text = text[: task["max_chars"]].rstrip()
    if len(text) < task["min_chars"]:
        taken.counts["too_short"] += 1
        return None
    return line_of(replace(item, text=text))


def line_of(document: Document) -> bytes:
    """A document with its prefix, as it stands in a block."""
    data = document.text.encode()
    head = f"{text_hash(data):016x} {group_hash(document.group):016x} {len(data):08x} "
    return head.encode() + write(document)


def _count_problem(kind: str, where: str, taken: _Taken) -> None:
    taken.counts[kind] += 1
    named = taken.named.setdefault(kind, [])
    if len(named) < NAMED_PROBLEMS:
        named.append(where)
