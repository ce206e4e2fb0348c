"""A tokenizer of another run or directory in place of training one, and a corpus held against a benchmark's file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished_stages import train_tiny_tokenizer
from tiny_pipeline import answer, gptmill

from gptcore.plan import resolve_sources
from gptcore.presets import ConfigError, load_preset
from gptcore.stages import identity, stages


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tokenizer of 280 tokens."""
    return train_tiny_tokenizer(tmp_path_factory.mktemp("other"))


def write_preset(folder: Path, take: Path | str, **tokenizer: Any) -> Path:
    rows = [{"text": f"Entry {row} of a log that a lighthouse keeper wrote by hand."} for row in range(400)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "exam.jsonl").write_text(json.dumps({"text": rows[7]["text"]}) + "\n")
    values = {
        "name": "tiny",
        "corpus": {
            "sources": [{"kind": "files", "paths": [str(folder / "log.jsonl")]}],
            "steps": [{"kind": "decontaminate", "words": 10, "against": [str(folder / "exam.jsonl")]}],
            "test_share": 0.05,
        },
        "tokenizer": {"take": f"hf:{take}", **tokenizer},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def key_parts(preset: Path, home: Path) -> dict[str, Any]:
    loaded = load_preset(str(preset))
    return identity(stages(loaded)["tokenizer"], loaded, {"corpus": "0"}, resolve_sources(loaded, home))


def test_a_run_takes_it_over_byte_for_byte(tmp_path: Path, trained: Path) -> None:
    preset = write_preset(tmp_path, trained)
    found = answer(gptmill(tmp_path / "home", "run", preset, "--until", "tokens", "--json"))
    stage = tmp_path / "home/store/tokenizer" / found["stages"]["tokenizer"]["key"][:16]
    assert (stage / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    card = tmp_path / "home/store/corpus" / found["stages"]["corpus"]["key"][:16] / "data_card.json"
    assert json.loads(card.read_bytes())["decontaminate"]["benchmarks"]["exam.jsonl"]["contaminated"] == 1
    again = answer(gptmill(tmp_path / "home", "run", preset, "--until", "tokens", "--json"))
    assert {stage["status"] for stage in again["stages"].values()} == {"reused"}


def test_the_key_follows_its_bytes_and_not_their_place(tmp_path: Path, trained: Path) -> None:
    first = key_parts(write_preset(tmp_path, trained), tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    assert key_parts(write_preset(tmp_path, moved), tmp_path) == first
    assert set(first["init"]) == {"tokenizer"} and str(trained) not in json.dumps(first)
    (moved / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes() + b" ")
    assert key_parts(write_preset(tmp_path, moved), tmp_path) != first


def test_the_vocabulary_follows_and_what_says_otherwise_is_refused(tmp_path: Path, trained: Path) -> None:
    assert load_preset(str(write_preset(tmp_path, trained))).tokenizer.vocab_size == 280
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size 4096 is not that of tokenizer.take hf:.*, 280 with"):
        load_preset(str(write_preset(tmp_path, trained, vocab_size=4096)))
    with pytest.raises(ConfigError, match=r"tokenizer.kind word: tokenizer.take hf:.* has its own; leave it out"):
        load_preset(str(write_preset(tmp_path, trained, kind="word")))
    with pytest.raises(ConfigError, match="there is no directory"):
        load_preset(str(write_preset(tmp_path, tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match=r"tokenizer\.take is 'gpt2'"):
        load_preset("quickstart", ["tokenizer.take=gpt2"])


def test_an_unset_one_is_nowhere() -> None:
    assert "take" not in load_preset("quickstart").tokenizer.model_dump(mode="json")
