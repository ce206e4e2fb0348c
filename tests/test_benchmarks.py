"""The scripts in benchmarks/ start, and print what they promise as one JSON object on the last line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_pipeline import environment, write_preset

FOLDER = Path(__file__).parents[1] / "benchmarks"
PRESET = """\
name: tiny
corpus: {sources: [{kind: python_docs, stdlib: false, packages: [networkx]}]}
tokenizer: {vocab_size: 512, train_bytes: 200_000}
"""


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.py")))
def test_every_script_explains_itself(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / script, "--help"],
        env=environment(tmp_path / "home"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "JSON" in done.stdout and not list(tmp_path.iterdir())


def test_memory_of_every_data_stage(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "memory.py", "--preset", write_preset(tmp_path, PRESET), "--megabytes", "0.3"],
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: set(peaks) for name, peaks in found["peak_mb"].items()} == {
        "corpus": {"python_docs", "1x", "10x"},
        "tokenizer": {"1x", "10x"},
        "tokens": {"1x", "10x"},
    }
    assert all(peak >= found["idle_mb"] for peaks in found["peak_mb"].values() for peak in peaks.values())
    assert 0.3 <= found["text_mb"]["1x"] < 0.4 and 3 <= found["text_mb"]["10x"] < 4
    assert found["growth_ok"] is True and found["within_limit"] is True


def test_weak_scaling_of_two_processes(tmp_path: Path) -> None:
    small = ["--layers", "1", "--width", "64", "--context", "32", "--rows", "2", "--steps", "30", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, FOLDER / "scaling.py", *small],
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    one, two = (found["tokens_per_second"][devices][0] for devices in ("1", "2"))
    assert found["efficiency"] == found["efficiency_by_round"][0] == pytest.approx(two / one / 2, abs=2e-3)
    assert 0 < found["efficiency"] < 1.5
