"""`gptmill bench lm-eval`, and lm-eval's own command line: the scores of lm-eval's `hf` model, on local data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from finished_stages import train_tiny_tokenizer, write_model
from lm_eval.models.huggingface import HFLM
from standard_data import write_data, write_safety

from flows.command_line import main
from gptcore.adapters.benchmark import standard
from gptcore.adapters.hf import export_hf
from gptcore.config import Benchmark
from gptcore.evaluation.safety import MEANING, safety_scores
from gptcore.evaluation.task_catalogue import OWN_TASKS

TASKS = ("hellaswag", "arc_easy", "lambada_openai", "wikitext")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))
    directory = tmp_path / "model"
    write_model(directory, train_tiny_tokenizer(tmp_path), "qa", family="gpt2")
    export_hf(directory, directory / "hf")
    return directory, write_data(tmp_path / "data")


@pytest.mark.parametrize("fewshot", [0, 2])
def test_scores_equal_those_of_lm_evals_own_model(
    made: tuple[Path, Path], fewshot: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    directory, data = made
    arguments = ["bench", "lm-eval", str(directory), "--tasks", ",".join(TASKS), "--num-fewshot", str(fewshot)]
    assert main([*arguments, "--data-dir", str(data), "--json", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])["tasks"]
    theirs = HFLM(str(directory / "hf"), device="cpu", dtype="float32", batch_size=4)
    config = Benchmark(num_fewshot=fewshot, data_dir=str(data))
    for name in TASKS:
        (expected,) = standard(theirs, name, config, [OWN_TASKS])
        assert found[name]["n"] == expected["n"]
        for metric, value in expected["metrics"].items():
            exact = metric in ("acc", "acc_norm")
            assert found[name]["metrics"][metric] == (value if exact else pytest.approx(value, rel=1e-3)), metric
        samples = (tmp_path / "out" / f"samples-{name}.jsonl").read_text().splitlines()
        for ours, sample in zip(map(json.loads, samples), expected["samples"], strict=True):
            for mine, other in zip(ours["responses"], sample["responses"], strict=True):
                pair = isinstance(mine, list)
                assert float(mine[0] if pair else mine) == pytest.approx(float(other[0] if pair else other), abs=1e-3)
                assert not pair or str(mine[1]) == str(other[1]), "greedy flags"
    assert "hellaswag" in printed.err and "acc_norm" in printed.err, "the table"


def test_seeds(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    directory, data = made
    arguments = [
        "bench",
        "lm-eval",
        str(directory),
        "--tasks",
        "hellaswag",
        "--data-dir",
        str(data),
        "--num-fewshot",
        "2",
    ]
    assert main([*arguments, "--seeds", "3", "--json", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])
    assert found["seeds"] == 3 and found["tasks"]["hellaswag"]["n"] == 10
    assert found["tasks"]["hellaswag"]["metrics"]["acc_seed_std"] >= 0 and "seed_std" not in printed.err
    assert len((tmp_path / "out" / "samples-hellaswag.jsonl").read_text().splitlines()) == 30
    written = json.loads((tmp_path / "out" / "scores.json").read_text())["tasks"]["hellaswag"]
    assert set(written) == {"n", "metrics", "seeds"} and list(written["seeds"]) == ["1", "2", "3"]


def test_the_group_safety_is_measured(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    directory, data = made
    write_safety(data)
    arguments = ["bench", "lm-eval", str(directory), "--tasks", "safety", "--data-dir", str(data), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]
    assert {name for name, _, _, _ in safety_scores(found)} == {f"{task}/{metric}" for task, metric in MEANING}


def test_lm_evals_own_command_line_knows_our_model(made: tuple[Path, Path], tmp_path: Path) -> None:
    directory, data = made
    task = tmp_path / "tasks" / "local.yaml"
    task.parent.mkdir()
    task.write_text(
        "task: local_words\ndataset_path: json\ndataset_kwargs:\n"
        f"  data_files: {{test: {data}/EleutherAI/lambada_openai/test.jsonl}}\n  cache_dir: {tmp_path}/tables\n"
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list:\n- {metric: bits_per_byte}\n"
    )
    code = (
        "import lm_eval.tasks as t, sys; usual = t.TaskManager.__init__\n"
        "t.TaskManager.__init__ = lambda self, **k: usual(self, **{**k, 'include_defaults': False})\n"
        "from gptcore.adapters.lm_eval_command import main; main()"
    )
    options = ["--model", "gptmill", "--model_args", f"path={directory}", "--tasks", "local_words"]
    done = subprocess.run(
        [sys.executable, "-c", code, "run", *options, "--include_path", str(task.parent)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "gptmill" in done.stdout and "bits_per_byte" in done.stdout


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--tasks", "hellaswag", "--limit", "0"], "--limit 0 must be at least 1"),
        (["--tasks", "hellaswag", "--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--tasks", "hellaswag", "--seeds", "101"], "--seeds 101 must be at most 100"),
        (["--tasks", ","], "--tasks names no task"),
        (["--tasks", "toxigen"], "hf download skg/toxigen-data --repo-type dataset --local-dir"),
    ],
)
def test_refusals(
    given: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))
    assert main(["bench", "lm-eval", str(tmp_path), "--data-dir", str(tmp_path), *given]) == 2
    assert told in capsys.readouterr().err
