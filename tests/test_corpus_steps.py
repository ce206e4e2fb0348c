"""The corpus stage with steps: what is dropped and said, and that a changed step redoes only what follows it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from test_corpus import digests, split, start

from gptcore.config import Corpus, Preset, all_sources
from gptcore.config_sources import Files
from gptcore.evaluation import report_data
from gptcore.stages import stages
from gptcore.text import parts
from gptcore.text.corpus import build_corpus
from gptcore.text.sources import resolve_source
from gptcore.work import Work

TEXTS = [
    *(
        f"Page {n} tells in plain words how the river of town {n * 7} was crossed before there was a bridge."
        for n in range(40)
    ),
    "Write to jane.doe@example.org or to john@example.org before the river freezes over in the first winter.",
    "The rÃ©sumÃ© of the old ferryman was kept in the town hall until the flood took it away for good.",
    "La rivière était large et personne ne savait la traverser avant que le pont ne fût construit en pierre.",
]
REPAIR, MASK = {"kind": "repair"}, {"kind": "mask"}
ENGLISH = {"kind": "language", "keep": ["en"], "least_probability": 0.5}


def corpus(folder: Path, *steps: dict[str, Any], texts: list[str] = TEXTS, **more: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts[number::3])
        path = folder / f"{number}.jsonl"
        if not path.exists() or path.read_text() != rows:
            path.write_text(rows)
    source = Files(kind="files", paths=(str(folder / "*.jsonl"),))
    return Corpus.model_validate({"sources": (source,), "steps": steps, "validation_share": 0.1, **more})


def build(directory: Path, config: Corpus, **execution: Any) -> tuple[dict[str, Any], list[str]]:
    """The data card, with the stage's metrics beside it, and what was said."""
    said: list[str] = []
    versions = [resolve_source(source, directory.parent / "cache") for source in all_sources(config)]
    work = Work(directory, on_say=said.append, **execution)
    try:
        metrics = build_corpus(config, versions, work).metrics
    finally:
        work.metrics.close()
    return {**json.loads((directory / "data_card.json").read_bytes()), "metrics": metrics}, said


def texts(directory: Path) -> list[str]:
    return [document.text for documents in split(directory).values() for document in documents]


def stamps(kept: Path) -> dict[str, int]:
    return {
        str(path.relative_to(kept)): path.stat().st_ino for path in kept.rglob("*.json") if path.name != "USES.json"
    }


def test_each_step_sees_what_the_one_before_left(tmp_path: Path) -> None:
    card, _ = build(tmp_path / "out", corpus(tmp_path / "in", REPAIR, ENGLISH, MASK))
    found = texts(tmp_path / "out")
    assert "The résumé of the old ferryman" in " ".join(found)
    assert sum("<EMAIL>" in text for text in found) == 1 and not any("@" in text for text in found)
    assert len(found) == len(TEXTS) - 1 and not any("rivière" in text for text in found)
    repair, language, mask = card["steps"]
    assert [step["documents"] for step in card["steps"]] == [len(TEXTS), len(TEXTS), len(TEXTS) - 1]
    assert repair["changed"] == 1 and mask["changed"] == 1 and mask["counts"] == {"email": 2}
    assert language["dropped"] == {"language": 1} == {"language": card["dropped"]["language"]}
    (example,) = language["examples"]["language"]
    assert example["id"].startswith("files/") and "fr" in example["why"] and example["text"].startswith("La rivière")
    assert card["found"] == len(TEXTS) and sum(card["documents"].values()) == len(TEXTS) - 1
    page = (tmp_path / "out/data_card.html").read_text()
    assert "La rivière" in page and "<script" not in page
    assert "La rivière" in report_data.corpus({"corpus": tmp_path / "out"})


def test_a_changed_step_redoes_only_what_follows_it(tmp_path: Path) -> None:
    kept = tmp_path / "parts"
    build(tmp_path / "a", corpus(tmp_path / "in", REPAIR, ENGLISH, MASK), kept=kept)
    before = stamps(kept)
    other = {**ENGLISH, "keep": ["en", "fr"]}
    card, said = build(tmp_path / "b", corpus(tmp_path / "in", REPAIR, other, MASK), kept=kept)
    after = stamps(kept)
    assert {name: after[name] for name in before} == before, "a kept part was made again"
    new = {name.split("-")[0] for name in after.keys() - before.keys()}
    assert new == {"language", "mask"}
    assert "nothing is read anew: the sources are as they were" in said
    assert sum(card["documents"].values()) == len(TEXTS)
    build(tmp_path / "c", corpus(tmp_path / "in", REPAIR, other, MASK))
    assert digests(tmp_path / "b") == digests(tmp_path / "c"), "kept parts give the bytes of new ones"


def test_another_split_takes_every_part_as_it_is(tmp_path: Path) -> None:
    kept = tmp_path / "parts"
    build(tmp_path / "a", corpus(tmp_path / "in", REPAIR), kept=kept)
    before = stamps(kept)
    build(tmp_path / "b", corpus(tmp_path / "in", REPAIR, validation_share=0.3), kept=kept)
    assert stamps(kept) == before


def test_changed_source_is_read_anew_and_others_are_not(tmp_path: Path) -> None:
    kept = tmp_path / "parts"
    first, second = corpus(tmp_path / "x", REPAIR), corpus(tmp_path / "y", texts=[f"{text} Again." for text in TEXTS])
    both = first.model_copy(update={"sources": (*first.sources, *second.sources)})
    build(tmp_path / "a", both, kept=kept)
    before = stamps(kept)
    with (tmp_path / "y/0.jsonl").open("a") as file:
        file.write(json.dumps({"text": "One more row, which no other file holds, long enough to be kept."}) + "\n")
    build(tmp_path / "b", both, kept=kept)
    after = stamps(kept)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0].rpartition("-")[0] for name in after.keys() - before.keys()} == {
        "harvest-files",
        "repair",
    }
    assert any("One more row" in text for text in texts(tmp_path / "b"))


@pytest.mark.parametrize(
    "name",
    [
        "harvest-files-*/000000-00000.lines",
        "repair-*/000000-00000.codes",
        "repair-*/*0.lines",
        "near_duplicates-*/*.npy",
    ],
)
def test_a_damaged_part_is_made_again(tmp_path: Path, name: str) -> None:
    kept, config = tmp_path / "parts", corpus(tmp_path / "in", REPAIR, MASK, {"kind": "near_duplicates"})
    build(tmp_path / "a", config, kept=kept)
    damaged = [path for path in kept.glob(name) if path.stat().st_size]
    assert damaged
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    _, said = build(tmp_path / "b", config, kept=kept)
    assert digests(tmp_path / "b") == digests(tmp_path / "a")
    assert any("does not hold what was written" in line for line in said)


def test_parts_of_the_last_corpora_stay_and_older_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "KEPT_CORPORA", 2)
    kept = tmp_path / "parts"
    for number in range(4):
        step = {**ENGLISH, "least_probability": 0.1 * number}
        build(tmp_path / str(number), corpus(tmp_path / "in", REPAIR, step), kept=kept)
    names = sorted(path.name.rpartition("-")[0] for path in kept.iterdir() if path.is_dir())
    assert names == ["harvest-files", "language", "language", "repair"]


@pytest.mark.parametrize("deadly", [2, 5, 7, 9])
def test_killed_in_a_step_and_run_again_gives_the_same_bytes(tmp_path: Path, deadly: int) -> None:
    config = corpus(tmp_path / "in", REPAIR, ENGLISH, MASK, shard_bytes=2000)
    build(tmp_path / "whole", config)
    with start(tmp_path, tmp_path / "out", config, deadly) as killed:
        killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    build(tmp_path / "out", config)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_workers_change_nothing(tmp_path: Path) -> None:
    from gptcore.config import Runtime

    config = corpus(tmp_path / "in", REPAIR, ENGLISH, MASK, {"kind": "near_duplicates"}, {"kind": "decontaminate"})
    for workers in (1, 3):
        build(tmp_path / str(workers), config, runtime=Runtime(workers=workers))
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


SENTENCE = "The lighthouse keeper wrote down the height of every wave that reached the third step of his stairs, "


def near(number: int) -> list[str]:
    """A text and one that differs in its last word."""
    body = (
        SENTENCE * 3 + f"and in the year {number} he counted {number * number} of them, which was the most of all his"
    )
    return [f"{body} life.", f"{body} time."]


def test_near_duplicates_go_and_the_one_outside_training_stays(tmp_path: Path) -> None:
    alike = [text for number in range(1800, 1802) for text in near(number)]
    config = corpus(
        tmp_path / "in", {"kind": "near_duplicates", "threshold": 0.7}, texts=[*TEXTS, *alike], test_share=0.4
    )
    card, _ = build(tmp_path / "out", config)
    found = [text for text in texts(tmp_path / "out") if text.startswith(SENTENCE)]
    assert len({text.rpartition(" ")[0] for text in found}) == len(found) == 2, "one of each pair stays"
    assert card["near_duplicates"]["dropped"] == 2 == card["dropped"]["near_duplicates"]
    assert card["near_duplicates"]["clusters"] == 2
    assert card["near_duplicates"]["examples"][0]["of"]["text"].startswith(SENTENCE)


def test_what_the_test_split_holds_is_in_no_training_text(tmp_path: Path) -> None:
    shared = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    rows = [f"{text} {shared} {number}" if number in (3, 9, 27) else text for number, text in enumerate(TEXTS)]
    plain = corpus(tmp_path / "in", texts=rows, test_share=0.5)
    build(tmp_path / "plain", plain)
    held = {
        name: [d.text for d in documents if shared in d.text] for name, documents in split(tmp_path / "plain").items()
    }
    assert held["test"] and held["train"], "the shares put the run on both sides"
    card, _ = build(tmp_path / "out", corpus(tmp_path / "in", {"kind": "decontaminate"}, texts=rows, test_share=0.5))
    assert not any(shared in document.text for document in split(tmp_path / "out")["train"])
    assert [d.text for d in split(tmp_path / "out")["test"]] == [d.text for d in split(tmp_path / "plain")["test"]]
    assert card["decontaminate"]["dropped"] == len(held["train"]) + len(held["validation"])
    assert card["decontaminate"]["benchmarks"]["test split"]["contaminated"] == len(held["test"])
    assert "shares 13 words" in card["decontaminate"]["examples"][0]["why"]


def test_a_benchmark_s_file_is_kept_out_and_its_bytes_enter_the_key(tmp_path: Path) -> None:
    item = TEXTS[5]
    (tmp_path / "exam.jsonl").write_text(json.dumps({"text": f"Question: {item} True or false?"}) + "\n")
    config = corpus(
        tmp_path / "in", {"kind": "decontaminate", "against": [str(tmp_path / "exam.jsonl")]}, validation_share=0
    )
    card, _ = build(tmp_path / "out", config)
    assert item not in texts(tmp_path / "out") and len(texts(tmp_path / "out")) == len(TEXTS) - 1
    exam = card["decontaminate"]["benchmarks"]["exam.jsonl"]
    assert (exam["items"], exam["contaminated"]) == (1, 1)
    assert card["metrics"]["corpus/contaminated_share_exam.jsonl"] == 1.0
    assert card["metrics"]["corpus/dropped_decontaminate"] == 1.0
    before = resolve_source(all_sources(config)[-1], tmp_path / "cache")
    (tmp_path / "exam.jsonl").write_text(json.dumps({"text": "Something else."}) + "\n")
    os.utime(tmp_path / "exam.jsonl", (1, 1))
    assert resolve_source(all_sources(config)[-1], tmp_path / "cache") != before


def test_benchmarks_that_the_caller_brings_are_kept_out_too(tmp_path: Path) -> None:
    config = corpus(tmp_path / "in", {"kind": "decontaminate"}, validation_share=0)
    asked: list[str] = []

    def benchmarks() -> list[tuple[str, Iterator[str]]]:
        asked.append("once")
        return [
            (
                "quiz",
                iter([TEXTS[5], "Another question that no training text of this corpus holds in any of its rows."]),
            )
        ]

    work = Work(tmp_path / "out")
    versions = [resolve_source(source, tmp_path / "cache") for source in config.sources]
    build_corpus(config, versions, work, benchmarks)
    work.metrics.close()
    card = json.loads((tmp_path / "out/data_card.json").read_bytes())
    assert card["decontaminate"]["benchmarks"]["quiz"]["contaminated_share"] == 0.5 and asked == ["once"]
    assert TEXTS[5] not in texts(tmp_path / "out")


def test_the_standard_tasks_of_a_preset_enter_the_corpus_s_key_where_it_decontaminates() -> None:
    plain = {"name": "x", "benchmark": {"tasks": ["hellaswag"]}}
    clean = {**plain, "corpus": {"steps": [{"kind": "decontaminate"}]}}
    for values, tasks in ((plain, None), (clean, ["hellaswag"])):
        preset = Preset.model_validate(values)
        stage = stages(preset)["corpus"]
        assert stage.identity(preset).get("benchmarks") == tasks
        assert ("lm-eval" in stage.libraries) is (tasks is not None)


def test_steps_in_an_order_that_cannot_be_are_refused() -> None:
    steps = [{"kind": "near_duplicates"}, REPAIR]
    with pytest.raises(ValidationError, match="repair cannot come after near_duplicates"):
        Preset.model_validate({"name": "x", "corpus": {"steps": steps}})
    with pytest.raises(ValidationError, match="near_duplicates cannot come after near_duplicates"):
        Preset.model_validate({"name": "x", "corpus": {"steps": [{"kind": "near_duplicates"}] * 2}})


def test_the_key_knows_the_libraries_that_steps_rest_on() -> None:
    import importlib

    from gptcore.stages import LIBRARIES_OF_STEPS
    from gptcore.text.steps.making import MODULES

    modules = {kind: importlib.import_module(f"gptcore.text.steps.{name}") for kind, name in MODULES.items()}
    assert {kind: module.LIBRARIES for kind, module in modules.items() if module.LIBRARIES} == LIBRARIES_OF_STEPS
