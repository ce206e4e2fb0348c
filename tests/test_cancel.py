"""A pretraining run cancelled through Prefect's API, on a real server and worker; and the run that goes on from it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect_fixtures import QUIET, Api, running
from tiny_pipeline import PRESET, environment, write_preset

from gptcore.adapters.mlflow_client import MlflowClient
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import PARENT
from gptcore.training.checkpoint_names import latest_step
from gptcore.work import read_metrics

ROOT = Path(__file__).parents[1]
POOL = "cancel"
STEPS = 400
WITHIN_S = 30.0
"""From the request to the checkpoint: Prefect sends SIGTERM, and SIGKILL 30 seconds later."""
PATIENCE_S = 300.0
SLOW = ["runtime.micro_batch_tokens=128", "runtime.checkpoint_every=400"]
"""Eight passes an update, and no checkpoint unless one is asked for; for the key it is the same run."""


def until(what: Callable[[], Any], log: Path, seconds: float = PATIENCE_S) -> Any:
    """Its first answer that is not empty."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, log.read_text()[-5000:]
        time.sleep(0.05)
    return found


@pytest.mark.timeout(900)
def test_a_cancelled_run_saves_a_checkpoint_and_the_next_one_resumes(prefect: Api, tmp_path: Path) -> None:
    preset = write_preset(
        tmp_path, PRESET.replace("steps: 60,", f"steps: {STEPS},").replace("eval_every: 30", "eval_every: 500")
    )
    home, log = tmp_path / "home", tmp_path / "worker.log"
    server = {"PREFECT_API_URL": prefect.url, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    deployment = {
        "name": "cancelled",
        "entrypoint": "flows.pipeline:pipeline",
        "work_pool": {"name": POOL},
        "parameters": {"preset": str(preset), "last": "pretrain"},
    }
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump({"name": "gptmill", "deployments": [deployment]}))
    surroundings = environment(home, **QUIET, PREFECT_HOME=str(tmp_path / "prefect"), **server)
    for command in (
        f"work-pool create {POOL} --type process",
        f"--no-prompt deploy --all --prefect-file {path}",
    ):
        argv = [sys.executable, "-m", "prefect", *command.split()]
        done = subprocess.run(argv, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
    deployed = prefect.ask("deployments/filter", {"deployments": {"name": {"any_": ["cancelled"]}}})[0]["id"]

    def start(*overrides: str) -> str:
        parameters = {**deployment["parameters"], "overrides": list(overrides)}
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        run: dict[str, Any] = prefect.ask(f"deployments/{deployed}/create_flow_run", body)
        return str(run["id"])

    def final(flow_run: str) -> str | None:
        state = prefect.flow_run(flow_run)["state_type"]
        return None if state in ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING") else state

    def mlflow() -> dict[str, str]:
        client = MlflowClient(tracking_uri=default_uri(home))
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        return {run.info.run_name if PARENT in run.data.tags else "pipeline": run.info.status for run in runs}

    def trained() -> int:
        """Updates logged so far."""
        lines = [line for path in home.glob("store/pretrain/*/metrics.jsonl") for line in read_metrics(path)]
        return int(lines[-1]["step"]) if lines else 0

    worker = ["prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    with running(worker, log, tmp_path, **server):
        first = start(*SLOW)
        until(lambda: trained() > 10, log)
        (directory,) = (path.parent for path in home.glob("store/pretrain/*/IDENTITY.json"))
        at, asked = trained(), time.monotonic()
        assert latest_step(directory / "checkpoints") is None
        prefect.ask(f"flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
        until(lambda: latest_step(directory / "checkpoints"), log)
        took = time.monotonic() - asked
        until(lambda: prefect.flow_run(first)["state_type"] == "CANCELLED", log)
        step = latest_step(directory / "checkpoints")
        assert took <= WITHIN_S
        assert step is not None and at <= step < STEPS
        ended = dict.fromkeys(("corpus", "tokenizer", "tokens"), "FINISHED")
        assert mlflow() == {**ended, "pretrain": "KILLED", "pipeline": "KILLED"}
        before = (directory / "metrics.jsonl").read_bytes()

        second = start()
        assert until(lambda: final(second), log) == "COMPLETED", log.read_text()[-5000:]
    assert mlflow() == {**ended, "pretrain": "FINISHED", "pipeline": "FINISHED"}
    assert (directory / "metrics.jsonl").read_bytes().startswith(before), "it went on where the first one stopped"
    assert json.loads((directory / "MANIFEST.json").read_text())["attempts"] == 2
    states = [state["type"] for state in prefect.states(first)]
    assert states[-1] == "CANCELLED" and "CANCELLING" in states, "and so it stayed"
    until(lambda: deleted(f"{prefect.url}/deployments/{deployed}"), log)


def deleted(url: str) -> bool:
    """Whether the server took it; it answers 503 while its database is busy."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return False
    return True
