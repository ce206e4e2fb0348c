"""A finished benchmark of a model, with samples like real ones: items easy and hard for every model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from gptcore.evaluation.scores import ratio_stderr
from gptcore.store import FileRecord, Manifest, Store

ITEMS = 120


def samples(better: float, seed: int) -> list[dict[str, Any]]:
    """The easy items are answered by every model, the hard ones by none, and few between tell models apart."""
    draw = random.Random(seed)
    found = []
    for number in range(ITEMS):
        difficulty = number / ITEMS
        right = difficulty + 0.02 * draw.random() < 0.4 + better
        item: dict[str, Any] = {"id": f"d{number}", "fields": {"question": f"q{number}"}, "target": "int"}
        found.append(item | {"scores": {"exact_match": float(right)}, "baseline_scores": {"exact_match": 0.0}})
    return found


def texts(bits: float, seed: int, count: int = 60) -> list[dict[str, Any]]:
    """Held-out documents, of which some are hard for every model."""
    draw = random.Random(seed)
    return [
        {"id": f"t{n}", "bytes": 100 + n, "bits": round((100 + n) * (bits + 0.02 * n + 0.02 * draw.random()), 6)}
        for n in range(count)
    ]


def finished(
    store: Store, key: str, answers: list[dict[str, Any]], held_out: list[dict[str, Any]] | None = None
) -> tuple[Path, str, dict[str, float]]:
    """A finished benchmark stage: its directory, digest and the skill's metrics."""
    directory, _ = store.begin("benchmark-qa", key, {"key": key})
    value = sum(answer["scores"]["exact_match"] for answer in answers) / ITEMS
    stderr = (value * (1 - value) / (ITEMS - 1)) ** 0.5
    metrics = {"exact_match": value, "exact_match_stderr": stderr, "overlap_13gram": 0.25}
    tasks: dict[str, Any] = {"qa": {"n": ITEMS, "target_metric": "exact_match", "metrics": metrics}}
    if held_out:
        value, stderr = ratio_stderr([(text["bits"], text["bytes"]) for text in held_out])
        tasks["heldout"] = {"n": len(held_out), "metrics": {"bits_per_byte": value, "bits_per_byte_stderr": stderr}}
        (directory / "samples-heldout.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in held_out))
    (directory / "scores.json").write_text(json.dumps({"tasks": tasks}))
    (directory / "samples-qa.jsonl").write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))

    def manifest(files: dict[str, FileRecord], digest: str) -> Manifest:
        return Manifest(
            "benchmark-qa", key, {}, digest, files, {}, 1.0, 1, 0.0, "tiny", "", {}, {}, None, None,
        )  # fmt: skip

    committed = store.commit(manifest, directory, ("scores.json", "samples-*.jsonl"))
    return directory, committed.output_digest, {f"qa/{name}": figure for name, figure in metrics.items()}
