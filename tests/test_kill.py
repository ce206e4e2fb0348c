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
RECORD_S = 0.5
"""About what telling MLflow at the end of a stage adds to its own work."""

pytestmark = pytest.mark.timeout(900)  # the first test here may run the whole pipeline besides six killed ones


@dataclass
class Home:
    """What the last, undisturbed run left in a home whose runs were killed."""

    stages: dict[str, Any]
    record: Record
    stage_runs: int


@dataclass
class Story:
    """Homes in which, together, every stage of STAGES was killed at work."""

    preset: str
    hits: Counter[str]
    homes: list[Home]


@pytest.fixture(scope="module")
def story(tiny: Finished, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("kill")
    preset = str(write_preset(folder))
    command, surroundings = ["run", preset, "--json"], {"OMP_NUM_THREADS": "1", "PREFECT_API_URL": tiny.prefect.url}
    seconds = {stage: row["seconds"] + RECORD_S for stage, row in tiny.first["stages"].items()}
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    draw, told = random.Random(seed), Story(preset, Counter(), [])
    while missed := {stage: 1 for stage in STAGES if not told.hits[stage]}:
        # A kill may come after a stage that is quicker here; it is aimed at again in a home of its own.
        assert len(told.homes) < 5, told.hits
        home = folder / f"home-{len(told.homes)}"
        told.hits += kill_each(missed, seconds, draw, command, home, **surroundings)
        answer, _ = finish(command, home, **surroundings)
        told.homes.append(Home(answer["stages"], *record_of(home)))
    return told


def files(row: dict[str, Any]) -> list[str]:
    directory = Path(row["path"])
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_the_outputs_equal_those_of_an_undisturbed_run(tiny: Finished, story: Story) -> None:
    undisturbed = {n: row["digest"] for n, row in tiny.first["stages"].items()}
    for home in story.homes:
        assert {n: row["digest"] for n, row in home.stages.items()} == undisturbed
        assert any(row["status"] == "reused" for row in home.stages.values())


def test_what_stands_outside_the_digest_is_whole(story: Story) -> None:
    for home in story.homes:
        assert {"report.html", "MANIFEST.json"} <= set(files(home.stages["report"]))
        assert {"published.json", "hf/qa/model.safetensors"} <= set(files(home.stages["publish"]))
        for row in home.stages.values():
            assert not [name for name in files(row) if name.startswith("scratch/") or name.endswith(".part")]


def test_mlflow_holds_one_ended_run_a_stage_and_no_step_twice(story: Story) -> None:
    for home in story.homes:
        assert home.record == Record()
        assert home.stage_runs == len(home.stages)


def test_prefect_shows_the_killed_runs_as_crashed(tiny: Finished, story: Story) -> None:
    pipelines = tiny.prefect.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [story.preset]}}})
    states = Counter(run["state"]["type"] for run in pipelines)
    assert set(states) == {"COMPLETED", "CRASHED"} and states["CRASHED"] >= story.hits.total()
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
