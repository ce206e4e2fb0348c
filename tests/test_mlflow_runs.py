"""Runs in a real tracker: layout, metrics once and only once, links, look-ups, outages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow_fixtures import DEAD, Server, facts, new_tracker

from gptcore.adapters.mlflow_client import MlflowClient, TrackerAway
from gptcore.adapters.mlflow_history import find_runs, get_run
from gptcore.adapters.mlflow_lookup import Presence, default_uri, run_presence
from gptcore.adapters.mlflow_metrics import SystemSampler
from gptcore.adapters.mlflow_models import ModelRegistry
from gptcore.adapters.mlflow_runs import StageFacts, StageInput, StageResult, Tracker, flatten
from gptcore.work import MetricLog, read_metrics


def history(client: MlflowClient, run_id: str) -> dict[str, list[int]]:
    """Every step of every metric, in the order of its time."""
    keys = client.get_run(run_id).data.metrics
    return {key: [metric.step for metric in client.get_metric_history(run_id, key)] for key in keys}


def write_steps(log: MetricLog, steps: range) -> None:
    for step in steps:
        log.append({"loss": 1 / (step + 1), "grad_norm": float(step)}, step)


def test_a_stage_run_says_everything(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    parent = tracker.open_parent("quickstart", "morning", {"model": {"n_layer": 4}}, {"git.commit": "abc"})
    config = {"learning_rate": 1e-3, "dtype": "float32", "none": None}
    inputs = (StageInput("tokens", "d" * 64, "store/tokens/0123"),)
    run = tracker.open_stage(parent, StageFacts("pretrain", "k" * 64, config, {"seed": "1"}, inputs))
    assert run.finish("FINISHED", {"pretrain/val_bits_per_byte": 2.5})
    tracker.close(parent, "KILLED")

    above, below = tracker.client.get_run(parent), tracker.client.get_run(run.run_id)
    assert above.data.params == {"model.n_layer": "4"}
    assert (above.info.status, below.info.status) == ("KILLED", "FINISHED")
    assert below.data.params == {"learning_rate": "0.001", "dtype": "float32", "none": "null"}
    assert below.data.tags["mlflow.parentRunId"] == parent
    assert below.data.tags["gptmill.key"] == "k" * 64 and below.data.tags["seed"] == "1"
    assert "mlflow.parentRunId" not in above.data.tags
    assert below.data.metrics == {"pretrain/val_bits_per_byte": 2.5}
    assert [(i.dataset.name, i.dataset.digest) for i in below.inputs.dataset_inputs] == [("tokens", "d" * 36)]
    assert above.info.artifact_uri.startswith(str(tmp_path / "mlartifacts"))


def test_a_killed_invocation_finds_its_runs_again(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    first = tracker.open_parent("p", "n", {}, {"gptmill.invocation": "one"})
    child = tracker.open_stage(first, facts()).run_id
    tracker.close(child, "KILLED")
    assert tracker.open_parent("p", "n", {}, {"gptmill.invocation": "one"}) == first
    assert tracker.open_parent("p", "n", {}, {"gptmill.invocation": "two"}) != first
    assert tracker.open_stage(first, facts()).run_id == child
    assert tracker.client.get_run(child).info.status == "RUNNING"
    assert tracker.open_stage(first, facts(key="other")).run_id != child
    assert tracker.reopen(first) and not tracker.reopen("0" * 32)


def test_runs_of_a_dead_invocation_end_as_killed(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    parent, other = (tracker.open_parent("p", name, {}, {}) for name in "ab")
    kept, lost = (tracker.open_stage(parent, facts(stage)).run_id for stage in ("corpus", "tokens"))
    foreign = tracker.open_stage(other, facts("corpus")).run_id
    assert set(tracker.unfinished_parents("p")) == {parent, other}
    assert tracker.kill_unfinished(parent, keep={kept}, parent_too=True) == [lost, parent]
    statuses = [tracker.client.get_run(i).info.status for i in (kept, lost, parent, foreign)]
    assert statuses == ["RUNNING", "KILLED", "KILLED", "RUNNING"]
    assert tracker.unfinished_parents("p") == [other]


def test_metrics_arrive_once_with_their_own_times(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    run = tracker.open_stage(tracker.open_parent("p", "n", {}, {}), facts(), interval=0.02)
    log = MetricLog(tmp_path / "metrics.jsonl")
    run.follow(log.path)
    write_steps(log, range(1300))  # 2,600 points: three batches
    deadline = time.monotonic() + 20
    while len(history(tracker.client, run.run_id).get("loss", [])) < 1300 and time.monotonic() < deadline:
        time.sleep(0.05)
    write_steps(log, range(1300, 1310))
    log.close()
    assert run.finish("FINISHED", {"loss": 1 / 1310, "val": 3.0})
    assert history(tracker.client, run.run_id) == {"loss": [*range(1310)], "grad_norm": [*range(1310)], "val": [0]}
    lines = read_metrics(log.path)
    times = [metric.timestamp for metric in tracker.client.get_metric_history(run.run_id, "loss")]
    assert times == [line["t"] for line in lines]


def test_a_rewound_log_is_not_sent_twice(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    run = tracker.open_stage(tracker.open_parent("p", "n", {}, {}), facts(), interval=0.02)
    log = MetricLog(tmp_path / "metrics.jsonl")
    write_steps(log, range(50))
    checkpoint = log.position()
    write_steps(log, range(50, 100))
    run.follow(log.path)
    deadline = time.monotonic() + 20
    while len(history(tracker.client, run.run_id).get("loss", [])) < 100 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.01)  # other timestamps
    log.rewind(checkpoint)
    write_steps(log, range(50, 300))  # longer than it was
    log.close()
    assert run.finish("FINISHED")
    assert history(tracker.client, run.run_id) == {"loss": [*range(300)], "grad_norm": [*range(300)]}


def test_a_final_value_follows_its_curve(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    parent = tracker.open_parent("p", "n", {}, {})
    log = MetricLog(tmp_path / "metrics.jsonl")
    log.append({"val": 3.0}, 100)
    log.close()
    for _ in range(2):
        run = tracker.open_stage(parent, facts())
        run.follow(log.path)
        assert run.finish("FINISHED", {"val": 2.5})
    assert history(tracker.client, run.run_id) == {"val": [100, 101]}
    assert tracker.client.get_run(run.run_id).data.metrics == {"val": 2.5}


KILLED_STAGE = """
import sys, time
from pathlib import Path
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import StageFacts, Tracker
from gptcore.work import MetricLog

home, parent = Path(sys.argv[1]), sys.argv[2]
run = Tracker(default_uri(home), home, print).open_stage(parent, StageFacts("pretrain", "k", {}, {}), interval=0.05)
mark = home / "checkpoint"
step, position = map(int, mark.read_text().split()) if mark.exists() else (0, 0)
log = MetricLog(home / "metrics.jsonl")
run.follow(log.path)
log.rewind(position)
print("working", flush=True)
while step < 400:
    log.append({"loss": 1 / (step + 1)}, step)
    step += 1
    if step % 50 == 0:
        (home / "checkpoint.new").write_text(f"{step} {log.position()}")
        (home / "checkpoint.new").replace(mark)
    time.sleep(0.004)
sys.exit(0 if run.finish("FINISHED") else 1)
"""


def test_sigkill_between_checkpoint_and_send(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    parent = tracker.open_parent("p", "n", {}, {})
    for seconds in (0.9, None):
        command = [sys.executable, "-c", KILLED_STAGE, str(tmp_path), parent]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            if seconds is None:
                assert process.wait(60) == 0
            else:
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
    children = [r for r in tracker.client.search_runs([tracker.experiment("p")]) if r.info.run_id != parent]
    assert [(r.info.status, r.data.tags["gptmill.stage"]) for r in children] == [("FINISHED", "pretrain")]
    assert history(tracker.client, children[0].info.run_id) == {"loss": [*range(400)]}


def test_a_server_dies_in_the_middle_and_comes_back(tmp_path: Path) -> None:
    """Training goes on, every metric arrives once; uploads and publication through a server work too."""
    server, said = Server(tmp_path / "server"), []
    server.start()
    try:
        tracker = Tracker(server.uri, tmp_path, said.append)
        parent = tracker.open_parent("p", "n", {"a": 1}, {})
        run = tracker.open_stage(parent, facts(), interval=0.05)
        log = MetricLog(tmp_path / "metrics.jsonl")
        run.follow(log.path)
        write_steps(log, range(100))
        time.sleep(0.5)
        write_steps(log, range(100, 400))
        server.kill()
        slowest = 0.0
        for step in range(400, 500):
            before = time.monotonic()
            write_steps(log, range(step, step + 1))
            slowest = max(slowest, time.monotonic() - before)
            time.sleep(0.01)
        assert slowest < 0.5
        assert len(said) == 1 and "does not answer" in said[0] and "wait on disk" in said[0]
        assert run_presence(server.uri, [parent, run.run_id]) == dict.fromkeys([parent, run.run_id], Presence.UNKNOWN)

        other_said: list[str] = []
        tracker.say = other_said.append
        before = time.monotonic()
        assert not run.finish("FINISHED", {"final": 1.0}, timeout=10)
        assert time.monotonic() - before < 10
        assert len(other_said) == 1 and run.run_id[:8] in other_said[0]
        log.close()

        server.start()
        (tmp_path / "weights.bin").write_bytes(b"w" * 1000)
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
        for _ in range(2):
            run_id = tracker.replay(
                parent, facts(), tmp_path, ["weights.bin"], {"final": 1.0}, 1000.0, 2000.0, run.run_id
            )
            assert run_id == run.run_id
        assert history(tracker.client, run_id) == {"loss": [*range(500)], "grad_norm": [*range(500)], "final": [0]}
        whole = tracker.client.get_run(run_id)
        assert (whole.info.status, whole.info.end_time) == ("FINISHED", 2_000_000)
        assert [(f.path, f.file_size) for f in tracker.client.list_artifacts(run_id)] == [("weights.bin", 1000)]
        assert run_presence(server.uri, [run_id, "0" * 32]) == {run_id: Presence.PRESENT, "0" * 32: Presence.ABSENT}
        for _ in range(2):
            registry = ModelRegistry(tracker, parent, "key")
            model = registry.logged_model("p-qa", "qa", {})
            registry.complete(model, tmp_path / "model")
            registry.link(model, {"qa/f1": 0.5, "qa/f1_stderr": 0.1}, "qa-test", "d" * 64)
            version = registry.register("p-qa", model, {"qa/f1": "0.5", "qa/f1_stderr": "0.1"})
            assert registry.move_aliases(version, "qa/f1", 2.0).promote
        assert len(tracker.client.search_model_versions("name = 'p-qa'")) == 1
        assert [f.path for f in tracker.client.list_logged_model_artifacts(model.model_id)] == ["model.safetensors"]
        assert tracker.client.get_model_version_by_alias("p-qa", "champion").source == f"models:/{model.model_id}"

        tracker.client.delete_run(run_id)
        assert run_presence(server.uri, [run_id]) == {run_id: Presence.ABSENT}
    finally:
        server.kill()


def test_a_dead_tracker_is_one_line_at_once(tmp_path: Path) -> None:
    before = time.monotonic()
    with pytest.raises(TrackerAway, match=r"^MLflow at http://127.0.0.1:9 does not answer: .*[Rr]efused") as caught:
        Tracker(DEAD, tmp_path, print).open_parent("p", "n", {}, {})
    assert time.monotonic() - before < 5 and "\n" not in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


def test_a_broken_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(TrackerAway, match="not a database") as caught:
        Tracker(default_uri(tmp_path), tmp_path, print)
    assert "\n" not in str(caught.value)
    assert run_presence(default_uri(tmp_path), ["a"]) == {"a": Presence.UNKNOWN}


SET_UP = """
import os, sys
from pathlib import Path
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import Tracker

home = Path(sys.argv[1])
print("working", flush=True)
print(Tracker(default_uri(home), home, print).open_parent("p", "n", {}, {}))
print(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"], os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
"""


def test_two_processes_set_up_one_database_and_one_is_killed(tmp_path: Path) -> None:
    env = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}  # the user's setting stays
    command = [sys.executable, "-c", SET_UP, str(tmp_path)]
    first, second = (subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2))
    with first, second:
        assert first.stdout is not None
        first.stdout.readline()
        while not [*tmp_path.glob(".mlflow.db.*.part")] and first.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)  # among the migrations, whichever of the two makes them
        first.kill()
        told = second.communicate(timeout=120)[0].split()
    assert second.returncode == 0
    assert run_presence(default_uri(tmp_path), [told[1]]) == {told[1]: Presence.PRESENT}
    assert told[2:] == ["77", "1"]


def test_artifacts_stand_on_disk_once(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path / "home")
    run = tracker.open_stage(tracker.open_parent("p", "n", {}, {}), facts())
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"weights")
    for _ in range(2):
        tracker.log_artifacts(run.run_id, tmp_path, ["hf/model.safetensors"], "stage")
    with pytest.raises(FileNotFoundError):
        tracker.log_artifacts(run.run_id, tmp_path, ["absent"])
    tracker.log_json(run.run_id, {"é": 1}, "stage/config.json")
    root = Path(tracker.client.get_run(run.run_id).info.artifact_uri)
    assert (root / "stage/hf/model.safetensors").samefile(tmp_path / "hf/model.safetensors")
    assert json.loads((root / "stage/config.json").read_text(encoding="utf-8")) == {"é": 1}
    assert {f.path for f in tracker.client.list_artifacts(run.run_id, "stage")} == {"stage/hf", "stage/config.json"}


def test_a_run_missing_from_the_tracker_is_replayed(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path / "home")
    parent = tracker.open_parent("p", "n", {}, {})
    log = MetricLog(tmp_path / "metrics.jsonl")
    write_steps(log, range(5))
    log.close()
    replayed = [
        tracker.replay(parent, facts(), tmp_path, ["metrics.jsonl"], {"val": 1.0}, 10.0, 20.0, "0" * 32)
        for _ in range(2)
    ]
    assert replayed[0] == replayed[1] != "0" * 32
    run = tracker.client.get_run(replayed[0])
    assert (run.info.start_time, run.info.end_time, run.info.status) == (10_000, 20_000, "FINISHED")
    assert history(tracker.client, replayed[0]) == {"loss": [*range(5)], "grad_norm": [*range(5)], "val": [0]}


def test_the_parent_compares_a_whole_pipeline(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    parent = tracker.open_parent("quickstart", "n", {"a": {"b": 1}}, {"git.commit": "abc"})
    child = tracker.open_stage(parent, facts()).run_id
    stages = {
        "pretrain": StageResult(child, "d1", {"pretrain/val_bits_per_byte": 2.5}),
        "corpus": StageResult(None, "d2", {"corpus/bytes": 7.0}),
    }
    for _ in range(2):
        tracker.summarize_parent(parent, stages)
    tracker.close(parent, "FINISHED")
    assert history(tracker.client, parent) == {"pretrain/val_bits_per_byte": [0], "corpus/bytes": [0]}

    later = tracker.open_parent("other", "n", {}, {})
    assert [run.run_id for run in find_runs(tracker)] == [later, parent]
    assert [run.run_id for run in find_runs(tracker, "quickstart")] == [parent]
    assert find_runs(tracker, "absent") == []
    found = get_run(tracker, parent[:8])
    assert found == get_run(tracker, child) == get_run(tracker, "latest", "quickstart")
    assert (found.preset, found.status, found.params, found.tags) == (
        "quickstart",
        "FINISHED",
        {"a.b": "1"},
        {"git.commit": "abc"},
    )
    assert found.seconds is not None and found.seconds >= 0
    assert found.stages == {"pretrain": {"run_id": child, "digest": "d1"}, "corpus": {"digest": "d2"}}
    again = tracker.replay(later, facts(), tmp_path, [], {}, 1.0, 2.0, child)
    assert again == child and get_run(tracker, child).run_id == parent
    for wrong, message in (("ab", "first 8 characters"), ("0" * 32, "no run in"), ("a'b;c-d-e", "no run id")):
        with pytest.raises(ValueError, match=message):
            get_run(tracker, wrong)


def test_presence_needs_no_mlflow(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path)
    run, gone = (tracker.open_parent("p", name, {}, {}) for name in "ab")
    tracker.client.delete_run(gone)
    script = (
        "import sys; from gptcore.adapters.mlflow_lookup import run_presence\n"
        "print([v.name for v in run_presence(sys.argv[1], sys.argv[2:]).values()], 'mlflow' in sys.modules)"
    )
    command = [sys.executable, "-c", script, tracker.uri, run, gone, "0" * 32]
    assert subprocess.check_output(command, text=True) == "['PRESENT', 'ABSENT', 'ABSENT'] False\n"
    assert run_presence(default_uri(tmp_path / "nowhere"), [run]) == {run: Presence.ABSENT}
    assert not (tmp_path / "nowhere").exists()
    before = time.monotonic()
    assert set(run_presence(DEAD, [run, gone]).values()) == {Presence.UNKNOWN}
    assert run_presence("postgresql://nobody@nowhere/x", [run]) == {run: Presence.UNKNOWN}
    assert run_presence(DEAD, []) == {}
    assert time.monotonic() - before < 3


def test_system_metrics_go_on_after_a_resume(tmp_path: Path) -> None:
    tracker = new_tracker(tmp_path / "home")
    parent = tracker.open_parent("p", "n", {}, {})
    for _ in range(2):
        run = tracker.open_stage(parent, facts(), interval=0.05)
        run.follow(tmp_path / "system.jsonl")
        with SystemSampler(tmp_path / "system.jsonl", interval=0.02):
            time.sleep(0.1)
        assert run.finish("FINISHED")
    lines = read_metrics(tmp_path / "system.jsonl")
    assert [line["step"] for line in lines] == [*range(len(lines))] and len(lines) >= 4
    sent = history(tracker.client, run.run_id)
    assert {"system/cpu_utilization_percentage", "system/process_memory_megabytes"} <= set(sent)
    assert all(steps == [*range(len(lines))] for steps in sent.values())
    assert lines[-1]["m"]["system/process_memory_megabytes"] > 10


def test_flat_params() -> None:
    config = {
        "a": {"b": 1, "c": [1, "x"]},
        "sources": [{"kind": "files"}, {"kind": "url"}],
        "n": None,
        "s": "t",
        "e": {},
    }
    assert flatten(config) == {
        "a.b": "1",
        "a.c": '[1, "x"]',
        "sources.0.kind": "files",
        "sources.1.kind": "url",
        "n": "null",
        "s": "t",
        "e": "{}",
    }
    assert len(flatten({"x": "y" * 10_000})["x"]) == 6000
