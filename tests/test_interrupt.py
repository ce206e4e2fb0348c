"""Ctrl-C and SIGTERM: a checkpoint, the word KILLED in MLflow, the exit code, the command to go on with."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from conftest import Finished
from tiny_pipeline import answer, gptmill, write_preset

from benchmarks.kill import Running, finish, record_of
from gptcore.adapters.mlflow_client import MlflowClient
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import PARENT
from gptcore.training.checkpoint_names import latest_step

WITHIN_S = 30.0
UNTIL_PRETRAIN = ("corpus", "tokenizer", "tokens", "pretrain")

pytestmark = pytest.mark.timeout(600)  # the first test here may run the whole pipeline


class Home:
    """A home of its own, on the shared Prefect server."""

    def __init__(self, folder: Path, tiny: Finished) -> None:
        self.home, self.preset = folder / "home", str(write_preset(folder))
        self.command = ["run", self.preset, "--until", "pretrain"]
        self.surroundings = {"OMP_NUM_THREADS": "1", "PREFECT_API_URL": tiny.prefect.url}
        self.prefect = tiny.prefect

    def start(self) -> Running:
        return Running([*self.command, "--json"], self.home, **self.surroundings)

    def interrupted(self, run: Running, signum: signal.Signals) -> None:
        """Signal the whole group, as a terminal does; it must end in order, and say how to go on."""
        sent = time.monotonic()
        run.signal_group(signum)
        said = run.end(timeout=2 * WITHIN_S)
        took = time.monotonic() - sent
        assert took <= WITHIN_S, [(round(at - sent, 1), line) for at, line in run.lines]
        assert run.process.returncode == 128 + signum, run.text
        assert said == ""
        assert run.text.endswith(f"Resume with:\n  gptmill {' '.join(self.command)}"), run.text
        assert "Traceback" not in run.text

    def mlflow(self) -> tuple[list[str], dict[str, str]]:
        """Status of every pipeline run, and of every stage's run by name."""
        client = MlflowClient(tracking_uri=default_uri(self.home))
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        stages = {run.info.run_name: run.info.status for run in runs if PARENT in run.data.tags}
        return [run.info.status for run in runs if PARENT not in run.data.tags], stages


@pytest.fixture(scope="module")
def interrupted(tiny: Finished, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("interrupt"), tiny)


def test_ctrl_c_in_a_data_stage(interrupted: Home, tiny: Finished) -> None:
    run = interrupted.start()
    assert run.wait_for("corpus")
    time.sleep(random.uniform(0.0, 0.4 * tiny.first["stages"]["corpus"]["seconds"]))
    interrupted.interrupted(run, signal.SIGINT)
    pipelines, stages = interrupted.mlflow()
    assert pipelines == ["KILLED"]
    # The corpus, or a later one where the machine has become faster since the stage was timed.
    *before, last = (stages.pop(name) for name in UNTIL_PRETRAIN if name in stages)
    assert (set(before) <= {"FINISHED"}, last, stages) == (True, "KILLED", {})


def test_sigterm_while_training_saves_a_checkpoint(interrupted: Home) -> None:
    run = interrupted.start()
    assert run.wait_for("pretrain")
    until = time.monotonic() + WITHIN_S
    while not list(interrupted.home.glob("store/pretrain/*/checkpoints/step-*")) and time.monotonic() < until:
        time.sleep(0.005)
    interrupted.interrupted(run, signal.SIGTERM)
    pipelines, stages = interrupted.mlflow()
    assert pipelines == ["KILLED"]
    assert stages == {"corpus": "FINISHED", "tokenizer": "FINISHED", "tokens": "FINISHED", "pretrain": "KILLED"}
    (directory,) = (path.parent for path in interrupted.home.glob("store/pretrain/*/IDENTITY.json"))
    step = latest_step(directory / "checkpoints")
    assert step
    planned = answer(gptmill(interrupted.home, "plan", interrupted.preset, "--json"))["stages"]["pretrain"]
    assert (planned["status"], planned["reason"]) == ("resumable", f"unfinished work at step {step}")


def test_sigterm_before_the_first_stage(interrupted: Home) -> None:
    run = interrupted.start()
    while "importing" not in run.text:
        assert run.process.poll() is None
        time.sleep(0.01)
    interrupted.interrupted(run, signal.SIGTERM)


def test_the_same_command_goes_on(interrupted: Home, tiny: Finished) -> None:
    found, _ = finish([*interrupted.command, "--json"], interrupted.home, **interrupted.surroundings)
    assert [row["status"] for row in found["stages"].values()] == ["reused", "reused", "reused", "resumed"]
    for name in UNTIL_PRETRAIN:
        assert found["stages"][name]["digest"] == tiny.first["stages"][name]["digest"], name
    assert interrupted.mlflow() == (["FINISHED"], dict.fromkeys(UNTIL_PRETRAIN, "FINISHED"))
    record, _ = record_of(interrupted.home)
    assert not any(vars(record).values()), record


def test_prefect_knows_how_they_ended(interrupted: Home) -> None:
    runs = interrupted.prefect.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [interrupted.preset]}}})
    assert sorted(run["state"]["type"] for run in runs) == ["COMPLETED", "CRASHED", "CRASHED"], json.dumps(runs)[:2000]
