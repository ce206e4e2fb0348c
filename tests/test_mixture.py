"""Sources by weight: shares of the training text, nothing twice, and what cannot be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from test_corpus import split
from test_corpus_steps import build

from gptcore.config import Corpus
from gptcore.text.mixture import mixture


def corpus(folder: Path, *sources: tuple[int, float | None]) -> Corpus:
    """Each source: (documents of a hundred bytes or so, weight)."""
    found = []
    for number, (count, weight) in enumerate(sources):
        rows = [
            f"Source {number} says in document {row:05d} what no other one does. " + "x" * 40 for row in range(count)
        ]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        found.append({"kind": "files", "paths": [str(folder / f"{number}.jsonl")], "weight": weight})
    return Corpus.model_validate({"sources": found, "validation_share": 0.05})


def trained_on(directory: Path) -> Counter[str]:
    """Training documents by the label of their source."""
    return Counter(document.id.partition("/")[0] for document in split(directory)["train"])


def test_the_scarcest_source_is_taken_whole_and_the_others_in_proportion(tmp_path: Path) -> None:
    card, _ = build(tmp_path / "all", corpus(tmp_path, (200, None), (600, None), (600, None)))
    whole = trained_on(tmp_path / "all")
    card, _ = build(tmp_path / "out", corpus(tmp_path, (200, 1), (600, 2), (600, 0.5)))
    found = trained_on(tmp_path / "out")
    assert found["files"] == whole["files"]
    assert found["files-2"] == pytest.approx(2 * found["files"], abs=2)
    assert found["files-3"] == pytest.approx(0.5 * found["files"], abs=2)
    assert card["dropped"]["mixture"] == whole.total() - found.total()
    ids = [document.id for document in split(tmp_path / "out")["train"]]
    assert len(set(ids)) == len(ids)


def test_other_splits_are_left_as_they_are(tmp_path: Path) -> None:
    build(tmp_path / "all", corpus(tmp_path, (300, None), (300, None)))
    build(tmp_path / "out", corpus(tmp_path, (300, 1), (300, 5)))
    assert split(tmp_path / "out")["validation"] == split(tmp_path / "all")["validation"]


def test_more_text_keeps_most_of_what_was_taken(tmp_path: Path) -> None:
    draw = np.random.default_rng(1).integers(0, 2**63, 1000, dtype=np.uint64)
    source, size, every = np.arange(1000) % 2, np.full(1000, 100), np.ones(1000, bool)
    few = mixture([1.0, 1.0], source, size, draw, every & (np.arange(1000) < 900))
    more = mixture([1.0, 1.0], source, size, draw, every)
    assert (few & more).sum() == few.sum() == 900 and more.all()


def test_weights_of_some_sources_and_of_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="1 of 2 have a weight; give one to all, or to none"):
        corpus(tmp_path, (10, 1.0), (10, None))
    with pytest.raises(ValidationError, match="greater than 0"):
        corpus(tmp_path, (10, 0.0), (10, 1.0))
    config = corpus(tmp_path, (50, 1.0), (50, 2.0))
    (tmp_path / "1.jsonl").write_text('{"text": "short"}\n')
    with pytest.raises(ValueError, match=r"source 2 of corpus.sources has a weight of 2 and no training text"):
        build(tmp_path / "out", config)
