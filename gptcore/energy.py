"""Energy that a stage took, where the machine can tell: processors by RAPL, NVIDIA GPUs by NVML.

Both count the whole device, whoever used it. RAPL's counters stand below /sys/class/powercap (Linux's powercap
documentation); most systems let only root read them, and virtual machines seldom have them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
LOOK_EVERY_S = 60.0
"""A counter begins again after 2^32 units of about 61 microjoules, 262 kJ: a quarter of an hour at 290 W."""


class Counter:
    """Joules since the first look, of something that counts up in its own units and begins again at a limit."""

    def __init__(self, read: Callable[[], int], joules: float, limit: int | None = None) -> None:
        """joules: of one unit. limit: where it begins again, None where it never does."""
        self._read, self._joules, self._limit = read, joules, limit
        self._last = read()
        self._units = 0

    def look(self) -> float:
        """Joules so far; raises OSError where it can no longer be read."""
        now = self._read()
        if now < self._last and self._limit is not None:
            self._units += self._limit
        self._units += now - self._last
        self._last = now
        return self._units * self._joules


def processors(root: Path = POWERCAP) -> Iterator[Counter]:
    """A counter for each processor package that may be read."""
    for domain in sorted(root.glob("intel-rapl:*")):  # AMD's stand under this name too
        try:
            if not (domain / "name").read_text().startswith("package"):
                continue  # a part of a package, already counted in it
            limit = int((domain / "max_energy_range_uj").read_text())
            yield Counter(functools.partial(_number, domain / "energy_uj"), 1e-6, limit)
        except OSError:
            continue  # not ours to read


def _number(file: Path) -> int:
    return int(file.read_text())


@contextmanager
def _gpus(wanted: bool) -> Iterator[list[Counter]]:
    if not wanted:
        yield []
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        yield []
        return
    found = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)

            def read(handle: object = handle) -> int:
                try:
                    return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
                except pynvml.NVMLError as error:
                    raise OSError(str(error)) from error

            try:
                found.append(Counter(read, 1e-3))
            except OSError:
                continue  # older than Volta
        yield found
    finally:
        pynvml.nvmlShutdown()


class Meter:
    """What the counters add up to; None where there is none."""

    def __init__(self, counters: list[Counter]) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self.joules: float | None = 0.0 if counters else None

    def look(self) -> float | None:
        """Joules so far. A counter that fails ends the measurement: half a sum would mislead."""
        with self._lock:
            if self.joules is not None:
                try:
                    self.joules = sum(counter.look() for counter in self._counters)
                except OSError:
                    self.joules = None
            return self.joules


@contextmanager
def metered(gpus: bool, root: Path = POWERCAP) -> Iterator[Meter]:
    """Measure from here to the end of the block. gpus: whether to count them too, which loads NVIDIA's library."""
    with _gpus(gpus) as found:
        meter, ended = Meter([*processors(root), *found]), threading.Event()

        def keep_looking() -> None:
            while not ended.wait(LOOK_EVERY_S):
                meter.look()

        if meter.joules is None:
            yield meter
            return
        watcher = threading.Thread(target=keep_looking, name="energy", daemon=True)
        watcher.start()
        try:
            yield meter
        finally:
            meter.look()
            ended.set()
            watcher.join()
