"""Metrics on their way to MLflow: local JSONL files are the truth, a thread sends what is new in them."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from gptcore.adapters.mlflow_client import Metric, MlflowClient, TrackerAway, asking
from gptcore.work import MetricLog, read_metrics, suppress_full_disk

BATCH = 1000
"""Metrics in one request: MLflow's limit."""
INTERVAL_S = 3.0
LONGEST_WAIT_S = 60.0
"""Between tries in an outage."""


class Tail:
    """What is new in a metric log that another thread appends to, and that a resume may cut short."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._last = b""

    def peek(self) -> tuple[list[Metric], int, bytes]:
        """The next metrics, at most about BATCH, with the position and line that `accept` takes once they are sent."""
        metrics: list[Metric] = []
        offset, last = self._offset, self._last
        if not self.path.exists():
            return metrics, offset, last
        with self.path.open("rb") as file:
            file.seek(offset - len(last))
            if file.read(len(last)) != last:  # rewound, and perhaps grown again since
                offset, last = 0, b""
                file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = json.loads(line)
                if metrics and len(metrics) + len(entry["m"]) > BATCH:
                    break
                metrics += [Metric(key, value, entry["t"], entry["step"]) for key, value in entry["m"].items()]
                offset, last = offset + len(line), line
        return metrics, offset, last

    def accept(self, offset: int, last: bytes) -> None:
        """Everything before `offset` has arrived."""
        self._offset, self._last = offset, last


class Follower:
    """Sends what is new in metric logs to one run, in order, every few seconds, from its own thread.

    No (key, step) is sent twice: a reopened run is first asked for what it has; a request that failed half-way is
    repeated with the same values and timestamps, which MLflow takes for the same points. In an outage it warns
    once, waits longer and longer, and goes on where it stopped; nobody waits for it.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        run_id: str,
        reopened: bool,
        say: Callable[[str], None],
        interval: float = INTERVAL_S,
    ) -> None:
        self._client, self._uri, self._run_id, self._say = client, uri, run_id, say
        self._interval = interval
        self._tails: list[Tail] = []
        self._sent: dict[str, set[int]] | None = None if reopened else defaultdict(set)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """Why the last try failed; None once everything up to then has arrived."""
        self.away = False
        """Whether that was because the tracker does not answer."""

    def follow(self, path: Path) -> None:
        """Send this log's lines from now on; the file need not exist yet."""
        self._tails.append(Tail(path))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="metric-follower", daemon=True)
            self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Send what is left and end, within `timeout` seconds; False where something has not arrived."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                self.problem = self.problem or f"still sending after {timeout:.0f} s"
        return self.problem is None

    def send(self, logs: list[Path]) -> None:
        """Send whole logs from the calling thread; raises TrackerAway."""
        self._drain([Tail(path) for path in logs])

    def _drain(self, tails: list[Tail]) -> None:
        for tail in tails:
            while True:
                metrics, offset, last = tail.peek()
                if not metrics:
                    break
                with asking(self._uri):
                    self._send(metrics)
                tail.accept(offset, last)

    def _send(self, metrics: list[Metric]) -> None:
        if self._sent is None:
            self._sent = sent_steps(self._client, self._run_id)
        fresh: dict[tuple[str, int], Metric] = {}
        for metric in metrics:
            if metric.step not in self._sent[metric.key]:
                fresh.setdefault((metric.key, metric.step), metric)
        if fresh:
            self._client.log_batch(self._run_id, metrics=list(fresh.values()), synchronous=True)
            for key, step in fresh:
                self._sent[key].add(step)

    def _run(self) -> None:
        wait = self._interval
        while True:
            ending = self._stop.wait(wait)
            try:
                self._drain(list(self._tails))
                if self.problem:
                    self._say("MLflow answers again; the metrics that waited are sent")
                self.problem, self.away, wait = None, False, self._interval
            except Exception as error:  # at the edge of a thread: what is not said here is lost
                line = (str(error).splitlines() or [repr(error)])[0]
                if not self.problem:
                    self._say(f"{line}; the work goes on, its metrics wait on disk")
                self.problem, self.away, wait = line, isinstance(error, TrackerAway), min(wait * 2, LONGEST_WAIT_S)
            if ending:
                return


def sent_steps(client: MlflowClient, run_id: str) -> dict[str, set[int]]:
    """Every (key, step) a run holds."""
    steps: dict[str, set[int]] = defaultdict(set)
    for key in client.get_run(run_id).data.metrics:
        steps[key].update(metric.step for metric in client.get_metric_history(run_id, key))
    return steps


class SystemSampler:
    """Samples this machine and this process into a metric log while a training stage runs (a context manager).

    Names are those of MLflow's own system metrics, so that its UI shows them on their page. Steps count samples and
    go on after a resume.
    """

    def __init__(self, path: Path, interval: float = 10.0) -> None:
        self._path, self._interval = path, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        log = MetricLog(self._path)
        lines = read_metrics(self._path)
        step = lines[-1]["step"] + 1 if lines else 0
        process, gpus = psutil.Process(), _Gpus()
        psutil.cpu_percent()  # the first call only sets the mark that the next one measures from
        while True:
            ending = self._stop.wait(self._interval)
            try:
                log.append({**_machine(process), **gpus.sample()}, step)
            except OSError:  # a full disk: the training loop is the one to say so, and half a line is no line
                ending = True
            step += 1
            if ending:
                with suppress_full_disk():
                    log.close()
                gpus.close()
                return


def _machine(process: psutil.Process) -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_megabytes": process.memory_info().rss / 1e6,
    }


class _Gpus:
    """NVIDIA GPUs through NVML, where the library and a driver are present."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
        try:
            import pynvml

            pynvml.nvmlInit()
        except ImportError:
            return
        except pynvml.NVMLError:  # no driver
            return
        self._nvml = pynvml
        self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]

    def sample(self) -> dict[str, float]:
        """Utilisation in percent, memory in megabytes, power in watts; a GPU may not support each of them."""
        values: dict[str, float] = {}
        for i, handle in enumerate(self._handles):
            for read in (self._utilization, self._memory, self._power):
                with suppress(self._nvml.NVMLError):
                    values |= {f"system/gpu_{i}_{name}": value for name, value in read(handle).items()}
        return values

    def _utilization(self, handle: Any) -> dict[str, float]:
        return {"utilization_percentage": self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu}

    def _memory(self, handle: Any) -> dict[str, float]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            "memory_usage_megabytes": memory.used / 1e6,
            "memory_usage_percentage": 100 * memory.used / memory.total,
        }

    def _power(self, handle: Any) -> dict[str, float]:
        return {"power_usage_watts": self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000}

    def close(self) -> None:
        """Give the library back."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
