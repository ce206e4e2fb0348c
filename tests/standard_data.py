"""Small local datasets in the form of the ones that standard tasks read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finished_stages import TEXT

WORDS = TEXT.split()


def words(start: int, count: int) -> str:
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(count))


def hellaswag(i: int) -> dict[str, Any]:
    return {
        "ind": i,
        "activity_label": words(i, 2),
        "ctx_a": words(i, 4 + i % 9),
        "ctx_b": words(i + 3, 2),
        "ctx": words(i, 5),
        "endings": [words(i + k, 3 + (i + k) % 4) for k in (1, 2, 5, 7)],
        "label": str(i % 4),
    }


def arc(i: int) -> dict[str, Any]:
    labels = ["A", "B", "C", "D"]
    choices = {"text": [words(i + k, 1 + k % 2) for k in range(4)], "label": labels}
    return {"id": f"arc-{i}", "question": f"{words(i, 4 + i % 5)}?", "choices": choices, "answerKey": labels[i % 4]}


def blimp(i: int) -> dict[str, Any]:
    return {"sentence_good": f"{words(i, 5)}.", "sentence_bad": f"{words(i + 1, 5)}."}


def crows(i: int) -> dict[str, Any]:
    return {"sent_more": f"{words(i, 6)}.", "sent_less": f"{words(i + 2, 6)}.", "bias_type": "age"}


def truthful(i: int) -> dict[str, Any]:
    targets = {"choices": [words(i + k, 2 + k) for k in range(3)], "labels": [1, 0, 0]}
    return {"question": f"{words(i, 3)}?", "mc1_targets": targets, "mc2_targets": targets}


def toxigen(i: int) -> dict[str, Any]:
    return {"text": words(i, 5), "toxicity_ai": 1.0 + i % 5, "toxicity_human": 1.0 + i % 4}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(root: Path) -> Path:
    """A `benchmark.data_dir`: two folders with a README as on the hub, the others bare."""
    count = range(10)
    for split in ("train", "validation"):
        write_rows(root / "Rowan" / "hellaswag" / "data" / f"{split}.jsonl", [hellaswag(i) for i in count])
    for split in ("train", "validation", "test"):
        write_rows(root / "allenai" / "ai2_arc" / "ARC-Easy" / f"{split}.jsonl", [arc(i) for i in count])
    readme = "---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n"
    readme += "".join(f"  - split: {s}\n    path: ARC-Easy/{s}*\n" for s in ("train", "validation", "test"))
    (root / "allenai" / "ai2_arc" / "README.md").write_text(f"{readme}---\n# ARC\n")
    lambada = [{"text": words(i, 8 + i)} for i in count]
    write_rows(root / "EleutherAI" / "lambada_openai" / "test.jsonl", lambada)
    for split in ("train", "validation", "test"):
        pages = [{"page": f" = {words(i, 2)} = \n {words(i, 20 + 30 * i)} @-@ x . \n"} for i in range(4)]
        folder = root / "EleutherAI" / "wikitext_document_level" / "wikitext-2-raw-v1"
        write_rows(folder / f"{split}.jsonl", pages)
    for name in ("adjunct_island", "anaphor_gender_agreement"):
        write_rows(root / "nyu-mll" / "blimp" / name / "train.jsonl", [blimp(i) for i in count])
    return root


def write_safety(root: Path) -> None:
    """What the group `safety` reads."""
    count = range(6)
    write_rows(root / "jannalu/crows_pairs_multilingual/english/test.jsonl", [crows(i) for i in count])
    write_rows(root / "truthfulqa/truthful_qa/multiple_choice/validation.jsonl", [truthful(i) for i in count])
    for split in ("train", "test"):
        write_rows(root / f"skg/toxigen-data/annotated/{split}.jsonl", [toxigen(i) for i in count])
