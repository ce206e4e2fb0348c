"""The scripts in benchmarks/ start, and print what they promise as one JSON object on the last line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipeline import environment, write_preset

FOLDER = Path(__file__).parents[1] / "benchmarks"
PRESET = """\
name: tiny
corpus: {sources: [{kind: python_docs, stdlib: false, packages: [networkx]}]}
tokenizer: {vocab_size: 512, train_bytes: 200_000}
"""


def printed(tmp_path: Path, script: str, *arguments: str | Path, timeout: float, **variables: str) -> str:
    """What a script prints, run in a folder of its own."""
    done = subprocess.run(
        [sys.executable, FOLDER / script, *arguments],
        env={**environment(tmp_path / "home"), **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def found_by(tmp_path: Path, script: str, *arguments: str | Path, **variables: str) -> dict[str, Any]:
    """The JSON object on its last line."""
    found: dict[str, Any] = json.loads(printed(tmp_path, script, *arguments, timeout=280, **variables).splitlines()[-1])
    return found


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.py")))
def test_every_script_explains_itself(script: str, tmp_path: Path) -> None:
    assert "JSON" in printed(tmp_path, script, "--help", timeout=120) and not list(tmp_path.iterdir())


def test_memory_of_every_data_stage(tmp_path: Path) -> None:
    found = found_by(tmp_path, "memory.py", "--preset", write_preset(tmp_path, PRESET), "--megabytes", "0.3")
    assert {name: set(peaks) for name, peaks in found["peak_mb"].items()} == {
        "corpus": {"python_docs", "1x", "10x"},
        "tokenizer": {"1x", "10x"},
        "tokens": {"1x", "10x"},
    }
    assert all(peak >= found["idle_mb"] for peaks in found["peak_mb"].values() for peak in peaks.values())
    assert 0.3 <= found["text_mb"]["1x"] < 0.4 and 3 <= found["text_mb"]["10x"] < 4
    assert found["growth_ok"] is True and found["within_limit"] is True


def test_encoding_gives_the_ids_of_the_recipe(tmp_path: Path) -> None:
    found = found_by(tmp_path, "encode.py", "--megabytes", "2", "--turns", "1", "--vocab-size", "512")
    assert found["same_ids"] is True and 2 <= found["text_mb"] < 2.2
    assert found["encode_ratio"] >= found["encode_ratio_of_map"] > 0
    assert min(found[name] for name in ("ours_mb_per_s", "peer_mb_per_s", "processor_time_ratio")) > 0


def test_the_corpus_stage_and_both_engines(tmp_path: Path) -> None:
    found = found_by(tmp_path, "data.py", "--parts", "corpus,engines", "--megabytes", "0.5")
    assert found["engines_equal"] is True
    assert 0.5 <= found["corpus_text_mb"][0] < 0.52 and 5 <= found["corpus_text_mb"][1] < 5.2
    assert min(found["peak_mb_100"], found["peak_mb_1000"]) > 100 and found["time_growth"] > 0


def test_the_speed_of_every_step(tmp_path: Path) -> None:
    found = found_by(tmp_path, "steps.py", "--seconds", "0.1")
    assert set(found["steps"]) == {"repair", "language", "filter", "mask"}
    assert all(step["mb_per_second"] > 0 and step["unchanged"] for step in found["steps"].values())


def test_near_duplicates_beside_datasketch(tmp_path: Path) -> None:
    found = found_by(tmp_path, "dedup.py", "--megabytes", "0.4", "--turns", "1")
    assert 0.4 <= found["megabytes"] < 0.42 and found["planted_pairs"] > 30
    assert min(found["recall"].values()) > 0.6
    assert found["recall"]["ours"] - found["recall"]["peer"] == pytest.approx(
        found["dedup_recall_difference"], abs=2e-4
    )
    assert min(found["dedup_ratio"], found["dedup_ratio_from_text"]) > 0


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_generation_beside_transformers(family: str, tmp_path: Path) -> None:
    found = found_by(tmp_path, "generate.py", "--family", family, "--layers", "1", "--rounds", "1", "--new-tokens", "4")
    ratios = ("batch1_ratio", "batch16_ratio", "shared_prompt_ratio", "bandwidth_share")
    assert all(found[key] > 0 for key in ratios) and found["greedy_equal"] is True


def test_weak_scaling_of_two_processes(tmp_path: Path) -> None:
    small = ["--layers", "1", "--width", "64", "--context", "32", "--rows", "2", "--steps", "30", "--rounds", "1"]
    found = found_by(tmp_path, "scaling.py", *small)
    one, two = (found["tokens_per_second"][devices][0] for devices in ("1", "2"))
    assert found["efficiency"] == found["efficiency_by_round"][0] == pytest.approx(two / one / 2, abs=2e-3)
    assert 0 < found["efficiency"] < 1.5


def test_the_engine_is_timed_to_a_loss(tmp_path: Path) -> None:
    """Ours alone, against a given target: the peer's code is not in this repository."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} times {number + 1} is {number * (number + 1)}.\n" for number in range(1200)))
    given = [
        "--text",
        text,
        "--parts",
        "small",
        "--target",
        "2.9",
        "--peer-seconds",
        "60",
        "--seeds",
        "2",
        "--steps",
        "20",
    ]
    found = found_by(tmp_path, "train.py", *given, OMP_NUM_THREADS="1")
    runs = found["time_to_loss_small"]["ours"]
    assert [run["step"] in (10, 20) for run in runs] == [True, True], runs
    assert all(run["seconds"] > 0 and run["final_loss"] < 2.9 and run["peer_seconds"] == 60 for run in runs)
    middle = (runs[0]["seconds"] + runs[1]["seconds"]) / 2
    assert found["time_to_loss_ratio"] == pytest.approx(middle / 60, rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_is_not_measured_where_there_is_none(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, FOLDER / "gpu.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "torch can use no GPU here" in done.stderr
