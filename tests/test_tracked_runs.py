"""`gptmill runs` and `gptmill compare` on a real tracker."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from mlflow_fixtures import new_tracker

from flows.command_line import parser
from flows.commands import tracked_runs
from flows.commands.comparing import typed
from gptcore.adapters.mlflow_runs import StageResult, Tracker


def one_run(tracker: Tracker, rate: float, digest: str, score: float) -> str:
    run_id = tracker.open_parent(
        "tiny", "tiny", {"pretrain": {"learning_rate": rate, "schedule": "cosine"}, "corpus": {"held_out": ["a"]}}, {}
    )
    metrics = {"qa/exact_match": score, "qa/exact_match_stderr": 0.02, "qa/exact_match_baseline": 0.1}
    tracker.summarize_parent(
        run_id,
        {
            "corpus": StageResult(None, "same", {"corpus/documents": 12.0}),
            "pretrain": StageResult(None, digest, metrics),
        },
    )
    tracker.close(run_id, "FINISHED")
    return run_id


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A home with two finished runs, the second newer and better."""
    at = tmp_path_factory.mktemp("home")
    tracker = new_tracker(at)
    return at, one_run(tracker, 0.001, "d1", 0.30), one_run(tracker, 0.002, "d2", 0.45)


@pytest.fixture(autouse=True)
def surroundings(home: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTMILL_HOME", str(home[0]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def gptmill(*arguments: str) -> int:
    return tracked_runs.main(parser().parse_args(arguments))


def last_object(out: str) -> Any:
    return json.loads(out.splitlines()[-1])


def test_runs_as_a_table(home: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("runs") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["run", "preset", "started", "status", "seconds"] and "qa/exact_match" in head
    assert first.startswith(home[2][:8]) and second.startswith(home[1][:8]), "newest first"
    assert "tiny" in first and "FINISHED" in first and "0.45" in first


def test_runs_as_json(home: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("runs", "tiny", "--limit", "1", "--json") == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 and "FINISHED" in shown.err
    (row,) = last_object(shown.out)["runs"]
    assert set(row) == {"run_id", "preset", "status", "started", "seconds", "metrics"}
    assert row["run_id"] == home[2] and row["preset"] == "tiny" and row["status"] == "FINISHED"
    assert row["metrics"]["qa/exact_match"] == 0.45 and row["seconds"] >= 0


def test_no_runs_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("runs", "nobody", "--json") == 0
    assert last_object(capsys.readouterr().out) == {"runs": []}
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "new"))
    assert gptmill("runs") == 0
    assert "no runs yet" in capsys.readouterr().out
    assert not (tmp_path / "new").exists(), "looking leaves nothing behind"
    assert gptmill("compare", "latest", "latest") == 2


def test_compare(home: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("compare", home[1][:8], "latest", "--json") == 0
    shown = capsys.readouterr()
    found = last_object(shown.out)
    assert (found["a"], found["b"]) == (home[1], home[2])
    assert found["config"] == {"pretrain.learning_rate": [0.001, 0.002]}
    assert found["first_stage"] == "pretrain"
    delta = found["metrics"]["qa/exact_match"]
    assert delta["delta"] == pytest.approx(0.15) and delta["stderr"] == pytest.approx(0.02 * 2**0.5)
    assert delta["verdict"] == "better"
    assert found["metrics"]["corpus/documents"]["verdict"] == "equal"
    assert "first stage that differs: pretrain" in shown.err

    assert gptmill("compare", "latest", home[1]) == 0
    words = capsys.readouterr().out
    assert "worse" in words and "pretrain.learning_rate  0.002  0.001" in words


def test_a_run_and_itself(home: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("compare", "latest", home[2][:8]) == 0
    words = capsys.readouterr().out
    assert "config: no difference" in words and "first stage that differs: none" in words


@pytest.mark.parametrize("reference", ["ffffffff", "abc", "lastest", "x' OR '1"])
def test_an_unknown_run_is_refused(reference: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("compare", "latest", reference, "--json") == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and reference in shown.err


def test_a_tracker_that_is_away(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{probe.getsockname()[1]}")
        assert gptmill("runs") == 1
    problem = capsys.readouterr().err
    assert problem.count("\n") == 1 and "does not answer" in problem


def test_a_limit_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gptmill("runs", "--limit", "0") == 2
    assert "--limit 0" in capsys.readouterr().err


def test_params_get_their_types_back() -> None:
    assert typed({"a": "0.001", "b": "cosine", "c": "null", "d": '["x"]'}) == {
        "a": 0.001, "b": "cosine", "c": None, "d": ["x"],
    }  # fmt: skip
