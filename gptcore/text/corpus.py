"""The corpus stage: harvest every source, take the steps, drop duplicates, split, write files and the data card."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gptcore.config import Corpus, against
from gptcore.durable import write_bytes, write_json
from gptcore.text import parts
from gptcore.text.comparing import Benchmarks
from gptcore.text.corpus_choice import choose
from gptcore.text.corpus_files import write_files
from gptcore.text.corpus_table import read_table
from gptcore.text.corpus_units import SKIPS, Unit, harvest_units, list_place, plan_units, step_units, sweep_torn
from gptcore.text.data_card import data_card
from gptcore.text.data_card_page import data_card_page
from gptcore.text.distributions import STDLIB, canonical_name
from gptcore.text.documents import Document
from gptcore.text.files import files_of
from gptcore.text.sources import Version, read_unit, source_units
from gptcore.work import Outcome, Work


def build_corpus(
    config: Corpus, versions: Sequence[Version], work: Work, benchmarks: Callable[[], Benchmarks] = tuple
) -> Outcome:
    """Make `documents/<split>-*.jsonl` and the data card from the sources.

    `versions`: what `resolve_source` gave for `config.sources`, and after them for `against(config)`, where that is.
    `benchmarks`: what the corpus is cleared of besides its own test split and those files, asked for when it is needed.

    1. Harvest: every unit of every source becomes committed blocks, in worker processes.
    2. Steps: what each of `corpus.steps` changes or drops is left beside the blocks, block by block.
    3. Assemble: duplicates are dropped and splits drawn from a table of hashes, then the files are copied out.
    All of it goes on from what is committed; 1 and 2 are kept for later corpora in `work.kept`, where there is one.
    Raises ValueError for an empty corpus or a held-out name without a package.
    """
    _check_held_out(config)
    root = work.kept or work.scratch

    def waiting() -> None:
        work.say("another corpus is reading the same sources; waiting for it")

    with parts.being_used(root, waiting) as stack:
        units = plan_units(config, versions[: len(config.sources)], root, work)
        owned = [directory for unit in units for directory in (unit.harvest, *unit.steps, unit.signatures)]
        parts.own(stack, owned, waiting)
        sweep_torn(
            [
                *owned,
                *(work.scratch / name for name in ("table", "contamination", "lists")),
                work.directory / "documents",
            ]
        )
        harvest_units(units, work)
        _say_problems(config, units, work)
        _check_damaged(config, units)
        step_units(units, work)
        table = read_table(units, work.scratch)
        choice = choose(config, _benchmarks(config, versions, work, benchmarks), units, table, work)
        files = write_files(config, table, choice.splits, work)
        card = data_card(config, versions[: len(config.sources)], units, table, choice, files)
    if work.kept is not None:
        parts.sweep(root, work.directory.name, owned)
    write_json(work.directory / "data_card.json", card)
    write_bytes(work.directory / "data_card.html", data_card_page(card))
    return Outcome(("documents/*.jsonl", "data_card.json"), _metrics(config, card))


def _metrics(config: Corpus, card: dict[str, Any]) -> dict[str, float]:
    """The data card's headline numbers, under names that MLflow takes."""
    contaminated = card.get("decontaminate", {}).get("benchmarks", {})
    metrics = {
        "corpus/documents": card["documents"]["train"],
        "corpus/bytes": card["bytes"]["train"],
        "corpus/validation_documents": card["documents"]["validation"],
        "corpus/test_documents": card["documents"]["test"],
        "corpus/test_bytes": card["bytes"]["test"],
        "corpus/duplicates": card["dropped"]["duplicates"],
        "corpus/too_short": card["dropped"]["too_short"],
        "corpus/skipped": sum(card["dropped"][kind] for kind in SKIPS),
        **{f"corpus/dropped_{step.kind}": card["dropped"][step.kind] for step in config.steps},
        **{
            f"corpus/contaminated_share_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}": found["contaminated_share"]
            for name, found in contaminated.items()
        },
    }
    return {name: float(value) for name, value in metrics.items()}


def _benchmarks(
    config: Corpus, versions: Sequence[Version], work: Work, others: Callable[[], Benchmarks]
) -> Benchmarks:
    """The files of `decontaminate.against`, each a benchmark whose rows are items, and the others."""
    if not any(step.kind == "decontaminate" for step in config.steps):
        return ()
    files = against(config)
    if files is None:
        return others()

    def texts(unit: dict[str, Any]) -> Iterator[str]:
        reading = read_unit(unit, "benchmark", config.max_chars, work.scratch, lambda _: None)
        yield from (item.text for item in reading.items if isinstance(item, Document))
        reading.finish()

    number = len(config.sources)
    units = source_units(files, versions[number], list_place(work, number))
    read = [(file["name"], texts({**unit, "files": [file]})) for unit in units for file in files_of(unit)]
    return [*read, *others()]


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


def _say_problems(config: Corpus, units: Sequence[Unit], work: Work) -> None:
    """One line for each kind of skipped items: how many, and the first few by name."""
    for kind in SKIPS:
        total = sum(unit.count(kind) for unit in units)
        if total:
            named = [name for unit in units for block in unit.blocks for name in block.named.get(kind, [])]
            work.say(f"skipped {total:,} {kind.replace('_', ' ')}: {', '.join(named[:3])}{' …' * (total > 3)}")
    cut = sum(unit.count("cut") for unit in units)
    if cut:
        limit = config.max_chars
        work.say(f"cut {cut:,} documents at corpus.max_chars = {limit:,} characters; the rest of them is left out")


def _check_damaged(config: Corpus, units: Sequence[Unit]) -> None:
    """Refuse a corpus of which too much did not arrive: a few bad files are bad luck, many are a broken copy."""
    # A dictionary, not a set: in corpus order. A file of many damaged pieces, or in several blocks, counts once.
    damaged = {(unit.source, file): file for unit in units for block in unit.blocks for file in block.damaged}
    total, named = len(damaged), list(damaged.values())
    if total > config.max_damaged_files:
        raise ValueError(
            f"{total:,} files are damaged or end early, corpus.max_damaged_files is {config.max_damaged_files:,}: "
            f"{', '.join(named[:3])}{' …' * (total > 3)}; copy them again, leave them out of corpus.sources, or raise "
            "corpus.max_damaged_files to go on without them"
        )
