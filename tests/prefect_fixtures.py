"""A real Prefect server and worker of the tests, and what its API remembers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_pipeline import environment

QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_CLI_PROMPT": "false"}


class Api:
    """Prefect's REST API, asked without importing Prefect."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """POST a filter; the parsed answer."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        """One flow run."""
        found = self.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
        assert len(found) == 1, found
        run: dict[str, Any] = found[0]
        return run

    def states(self, flow_run_id: str) -> list[dict[str, Any]]:
        """Every state of a flow run, the oldest first."""
        with urllib.request.urlopen(f"{self.url}/flow_run_states/?flow_run_id={flow_run_id}", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def below(self, flow_run_id: str) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
        """The subflow runs of a flow run by name, each with its task runs."""
        subflows = self.ask("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run_id]}}})
        tasks = self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"] for run in subflows]}}})
        return {run["name"]: (run, [t for t in tasks if t["flow_run_id"] == run["id"]]) for run in subflows}

    def flow_names(self) -> dict[str, str]:
        """Name of every flow by id."""
        return {flow["id"]: flow["name"] for flow in self.ask("flows/filter", {})}


@contextmanager
def running(command: list[str], log: Path, at: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is gone when the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment(at / "home", **QUIET, PREFECT_HOME=str(at / "prefect"), **more),
            cwd=at,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def prefect_server(at: Path) -> Iterator[Api]:
    """`prefect server start` on a free loopback port, with all its services and its database below `at`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = Api(f"http://127.0.0.1:{port}/api")
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    log = at / "server.log"
    with running(command, log, at, PREFECT_API_URL=api.url) as process:
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"{api.url}/health", timeout=2):
                    break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(log.read_text()) from None
                time.sleep(0.2)
        yield api
