"""The tiny pipeline whole, as a user runs it: its answer, Prefect's and MLflow's records, and what later runs reuse.

The tests share one home and stand in order: each run starts from what the ones above it left.
"""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE_S, Finished
from tiny_pipeline import answer

from benchmarks.kill import Running
from gptcore.adapters.mlflow_client import Run
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import PARENT, Tracker
from gptcore.presets import load_preset, load_skill, parse_yaml
from gptcore.store import MANIFEST, Manifest, Store

DATA = ["corpus", "tokenizer", "tokens"]
MODELS = ["pretrain", "finetune-summarization", "finetune-qa"]
BENCHMARKS = ["benchmark-base", "benchmark-summarization", "benchmark-qa"]
STAGES = [*DATA, *MODELS, *BENCHMARKS, "publish", "report"]
HEX64, HEX32 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{32}")

pytestmark = pytest.mark.timeout(900)  # the first test here may start the server and run the whole pipeline


def manifest_of(row: dict[str, Any]) -> Manifest:
    return Manifest.parse((Path(row["path"]) / MANIFEST).read_bytes())


def statuses(answered: dict[str, Any]) -> dict[str, str]:
    return {name: row["status"] for name, row in answered["stages"].items()}


class Tracked:
    """One tracker's runs."""

    def __init__(self, home: Path, uri: str | None = None) -> None:
        self.tracker = Tracker(uri or default_uri(home), home, print)
        self.client = self.tracker.client

    def experiments(self) -> dict[str, str]:
        return {e.name: e.experiment_id for e in self.client.search_experiments() if e.name != "Default"}

    def runs(self) -> list[Run]:
        return list(self.client.search_runs(list(self.experiments().values())))

    def curve(self, run_id: str, name: str) -> list[tuple[int, float, int]]:
        """Step, value and time of every point, in order."""
        points = self.client.get_metric_history(run_id, name)
        return sorted((point.step, point.value, point.timestamp) for point in points)

    def children(self, parent: str) -> dict[str, Run]:
        return {r.info.run_name: r for r in self.runs() if r.data.tags.get(PARENT) == parent}


@pytest.fixture(scope="module")
def tracked(tiny: Finished) -> Tracked:
    assert tiny.done.returncode == 0, tiny.done.stderr
    return Tracked(tiny.home)


def test_the_answer_of_a_run(tiny: Finished) -> None:
    assert tiny.done.returncode == 0, tiny.done.stderr
    (line,) = tiny.done.stdout.splitlines()
    found = json.loads(line)
    assert list(found) == ["preset", "run_id", "seconds", "stages"]
    assert found["preset"] == "tiny" and HEX32.fullmatch(found["run_id"])
    assert list(found["stages"]) == STAGES
    for name, row in found["stages"].items():
        assert set(row) == {"status", "key", "digest", "seconds", "metrics", "path", "mlflow_run_id"}
        assert row["status"] == "ran" and row["seconds"] > 0
        assert HEX64.fullmatch(row["key"]) and HEX64.fullmatch(row["digest"]) and HEX32.fullmatch(row["mlflow_run_id"])
        assert row["metrics"] and all(math.isfinite(value) for value in row["metrics"].values())
        manifest = manifest_of(row)
        assert (manifest.stage, manifest.key, manifest.output_digest) == (name, row["key"], row["digest"])
    assert found["seconds"] > sum(row["seconds"] for row in found["stages"].values())


def test_everything_but_the_answer_is_on_stderr(tiny: Finished) -> None:
    for name in STAGES:
        assert re.search(rf"^{name} +ran +[\d.]+ s", tiny.done.stderr, re.MULTILINE), name
    assert "11 stages, 0 reused" in tiny.done.stderr and "report.html" in tiny.done.stderr


def test_headline_metrics_have_their_names(tiny: Finished) -> None:
    metrics = {name: value for row in tiny.first["stages"].values() for name, value in row["metrics"].items()}
    scores = ["qa/exact_match", "qa/f1", *(f"summarization/rouge{which}" for which in "12L")]
    expected = {
        "corpus/documents", "corpus/bytes", "tokenizer/bytes_per_token",
        "pretrain/val_bits_per_byte", "pretrain/tokens_per_second",
        *scores, *(f"{name}_stderr" for name in scores),
        *(f"{name}_{beside}" for name in scores for beside in ("base", "baseline")),
    }  # fmt: skip
    assert expected <= set(metrics)
    assert metrics["corpus/documents"] > 1000 and 0 < metrics["pretrain/val_bits_per_byte"] < 8
    assert metrics["qa/exact_match_baseline"] > 0, "a trivial answer is right now and then"


def test_prefect_holds_a_flow_and_a_task_run_of_every_stage(tiny: Finished, tracked: Tracked) -> None:
    parent = tracked.client.get_run(tiny.first["run_id"])
    root = tiny.prefect.flow_run(parent.data.tags["prefect.flow_run_id"])
    flows = tiny.prefect.flow_names()
    assert flows[root["flow_id"]] == "pipeline" and root["state_type"] == "COMPLETED"
    below = tiny.prefect.below(root["id"])
    assert set(below) == set(STAGES)
    for name, (flow_run, tasks) in below.items():
        kind = name.split("-")[0]
        assert flows[flow_run["flow_id"]] == kind and flow_run["state_type"] == "COMPLETED"
        (task,) = tasks
        assert (task["name"], task["state_type"]) == (name, "COMPLETED")
        assert task["task_key"].startswith(f"{kind}-") and task["run_count"] == 1
        stage = tracked.client.get_run(tiny.first["stages"][name]["mlflow_run_id"])
        assert stage.data.tags["prefect.flow_run_id"] == flow_run["id"]


def test_mlflow_holds_one_parent_and_one_child_a_stage(tiny: Finished, tracked: Tracked) -> None:
    assert list(tracked.experiments()) == ["tiny"]
    runs = {run.info.run_id: run for run in tracked.runs()}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parents = [run_id for run_id, run in runs.items() if PARENT not in run.data.tags]
    assert parents == [tiny.first["run_id"]]
    children = tracked.children(parents[0])
    assert len(runs) == 1 + len(children), "one level of nesting"
    rows = tiny.first["stages"]
    assert {name: run.info.run_id for name, run in children.items()} == {
        name: row["mlflow_run_id"] for name, row in rows.items()
    }


def test_the_parent_row_shows_a_whole_pipeline(tiny: Finished, tracked: Tracked) -> None:
    data = tracked.client.get_run(tiny.first["run_id"]).data
    for name, row in tiny.first["stages"].items():
        assert data.tags[f"stage.{name}.run_id"] == row["mlflow_run_id"]
        assert data.tags[f"stage.{name}.digest"] == row["digest"]
        assert {key: data.metrics[key] for key in row["metrics"]} == pytest.approx(row["metrics"])
    assert {f"qa/exact_match{e}" for e in ("", "_stderr", "_base", "_base_stderr", "_baseline")} <= set(data.metrics)
    assert data.params["model.n_embd"] == "32" and data.params["pretrain.learning_rate"] == "0.001"


def test_a_stage_run_is_described(tiny: Finished, tracked: Tracked) -> None:
    rows = tiny.first["stages"]
    for name, run in tracked.children(tiny.first["run_id"]).items():
        manifest, tags = manifest_of(rows[name]), run.data.tags
        assert (tags["key"], tags["digest"], tags["device"]) == (manifest.key, manifest.output_digest, "cpu")
        assert tags["git.commit"] == str(manifest.git["commit"]) and tags["git.dirty"] == str(manifest.git["dirty"])
        assert {k.removeprefix("input."): v for k, v in tags.items() if k.startswith("input.")} == {
            upstream: rows[upstream]["digest"] for upstream in manifest.identity["inputs"]
        }
        datasets = {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs}
        assert datasets and all(len(digest) <= 36 for digest in datasets.values())
        if name == "corpus":
            assert set(datasets) == {"python_docs"}
        else:
            assert datasets == {upstream: rows[upstream]["digest"][:36] for upstream in manifest.identity["inputs"]}
        assert run.data.params, name
        assert {key: run.data.metrics[key] for key in rows[name]["metrics"]} == pytest.approx(rows[name]["metrics"])
        system = [key for key in run.data.metrics if key.startswith("system/")]
        assert bool(system) == (name in MODELS), f"{name}: {system}"
        if name in MODELS:
            assert tags["seed"] == "1" and run.data.params["learning_rate"] == "0.001"


def test_a_number_leads_back_to_the_sources_by_mlflow_alone(tiny: Finished, tracked: Tracked) -> None:
    """From a metric on the parent row, over the stages that its stage read, to the versions of what the corpus read."""
    parent = tracked.client.get_run(tiny.first["run_id"])
    tags = parent.data.tags
    runs = {name: tracked.client.get_run(tags[f"stage.{name}.run_id"]) for name in STAGES}
    (name,) = [n for n in BENCHMARKS if "qa/f1" in runs[n].data.metrics]
    assert name == "benchmark-qa" and runs[name].data.metrics["qa/f1"] == parent.data.metrics["qa/f1"]
    path = [name]
    while path[-1] != "corpus":
        read = {k.removeprefix("input."): v for k, v in runs[path[-1]].data.tags.items() if k.startswith("input.")}
        assert read == {n: tags[f"stage.{n}.digest"] for n in read}
        assert read == {n: runs[n].data.tags["digest"] for n in read}
        path.append(next(iter(read)))
    assert path == ["benchmark-qa", "finetune-qa", "pretrain", "tokens", "corpus"]
    (source,) = runs["corpus"].inputs.dataset_inputs
    version = json.loads(source.dataset.profile)
    assert version["kind"] == "python_docs" and version["packages"]["numpy"]["version"] == np.__version__
    assert HEX64.fullmatch(version["packages"]["numpy"]["digest"])
    assert json.loads(source.dataset.source)["uri"] == json.dumps(
        {"kind": "python_docs", "packages": ["numpy", "networkx"], "stdlib": False}, separators=(",", ":")
    )
    manifest = tracked.client.download_artifacts(runs["corpus"].info.run_id, MANIFEST)
    assert Manifest.parse(Path(manifest).read_bytes()).identity["sources"] == [version]


def test_the_parent_holds_the_config_whole(tiny: Finished, tracked: Tracked, tmp_path: Path) -> None:
    for name in ("preset.yaml", "skills.yaml", "requirements.txt"):
        tracked.client.download_artifacts(tiny.first["run_id"], name, str(tmp_path))
    assert load_preset(str(tmp_path / "preset.yaml")) == load_preset(str(tiny.preset))
    skills = parse_yaml((tmp_path / "skills.yaml").read_text(), "skills.yaml")
    assert skills == {skill: load_skill(skill).model_dump(mode="json") for skill in ("summarization", "qa")}
    assert f"numpy=={np.__version__}" in (tmp_path / "requirements.txt").read_text().splitlines()
    tags = tracked.client.get_run(tiny.first["run_id"]).data.tags
    manifest = manifest_of(tiny.first["stages"]["pretrain"])
    assert tags["git.commit"] == str(manifest.git["commit"]) and tags["directory"] == str(tiny.home.parent)
    assert manifest.surroundings["threads"] == 1 and manifest.surroundings["devices"] == 1
    assert manifest.surroundings["libraries"]["numpy"] == np.__version__


def test_training_curves_have_every_step_once(tiny: Finished, tracked: Tracked) -> None:
    run_id = tiny.first["stages"]["pretrain"]["mlflow_run_id"]
    for name in ("pretrain/loss", "pretrain/learning_rate"):
        assert [step for step, _, _ in tracked.curve(run_id, name)] == list(range(10, 61, 10))
    assert [step for step, _, _ in tracked.curve(run_id, "pretrain/val_bits_per_byte")][:2] == [30, 60]


def test_every_artifact_stands_on_disk_once(tiny: Finished) -> None:
    rows = tiny.first["stages"]
    stored = {p.stat().st_ino for p in (tiny.home / "store").rglob("*") if p.is_file()}
    experiment = tiny.home / "mlartifacts" / "tiny"
    for name, row in rows.items():
        folder = experiment / row["mlflow_run_id"] / "artifacts"
        artifacts = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
        results = {file for file, record in manifest_of(row).files.items() if record.result}
        assert results | {MANIFEST} <= set(artifacts), name
        assert not [file for file in artifacts if "checkpoint" in file or "scratch" in file]
        for file, path in artifacts.items():
            if file.startswith("tables/"):  # made for the tracker, which alone holds them
                assert name.startswith("benchmark-") and not (Path(row["path"]) / file).exists()
            else:
                assert path.samefile(Path(row["path"]) / file), f"{name}: {file} is a copy"
    weights = [p for p in (experiment / "models").rglob("*") if p.suffix == ".safetensors"]
    assert len(weights) == 2 and all(p.stat().st_ino in stored for p in weights)
    assert not [p for p in tiny.home.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt")]


def test_models_are_logged_measured_and_registered(tiny: Finished, tracked: Tracked) -> None:
    client, published = tracked.client, tiny.first["stages"]["publish"]["mlflow_run_id"]
    logged = {m.name: m for m in client.search_logged_models(list(tracked.experiments().values()))}
    assert set(logged) == {"tiny-qa", "tiny-summarization"}
    for name, metric in (("tiny-qa", "qa/exact_match"), ("tiny-summarization", "summarization/rougeL")):
        skill = name.removeprefix("tiny-")
        linked = {m.key: m for m in logged[name].metrics}
        assert linked[metric].dataset_name == f"{skill}-test" and len(linked[metric].dataset_digest) <= 36
        assert linked[metric].value == pytest.approx(tiny.first["stages"][f"benchmark-{skill}"]["metrics"][metric])
        assert {f"{metric}_stderr", f"{metric}_base", f"{metric}_baseline"} <= set(linked)
        assert logged[name].source_run_id == published
        for alias in ("candidate", "champion"):
            version = client.get_model_version_by_alias(name, alias)
            assert version.version == "1" or version.version == 1
            assert version.tags["gptmill.model_id"] == logged[name].model_id


def test_the_same_command_again_reuses_everything(tiny: Finished, tracked: Tracked) -> None:
    before = len(tracked.runs())
    started = time.monotonic()
    done = tiny.run()
    seconds = time.monotonic() - started
    again = answer(done)
    assert seconds < 5, done.stderr
    assert again["seconds"] <= seconds
    assert set(statuses(again).values()) == {"reused"}
    assert again["run_id"] == tiny.first["run_id"]
    for name, row in again["stages"].items():
        first = tiny.first["stages"][name]
        assert {k: v for k, v in row.items() if k not in ("status", "seconds")} == {
            k: v for k, v in first.items() if k not in ("status", "seconds")
        }
    assert len(tracked.runs()) == before, "a run with nothing to do leaves no row"


def test_one_stage_alone(tiny: Finished) -> None:
    found = answer(tiny.run("--only", "benchmark-qa"))
    assert statuses(found) == {"benchmark-qa": "reused"}
    assert found["run_id"] == tiny.first["run_id"]


def test_one_stage_alone_whose_upstream_is_not_fresh(tiny: Finished, tracked: Tracked) -> None:
    before = len(tracked.runs())
    done = tiny.run("--only", "benchmark-qa", "--set", "pretrain.learning_rate=5e-4")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "finetune-qa" in line and "upstream pretrain is stale" in line
    assert line.endswith(f"gptmill run {tiny.preset} --set pretrain.learning_rate=5e-4 --until finetune-qa")
    assert len(tracked.runs()) == before


@pytest.fixture(scope="module")
def changed(tiny: Finished) -> dict[str, Any]:
    return answer(tiny.run("--set", "pretrain.learning_rate=1e-4"))


def test_a_changed_learning_rate_runs_what_follows_from_it(tiny: Finished, changed: dict[str, Any]) -> None:
    found = statuses(changed)
    assert [name for name in STAGES if found[name] == "reused"] == DATA
    assert {found[name] for name in STAGES if name not in DATA} == {"ran"}
    for name in DATA:
        assert changed["stages"][name]["digest"] == tiny.first["stages"][name]["digest"]
    assert changed["stages"]["pretrain"]["digest"] != tiny.first["stages"]["pretrain"]["digest"]


def test_a_new_parent_row_carries_the_reused_stages(tiny: Finished, tracked: Tracked, changed: dict[str, Any]) -> None:
    assert changed["run_id"] != tiny.first["run_id"]
    data = tracked.client.get_run(changed["run_id"]).data
    for name in DATA:
        assert data.tags[f"stage.{name}.run_id"] == tiny.first["stages"][name]["mlflow_run_id"]
    assert data.metrics["corpus/documents"] == tiny.first["stages"]["corpus"]["metrics"]["corpus/documents"]
    assert data.params["pretrain.learning_rate"] == "0.0001"
    assert set(tracked.children(changed["run_id"])) == set(STAGES) - set(DATA), "no child for a reused stage"
    assert {run.info.status for run in tracked.runs()} == {"FINISHED"}


def test_a_later_version_becomes_candidate(tracked: Tracked, changed: dict[str, Any]) -> None:
    assert int(tracked.client.get_model_version_by_alias("tiny-qa", "candidate").version) == 2
    assert "published_version" in " ".join(changed["stages"]["publish"]["metrics"])


@pytest.fixture(scope="module")
def forced(tiny: Finished, changed: dict[str, Any]) -> dict[str, Any]:
    return answer(tiny.run("--force", "tokenizer", "--force", "benchmark-qa"))


def test_a_forced_stage_that_gives_the_same_bytes_stops_there(tiny: Finished, forced: dict[str, Any]) -> None:
    assert {n for n, status in statuses(forced).items() if status == "ran"} == {"tokenizer", "benchmark-qa"}
    assert {n: row["digest"] for n, row in forced["stages"].items()} == {
        n: row["digest"] for n, row in tiny.first["stages"].items()
    }


def test_another_tracker_is_told_everything(tiny: Finished, tracked: Tracked, forced: dict[str, Any]) -> None:
    uri = f"sqlite:///{tiny.home.parent / 'other.db'}"
    before = len(tracked.runs())
    found = answer(tiny.run(MLFLOW_TRACKING_URI=uri))
    assert statuses(found) == {name: "resumed" if name == "publish" else "reused" for name in STAGES}, (
        "models have to be registered in the new tracker too"
    )
    other = Tracked(tiny.home, uri)
    children = other.children(found["run_id"])
    assert {n: r.info.run_id for n, r in children.items()} == {
        n: row["mlflow_run_id"] for n, row in found["stages"].items()
    }
    assert {run.info.status for run in other.runs()} == {"FINISHED"}
    here, there = (a["stages"]["pretrain"]["mlflow_run_id"] for a in (tiny.first, found))
    curve = other.curve(there, "pretrain/loss")
    assert curve == tracked.curve(here, "pretrain/loss") and len(curve) == 6
    assert (tiny.home / "mlartifacts" / "tiny" / there / "artifacts" / "model.safetensors").samefile(
        Path(found["stages"]["pretrain"]["path"]) / "model.safetensors"
    )
    assert other.client.get_model_version_by_alias("tiny-qa", "champion").tags["gptmill.model_id"]

    back = answer(tiny.run("--until", "benchmark-base"))
    assert set(statuses(back).values()) == {"reused"}
    assert len(tracked.runs()) == before, "the first tracker still has every run"


def test_two_runs_at_once_over_a_damaged_file(tiny: Finished, forced: dict[str, Any]) -> None:
    """One byte of a shard is another; both runs find it, one of them builds each stage, and both end well."""
    tokens = forced["stages"]["tokens"]
    shard = Path(tokens["path"]) / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    command = ["run", str(tiny.preset), "--json", "--set", "pretrain.learning_rate=2e-4", "--until", "pretrain"]
    surroundings = {"OMP_NUM_THREADS": "1", "PREFECT_API_URL": tiny.prefect.url}
    waits, until = "tokens: waiting for another run of it", time.monotonic() + PATIENCE_S
    with Store(tiny.home / "store").lock("tokens", tokens["key"]):  # until both are there, however slow one is
        both = [Running(command, tiny.home, **surroundings) for _ in range(2)]
        while not all(waits in run.text for run in both):
            assert time.monotonic() < until and all(run.process.poll() is None for run in both), [r.text for r in both]
            time.sleep(0.05)
    said = [run.end(PATIENCE_S) for run in both]
    assert [run.process.returncode for run in both] == [0, 0], [run.text for run in both]
    found = [json.loads(out.splitlines()[-1]) for out in said]
    for name in ("corpus", "tokenizer"):
        assert {statuses(answered)[name] for answered in found} == {"reused"}
    for name in ("tokens", "pretrain"):
        assert sorted(statuses(answered)[name] for answered in found) == ["ran", "reused"], f"{name} was built once"
        assert len({answered["stages"][name]["digest"] for answered in found}) == 1
    assert found[0]["stages"]["tokens"]["digest"] == tiny.first["stages"]["tokens"]["digest"]
    news = both[0].text + both[1].text
    assert news.count("rebuilding it") == 1 and "train-00000.bin does not have its recorded sha256" in news
