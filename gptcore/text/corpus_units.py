"""The units of a corpus in the parent process: their parts, and the workers that harvest them and take the steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptcore.config import Corpus
from gptcore.config_sources import reading_of
from gptcore.config_steps import WHOLE_CORPUS
from gptcore.hardware import library_version
from gptcore.stages import libraries_of_source
from gptcore.text.block_view import step_record
from gptcore.text.documents import FILE_PROBLEMS
from gptcore.text.files import Place
from gptcore.text.harvest import Block, committed
from gptcore.text.parts import part
from gptcore.text.sources import Version, source_labels, source_units
from gptcore.text.steps.making import code_identity
from gptcore.text.web_problems import WEB_PROBLEMS
from gptcore.text.workers import Message, spread_tasks
from gptcore.work import Work

SKIPS = ("undecodable", "unparsable", "no_text", "too_long", "truncated", "missing", *FILE_PROBLEMS, *WEB_PROBLEMS)
"""Kinds of items that give no document."""
HARVEST_VERSION = 2
"""Raised when the same source gives other blocks."""
SIGNATURES_VERSION = 1
"""Raised when the same text gives another signature."""
MOST_REPAIRS = 3
"""Times that damaged blocks are made again before the disk is not to be trusted."""


@dataclass
class Unit:
    """What one worker reads at a time, and its blocks."""

    unit: dict[str, Any]
    source: int
    """Which of `corpus.sources` it belongs to."""
    key: str
    """Its name among the units of its source; names sort in corpus order."""
    harvest: Path
    """The part that holds its blocks."""
    steps: list[Path]
    """The parts that hold what the steps said of them."""
    step_configs: list[dict[str, Any]]
    signatures: Path
    """The part that holds what near-duplicates are known by, where a step asks for it."""
    task: Message
    blocks: list[Block] = field(default_factory=list)

    @property
    def package(self) -> str | None:
        """The distribution, for python_docs."""
        package: str | None = self.unit["package"]
        return package

    @property
    def licence(self) -> str | None:
        """Under which its text stands, where that is known."""
        licence: str | None = self.unit.get("licence")
        return licence

    def count(self, kind: str) -> int:
        """How many items of a kind (found, cut, too_short, a problem)."""
        return sum(block.counts.get(kind, 0) for block in self.blocks)

    def documents(self) -> int:
        """Documents in its blocks, before any step."""
        return self.count("found") - self.count("too_short")

    def block_names(self) -> list[str]:
        """Of its blocks, in order."""
        return [block.lines.stem for block in self.blocks]


def plan_units(config: Corpus, versions: Sequence[Version], root: Path, work: Work) -> list[Unit]:
    """Every unit, in corpus order; the parts, below `root`, are named after all that their content follows from."""
    found = []
    limits = {"min_chars": config.min_chars, "max_chars": config.max_chars}
    steps = [step.model_dump(mode="json") for step in config.steps if step.kind not in WHOLE_CORPUS]
    near = next((step for step in config.steps if step.kind == "near_duplicates"), None)
    labels = source_labels(config.sources)
    for number, (source, version, label) in enumerate(zip(config.sources, versions, labels, strict=True)):
        identity: dict[str, Any] = {
            "version": HARVEST_VERSION,
            "config": reading_of(source),
            "source": version,
            "label": label,
            "libraries": {name: library_version(name) for name in libraries_of_source(source)},
            **limits,
        }
        harvest = part(root, f"harvest-{source.kind}", identity)
        directories = []
        for step in steps:
            identity = {"before": identity, "config": step, **code_identity(step["kind"])}
            directories.append(part(root, step["kind"], identity))
        signatures = harvest
        if near is not None:
            identity = {"before": identity, "config": near.model_dump(mode="json"), "version": SIGNATURES_VERSION}
            signatures = part(root, near.kind, identity)
        for place, unit in enumerate(source_units(source, version, list_place(work, number))):
            key = f"{place:06d}"
            task = {"unit": unit, "label": label, **limits, "key": key, "directory": str(harvest)}
            found.append(Unit(unit, number, key, harvest, directories, steps, signatures, task))
    return found


def list_place(work: Work, source: int) -> Place:
    """Where the files of a source are listed, if they are very many."""
    return Place(work.scratch / "lists" / f"{source:04d}", work.cache or work.scratch / "lists")


def sweep_torn(directories: Sequence[Path]) -> None:
    """Remove what a killed writer left aside."""
    for directory in set(directories):
        for pattern in (".*.part", "unpacked-*"):
            for path in directory.glob(pattern):
                path.unlink(missing_ok=True)


def harvest_units(units: Sequence[Unit], work: Work) -> None:
    """Every unit to its last committed block; the heaviest first, so that the workers end together."""
    todo = []
    documents = 0
    for unit in units:
        unit.blocks = committed(unit.harvest, unit.key)
        documents += unit.count("found")
        if not (unit.blocks and unit.blocks[-1].end):
            todo.append(unit)
    ready = len(units) - len(todo)
    if ready and todo:
        work.say(f"going on: {ready} of {len(units)} units were harvested before")
    elif ready:
        work.say("nothing is read anew: the sources are as they were")
    todo.sort(key=_weight, reverse=True)
    bar = Bar(work, "units", ready, len(units), documents)
    each_task("gptcore.text.harvest:harvest", [unit.task for unit in todo], work, bar)
    for unit in todo:
        unit.blocks = committed(unit.harvest, unit.key)


def step_units(units: Sequence[Unit], work: Work) -> None:
    """Every block through all steps, and its table into scratch; blocks that were damaged are harvested again."""
    for _ in range(MOST_REPAIRS):
        damaged = _take_steps(units, work)
        if not damaged:
            return
        for unit in damaged:
            _forget(unit, work.scratch)
        harvest_units(units, work)
    raise OSError(f"blocks below {units[0].harvest.parent} were damaged {MOST_REPAIRS} times in a row; check the disk")


def _take_steps(units: Sequence[Unit], work: Work) -> list[Unit]:
    """The blocks whose tables are not there yet through all steps; the units whose harvest turned out damaged."""
    todo = [
        (unit, block)
        for unit in units
        for block in unit.block_names()
        if not table_path(unit, block, work.scratch).exists()
    ]
    damaged: list[Unit] = []

    def ended(number: int, message: Message) -> None:
        if "damaged" in message:
            work.say(f"{message['damaged']}; it is read again")
            if todo[number][0] not in damaged:
                damaged.append(todo[number][0])

    tasks = [_step_task(unit, block, work.scratch) for unit, block in todo]
    each_task("gptcore.text.step_blocks:process", tasks, work, Bar(work, "blocks", 0, len(tasks), 0), ended)
    return damaged


def _step_task(unit: Unit, block: str, scratch: Path) -> Message:
    """What `step_blocks.process` is asked for a block."""
    steps = zip(unit.steps, unit.step_configs, strict=True)
    return {
        "directory": str(unit.harvest),
        "block": block,
        "steps": [{"directory": str(directory), "config": config} for directory, config in steps],
        "min_chars": unit.task["min_chars"],
        "table": str(table_path(unit, block, scratch)),
    }


def table_path(unit: Unit, block: str, scratch: Path) -> Path:
    """Where a block's table stands: in this stage's own work, for it is quickly made."""
    return scratch / "table" / f"{unit.source:04d}-{block}.npy"


def step_records(units: Sequence[Unit], number: int) -> list[dict[str, Any]]:
    """What the step of that number says of every block, in corpus order."""
    found = [step_record(unit.steps[number], block) for unit in units for block in unit.block_names()]
    missing = found.count(None)
    assert not missing, f"{missing} blocks have not been through step {number}"
    return [record for record in found if record is not None]


def _forget(unit: Unit, scratch: Path) -> None:
    """Make a unit unharvested, markers first."""
    for directory in (unit.harvest, *unit.steps):
        for pattern in (f"{unit.key}-*.json", f"{unit.key}-*"):
            for path in directory.glob(pattern):
                path.unlink(missing_ok=True)
    for block in unit.block_names():
        table_path(unit, block, scratch).unlink(missing_ok=True)


class Bar:
    """The stage's bar over many tasks, and the documents beside it."""

    def __init__(self, work: Work, what: str, ready: int, total: int, documents: int) -> None:
        self._work, self._what, self._ready, self._total, self._documents = work, what, ready, total, documents
        self._shares: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._show()

    def move(self, number: int, message: Message) -> None:
        """A task has told how far it is."""
        self._shares[number] = 1.0 if message.get("done") else message.get("share", self._shares.get(number, 0.0))
        self._counts[number] = message.get("documents", self._counts.get(number, 0))
        self._show()

    def _show(self) -> None:
        done = self._ready + sum(self._shares.values())
        documents = self._documents + sum(self._counts.values())
        self._work.progress(done, self._total, self._what, documents=documents)


def each_task(
    function: str,
    tasks: list[Message],
    work: Work,
    bar: Bar,
    ended: Callable[[int, Message], None] = lambda *_: None,
) -> None:
    """Do tasks, wherever the work does them; `ended` gets each task's number and last message."""
    # Closed by hand: an interrupt raised in this loop would leave the workers to the garbage collector.
    with closing(spread_tasks(function, tasks, work)) as messages:
        for number, message in messages:
            if "say" in message:
                work.say(message["say"])
                continue
            if message.get("done"):
                ended(number, message)
            bar.move(number, message)


def _weight(unit: Unit) -> float:
    """Bytes a unit has to read; one behind a network comes first, for it waits more than it works."""
    what = unit.unit
    if what["kind"] == "python_docs":
        return sum(_size(os.path.join(what["root"], path)) for path in what["files"])
    return float(what["bytes"]) if what["kind"] in ("files", "wikipedia") else float("inf")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # the reader counts it as missing
