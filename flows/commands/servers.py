"""`gptmill up` and `gptmill down`: MLflow's and Prefect's servers on loopback, with the home's data."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import psutil

from flows.commands.failures import FAILED, refuse
from flows.prefect_settings import prepare_prefect
from flows.running_servers import Running, recorded
from gptcore.durable import locked, write_json
from gptcore.home import home

HOST = "127.0.0.1"
START_WITHIN_S = 180.0
"""Prefect makes its database at the first start: 40 s on two idle cores."""
STOP_WITHIN_S = 15.0


@dataclass(frozen=True)
class Server:
    """How one server is started, and how it shows that it is ready."""

    name: str
    port: int
    arguments: list[str]
    environment: dict[str, str]
    health: str
    own: str
    """The variable with which a user names a server of their own; then none is started."""

    @property
    def url(self) -> str:
        """Where its pages are."""
        return f"http://{HOST}:{self.port}"

    @property
    def command(self) -> list[str]:
        """Its argument vector, by which `down` recognises the process."""
        return [sys.executable, "-m", *self.arguments]


class NotStarted(RuntimeError):
    """A server ended, or did not answer in time."""


def servers(at: Path, mlflow_port: int, prefect_port: int) -> list[Server]:
    """Both servers on the data below a home."""
    mlflow = Server(
        name="mlflow",
        port=mlflow_port,
        # Runs of the home keep local artifact paths, which the server reads itself; the destination is for clients
        # that go through it. One worker: each takes some 400 MB.
        arguments=[
            "mlflow",
            "server",
            "--host",
            HOST,
            "--port",
            str(mlflow_port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{at / 'mlflow.db'}",
            "--artifacts-destination",
            (at / "mlartifacts").as_uri(),
        ],
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        health="/health",
        own="MLFLOW_TRACKING_URI",
    )
    prefect = Server(
        name="prefect",
        port=prefect_port,
        arguments=["prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)],
        environment={"PREFECT_HOME": str(at / "prefect"), "PREFECT_API_URL": f"http://{HOST}:{prefect_port}/api"},
        health="/api/health",
        own="PREFECT_API_URL",
    )
    return [mlflow, prefect]


def main(options: argparse.Namespace) -> int:
    """Start or stop; one `up` or `down` at a time."""
    at = home()
    if options.command == "down" and not (at / "servers.json").exists():
        print("nothing is running")
        return 0
    with locked(at / "servers.lock"):
        return up(at, options) if options.command == "up" else down(at)


def up(at: Path, options: argparse.Namespace) -> int:
    """Start what does not run yet and wait until it answers."""
    wanted = [s for s in servers(at, options.mlflow_port, options.prefect_port) if not _users_own(s)]
    alive = recorded(at)
    for name, running in alive.items():
        print(f"{name:<8} already runs at {running.url}")
    missing = [s for s in wanted if s.name not in alive]
    for server in missing:
        if _in_use(server.port):
            return refuse(f"port {server.port} is in use by another program; choose one with --{server.name}-port PORT")
    if not missing:
        return 0
    prepare_prefect(at)
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        # Another process that makes the same MLflow database at this moment would fail: it waits for this lock.
        with locked(at / "mlflow.lock"):
            for server in missing:
                started[server.name] = _start(server, at / "logs" / f"{server.name}.log")
            print("starting; the first time takes up to a minute", flush=True)
            for server in missing:
                _wait_for(server, started[server.name], at / "logs" / f"{server.name}.log")
    except BaseException as problem:
        for process in started.values():
            _stop_group(process.pid)
            process.wait()
        if isinstance(problem, NotStarted):
            print(f"gptmill: {problem}", file=sys.stderr)
            return FAILED
        raise
    now = {s.name: Running(s.url, started[s.name].pid, s.command) for s in missing}
    write_json(at / "servers.json", {name: asdict(running) for name, running in {**alive, **now}.items()})
    for name, running in now.items():
        print(f"{name:<8} {running.url}")
    print(f"logs in {at / 'logs'}; stop them with: gptmill down")
    return 0


def down(at: Path) -> int:
    """Stop what `up` recorded."""
    alive = recorded(at)
    for name, running in alive.items():
        _stop_group(running.pid)
        print(f"{name:<8} stopped")
    if not alive:
        print("nothing is running")
    (at / "servers.json").unlink(missing_ok=True)
    return 0


def _users_own(server: Server) -> bool:
    theirs = os.environ.get(server.own)
    if theirs:
        print(f"{server.name:<8} not started: {server.own} names your own, {theirs}")
    return bool(theirs)


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _start(server: Server, log: Path) -> subprocess.Popen[bytes]:
    """A process in a session of its own, which outlives this one and the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            server.command,
            env={**os.environ, **server.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_for(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    direct = build_opener(ProxyHandler({}))  # a proxy cannot reach this machine's loopback
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        if process.poll() is not None:
            raise NotStarted(f"{server.name} ended with code {process.returncode}{_last_words(log)}")
        try:
            with direct.open(server.url + server.health, timeout=2):
                return
        except OSError:  # refused, or an error answer: not ready yet
            if time.monotonic() > deadline:
                raise NotStarted(
                    f"{server.name} did not answer within {START_WITHIN_S:.0f} s{_last_words(log)}"
                ) from None
        time.sleep(0.2)


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()} (see {log})" if lines else ""


def _stop_group(leader: int) -> None:
    """SIGTERM to a whole process group, SIGKILL to what is left after a while."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(leader, signum)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_WITHIN_S
        while time.monotonic() < deadline:
            if not _members(leader):
                return
            time.sleep(0.1)


def _members(leader: int) -> list[int]:
    """Living processes of a group; the dead that nobody has waited for do not count."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
