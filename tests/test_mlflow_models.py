"""The gate, and a registry that never does a thing twice."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from mlflow_fixtures import DEAD, facts, new_tracker

from gptcore.adapters.mlflow_client import ModelVersion, TrackerAway
from gptcore.adapters.mlflow_models import GATE, ModelRegistry
from gptcore.adapters.mlflow_runs import Tracker
from gptcore.evaluation.gate import Decision, Score, gate, score_of

METRIC = "qa/exact_match"


@pytest.mark.parametrize(
    ("new", "champion", "held_by", "promote", "words"),
    [
        (Score(0.30, 0.02), None, None, True, "no champion yet"),
        (
            Score(0.36, 0.02),
            Score(0.30, 0.02),
            "3",
            True,
            "0.3600 ± 0.0200 against 0.3000 ± 0.0200 of champion version 3",
        ),
        (Score(0.355, 0.02), Score(0.30, 0.02), "3", False, "not more than 2"),  # 1.94 standard errors
        (Score(0.20, 0.02), Score(0.30, 0.02), "3", False, "-0.1000"),
        (Score(0.31, 0.0), Score(0.30, 0.0), "3", True, "standard error 0"),
        (Score(0.30, 0.0), Score(0.30, 0.0), "3", False, "+0.0000"),
        (Score(0.90, math.nan), Score(0.30, 0.02), "3", False, "not promoted"),
        (Score(math.nan, 0.02), None, None, False, "was not measured"),
        (None, Score(0.30, 0.02), "3", False, "was not measured"),
        (Score(0.90, 0.01), None, "3", False, "has no qa/exact_match"),
    ],
)
def test_gate(new: Score | None, champion: Score | None, held_by: str | None, promote: bool, words: str) -> None:
    decision = gate(METRIC, new, champion, held_by, margin=2.0)
    assert decision.promote is promote
    assert words in decision.reason
    assert decision.reason.startswith("promoted" if promote else "not promoted")


def test_the_margin_is_the_callers() -> None:
    new, old = Score(0.355, 0.02), Score(0.30, 0.02)
    assert gate(METRIC, new, old, "1", 1.9).promote and not gate(METRIC, new, old, "1", 2.0).promote


def test_a_score_without_its_error_decides_nothing() -> None:
    assert score_of({METRIC: "0.5", f"{METRIC}_stderr": "0.1"}, METRIC) == Score(0.5, 0.1)
    alone = score_of({METRIC: 0.5}, METRIC)
    assert alone is not None and math.isnan(alone.stderr)
    assert score_of({"qa/f1": 0.5}, METRIC) is None


def publish_one(tracker: Tracker, key: str, value: float, directory: Path) -> tuple[ModelVersion, Decision]:
    run = tracker.open_stage(tracker.open_parent("p", "n", {}, {}), facts("publish", key))
    registry = ModelRegistry(tracker, run.run_id, key)
    model = registry.logged_model("p-qa", "qa", {"n_layer": "4"})
    registry.complete(model, directory)
    metrics = {METRIC: value, f"{METRIC}_stderr": 0.02}
    registry.link(model, metrics, "qa-test", "d" * 64)
    tags = {name: repr(number) for name, number in metrics.items()}
    version = registry.register("p-qa", model, {"gptmill.dataset": "d", **tags})
    return version, registry.move_aliases(version, METRIC, 2.0)


def test_champion_moves_only_through_the_gate(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path / "home")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    aliases = []
    for key, value in (("a", 0.30), ("b", 0.33), ("c", 0.40), ("a", 0.30)):
        version, decision = publish_one(tracker, key, value, tmp_path / "model")
        found = tracker.client.get_registered_model("p-qa").aliases
        aliases.append((version.version, decision.promote, found["candidate"], found["champion"]))
        told = tracker.client.get_model_version("p-qa", version.version)
        assert told.tags[GATE] == told.description == decision.reason
    assert aliases == [(1, True, 1, 1), (2, False, 2, 1), (3, True, 3, 3), (1, False, 1, 3)]


def test_a_second_try_finds_the_first(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path / "home")
    (tmp_path / "model" / "inner").mkdir(parents=True)
    weights = tmp_path / "model" / "inner" / "model.safetensors"
    weights.write_bytes(b"weights")
    run = tracker.open_stage(tracker.open_parent("p", "n", {}, {}), facts("publish"))
    for _ in range(2):
        registry = ModelRegistry(tracker, run.run_id, "key")
        model = registry.logged_model("p-qa", "qa", {})
        registry.complete(model, tmp_path / "model")
        registry.link(model, {METRIC: 0.5}, "qa-test", "d" * 64)
        version = registry.register("p-qa", model, {})
        decision = registry.move_aliases(version, METRIC, 2.0)
        assert not decision.promote
    assert len(tracker.client.search_logged_models([tracker.experiment("p")])) == 1
    assert len(tracker.client.search_model_versions("name = 'p-qa'")) == 1
    found = tracker.client.get_logged_model(model.model_id)
    assert [(m.key, m.value, m.dataset_name, m.dataset_digest) for m in found.metrics] == [
        (METRIC, 0.5, "qa-test", "d" * 36)
    ]
    assert [metric.step for metric in tracker.client.get_metric_history(run.run_id, METRIC)] == [0]
    outputs = tracker.client.get_run(run.run_id).outputs
    assert [output.model_id for output in outputs.model_outputs] == [model.model_id]
    assert (Path(found.artifact_location) / "inner" / "model.safetensors").samefile(weights)
    other = ModelRegistry(tracker, run.run_id, "another key").logged_model("p-qa", "qa", {})
    assert other.model_id != model.model_id


def test_killed_after_champion_moved(tmp_path: Path) -> None:
    """The version does not meet itself in the gate."""
    tracker = new_tracker(tmp_path / "home")
    (tmp_path / "model").mkdir()
    publish_one(tracker, "a", 0.30, tmp_path / "model")
    first = publish_one(tracker, "b", 0.40, tmp_path / "model")[1]
    assert publish_one(tracker, "b", 0.40, tmp_path / "model")[1] == first
    assert "against 0.3000" in first.reason


def test_a_dead_tracker(tmp_path: Path) -> None:
    with pytest.raises(TrackerAway, match="does not answer"):
        ModelRegistry(Tracker(DEAD, tmp_path, print), "0" * 32, "key").logged_model("p-qa", "qa", {})
