"""SIGKILL inside stages, then the same command: nothing lost, nothing twice, nothing left open."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished
from tiny_pipeline import write_preset

from benchmarks.kill import (
    SHORT,
    Record,
    arguments_of,
    finish,
    kill_each,
    kill_in,
    left_behind,
    record_of,
    soak,
)
from gptcore.presets import load_preset

STAGES = ("pretrain", "finetune-qa", "benchmark-base", "publish", "report")
"""Killed here, once each; benchmarks/kill.py kills every stage, more than once."""
WITHIN = 0.9
"""Share of a stage's own seconds, as the undisturbed run took them, in which it is killed: here it may be a little
quicker. Its last instants, and the telling of MLflow after them, are left to the soak."""

pytestmark = pytest.mark.timeout(900)  # the first test here may run the whole pipeline besides six killed ones


@dataclass
class Story:
    """A home whose runs were killed, and what the last, undisturbed one left."""

    preset: str
    home: Path
    kills: int
    stages: dict[str, Any]
    record: Record
    stage_runs: int


@pytest.fixture(scope="module")
def story(tiny: Finished, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("kill")
    home, preset = folder / "home", str(write_preset(folder))
    command, surroundings = ["run", preset, "--json"], {"OMP_NUM_THREADS": "1", "PREFECT_API_URL": tiny.prefect.url}
    seconds = {stage: WITHIN * row["seconds"] for stage, row in tiny.first["stages"].items()}
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    hits = kill_each(dict.fromkeys(STAGES, 1), seconds, random.Random(seed), command, home, **surroundings)
    answer, _ = finish(command, home, **surroundings)
    record, stage_runs = record_of(home)
    return Story(preset, home, hits.total(), answer["stages"], record, stage_runs)


def files(row: dict[str, Any]) -> list[str]:
    directory = Path(row["path"])
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_the_outputs_equal_those_of_an_undisturbed_run(tiny: Finished, story: Story) -> None:
    assert story.kills >= len(STAGES) - 1  # a kill may come between two stages, where one is quicker than before
    undisturbed = tiny.first["stages"]
    assert {n: row["digest"] for n, row in story.stages.items()} == {n: row["digest"] for n, row in undisturbed.items()}
    assert any(row["status"] == "reused" for row in story.stages.values())


def test_what_stands_outside_the_digest_is_whole(tiny: Finished, story: Story) -> None:
    assert {"report.html", "MANIFEST.json"} <= set(files(story.stages["report"]))
    assert {"published.json", "hf/qa/model.safetensors"} <= set(files(story.stages["publish"]))
    for row in story.stages.values():
        assert not [name for name in files(row) if name.startswith("scratch/") or name.endswith(".part")]


def test_mlflow_holds_one_ended_run_a_stage_and_no_step_twice(story: Story) -> None:
    assert story.record == Record()
    assert story.stage_runs == len(story.stages)


def test_prefect_shows_the_killed_runs_as_crashed(tiny: Finished, story: Story) -> None:
    pipelines = tiny.prefect.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [story.preset]}}})
    states = Counter(run["state"]["type"] for run in pipelines)
    assert set(states) == {"COMPLETED", "CRASHED"} and states["CRASHED"] >= story.kills
    ids = {"any_": [run["id"] for run in pipelines]}
    subflows = tiny.prefect.ask("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": ids}})
    assert {run["state"]["type"] for run in subflows} == {"COMPLETED", "CRASHED"}
    ids = {"any_": [run["id"] for run in subflows]}
    tasks = tiny.prefect.ask("task_runs/filter", {"flow_runs": {"id": ids}})
    assert {run["state"]["type"] for run in tasks} == {"COMPLETED", "CRASHED"}


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    preset = str(write_preset(tmp_path))
    killed = kill_in("corpus", 0.5, ["run", preset, "--json"], tmp_path / "home", OMP_NUM_THREADS="1")
    assert killed == "corpus"  # by then its Prefect server, in a session of its own, is up
    assert left_behind(tmp_path / "home") == []


def test_the_short_form_of_quickstart_is_a_preset() -> None:
    assert load_preset("quickstart", SHORT).pretrain.steps < load_preset("quickstart").pretrain.steps


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_stage_of_quickstart_killed_twice(tmp_path: Path) -> None:
    found = soak(arguments_of("quickstart", SHORT), tmp_path, rounds=2, seed=time.time_ns() % 2**32)
    assert all(row["kills"] >= 2 and row["digest_equal"] for row in found["stages"].values()), found
    assert {found[name] for name in ("left_running", "steps_twice", "extra_runs", "extra_versions", "orphans")} == {0}
