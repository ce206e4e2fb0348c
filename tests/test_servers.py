"""`gptmill up` and `down`: with quick stand-in servers for the ways it can go, and once with the real ones."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow_fixtures import new_tracker

from flows.commands import servers
from flows.commands.servers import Running, Server, recorded

# Servers outlive the process that starts them; here that is the test's.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

ROOT = Path(__file__).parents[1]
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def stand_in(name: str, *arguments: str) -> Server:
    port = free_port()
    return Server(
        name, port, list(arguments) or ["http.server", str(port), "--bind", "127.0.0.1"], {}, "/", f"{name}_OWN"
    )


def command(name: str, server_list: list[Server]) -> int:
    ports = {s.name: s.port for s in server_list}
    options = argparse.Namespace(command=name, mlflow_port=ports.get("mlflow", 1), prefect_port=ports.get("prefect", 1))
    return servers.main(options)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home; whatever the test left running in it is stopped."""
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path))
    monkeypatch.setattr(servers, "prepare_prefect", lambda home: None)
    yield tmp_path
    for running in recorded(tmp_path).values():
        os.killpg(running.pid, signal.SIGKILL)


def use(monkeypatch: pytest.MonkeyPatch, *chosen: Server) -> list[Server]:
    monkeypatch.setattr(servers, "servers", lambda *_: list(chosen))
    return list(chosen)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_up_twice_then_down(at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    both = use(monkeypatch, stand_in("mlflow"), stand_in("prefect"))
    assert command("up", both) == 0
    written = json.loads((at / "servers.json").read_bytes())
    assert {name: entry["url"] for name, entry in written.items()} == {s.name: s.url for s in both}
    for entry in written.values():
        assert os.getsid(entry["pid"]) == entry["pid"], "a session of its own"
        urllib.request.urlopen(entry["url"], timeout=5).close()
    assert all(s.url in capsys.readouterr().out for s in both[:1])

    assert command("up", both) == 0
    assert "already runs" in capsys.readouterr().out
    assert json.loads((at / "servers.json").read_bytes()) == written

    assert command("down", both) == 0
    assert all(gone(entry["pid"]) for entry in written.values())
    assert not (at / "servers.json").exists()
    assert command("down", both) == 0
    assert "nothing is running" in capsys.readouterr().out


def test_only_the_one_that_died_is_started_again(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = use(monkeypatch, stand_in("mlflow"), stand_in("prefect"))
    assert command("up", both) == 0
    before = recorded(at)
    os.killpg(before["mlflow"].pid, signal.SIGKILL)
    os.waitpid(before["mlflow"].pid, 0)
    assert command("up", both) == 0
    after = recorded(at)
    assert after["prefect"] == before["prefect"] and after["mlflow"].pid != before["mlflow"].pid


def test_a_port_in_use_is_refused(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = use(monkeypatch, stand_in("mlflow"), stand_in("prefect"))
    with socket.create_server(("127.0.0.1", both[0].port)):
        assert command("up", both) == 2
    problem = capsys.readouterr().err
    assert problem.count("\n") == 1 and str(both[0].port) in problem and "--mlflow-port" in problem
    assert not (at / "servers.json").exists() and not (at / "logs").exists()


def test_a_server_that_ends_takes_the_other_along(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = servers._start

    def watched(server: Server, log: Path) -> subprocess.Popen[bytes]:
        started.append(start(server, log))
        return started[-1]

    monkeypatch.setattr(servers, "_start", watched)
    both = use(monkeypatch, stand_in("prefect"), stand_in("mlflow", "no_such_module_here"))
    assert command("up", both) == 1
    problem = capsys.readouterr().err
    assert "mlflow ended with code 1" in problem and "no_such_module_here" in problem and "mlflow.log" in problem
    assert len(started) == 2 and all(gone(process.pid) for process in started)
    assert not (at / "servers.json").exists()


def test_a_server_that_never_answers_is_given_up(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(servers, "START_WITHIN_S", 0.5)
    silent = use(monkeypatch, stand_in("mlflow", "timeit", "-n1", "-r1", "import time; time.sleep(30)"))
    assert command("up", silent) == 1
    assert "did not answer within" in capsys.readouterr().err
    assert not (at / "servers.json").exists()


def test_a_users_own_server_is_left_alone(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = use(monkeypatch, stand_in("mlflow"))
    monkeypatch.setenv("mlflow_OWN", "http://elsewhere")
    assert command("up", one) == 0
    assert "http://elsewhere" in capsys.readouterr().out
    assert not (at / "servers.json").exists()


def test_another_program_with_the_recorded_pid_is_not_touched(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(servers, "STOP_WITHIN_S", 0.2)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as other:
        entry = {"url": "http://127.0.0.1:1", "pid": other.pid, "command": [sys.executable, "-m", "mlflow", "server"]}
        (at / "servers.json").write_text(json.dumps({"mlflow": entry}))
        assert recorded(at) == {}
        assert command("down", []) == 0
        assert other.poll() is None
        assert "nothing is running" in capsys.readouterr().out and not (at / "servers.json").exists()
        other.kill()


def test_a_process_that_ignores_sigterm_is_killed(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_WITHIN_S", 0.3)
    argv = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        (at / "servers.json").write_text(json.dumps({"mlflow": vars(Running("http://x", process.pid, argv))}))
        assert command("down", []) == 0
        assert process.wait(5) == -signal.SIGKILL


def test_the_real_servers(tmp_path: Path) -> None:
    """Both UIs answer on the home's data; runs with local artifact folders can be looked at; down leaves nothing."""
    tracker = new_tracker(tmp_path)
    run_id = tracker.open_parent("quickstart", "quickstart", {}, {})
    tracker.log_json(run_id, {"seen": True}, "facts.json")
    mlflow_port, prefect_port = free_port(), free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    env["GPTMILL_HOME"] = str(tmp_path)

    def gptmill(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "flows", *arguments]
        return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)

    def get(url: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    ports = ["--mlflow-port", str(mlflow_port), "--prefect-port", str(prefect_port)]
    try:
        started = gptmill("up", *ports)
        assert started.returncode == 0, started.stderr
        mlflow, prefect = f"http://127.0.0.1:{mlflow_port}", f"http://127.0.0.1:{prefect_port}"
        assert mlflow in started.stdout and prefect in started.stdout
        running = recorded(tmp_path)
        assert {name: entry.url for name, entry in running.items()} == {"mlflow": mlflow, "prefect": prefect}
        assert b"<html" in get(mlflow).lower()
        assert json.loads(get(f"{mlflow}/get-artifact?path=facts.json&run_uuid={run_id}")) == {"seen": True}
        assert json.loads(get(f"{prefect}/api/flows/filter", {})) == []
        assert json.loads(get(f"{prefect}/ui-settings"))["api_url"].endswith(f":{prefect_port}/api")
        assert (tmp_path / "prefect" / "prefect.db").exists()
        again = gptmill("up", *ports)
        assert again.returncode == 0 and again.stdout.count("already runs") == 2
    finally:
        stopped = gptmill("down")
    assert stopped.returncode == 0 and stopped.stdout.count("stopped") == 2
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not all(gone(entry.pid) for entry in running.values()):
        time.sleep(0.1)
    assert all(gone(entry.pid) for entry in running.values())
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", mlflow_port))
