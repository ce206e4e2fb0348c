"""Prefect's ephemeral API server, started early so that it boots while this process imports torch and MLflow.

Prefect would start the same server itself, but late, in this process group (Ctrl-C would end it before the flows
can say how they ended), and leave it behind when this process is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

STARTUP_S = 120.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EphemeralServer:
    """A Prefect server that lives as long as this process."""

    def __init__(self, home: Path) -> None:
        self.url = f"http://127.0.0.1:{_free_port()}/api"
        self._log = home / "logs" / "prefect-ephemeral.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "flows.ephemeral_server",
                    self.url.split(":")[2].split("/")[0],
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"},
            )

    def wait(self) -> None:
        """Return when the API answers; raises RuntimeError with the end of its log where it does not."""
        until = time.monotonic() + STARTUP_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urlopen(f"{self.url}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                time.sleep(0.1)
        tail = self._log.read_text(errors="replace")[-500:]
        raise RuntimeError(f"Prefect's ephemeral server did not start within {STARTUP_S:.0f} s: {tail or self._log}")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def prefect_server(home: Path) -> Iterator[EphemeralServer | None]:
    """A server for this process, unless PREFECT_API_URL names one; sets PREFECT_API_URL for Prefect's import."""
    if os.environ.get("PREFECT_API_URL"):
        yield None
        return
    server = EphemeralServer(home)
    os.environ["PREFECT_API_URL"] = server.url
    try:
        yield server
    finally:
        server.stop()
        del os.environ["PREFECT_API_URL"]


def _serve(port: int, parent: int) -> None:
    """The child: dies with its parent, even a killed one."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
