"""The steps that compare documents, in the parent process: near-duplicates, and what the benchmarks hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcore.config_steps import Decontaminate, NearDuplicates
from gptcore.durable import writing
from gptcore.text.corpus_table import DROPPED, PRIORITY, Codes, Table
from gptcore.text.corpus_units import Bar, Unit, each_task
from gptcore.text.decontamination import contamination, without_common_runs
from gptcore.text.documents import read
from gptcore.text.harvest import PREFIX
from gptcore.text.near_duplicates import near_duplicates
from gptcore.text.parts import DamagedPart, checked
from gptcore.text.run_index import RunIndex, index_runs
from gptcore.text.workers import Message
from gptcore.work import Work

EXAMPLES = 3
"""Documents that the data card shows."""
EXAMPLE_CHARS = 240

Benchmarks = Sequence[tuple[str, Iterator[str]]]
"""(name, texts of its items)."""


def drop_near_duplicates(
    config: NearDuplicates, units: Sequence[Unit], table: Table, splits: Codes, work: Work
) -> dict[str, Any]:
    """Mark in `splits` what goes; of documents that are alike the one in the earliest split of PRIORITY stays.

    Returns what the data card says: {"config", "dropped", "clusters", "examples"}.
    """
    tasks = [
        {**task, "config": config.model_dump(mode="json"), "target": str(unit.signatures / f"{task['block']}.npy")}
        for unit, task in _blocks(units)
    ]
    for task in tasks:
        _drop_damaged(Path(task["target"]), work)
    _run("sign", tasks, "blocks compared", work)
    alive = splits != DROPPED
    # Equal texts that are gone already have the last rank: what stays is never one of them, unless all are.
    found = near_duplicates([Path(task["target"]) for task in tasks], config, splits)
    gone = found.dropped & alive
    splits[gone] = DROPPED
    shown = np.flatnonzero(gone)[:EXAMPLES]
    return {
        "config": config.model_dump(mode="json", exclude={"kind"}),
        "dropped": int(gone.sum()),
        "clusters": len(np.unique(found.of[gone])),
        "examples": [
            {"document": _example(table, int(number)), "of": _example(table, int(found.of[number]))} for number in shown
        ],
    }


def drop_contaminated(
    config: Decontaminate,
    benchmarks: Benchmarks,
    units: Sequence[Unit],
    table: Table,
    splits: Codes,
    work: Work,
) -> dict[str, Any]:
    """Mark in `splits` the training and validation documents that share a run of words with a benchmark.

    benchmarks: those besides the corpus's own test split. Returns what the data card says:
    {"config", "dropped", "benchmarks", "examples"}.
    """
    folder = work.scratch / "contamination"
    test = (read(line[PREFIX:]).text for line in table.lines(np.flatnonzero(splits == PRIORITY.index("test"))))
    if not (folder / "index" / "runs.json").exists():
        index_runs([("test split", test), *benchmarks], config.words).save(folder / "index")
    index = RunIndex.open(folder / "index")
    chosen = (splits != DROPPED) & (splits != PRIORITY.index("test"))
    tasks = []
    for number, (_, task) in enumerate(_blocks(units)):
        first, end = table.span(number)
        path = folder / f"chosen-{number:06d}.npy"
        if not path.exists():
            _save(path, chosen[first:end])
        tasks.append({**task, "index": str(folder / "index"), "chosen": str(path)})

    counting = [{**task, "target": str(folder / f"runs-{number:06d}.npy")} for number, task in enumerate(tasks)]
    documents = folder / "documents.npy"
    if not documents.exists():
        _run("count_runs", counting, "blocks searched", work)
        total = np.zeros(len(index.hashes), np.int64)
        for task in counting:
            total += np.load(task["target"])
        _save(documents, total)
    more = {"documents": str(documents), "most_documents": config.most_documents}
    looking = [{**task, **more, "target": str(folder / f"gone-{number:06d}.npz")} for number, task in enumerate(tasks)]
    _run("decontaminate", looking, "blocks cleared", work)

    left = without_common_runs(index, np.load(documents), config.most_documents)
    hit, dropped = np.zeros(index.items, bool), 0
    examples: list[dict[str, str]] = []
    for number, task in enumerate(looking):
        target = Path(task["target"])
        with np.load(target) as said:
            gone = np.flatnonzero(said["gone"]) + table.span(number)[0]
            hit |= said["hit"]
        splits[gone] = DROPPED
        dropped += len(gone)
        examples = [*examples, *json.loads(target.with_suffix(".json").read_bytes())][:EXAMPLES]
    return {
        "config": config.model_dump(mode="json", exclude={"kind"}),
        "dropped": dropped,
        "benchmarks": contamination(left, hit),
        "examples": examples,
    }


def _blocks(units: Sequence[Unit]) -> Iterator[tuple[Unit, Message]]:
    """Every block, in the order of the table, and what a worker needs to open it."""
    for unit in units:
        for block in unit.block_names():
            yield unit, {"harvest": str(unit.harvest), "block": block, "steps": [str(step) for step in unit.steps]}


def _run(function: str, tasks: list[Message], what: str, work: Work) -> None:
    """Those tasks whose target is not there yet."""
    todo = [task for task in tasks if not Path(task["target"]).exists()]
    ready = len(tasks) - len(todo)
    each_task(f"gptcore.text.compare_blocks:{function}", todo, work, Bar(work, what, ready, len(tasks), 0))


def _drop_damaged(signatures: Path, work: Work) -> None:
    """Remove kept signatures that do not hold what was written, or were never finished."""
    digest = signatures.with_suffix(".json")
    if digest.exists():
        try:
            checked(signatures, json.loads(digest.read_bytes())["sha256"])
            return
        except DamagedPart as damage:
            work.say(f"{damage}; it is made again")
    digest.unlink(missing_ok=True)
    signatures.unlink(missing_ok=True)


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    with writing(path) as file:
        np.save(file, values, allow_pickle=False)


def _example(table: Table, number: int) -> dict[str, str]:
    (line,) = table.lines(np.array([number]))
    document = read(line[PREFIX:])
    return {"id": document.id, "text": document.text[:EXAMPLE_CHARS]}
