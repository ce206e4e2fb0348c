"""prefect.yaml, docker-compose.yml and Dockerfile, and a scheduled pipeline on a real server and worker."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from conftest import PATIENCE_S
from prefect_fixtures import QUIET, Api, running
from tiny_pipeline import PRESET, environment, write_preset

from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import PARENT, Tracker
from gptcore.presets import load_preset
from gptcore.stages import stages

ROOT = Path(__file__).parents[1]
POOL = "gptmill"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def deployments() -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in read("prefect.yaml")["deployments"]}


def test_every_stage_and_the_pipeline_have_a_deployment() -> None:
    names = list(deployments())
    assert names == ["pipeline", "items-sentiment", *stages(load_preset("quickstart"))]
    flows = {name.partition("-")[0] for name in names}
    assert flows >= {name.partition("-")[0] for name in stages(load_preset("zh"))}, "every kind of stage"
    assert all(entry["work_pool"]["name"] == POOL for entry in deployments().values())


@pytest.mark.parametrize("name", deployments())
def test_a_deployment_names_a_flow_and_parameters_that_it_takes(name: str) -> None:
    from prefect import Flow

    entry = deployments()[name]
    module, _, function = entry["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(module), function)
    assert isinstance(flow, Flow) and flow.name == function
    assert flow.fn.__module__ == module, "a module path, not a file's bare name"
    inspect.signature(flow.fn).bind(**entry["parameters"])
    which = {key: value for key, value in entry["parameters"].items() if key != "preset"}
    assert name == "-".join([function, *which.values()])
    load_preset(entry["parameters"]["preset"])


def test_the_pipeline_runs_every_night() -> None:
    for name, entry in deployments().items():
        assert bool(entry.get("schedules")) == (name == "pipeline")
    (schedule,) = deployments()["pipeline"]["schedules"]
    assert schedule["slug"] == "nightly" and schedule["active"] is True
    assert ZoneInfo(schedule["timezone"])
    minute, hour, *days = schedule["cron"].split()
    assert minute.isdigit() and hour.isdigit() and days == ["*", "*", "*"]


def prefect_command(command: str) -> list[str]:
    """A `prefect …` line of the documents as arguments for this interpreter."""
    words = shlex.split(command)
    assert words[0] == "prefect"
    return words


def worker_commands() -> list[str]:
    """What the worker's container runs, one after the other."""
    words = shlex.split(read("docker-compose.yml")["services"]["worker"]["command"])
    assert words[:2] == ["sh", "-c"] and len(words) == 3
    return [line.strip().removeprefix("exec ") for line in words[2].split("&&")]


CAPITALS = "  capitals: {steps: 10, batch_tokens: 1024, warmup_steps: 2, max_input_tokens: 60, max_target_tokens: 8}\n"


def with_own_data(folder: Path) -> Path:
    """The tiny preset, and a skill beside it whose data are a file."""
    rows = ({"input": f"Capital of land {n}?", "target": f"town {n % 7}"} for n in range(90))
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "skills").mkdir(exist_ok=True)
    values = {
        "name": "capitals", "data": {"source": {"kind": "files", "paths": [str(folder / "rows.jsonl")]}},
        "template": "{input}<|answer|>", "truncate": "input", "metrics": ["exact_match"],
        "target_metric": "exact_match", "baseline": "most_frequent_answer",
    }  # fmt: skip
    (folder / "skills" / "capitals.yaml").write_text(yaml.safe_dump(values))
    return write_preset(folder, PRESET.replace("benchmark:", f"{CAPITALS}benchmark:"))


def tiny_deployments(folder: Path, due: datetime | None = None) -> Path:
    """prefect.yaml with the tiny preset everywhere, and the pipeline due then instead of every night."""
    content = {"name": "gptmill", "deployments": list(deployments().values())}
    for entry in content["deployments"]:
        entry["parameters"] = {**entry["parameters"], "preset": str(with_own_data(folder))}
    if due:
        soon = {"slug": "nightly", "interval": 86_400, "anchor_date": due.isoformat(), "timezone": "Etc/UTC"}
        content["deployments"][0]["schedules"] = [{**soon, "active": True}]
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.timeout(900)
def test_a_schedule_fires_and_the_pipeline_finishes(prefect: Api, tmp_path: Path) -> None:
    """The worker container's own commands, on this machine: make the pool, deploy, start a worker, and wait."""
    pool, deploy, work = map(prefect_command, worker_commands())
    surroundings = environment(
        tmp_path / "home", **QUIET, PREFECT_HOME=str(tmp_path / "prefect"), PREFECT_API_URL=prefect.url
    )

    def finish(command: list[str]) -> float:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return time.monotonic() - started

    def registered() -> dict[str, dict[str, Any]]:
        return {entry["name"]: entry for entry in prefect.ask("deployments/filter", {})}

    finish(pool)
    took = finish([*deploy, "--prefect-file", str(tiny_deployments(tmp_path))])
    assert {name: entry["entrypoint"] for name, entry in registered().items()} == {
        name: entry["entrypoint"] for name, entry in deployments().items()
    }
    (nightly,) = registered()["pipeline"]["schedules"]
    assert (nightly["slug"], nightly["active"]) == ("nightly", True)

    due = datetime.now(UTC) + timedelta(seconds=5 + took)  # one deployment takes less than all of them took
    one = [word if word != "--all" else "--name=pipeline" for word in deploy]
    finish([*one, "--prefect-file", str(tiny_deployments(tmp_path, due))])
    pipeline = registered()["pipeline"]
    (soon,) = pipeline["schedules"]
    assert soon["schedule"]["interval"] == 86_400, "the same slug, another time"
    log = tmp_path / "worker.log"
    with running(work, log, tmp_path, PREFECT_API_URL=prefect.url):
        first = {
            "flow_runs": {"deployment_id": {"any_": [pipeline["id"]]}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": 1,
        }
        started = time.monotonic()
        found: list[dict[str, Any]] = []
        while not found or found[0]["state_type"] in ("SCHEDULED", "PENDING", "RUNNING"):
            waited = time.monotonic() - started
            assert found or waited < 120, "the server's scheduler made no flow run: see its log"
            assert waited < PATIENCE_S, f"{found}\n{log.read_text()}"
            time.sleep(1)
            found = prefect.ask("flow_runs/filter", first)
    (run,) = found
    assert run["state_type"] == "COMPLETED", log.read_text()
    assert run["auto_scheduled"] and run["created_by"]["type"] == "SCHEDULE"
    assert run["name"] == str(tmp_path / "tiny.yaml")
    below = prefect.below(run["id"])
    built = list(stages(load_preset(str(tmp_path / "tiny.yaml"))))
    assert built[0] == "items-capitals"
    assert built == sorted(below, key=lambda name: below[name][0]["start_time"])
    for subflow, tasks in below.values():
        assert [subflow["state_type"], *(task["state_type"] for task in tasks)] == ["COMPLETED", "COMPLETED"]

    home = tmp_path / "home"
    client = Tracker(default_uri(home), home, print).client
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert {entry.info.status for entry in runs} == {"FINISHED"}
    (parent,) = (entry for entry in runs if PARENT not in entry.data.tags)
    assert parent.data.tags["prefect.flow_run_id"] == run["id"]
    assert {entry.info.run_name for entry in runs if PARENT in entry.data.tags} == set(below)
    for name in ("tiny-qa", "tiny-capitals"):
        assert client.get_model_version_by_alias(name, "champion").name == name


@pytest.mark.parametrize(("positions", "said"), [("rotary", 1), ("learned", 0)])
def test_a_flow_nobody_watches_warns_of_what_will_not_be_published(
    positions: str, said: int, prefect: Api, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("A text, long enough to be kept in the corpus, as it seems.\n")
    preset = {
        "name": "small",
        "corpus": {"sources": [{"kind": "files", "paths": [str(tmp_path / "text.txt")]}], "validation_share": 0},
        "model": {"family": "gpt2", "positions": positions},
    }
    path = write_preset(tmp_path, yaml.safe_dump(preset))
    done = subprocess.run(
        [sys.executable, "-c", f"from flows.stages import corpus; corpus({str(path)!r})"],
        cwd=ROOT,
        env=environment(tmp_path / "home", PREFECT_HOME=str(tmp_path / "prefect"), PREFECT_API_URL=prefect.url),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if "no class of transformers computes" in line]
    assert len(warned) == said and all("WARNING" in line and "'corpus'" in line for line in warned), done.stderr


def test_compose_brings_up_the_whole_set() -> None:
    compose = read("docker-compose.yml")
    services = compose["services"]
    assert set(services) == {"postgres", "mlflow", "prefect", "worker"}
    for name, service in services.items():
        assert service.get("image"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "loopback only"
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"], f"{name}: {volume} is no named volume"
        for before, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"} and services[before]["healthcheck"]["test"]
    worker = services["worker"]["environment"]
    assert (
        worker["PREFECT_API_URL"] == "http://prefect:4200/api" and worker["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    )
    assert worker["GPTMILL_HOME"] in {volume.split(":")[1] for volume in services["worker"]["volumes"]}
    assert "mlflow:5000" in services["mlflow"]["command"].split("--allowed-hosts")[1]
    assert "--artifacts-destination" in services["mlflow"]["command"]
    if shutil.which("docker-compose"):
        command = ["docker-compose", "-f", str(ROOT / "docker-compose.yml"), "config", "-q"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_image_holds_what_the_services_need() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word.rstrip("/") for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    packages = ["configs", "flows", "gptcore", "tasks"]
    assert set(copied) >= {"pyproject.toml", "constraints.txt", "README.md", "prefect.yaml", *packages}
    assert all((ROOT / name).exists() for name in copied)
    assert any(re.search(r"pip install .*-c constraints\.txt", line) for line in lines)
