"""What makes runs comparable in MLflow's UI: curves by tokens on parent runs, sample tables on benchmark runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from mlflow_fixtures import facts, new_tracker

from gptcore.adapters.mlflow_curves import MOST_POINTS
from gptcore.adapters.mlflow_runs import StageResult
from gptcore.adapters.mlflow_tables import LOGGED, MOST_CHARS, MOST_ROWS, log_sample_tables, sample_table
from gptcore.evaluation.learning_curves import evenly, learning_curves
from gptcore.work import MetricLog

SAMPLE = {
    "id": "a#1", "kind": "type", "fields": {"question": "q?"}, "target": "int", "prediction": "str",
    "scores": {"f1": 0.5}, "baseline": "bool", "baseline_scores": {"f1": 0.0},
}  # fmt: skip


def written(directory: Path, batch: int, updates: int = 40, every: int = 10) -> Path:
    """A training log: a count of tokens every so many updates, 100 tokens a second, evaluations at 15 and the last."""
    log = MetricLog(directory / "metrics.jsonl")
    for step in range(1, updates + 1):
        if step % every == 0:
            values = {"loss": 5 - step / 10, "tokens": float(step * batch), "tokens_per_second": 100.0}
            log.append({f"pretrain/{name}": value for name, value in values.items()}, step)
        if step in (15, updates):
            log.append({"pretrain/val_loss": 6 - step / 10}, step)
    log.close()
    return directory


def test_tokens_and_seconds_behind_every_value(tmp_path: Path) -> None:
    curves = learning_curves(written(tmp_path, batch=50), "pretrain")
    assert [(p.step, p.tokens, p.seconds) for p in curves["loss"]] == [
        (10, 500, 5.0), (20, 1000, 10.0), (30, 1500, 15.0), (40, 2000, 20.0)
    ]  # fmt: skip
    assert [(p.tokens, p.seconds, p.value) for p in curves["val_loss"]] == [(750, 7.5, 4.5), (2000, 20.0, 2.0)]
    assert learning_curves(tmp_path, "finetune-qa") == {} == learning_curves(tmp_path / "absent", "pretrain")


def test_a_long_curve_keeps_its_end(tmp_path: Path) -> None:
    points = learning_curves(written(tmp_path, 50, updates=999, every=1), "pretrain")["loss"]
    few = evenly(points, 7)
    assert len(few) == 7 and few[-1] == points[-1] and evenly(points, 5000) == points
    gaps = [b.step - a.step for a, b in itertools.pairwise(few)]
    assert max(gaps) - min(gaps) <= 1


def test_two_parents_overlay_by_tokens_whatever_the_batch(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    steps: list[list[int]] = []
    names: list[str] = []
    for batch, loss in ((50, 2.0), (100, 4.0)):
        final = {"pretrain/val_loss": loss, "pretrain/tokens_per_second": 90.0}
        parent = tracker.open_parent("tiny", "tiny", {}, {})
        directory = written(tmp_path / str(batch), batch, updates=2000 // batch)
        for _ in range(2):  # a run that is closed, taken up again and closed
            tracker.summarize_parent(parent, {"pretrain": StageResult(None, "d", final, directory)})
        run = tracker.client.get_run(parent)
        names.append(run.info.run_name)
        assert names[-1] == f"tiny {parent[:8]}", "a chart's legend tells it from the others"
        data = run.data.metrics
        assert (data["pretrain/val_loss"], data["pretrain/tokens_per_second"]) == (loss, 90.0), "the row shows the end"
        assert "pretrain/tokens" not in data and len(tracker.client.get_metric_history(parent, "pretrain/loss")) > 1
        steps.append([m.step for m in tracker.client.get_metric_history(parent, "pretrain/val_loss")])
        speeds = tracker.client.get_metric_history(parent, "pretrain/tokens_per_second")
        assert [m.step for m in speeds][-2:] == [2000, 2001], "the final mean stands after the curve"
    assert steps == [[750, 2000], [1500, 2000]]
    assert len(set(names)) == 2


def test_a_parents_curves_are_bounded(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    parent = tracker.open_parent("tiny", "tiny", {}, {})
    directory = written(tmp_path / "long", 50, updates=3 * MOST_POINTS, every=1)
    tracker.summarize_parent(parent, {"pretrain": StageResult(None, "d", {}, directory)})
    assert len(tracker.client.get_metric_history(parent, "pretrain/loss")) == MOST_POINTS


def test_samples_become_one_table_a_task(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    run = tracker.open_stage(tracker.open_parent("tiny", "tiny", {}, {}), facts("benchmark-qa"))
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "samples-qa.jsonl").write_text(json.dumps(SAMPLE, sort_keys=True) + "\n")
    (stage / "samples-heldout.jsonl").write_text('{"id": "d", "bytes": 9, "scores": {"bits_per_byte": 2.5}}\n')
    for _ in range(2):  # logged again, the rows are no more
        names = log_sample_tables(tracker, run.run_id, stage)
    run.finish("FINISHED")
    assert names == ["tables/heldout.json", "tables/qa.json"]
    data = tracker.client.get_run(run.run_id).data
    assert json.loads(data.tags[LOGGED]) == [{"path": name, "type": "table"} for name in names]
    table = json.loads(Path(tracker.client.download_artifacts(run.run_id, "tables/qa.json", str(tmp_path))).read_text())
    assert table["columns"] == ["id", "kind", "question", "target", "prediction", "f1", "baseline", "f1_baseline"]
    assert table["data"] == [["a#1", "type", "q?", "int", "str", 0.5, "bool", 0.0]]


def test_a_table_is_bounded_in_rows_and_cells() -> None:
    many = [{**SAMPLE, "id": str(i), "prediction": "x" * 5000, "responses": ["a"]} for i in range(3 * MOST_ROWS)]
    table = sample_table(many)
    at = {name: number for number, name in enumerate(table["columns"])}
    assert len(table["data"]) == MOST_ROWS and [row[at["id"]] for row in table["data"][:3]] == ["0", "3", "6"]
    assert len(table["data"][0][at["prediction"]]) == MOST_CHARS + 2 and table["data"][0][at["responses"]] == '["a"]'
    assert sample_table([]) == {"columns": [], "data": []}
