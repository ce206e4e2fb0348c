"""What a worker does after the harvest: the steps on one block of documents, and the table of what is left of it.

A step that is committed for a block is not done again; those after it go through the documents together, each document
through all of them at once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gptcore.durable import write_json, writing
from gptcore.text.block_view import AS_BEFORE, CHANGED, GONE, BlockView, apply, harvested, step_record
from gptcore.text.documents import Document, clean_text, read
from gptcore.text.harvest import PREFIX, line_of
from gptcore.text.parts import DamagedPart
from gptcore.text.steps.making import make_step
from gptcore.text.steps.step import Dropped, Step
from gptcore.text.workers import Message, Tell

EXAMPLES = 2
"""Documents of a block and rule that the data card may show."""
EXAMPLE_CHARS = 240
"""Of an example's text."""
TOO_SHORT = "too_short"
"""The rule by which a text that a step shortened below `corpus.min_chars` goes."""

ROW = np.dtype(
    [("text", "<u8"), ("group", "<u8"), ("start", "<u8"), ("line", "<u4"), ("bytes", "<u4"), ("layer", "u1")]
)
"""A document that is left: hashes of text and group, where its line stands (layer 0: the harvested block, k: that of
the k-th step), bytes of the line with its prefix, bytes of the text."""
Rows = npt.NDArray[np.void]


def process(task: Message, tell: Tell) -> Message:
    """Bring one block through all steps and write its table.

    `task`: {"directory", "block": of the harvest; "steps": [{"directory", "config"}]; "min_chars"; "table": path}.
    Tells {"share"} and {"say"}. Returns {"documents"}, or {"damaged": why} where the harvest must be made again.
    """
    directory, block = Path(task["directory"]), task["block"]
    try:
        view = harvested(directory, block)
    except DamagedPart as damage:
        return {"damaged": str(damage)}
    steps = [(Path(step["directory"]), step["config"]) for step in task["steps"]]
    try:
        while steps and (record := step_record(steps[0][0], block)) is not None:
            apply(view, steps[0][0], block, record)
            steps.pop(0)
    except DamagedPart as damage:
        tell({"say": f"{damage}; it is made again"})
        for later, _ in steps:
            (later / f"{block}.json").unlink(missing_ok=True)
    if steps:
        _do(view, block, steps, task["min_chars"], tell)
    rows = _table(view)
    with writing(Path(task["table"])) as file:
        np.save(file, rows, allow_pickle=False)
    return {"documents": len(rows)}


def _do(view: BlockView, block: str, steps: Sequence[tuple[Path, Any]], min_chars: int, tell: Tell) -> None:
    """The steps that are not committed yet, each document through all of them; then one commit after the other."""
    with ExitStack() as stack:
        doing = [_Doing(directory, block, config, len(view.there), stack) for directory, config in steps]
        told = time.monotonic()
        for number in np.flatnonzero(view.there).tolist():
            document = read(view.line(number)[PREFIX:])
            for step in doing:
                left = step.take(number, document, min_chars)
                if left is None:
                    break
                document = left
            if time.monotonic() - told > 0.5:
                told = time.monotonic()
                tell({"share": number / len(view.there)})
    for step in doing:
        step.commit()
        record = step_record(step.directory, block)
        assert record is not None
        apply(view, step.directory, block, record)


class _Doing:
    """One step on one block."""

    def __init__(self, directory: Path, block: str, config: Any, documents: int, stack: ExitStack) -> None:
        self.directory, self._block = directory, block
        self._step: Step = make_step(config)
        self._codes = np.full(documents, AS_BEFORE, np.uint8)
        self._lines: IO[bytes] = stack.enter_context(writing(directory / f"{block}.lines"))
        self._digest = hashlib.sha256()
        self._seen = self._changed = 0
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, str]]] = {}

    def take(self, number: int, document: Document, min_chars: int) -> Document | None:
        """The document as the next step sees it, or None where it goes."""
        self._seen += 1
        verdict = self._step(document.text)
        if not isinstance(verdict, Dropped):
            self._counts.update(verdict.counts)
            text = clean_text(verdict.text)
            if text == document.text:
                return document
            if len(text) >= min_chars:
                changed = replace(document, text=text)
                self._changed += 1
                self._codes[number] = CHANGED
                line = line_of(changed)
                self._lines.write(line)
                self._digest.update(line)
                return changed
            verdict = Dropped(TOO_SHORT, f"{len(text)} characters are left, at least {min_chars}")
        self._codes[number] = GONE
        self._dropped[verdict.rule] += 1
        examples = self._examples.setdefault(verdict.rule, [])
        if len(examples) < EXAMPLES:
            examples.append({"id": document.id, "why": verdict.why, "text": document.text[:EXAMPLE_CHARS]})
        return None

    def commit(self) -> None:
        """Write what it said, the marker last; the lines stand there already."""
        codes = self._codes.tobytes()
        with writing(self.directory / f"{self._block}.codes") as file:
            file.write(codes)
        write_json(
            self.directory / f"{self._block}.json",
            {
                "documents": self._seen,
                "changed": self._changed,
                "counts": dict(self._counts),
                "dropped": dict(self._dropped),
                "examples": self._examples,
                "codes_sha256": hashlib.sha256(codes).hexdigest(),
                "lines_sha256": self._digest.hexdigest(),
            },
        )


def _table(view: BlockView) -> Rows:
    """A row for each document that is left, in order."""
    rows = np.zeros(int(view.there.sum()), ROW)
    for row, number in enumerate(np.flatnonzero(view.there).tolist()):
        head = view.line(number)[:PREFIX]
        rows[row] = (int(head[:16], 16), int(head[17:33], 16), 0, 0, int(head[34:42], 16), 0)
    rows["start"], rows["line"] = view.start[view.there], view.size[view.there]
    rows["layer"] = view.layer[view.there]
    return rows


def documents_of(view: BlockView) -> Iterator[Document]:
    """Those that are left, in order."""
    for number in np.flatnonzero(view.there).tolist():
        yield read(view.line(number)[PREFIX:])


def open_block(directory: Path, block: str, steps: Sequence[Path]) -> BlockView:
    """A block after steps that are all committed for it; raises DamagedPart."""
    view = harvested(directory, block)
    for step in steps:
        record = json.loads((step / f"{block}.json").read_bytes())
        apply(view, step, block, record)
    return view
