"""A skill with data of its own: its schema, its items and splits, and a user's skill from YAML to scores."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from tiny_pipeline import answer, gptmill

from gptcore.config import Skill
from gptcore.presets import ConfigError, load_preset, load_skill, validated
from gptcore.stages import stages
from gptcore.text.documents import SPLITS, read_documents
from gptcore.text.skill_items import build_items, held_texts, read_items
from gptcore.text.skill_rows import resolve_rows
from gptcore.text.skills import Item
from gptcore.work import Outcome, Work

CAPITALS = {
    "name": "capitals",
    "data": {"source": {"kind": "files", "paths": ["capitals.jsonl"]}},
    "template": "{input}<|answer|>",
    "truncate": "input",
    "metrics": ["exact_match", "f1", "chrf"],
    "target_metric": "exact_match",
    "baseline": "most_frequent_answer",
    "test_share": 0.2,
    "validation_share": 0.1,
}


def skill(**changed: Any) -> Skill:
    return validated(Skill, {**CAPITALS, **changed}, "skill capitals")


def source(path: Path, **more: Any) -> dict[str, Any]:
    return {"source": {"kind": "files", "paths": [str(path)], **more}}


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def build(chosen: Skill, directory: Path, said: list[str] | None = None) -> dict[str, list[Item]]:
    directory.mkdir(exist_ok=True)
    versions = [resolve_rows(place.source, directory.parent / "cache") for place in chosen.data]
    work = Work(directory, on_say=(said if said is not None else []).append)
    try:
        outcome = build_items(chosen, versions, work)
    finally:
        work.metrics.close()
    assert isinstance(outcome, Outcome) and outcome.results == ("items/*.jsonl", "counts.json")
    return {split: list(read_items(directory, split)) for split in SPLITS}


def rows(count: int) -> list[dict[str, str]]:
    return [{"input": f"Capital of land number {n}?", "target": f"town {n % 7}"} for n in range(count)]


def test_rows_become_items_of_three_splits_the_same_every_time(tmp_path: Path) -> None:
    chosen = skill(data=source(jsonl(tmp_path / "a.jsonl", rows(400))))
    found = build(chosen, tmp_path / "one")
    assert {split: len(items) for split, items in found.items()} == pytest.approx(
        {"train": 280, "validation": 40, "test": 80}, rel=0.3
    )
    assert sum(map(len, found.values())) == 400
    first = found["train"][0]
    assert first.id.startswith("files/a.jsonl:") and first.kind == "capitals" and set(first.fields) == {"input"}
    assert found == build(chosen, tmp_path / "two")
    (tmp_path / "b.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes())
    assert next(held_texts(tmp_path / "one")).startswith("Capital of land number")


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "tsv", "parquet"])
def test_every_table_gives_the_same_items(tmp_path: Path, form: str) -> None:
    path, plain = tmp_path / f"a.{form}", rows(60)
    lines = [["input", "target"], *([row["input"], row["target"]] for row in plain)]
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain), path)
    elif form.startswith("jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in plain).encode()
        path.write_bytes(gzip.compress(data) if form.endswith("gz") else data)
    else:
        path.write_text("".join({"csv": ",", "tsv": "\t"}[form].join(line) + "\n" for line in lines))
    found = build(skill(data=source(path)), tmp_path / "out")
    pairs = {(item.fields["input"], item.target) for items in found.values() for item in items}
    assert pairs == {(row["input"], row["target"]) for row in plain}


def test_columns_inside_columns_and_several_right_outputs(tmp_path: Path) -> None:
    squad = [
        {
            "id": f"q{n}",
            "title": f"Article {n // 5}",
            "context": f"Text of article {n // 5}.",
            "question": f"Question {n}?",
            "answers": {"text": [f"answer {n}", f"the answer {n}", f"answer {n}"], "answer_start": [1, 2, 1]},
        }
        for n in range(100)
    ]
    squad.append({**squad[0], "id": "none", "question": "No answer?", "answers": {"text": [], "answer_start": []}})
    chosen = load_skill("squad")
    path = jsonl(tmp_path / "a.jsonl", squad)
    chosen = chosen.model_copy(update={"data": skill(data=source(path)).data})
    found = build(chosen, tmp_path / "out")
    first = next(item for items in found.values() for item in items if item.id == "q17")
    assert first.target == "answer 17" and first.right == ("answer 17", "the answer 17")
    assert first.group == "Article 3" and first.fields == {"context": "Text of article 3.", "question": "Question 17?"}
    groups = [{item.group for item in items} for items in found.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert json.loads((tmp_path / "out" / "counts.json").read_bytes())["left_out"] == {"no_column": 1}


def test_named_splits_stay_and_no_test_item_is_trained_on(tmp_path: Path) -> None:
    train = [*rows(20), {"input": "capital of LAND number 103", "target": "x"}, {"input": "Same?", "target": "a"}]
    test = [{"input": f"Capital of land number {n}?", "target": "town"} for n in range(100, 110)]
    data = [
        {**source(jsonl(tmp_path / "train.jsonl", [*train, train[-1]])), "split": "train"},
        {**source(jsonl(tmp_path / "test.jsonl", test)), "split": "test"},
    ]
    found = build(skill(data=data), tmp_path / "out")
    assert len(found["test"]) == 10 and len(found["train"]) == 21 and not found["validation"]
    counts = json.loads((tmp_path / "out" / "counts.json").read_bytes())
    assert counts["left_out"] == {"equal_input": 1, "input_of_another_split": 1}
    assert counts["items"] == {"train": 21, "validation": 0, "test": 10}


def test_items_that_share_a_run_of_words_with_a_test_item_go(tmp_path: Path) -> None:
    test = [{"input": "这家酒店的服务员态度非常好房间也很干净", "target": "a"}]
    train = [
        {"input": "我觉得这家酒店的服务员态度非常好房间也很大", "target": "a"},
        {"input": "早餐一般,房间也很干净", "target": "b"},
    ]
    data = [
        {**source(jsonl(tmp_path / "train.jsonl", train)), "split": "train"},
        {**source(jsonl(tmp_path / "test.jsonl", test)), "split": "test"},
    ]
    assert [item.target for item in build(skill(data=data, apart=13), tmp_path / "out")["train"]] == ["b"]


def test_labels_constant_targets_and_limits(tmp_path: Path) -> None:
    data = [
        {**source(jsonl(tmp_path / "a.jsonl", [{"text": f"good {n}", "label": 1} for n in range(50)]))},
        {**source(jsonl(tmp_path / "b.jsonl", [{"text": f"bad {n}"} for n in range(50)])), "target": "0"},
        {**source(jsonl(tmp_path / "c.jsonl", [{"text": "odd", "label": 7}, {"text": "fine thing", "label": True}]))},
    ]
    values = {
        "labels": {0: "no", "1": "yes", True: "sure"},
        "fields": {"input": "text"},
        "target": "label",
        "metrics": ["accuracy", "macro_f1", "matthews"],
        "target_metric": "accuracy",
        "baseline": "majority_label",
    }
    found = build(skill(data=data, **values), tmp_path / "out")
    assert {item.target for items in found.values() for item in items} == {"no", "yes", "sure"}
    assert len(build(skill(data=data, **values, max_items=30), tmp_path / "few")["train"]) == 30 < len(found["train"])
    assert json.loads((tmp_path / "out" / "counts.json").read_bytes())["left_out"] == {"unknown_label": 1}


def test_wrong_columns_and_empty_splits_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"question": "x", "target": "y"}])
    with pytest.raises(ValueError, match=r"no column: a.jsonl:1.*asked for are input, target.*question, target"):
        build(skill(data=source(path)), tmp_path / "out")
    path = jsonl(tmp_path / "b.jsonl", [{"input": "x", "target": "y"}])
    with pytest.raises(ValueError, match=r"no item for the test split.*`split: test`"):
        build(skill(data=source(path), test_share=0.0), tmp_path / "other")
    with pytest.raises(ValueError, match=r"two rows have the id 'x'; name another column"):
        twice = [{"input": "one", "target": "x"}, {"input": "two", "target": "x"}]
        build(
            skill(data=[{**source(jsonl(tmp_path / "c.jsonl", twice)), "split": "test"}], id="target"), tmp_path / "c"
        )


def test_a_place_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    first, second = jsonl(tmp_path / "a.jsonl", rows(50)), tmp_path / "b.jsonl"
    jsonl(second, [{"wrong": 1}])
    chosen = skill(data=[source(first), {**source(second), "split": "test"}])
    with pytest.raises(ValueError, match="source 2"):
        build(chosen, tmp_path / "out")
    jsonl(second, [{"input": "Capital?", "target": "x"}])
    before = (tmp_path / "out" / "scratch" / "place-000.lines").stat()
    found = build(chosen, tmp_path / "out")
    assert [item.target for item in found["test"]] == ["x"]
    after = (tmp_path / "out" / "scratch" / "place-000.lines").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data": []}, "either an extractor or data"),
        ({"extractor": "python_docs_summaries"}, "either an extractor or data"),
        ({"fields": {"text": "input"}}, r"fields \['text'\] are not those of the template: \['input'\]"),
        ({"truncate": "text"}, "truncate 'text' is no field of the template; there are: input"),
        ({"baseline": "majority_label"}, "baseline majority_label needs labels"),
        ({"labels": {"a": "x", "b": "x"}}, "must be two texts or more"),
        ({"max_context_chars": 10}, "max_context_chars is for an extractor"),
        ({"data": {"source": {"kind": "wikipedia", "paths": ["a.xml"]}}}, "source kind wikipedia has texts, no rows"),
        ({"data": {"source": {"kind": "files", "paths": ["a"]}, "share": 1}}, "unknown key data.0.share"),
    ],
)
def test_what_cannot_be_is_refused_at_load(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        skill(**changed)


def test_skills_of_the_corpus_enter_keys_as_they_did() -> None:
    assert set(load_skill("qa").model_dump(mode="json")) == {
        "name", "extractor", "template", "truncate", "metrics", "target_metric", "baseline", "kinds",
        "max_context_chars", "min_input_chars", "max_target_chars",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="group: only for a skill with data"):
        validated(Skill, {**load_skill("qa").model_dump(mode="json"), "group": "title"}, "skill qa")


def asked(n: int) -> str:
    return f"Which town is the capital of land number {n}, as the old book of lands and towns says?"


USERS = """\
name: mine
corpus:
  sources: [{kind: files, paths: [text.jsonl]}]
  test_share: 0.1
  steps: STEPS
tokenizer: {vocab_size: 300, train_bytes: 100_000}
model: {family: modern, n_layer: 1, n_head: 2, n_embd: 32, context: 128}
pretrain: {steps: 10, batch_tokens: 256, warmup_steps: 2, eval_every: 10, eval_tokens: 1_000}
finetune:
  capitals: {steps: 10, batch_tokens: 256, warmup_steps: 2, max_input_tokens: 100, max_target_tokens: 16}
benchmark: {items: 10, heldout_documents: 5}
runtime: {threads: 1}
"""


def users_files(folder: Path, steps: str = "[]") -> Path:
    """What a user writes: a preset, beside it skills/capitals.yaml, and texts."""
    preset = folder / "mine.yaml"
    preset.write_text(USERS.replace("STEPS", steps))
    (folder / "skills").mkdir()
    (folder / "skills" / "capitals.yaml").write_text(yaml.safe_dump(CAPITALS))
    jsonl(folder / "capitals.jsonl", rows(200))
    texts = [{"text": f"Some text number {n} about lands, towns and the way from one to another."} for n in range(200)]
    jsonl(folder / "text.jsonl", texts)
    return preset


def test_a_users_skill_is_found_beside_the_preset(tmp_path: Path) -> None:
    preset = load_preset(str(users_files(tmp_path)))
    found = stages(preset)
    assert list(found)[:2] == ["items-capitals", "corpus"] and found["corpus"].inputs == ()
    assert found["finetune-capitals"].inputs == ("pretrain", "items-capitals")
    assert found["benchmark-base"].inputs == ("pretrain", "corpus", "items-capitals")
    with pytest.raises(ConfigError, match=r"unknown skill 'capital' \(nearest: capitals\); there are: .*capitals.*qa"):
        load_preset(str(tmp_path / "mine.yaml"), ["finetune.capital={max_input_tokens: 9, max_target_tokens: 9}"])
    (tmp_path / "skills" / "other.yaml").write_text(yaml.safe_dump(CAPITALS))
    with pytest.raises(ConfigError, match="its name is 'capitals'; file, name and the key of finetune must"):
        load_preset(str(tmp_path / "mine.yaml"), ["finetune.other={max_input_tokens: 9, max_target_tokens: 9}"])


def test_a_corpus_that_is_cleared_reads_the_test_items(tmp_path: Path) -> None:
    preset = load_preset(str(users_files(tmp_path, "[{kind: decontaminate}]")))
    assert stages(preset)["corpus"].inputs == ("items-capitals",)


@pytest.mark.timeout(600)
def test_a_users_skill_needs_no_code(tmp_path: Path) -> None:
    folder, home = tmp_path / "own", tmp_path / "own" / "home"
    folder.mkdir()
    users_files(folder, "[{kind: decontaminate, words: 13}]")
    leaks = [{"text": f"It was asked once: {asked(n)} Nobody knew it there."} for n in range(200)]
    jsonl(folder / "capitals.jsonl", [{"input": asked(n), "target": f"town {n % 7}"} for n in range(200)])
    with (folder / "text.jsonl").open("a") as file:
        file.writelines(json.dumps(leak) + "\n" for leak in leaks)
    first = answer(gptmill(home, "run", "mine.yaml", "--until", "benchmark-capitals", "--json"))
    assert next(iter(first["stages"])) == "items-capitals"
    metrics = {name: value for row in first["stages"].values() for name, value in row["metrics"].items()}
    for name in ("exact_match", "f1", "chrf"):
        for ending in ("", "_base", "_baseline"):
            assert f"capitals/{name}{ending}" in metrics and f"capitals/{name}{ending}_stderr" in metrics
    assert metrics["capitals/train_items"] > metrics["capitals/test_items"] > 0
    assert metrics["corpus/contaminated_share_items-capitals"] > 0.8, "but for those whose leak is held out too"
    places = {name: Path(row["path"]) for name, row in first["stages"].items()}
    texts = "\n".join(document.text for document in read_documents(places["corpus"], "train"))
    held = [item.fields["input"] for item in read_items(places["items-capitals"], "test")]
    assert not [text for text in held if text in texts] and metrics["capitals/overlap_13gram"] < 1
    assert sum(item.fields["input"] in texts for item in read_items(places["items-capitals"], "train")) > 50
    refused = gptmill(home, "run", "mine.yaml", "--set", "finetune.capitls={max_input_tokens: 9, max_target_tokens: 9}")
    assert refused.returncode == 2 and "nearest: capitals" in refused.stderr
    again = answer(gptmill(home, "run", "mine.yaml", "--until", "benchmark-capitals", "--json"))
    assert {row["status"] for row in again["stages"].values()} == {"reused"}
    jsonl(folder / "capitals.jsonl", rows(220))
    changed = answer(gptmill(home, "plan", "mine.yaml", "--refresh", "--json"))
    assert changed["stages"]["items-capitals"]["reason"] == "new source version"
