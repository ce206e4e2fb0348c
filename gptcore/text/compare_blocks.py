"""What a worker does for the steps that compare documents: signatures of a block, and its runs of words in an index."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gptcore.config_steps import NearDuplicates
from gptcore.durable import sha256_file, write_json, writing
from gptcore.text.block_view import BlockView
from gptcore.text.decontamination import documents_with, make_decontaminate, without_common_runs
from gptcore.text.minhash import save_signatures, signatures
from gptcore.text.run_index import RunIndex
from gptcore.text.step_blocks import documents_of, open_block
from gptcore.text.steps.step import Dropped
from gptcore.text.workers import Message, Tell

EXAMPLES = 2
"""Documents of a block that the data card may show."""


def sign(task: Message, tell: Tell) -> Message:
    """Signatures of the documents that the steps left, (documents, permutations).

    `task`: {"harvest", "block", "steps": folders, "config": of near_duplicates, "target": path}. Their digest stands
    beside them, written last.
    """
    texts = (document.text for document in documents_of(_view(task)))
    rows = signatures(texts, NearDuplicates.model_validate(task["config"]))
    target = Path(task["target"])
    save_signatures(target, rows)
    write_json(target.with_suffix(".json"), {"sha256": sha256_file(target)})
    return {"documents": len(rows)}


def count_runs(task: Message, tell: Tell) -> Message:
    """In how many of a block's training documents each run of the index stands, (runs,).

    `task`: as for `sign`, and {"index": folder, "chosen": .npy of flags by document that is left, "target"}.
    """
    index, chosen = RunIndex.open(Path(task["index"])), np.load(task["chosen"])
    texts = (document.text for document, taken in zip(documents_of(_view(task)), chosen, strict=True) if taken)
    with writing(Path(task["target"])) as file:
        np.save(file, documents_with(index, texts), allow_pickle=False)
    return {"documents": int(chosen.sum())}


def decontaminate(task: Message, tell: Tell) -> Message:
    """Which of a block's chosen documents are contaminated, (documents,), and which items of the index were found.

    `task`: as for `count_runs`, and {"documents": .npy of the runs' counts, "most_documents"}. Beside the target
    stands a .json with examples.
    """
    whole, chosen = RunIndex.open(Path(task["index"])), np.load(task["chosen"])
    index = without_common_runs(whole, np.load(task["documents"]), task["most_documents"])
    hit = np.zeros(index.items, bool)
    step = make_decontaminate(index, hit)
    gone = np.zeros(len(chosen), bool)
    examples: list[dict[str, str]] = []
    for number, document in enumerate(documents_of(_view(task))):
        if chosen[number] and isinstance(verdict := step(document.text), Dropped):
            gone[number] = True
            if len(examples) < EXAMPLES:
                examples.append({"id": document.id, "why": verdict.why})
    target = Path(task["target"])
    write_json(target.with_suffix(".json"), examples)
    with writing(target) as file:
        np.savez(file, gone=gone, hit=hit)
    return {"documents": int(chosen.sum())}


def _view(task: Message) -> BlockView:
    return open_block(Path(task["harvest"]), task["block"], [Path(step) for step in task["steps"]])
