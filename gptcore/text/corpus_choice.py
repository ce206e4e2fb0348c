"""Which documents of the table a corpus takes, and into which split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gptcore.config import Corpus
from gptcore.text.comparing import Benchmarks, drop_contaminated, drop_near_duplicates
from gptcore.text.corpus_table import DROPPED, PRIORITY, Codes, Table, draw_splits, repeated
from gptcore.text.corpus_units import SKIPS, Unit
from gptcore.text.distributions import canonical_name
from gptcore.text.mixture import mixture
from gptcore.work import Work


@dataclass
class Choice:
    """What the corpus takes."""

    splits: Codes
    """Place in PRIORITY, or DROPPED, (documents,)."""
    left_out: dict[str, int]
    """Documents that went because of others, by reason."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the steps that compare documents found, for the data card."""


def choose(config: Corpus, benchmarks: Benchmarks, units: Sequence[Unit], table: Table, work: Work) -> Choice:
    """Splits are drawn first, so that of documents that are alike the one stays that must not be trained on.

    1. Splits by group. 2. Equal texts. 3. Near-duplicates and contaminated documents, where steps ask for it. 4. Of the
    training text what the sources' weights allow.
    Raises ValueError when nothing is left for training.
    """
    held = np.zeros(len(table.rows), bool)
    held_out = set(map(canonical_name, config.held_out))
    for unit, first, end in zip(units, table.units, table.units[1:], strict=False):
        held[first:end] = unit.package in held_out
    splits = draw_splits(config, held, table.rows["group"]) if len(held) else np.zeros(0, np.uint8)
    duplicate = repeated(table.rows["text"], splits)
    splits[duplicate] = DROPPED
    choice = Choice(splits, {"duplicates": int(duplicate.sum())})
    for step in config.steps:
        if step.kind == "near_duplicates":
            note = drop_near_duplicates(step, units, table, splits, work)
        elif step.kind == "decontaminate":
            note = drop_contaminated(step, benchmarks, units, table, splits, work)
        else:
            continue
        choice.left_out[step.kind] = note["dropped"]
        choice.notes[step.kind] = note
    weights = [source.weight for source in config.sources if source.weight is not None]
    if weights:
        choice.left_out["mixture"] = _mix(weights, units, table, splits)
    if not (splits == PRIORITY.index("train")).any():
        found = sum(unit.count("found") for unit in units)
        raise ValueError(
            f"no document is left for training: {found:,} found, "
            f"{sum(unit.count('too_short') for unit in units):,} shorter than corpus.min_chars {config.min_chars}, "
            f"{sum(unit.count(kind) for unit in units for kind in SKIPS):,} unreadable, "
            f"{max(0, sum(unit.documents() for unit in units) - len(table.rows)):,} dropped by corpus.steps, "
            f"{int(duplicate.sum()):,} duplicates, {int(held.sum()):,} held out; check corpus.sources"
        )
    return choice


def _mix(weights: Sequence[float], units: Sequence[Unit], table: Table, splits: Codes) -> int:
    """Mark in `splits` the training documents that the mixture has no room for; how many they are."""
    source = np.zeros(len(splits), np.int64)
    for unit, first, end in zip(units, table.units, table.units[1:], strict=False):
        source[first:end] = unit.source
    train = splits == PRIORITY.index("train")
    taken = mixture(weights, source, table.rows["bytes"], table.rows["text"], train)
    splits[train & ~taken] = DROPPED
    return int((train & ~taken).sum())
