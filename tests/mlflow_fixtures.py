"""Small real trackers and servers for tests."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import StageFacts, Tracker

DEAD = "http://127.0.0.1:9"
"""Nobody listens on the discard port."""


@functools.cache
def _template() -> Path:
    """An initialised database: MLflow's migrations take seconds, a copy none."""
    home = Path(tempfile.mkdtemp(prefix="gptmill-mlflow-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    Tracker(default_uri(home), home, print)
    return home / "mlflow.db"


def new_tracker(home: Path, said: list[str] | None = None) -> Tracker:
    """A tracker on a fresh SQLite database below `home`."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(_template(), home / "mlflow.db")
    return Tracker(default_uri(home), home, print if said is None else said.append)


def facts(stage: str = "pretrain", key: str = "k" * 64) -> StageFacts:
    return StageFacts(stage, key, {"learning_rate": 1e-3}, {"seed": "1"})


class Server:
    """A real `mlflow server` on loopback, which can die and come back."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(_template(), home / "mlflow.db")
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", default_uri(self.home), "--workers", "1"]
        command += ["--artifacts-destination", str(self.home / "served")]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 150
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError((self.home / "server.log").read_text()) from None
                time.sleep(0.1)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
