"""Tasks of the data stages on a Ray cluster: the same functions and the same answers as in processes of this machine.

Not prefect-ray: what is handed out here is the units inside a stage, and nothing below tasks/ knows Prefect.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import threading
from collections.abc import Generator, Sequence
from typing import Any

from gptcore.text.workers import ROOT, Message, WorkerDied, answer, raise_from

KNOCK_S = 5.0
"""For a connection to the cluster's address."""
WAIT_S = 0.2
"""Between two looks for messages."""
RETRIES = 3
"""Times that Ray gives a task to another worker when one dies; it goes on from what is committed."""


def check_ray() -> None:
    """ValueError in one line where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("runtime.engine ray: Ray is not installed; pip install 'gptmill[ray]', or take engine local")


class RayTasks:
    """Called like `run_tasks`."""

    def __init__(self, address: str | None) -> None:
        """address: of the cluster; None starts one on this machine, which ends with this process."""
        check_ray()
        self._address = address

    def __call__(
        self, function: str, tasks: Sequence[Message], workers: int
    ) -> Generator[tuple[int, Message], None, None]:
        """Do `tasks` on the cluster; yields (task index, message) as messages arrive, as `run_tasks` does.

        Raises what a task raised, and WorkerDied where its workers died again and again. Leaving the iterator early
        ends the tasks.
        """
        import ray

        if not tasks:
            return
        if not ray.is_initialized():
            _connect(self._address, workers)
        mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_do)
        waiting = {remote.remote(function, task, number, mailbox): number for number, task in enumerate(tasks)}
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=WAIT_S)
                yield from ray.get(mailbox.take.remote())
                for reference in ready:
                    number = waiting.pop(reference)
                    try:
                        message = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        first = str(error).strip().splitlines()[0]
                        raise WorkerDied(
                            f"a task died {RETRIES + 1} times on the cluster: {first}; run again"
                        ) from error
                    if "error" in message:
                        raise_from(message)
                    yield number, message
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
            ray.kill(mailbox)


def _connect(address: str | None, workers: int) -> None:
    import ray

    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "USE_TORCH": "0"}
    settings: dict[str, Any] = {
        "runtime_env": {"env_vars": environment},
        "log_to_driver": False,
        "logging_level": "error",
    }
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init(num_cpus=workers, include_dashboard=False, **settings)
        else:
            _knock(address)
            ray.init(address=address, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"runtime.ray_address {address}: no Ray cluster answers there ({first})") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray puts one of its own there, which would leave a stage at once


def _knock(address: str) -> None:
    """OSError where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), KNOCK_S).close()


def _do(function: str, task: Message, number: int, mailbox: Any) -> Message:
    return answer(function, task, lambda message: mailbox.put.remote(number, message))


class _Mailbox:
    """What tasks tell while they run."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, Message]] = []

    def put(self, number: int, message: Message) -> None:
        """From a task."""
        self._messages.append((number, message))

    def take(self) -> list[tuple[int, Message]]:
        """All that came since the last time."""
        taken, self._messages = self._messages, []
        return taken
