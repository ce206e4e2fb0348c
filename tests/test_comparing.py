"""`gptmill compare` with the samples behind the scores, in the store and in MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from finished_benchmark import ITEMS, finished, samples
from mlflow_fixtures import facts, new_tracker

from flows.command_line import parser
from flows.commands import tracked_runs
from gptcore.adapters.mlflow_runs import StageResult, Tracker
from gptcore.store import Store


def one_run(tracker: Tracker, better: float, rate: float, seed: int = 1) -> str:
    """A pipeline run with its benchmark in the store and in MLflow."""
    key = f"{rate}-{seed}".ljust(64, "0")
    directory, digest, metrics = finished(Store(tracker.home / "store"), key, samples(better, seed))
    config = {"pretrain": {"learning_rate": rate, "seed": seed}}
    parent = tracker.open_parent("tiny", "tiny", config, {})
    stage = tracker.open_stage(parent, facts("benchmark-qa", key))
    tracker.log_artifacts(stage.run_id, directory, ["scores.json", "samples-qa.jsonl"])
    stage.finish("FINISHED", metrics)
    tracker.summarize_parent(parent, {"benchmark-qa": StageResult(stage.run_id, digest, metrics)})
    tracker.close(parent, "FINISHED")
    return parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    at = tmp_path_factory.mktemp("home")
    tracker = new_tracker(at)
    return {
        "home": str(at),
        "a": one_run(tracker, 0.0, 0.001),
        "b": one_run(tracker, 0.06, 0.002),
        "b2": one_run(tracker, 0.08, 0.002, seed=2),
        "a2": one_run(tracker, 0.01, 0.001, seed=2),
    }


@pytest.fixture(autouse=True)
def surroundings(runs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTMILL_HOME", runs["home"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def gptmill(*arguments: str) -> int:
    return tracked_runs.main(parser().parse_args(arguments))


def answer(out: str) -> Any:
    return json.loads(out.splitlines()[-1])


def test_pairs_show_what_separate_errors_hide(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("compare", runs["a"], runs["b"], "--json") == 0
    shown = capsys.readouterr()
    found = answer(shown.out)
    assert {"a", "b", "config", "first_stage", "metrics"} <= set(found) and found["a"] == runs["a"]
    assert found["family"] == {"correction": "holm", "alpha": 0.05, "metrics": 1}
    metric = found["metrics"]["qa/exact_match"]
    assert (metric["paired"], metric["items"], metric["verdict"]) == (True, ITEMS, "better")
    assert metric["delta"] == pytest.approx(metric["b"] - metric["a"], abs=1e-6) and metric["p_corrected"] < 0.05
    assert metric["interval"][0] > 0 and metric["overlap"] == [0.25, 0.25]
    apart = sum(float(0.4 * 0.6 / ITEMS) for _ in "ab") ** 0.5
    assert metric["delta"] < 1.96 * apart, "two separate errors would not have shown it"
    assert "25.0%" in shown.err and "One seed each" in shown.err and "not paired" not in shown.err


def test_samples_come_from_mlflow_where_the_store_has_none(
    runs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gptmill("compare", runs["a"], runs["b"], "--json") == 0
    before = answer(capsys.readouterr().out)
    home = Path(runs["home"])
    (home / "store").rename(home / "away")
    try:
        assert gptmill("compare", runs["a"], runs["b"], "--json") == 0
        assert answer(capsys.readouterr().out) == before
        (home / "mlartifacts").rename(home / "lost")
        assert gptmill("compare", runs["a"], runs["b"], "--json") == 0
        shown = capsys.readouterr()
        metric = answer(shown.out)["metrics"]["qa/exact_match"]
        assert not metric["paired"] and metric["verdict"] == "no difference shown"
        assert "not paired: no samples in the store or in MLflow: qa/exact_match" in shown.err
    finally:
        shutil.rmtree(home / "store", ignore_errors=True)
        (home / "away").rename(home / "store")
        if (home / "lost").exists():
            (home / "lost").rename(home / "mlartifacts")


def test_several_runs_against_the_first(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("compare", runs["a"], runs["b"], runs["a"], "--json") == 0
    found = answer(capsys.readouterr().out)["comparisons"]
    assert [(one["a"], one["b"]) for one in found] == [(runs["a"], runs["b"]), (runs["a"], runs["a"])]
    assert [one["metrics"]["qa/exact_match"]["verdict"] for one in found] == ["better", "equal"]
    assert {one["family"]["metrics"] for one in found} == {2}, "all comparisons are judged together"


def test_seeds_of_one_config_stand_together(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("compare", runs["a"], runs["b"], runs["b2"], runs["a2"], "--json") == 0
    shown = capsys.readouterr()
    (found,) = answer(shown.out)["comparisons"]
    assert (found["a_runs"], found["b_runs"]) == ([runs["a"], runs["a2"]], [runs["b"], runs["b2"]])
    assert found["config"] == {"pretrain.learning_rate": [0.001, 0.002]}
    metric = found["metrics"]["qa/exact_match"]
    assert metric["paired"] and all(size > 0 for size in metric["spread"])
    assert "(sd " in shown.err and "Several seeds" in shown.err and "One seed" not in shown.err


def test_seeds_alone(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("compare", runs["b"], runs["b2"], "--json") == 0
    shown = capsys.readouterr()
    found = answer(shown.out)
    assert (found["a"], found["b"]) == (runs["b"], runs["b2"])
    assert found["seeds"]["runs"] == [runs["b"], runs["b2"]]
    spread = found["seeds"]["metrics"]["qa/exact_match"]
    assert spread["count"] == 2 and spread["deviation"] == pytest.approx(
        abs(spread["mean"] - found["metrics"]["qa/exact_match"]["a"]) * 2**0.5
    )
    assert "the same config under 2 seeds" in shown.err


def test_one_run_is_refused(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("compare", runs["a"]) == 2
    assert "two runs at least" in capsys.readouterr().err
