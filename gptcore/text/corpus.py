"""The corpus stage: harvest every source, drop duplicates, split, write shards and the data card."""

from __future__ import annotations

import difflib
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcore.config import Corpus
from gptcore.durable import write_json, writing
from gptcore.text.documents import SPLITS
from gptcore.text.harvest import PREFIX, Block, committed
from gptcore.text.python_docs import STDLIB, canonical_name
from gptcore.text.sources import Version, source_labels, source_units
from gptcore.text.web_problems import WEB_PROBLEMS
from gptcore.text.workers import Message, run_tasks
from gptcore.work import Outcome, Work

PRIORITY = ("test", "validation", "train")
"""Of equal texts the copy in the earliest of these stays, so that no test or validation text is trained on."""
DROPPED = len(PRIORITY)
SKIPS = ("undecodable", "unparsable", "no_text", "too_long", "truncated", "missing", *WEB_PROBLEMS)

Bits = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint8]
Sizes = npt.NDArray[np.uint32]


def build_corpus(config: Corpus, versions: Sequence[Version], work: Work) -> Outcome:
    """Make `documents/<split>-*.jsonl` and `data_card.json` from the sources; `versions` as `resolve_source` gave them.

    1. Harvest: every unit of every source becomes committed blocks in scratch, in worker processes.
    2. Assemble: duplicates are dropped and splits drawn from the blocks' hashes alone, then shards are copied out.
    Both go on from what is committed. Raises ValueError for an empty corpus or a held-out name without a package.
    """
    _check_held_out(config)
    directory = work.scratch / "harvest"
    _sweep(directory, work.directory / "documents")
    tasks = _tasks(config, versions, directory)
    _harvest(tasks, work)
    units = [_Unit(task, committed(directory, task["key"])) for task in tasks]
    _say_problems(units, work)
    table = _read_table(units)
    splits, duplicates = _assign(config, units, table)
    shards = _write_shards(config, units, table, splits, work)
    card = _data_card(config, versions, units, table, splits, duplicates, shards)
    write_json(work.directory / "data_card.json", card)
    metrics = {
        "corpus/documents": card["documents"]["train"],
        "corpus/bytes": card["bytes"]["train"],
        "corpus/validation_documents": card["documents"]["validation"],
        "corpus/test_documents": card["documents"]["test"],
        "corpus/test_bytes": card["bytes"]["test"],
        "corpus/duplicates": card["dropped"]["duplicates"],
        "corpus/too_short": card["dropped"]["too_short"],
        "corpus/skipped": sum(card["dropped"][kind] for kind in SKIPS),
    }
    return Outcome(("documents/*.jsonl", "data_card.json"), {name: float(value) for name, value in metrics.items()})


def _check_held_out(config: Corpus) -> None:
    """Refuse a held-out name that no source would bring."""
    packages: set[str] = set()
    for source in config.sources:
        if source.kind == "python_docs":
            packages.update(map(canonical_name, source.packages))
            packages.update({STDLIB} if source.stdlib else ())
    problems = []
    for name in config.held_out:
        if canonical_name(name) not in packages:
            near = difflib.get_close_matches(canonical_name(name), packages, n=1, cutoff=0.0)
            problems.append(
                f"held_out {name!r} is no package of a python_docs source" + (f" (nearest: {near[0]})" if near else "")
            )
    if problems:
        raise ValueError("; ".join(problems))


def _sweep(*directories: Path) -> None:
    """Remove what a killed writer left aside."""
    for directory in directories:
        for pattern in (".*.part", "unpacked-*"):
            for path in directory.glob(pattern):
                path.unlink(missing_ok=True)


def _tasks(config: Corpus, versions: Sequence[Version], directory: Path) -> list[Message]:
    """One task a unit, in corpus order; the keys sort in that order."""
    directory.mkdir(parents=True, exist_ok=True)
    labels = source_labels(config.sources)
    found = [
        {"unit": unit, "label": label, "source": number}
        for number, (source, version, label) in enumerate(zip(config.sources, versions, labels, strict=True))
        for unit in source_units(source, version)
    ]
    limits = {"min_chars": config.min_chars, "max_chars": config.max_chars, "directory": str(directory)}
    return [{**task, **limits, "key": f"{number:06d}"} for number, task in enumerate(found)]


def _harvest(tasks: list[Message], work: Work) -> None:
    """Every task to its last committed block; the heaviest first, so that the workers end together."""
    todo = []
    documents = 0
    for task in tasks:
        blocks = committed(Path(task["directory"]), task["key"])
        documents += sum(block.counts.get("found", 0) for block in blocks)
        if not (blocks and blocks[-1].end):
            todo.append(task)
    ready = len(tasks) - len(todo)
    if ready:
        work.say(f"going on: {ready} of {len(tasks)} units were harvested before")
    todo.sort(key=_weight, reverse=True)
    shares: dict[int, float] = {}
    counts: dict[int, int] = {}
    work.progress(ready, len(tasks), "units", documents=documents)
    # Closed by hand: an interrupt raised in this loop would leave the workers to the garbage collector.
    with closing(run_tasks("gptcore.text.harvest:harvest", todo, work.runtime.workers)) as messages:
        for number, message in messages:
            if "say" in message:
                work.say(message["say"])
                continue
            shares[number] = 1.0 if message.get("done") else message.get("share", shares.get(number, 0.0))
            counts[number] = message.get("documents", counts.get(number, 0))
            work.progress(ready + sum(shares.values()), len(tasks), "units", documents=documents + sum(counts.values()))


def _weight(task: Message) -> float:
    """Bytes a unit has to read; one behind a network comes first, for it waits more than it works."""
    unit = task["unit"]
    if unit["kind"] == "python_docs":
        return sum(_size(os.path.join(unit["root"], path)) for path in unit["files"])
    return _size(unit["path"]) if unit["kind"] == "files" else float("inf")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # the reader counts it as missing


@dataclass
class _Unit:
    """A harvested unit."""

    task: Message
    blocks: list[Block]

    @property
    def package(self) -> str | None:
        package: str | None = self.task["unit"]["package"]
        return package

    def count(self, kind: str) -> int:
        """How many items of a kind (found, cut, too_short, a problem)."""
        return sum(block.counts.get(kind, 0) for block in self.blocks)


def _say_problems(units: list[_Unit], work: Work) -> None:
    """One line for each kind of skipped items: how many, and the first few by name."""
    for kind in SKIPS:
        total = sum(unit.count(kind) for unit in units)
        if total:
            named = [name for unit in units for block in unit.blocks for name in block.named.get(kind, [])]
            work.say(f"skipped {total:,} {kind.replace('_', ' ')}: {', '.join(named[:3])}{' …' * (total > 3)}")
    cut = sum(unit.count("cut") for unit in units)
    if cut:
        limit = units[0].task["max_chars"]
        work.say(f"cut {cut:,} documents at corpus.max_chars = {limit:,} characters; the rest of them is left out")


@dataclass
class _Table:
    """What is known of every harvested document, in corpus order; about 30 bytes each, so 10 million fit in 300 MB."""

    text: Bits
    """Hash of the text, (documents,)."""
    group: Bits
    """Hash of the group, (documents,)."""
    text_bytes: Sizes
    """UTF-8 bytes of text, (documents,)."""
    line_bytes: Sizes
    """Bytes of the line in its block, prefix included, (documents,)."""
    blocks: list[tuple[Path, int]]
    """(file, index of its first document)."""
    units: list[int]
    """Index of each unit's first document, and at the end the number of documents."""


def _read_table(units: list[_Unit]) -> _Table:
    text, group, text_bytes, line_bytes = array("Q"), array("Q"), array("I"), array("I")
    blocks: list[tuple[Path, int]] = []
    firsts: list[int] = []
    for unit in units:
        firsts.append(len(text))
        for block in unit.blocks:
            blocks.append((block.lines, len(text)))
            with block.lines.open("rb") as file:
                for line in file:
                    text.append(int(line[:16], 16))
                    group.append(int(line[17:33], 16))
                    text_bytes.append(int(line[34:42], 16))
                    line_bytes.append(len(line))
    firsts.append(len(text))
    return _Table(
        np.frombuffer(text, np.uint64),
        np.frombuffer(group, np.uint64),
        np.frombuffer(text_bytes, np.uint32),
        np.frombuffer(line_bytes, np.uint32),
        blocks,
        firsts,
    )


def _assign(config: Corpus, units: list[_Unit], table: _Table) -> tuple[Codes, int]:
    """Each document's place in PRIORITY, or DROPPED for a duplicate (documents,), and the number of duplicates."""
    held = np.zeros(len(table.text), bool)
    held_out = set(map(canonical_name, config.held_out))
    for unit, first, end in zip(units, table.units, table.units[1:], strict=False):
        held[first:end] = unit.package in held_out
    splits = _draw(config, held, table.group)
    duplicate = _duplicates(table.text, splits)
    splits[duplicate] = DROPPED
    if not (splits == PRIORITY.index("train")).any():
        found = sum(unit.count("found") for unit in units)
        raise ValueError(
            f"no document is left for training: {found:,} found, "
            f"{sum(unit.count('too_short') for unit in units):,} shorter than corpus.min_chars {config.min_chars}, "
            f"{sum(unit.count(kind) for unit in units for kind in SKIPS):,} unreadable, "
            f"{int(duplicate.sum()):,} duplicates, {int(held.sum()):,} held out; check corpus.sources"
        )
    return splits, int(duplicate.sum())


def _draw(config: Corpus, held: npt.NDArray[np.bool_], group: Bits) -> Codes:
    """Whole groups to splits by their hash: [0, validation_share) validation, then test_share test, the rest train."""
    first, second = (
        np.uint64(min(int(share * 2**64), 2**64 - 1))
        for share in (config.validation_share, config.validation_share + config.test_share)
    )
    validation = ~held & (group < first)
    test = held | (~validation & (group < second))
    if config.validation_share and not validation.any() and not test.all():
        # Too few groups for the share to hit one: the nearest miss is taken, so that training can be watched.
        nearest = group[~test].min()
        if (group[~test] == nearest).all():
            raise ValueError(
                f"validation_share {config.validation_share} needs at least two documents (or modules) outside the "
                "test split, there is one; split the text into several, or set corpus.validation_share: 0"
            )
        validation = ~test & (group == nearest)
    names = np.full(len(group), PRIORITY.index("train"), np.uint8)
    names[validation] = PRIORITY.index("validation")
    names[test] = PRIORITY.index("test")
    return names


def _duplicates(text: Bits, splits: Codes) -> npt.NDArray[np.bool_]:
    """Which documents repeat one of an earlier split in PRIORITY, or an earlier one of their own split (documents,)."""
    order = np.lexsort((splits, text))  # stable: corpus order among equals
    repeated = np.zeros(len(text), bool)
    repeated[order[1:]] = text[order[1:]] == text[order[:-1]]
    return repeated


def _write_shards(
    config: Corpus, units: list[_Unit], table: _Table, splits: Codes, work: Work
) -> dict[str, list[dict[str, int | str]]]:
    """Copy the kept lines out, split by split; a shard that stands is whole, so a resume begins at the next one."""
    total, written = int((splits != DROPPED).sum()), 0
    shards: dict[str, list[dict[str, int | str]]] = {}
    for split in SPLITS:
        members = np.flatnonzero(splits == PRIORITY.index(split))
        sizes = table.line_bytes[members].astype(np.int64) - PREFIX
        # A new shard begins with the first document past each multiple of shard_bytes: known before a byte is written.
        # unique: a document longer than that leaves no empty shards behind.
        _, number = np.unique((np.cumsum(sizes) - sizes) // config.shard_bytes, return_inverse=True)
        shards[split] = []
        for shard in range(int(number[-1]) + 1 if len(members) else 0):
            inside = members[number == shard]
            path = work.directory / "documents" / f"{split}-{shard:05d}.jsonl"
            if not path.exists():
                with writing(path) as file:
                    for line in _lines(table, inside):
                        file.write(line[PREFIX:])
            written += len(inside)
            shards[split].append(
                {
                    "file": f"documents/{path.name}",
                    "documents": len(inside),
                    "bytes": int(table.text_bytes[inside].sum(dtype=np.int64)),
                }
            )
            work.progress(written, total, "documents")
    return shards


def _lines(table: _Table, members: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """The lines of some documents (ascending indices), read one by one from their blocks."""
    ends = [first for _, first in table.blocks[1:]] + [len(table.text)]
    for (path, first), end in zip(table.blocks, ends, strict=True):
        low, high = np.searchsorted(members, (first, end))
        if low == high:
            continue
        sizes = table.line_bytes[first:end].astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        with path.open("rb") as file:
            for index in (members[low:high] - first).tolist():
                yield os.pread(file.fileno(), int(sizes[index]), int(starts[index]))


def _data_card(
    config: Corpus,
    versions: Sequence[Version],
    units: list[_Unit],
    table: _Table,
    splits: Codes,
    duplicates: int,
    shards: dict[str, list[dict[str, int | str]]],
) -> dict[str, Any]:
    """What the corpus holds, what was left out, and where it comes from; no timing and no path, for it is a result."""

    def tally(spans: list[tuple[int, int]]) -> dict[str, dict[str, int]]:
        documents, size = Counter[str](), Counter[str]()
        for first, end in spans:
            for split in SPLITS:
                members = splits[first:end] == PRIORITY.index(split)
                documents[split] += int(members.sum())
                size[split] += int(table.text_bytes[first:end][members].sum(dtype=np.int64))
        return {"documents": dict(documents), "bytes": dict(size)}

    spans = list(zip(table.units, table.units[1:], strict=False))
    by_source: dict[int, list[tuple[int, int]]] = {number: [] for number in range(len(versions))}
    by_package: dict[str, list[tuple[int, int]]] = {}
    for unit, span in zip(units, spans, strict=True):
        by_source[unit.task["source"]].append(span)
        if unit.package is not None:
            by_package.setdefault(unit.package, []).append(span)
    packages = {name: known for version in versions for name, known in version.get("packages", {}).items()}
    held_out = set(map(canonical_name, config.held_out))
    return {
        **tally(spans),
        "shards": shards,
        "found": sum(unit.count("found") for unit in units),
        "cut": sum(unit.count("cut") for unit in units),
        "dropped": {
            "duplicates": duplicates,
            **{kind: sum(unit.count(kind) for unit in units) for kind in ("too_short", *SKIPS)},
        },
        "sources": [
            {"kind": source.kind, "version": version, **tally(by_source[number])}
            for number, (source, version) in enumerate(zip(config.sources, versions, strict=True))
        ],
        "packages": {
            name: {"version": packages[name]["version"], "held_out": name in held_out, **tally(spans)}
            for name, spans in by_package.items()
        },
    }
