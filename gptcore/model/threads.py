"""Threads that go through one compiled function together, and what they meet by.

OpenMP starts them anew for every loop, 50 times a step; here they start once a step and meet at barriers, a microsecond
each. What is to be done is taken piece by piece, so that a thread that the machine holds up holds up no other.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.misc.appdirs import AppDirs
from numpy.typing import NDArray

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
emitted: Callable[[Callable[..., Any]], Callable[..., Any]] = intrinsic
"""For a function that writes LLVM's instructions itself, what numba has no word for."""

FEATURES = numba.config.CPU_FEATURES or llvmlite.binding.get_host_cpu_features().flatten()
"""Of the processor that is compiled for; the environment's NUMBA_CPU_FEATURES may know better."""
# LLVM holds itself back to half of a register of AVX-512; in these loops that costs up to half of the speed.
if not numba.config.CPU_FEATURES and "+avx512f" in FEATURES:
    numba.config.CPU_NAME = llvmlite.binding.get_host_cpu_name()  # numba takes both or none
    numba.config.CPU_FEATURES = f"{FEATURES},-prefer-256-bit"

ANY_ORDER = {"nsz", "arcp", "contract", "afn", "reassoc"}
"""Sums may be taken in any order, so that they fill registers; infinities keep their meaning."""


COMPILED = ("blocks.py", "kernels.py", "step.py", "threads.py")
"""The files of what is compiled."""


def _cache_folder() -> Path | None:
    """Where machine code is kept, by the digest of all its sources; None where no such folder can be written.

    Numba looks only at the file of a function when it asks whether it has changed, not at those that it calls.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in COMPILED)).hexdigest()
    for parent in (numba.config.CACHE_DIR or here / "__pycache__", AppDirs("gptmill", False).user_cache_dir):
        folder = Path(parent, f"compiled-{digest[:16]}")
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return None


_FOLDER = _cache_folder()


def compiled(function: Kernel) -> Kernel:
    """By numba, for calls that hold no interpreter lock; kept on disk where there is room for it."""
    return compiled_for(None)(function)


def compiled_for(signatures: list[Any] | None) -> Callable[[Kernel], Kernel]:
    """The same for these types alone; numba would compile a function anew for every 0 among its arguments."""
    settings = {"fastmath": ANY_ORDER, "nogil": True, "error_model": "numpy"}

    def compile_it(function: Kernel) -> Kernel:
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(_FOLDER or "")
        try:
            found: Kernel = numba.njit(signatures, cache=_FOLDER is not None, **settings)(function)
        finally:
            numba.config.CACHE_DIR = before
        return found

    return compile_it


# Meeting

ARRIVED, ABANDONED, FIRST_COUNTER = 0, 1, 2
"""Places of a `meeting`: int64, all 0 before a step. Behind them a counter for each thing that is done together."""
LOOKS = 64
"""At a barrier, between two looks at the clock."""
PATIENCE_NS = 100_000
"""How long a thread looks at a barrier before it rests between looks. By the clock: 2,000 looks are 40 µs on one
processor and 2 µs on another, and to rest at every barrier makes a pass of 3 ms one of 5."""
REST_US = 20
"""Of a rest, microseconds."""


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, place: Any) -> Any:
    struct = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, array_type, struct, [place])


@emitted
def _add(typing: Any, array: Any, place: Any) -> Any:
    """Add 1 to a number that other threads see; what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(array, types.int64), generate


@emitted
def _look(typing: Any, array: Any, place: Any) -> Any:
    """A number that other threads change."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(pointer, "seq_cst", 8, typ=ir.IntType(64))

    return types.int64(array, types.int64), generate


@emitted
def _now(typing: Any) -> Any:
    """Nanoseconds of a clock that only goes forward (clock_gettime(2), CLOCK_MONOTONIC)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, number = ir.IntType(32), ir.IntType(64)
        kind = ir.FunctionType(word, [word, number.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        found = cgutils.alloca_once(builder, number, 2)  # seconds, nanoseconds
        builder.call(function, [ir.Constant(word, time.CLOCK_MONOTONIC), found])
        seconds, rest = builder.load(found), builder.load(builder.gep(found, [ir.Constant(word, 1)]))
        return builder.add(builder.mul(seconds, ir.Constant(number, 10**9)), rest)

    return types.int64(), generate


@emitted
def _rest(typing: Any) -> Any:
    """Sleep for a moment.

    To yield the processor is not enough: where the other thread waits for this very processor, the one that looks gets
    it back at once, and holds up what it waits for.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(word, [word]), "usleep")
        return builder.call(function, [ir.Constant(word, REST_US)])

    return types.int32(), generate


@compiled
def take(meeting: Any, what: int) -> int:
    """The next piece of something that is done together."""
    found: int = _add(meeting, FIRST_COUNTER + what)
    return found


@compiled
def meet(meeting: Any, threads: int, times: int) -> bool:
    """Wait until all threads have come here so many times; False once the step is abandoned."""
    _add(meeting, ARRIVED)
    looks = began = 0
    while _look(meeting, ARRIVED) < threads * times:
        if _look(meeting, ABANDONED):
            return False
        looks += 1
        if looks % LOOKS == 0:
            now = _now()
            began = began or now
            if now - began > PATIENCE_NS:
                _rest()
    return True


# Threads


class Team:
    """Threads of this process that wait for a step."""

    def __init__(self) -> None:
        self._queues: list[SimpleQueue[Callable[[int], None]]] = []
        self._process = os.getpid()
        self._alone = threading.Lock()

    def run(self, threads: int, counters: int, step: Callable[[NDArray[np.int64], int], None]) -> None:
        """Call step(meeting, thread) in so many threads at once, of which this is 0; all come to the last `meet`.

        Raises what any of them raises.
        """
        with self._alone:
            if self._process != os.getpid():  # a fork has this thread alone
                self._queues, self._process = [], os.getpid()
            while len(self._queues) < threads - 1:
                self._hire()
            meeting, failures = np.zeros(FIRST_COUNTER + counters, np.int64), []

            def go(thread: int) -> None:
                try:
                    step(meeting, thread)
                except BaseException as error:  # raised below; the others must not wait for ever
                    failures.append(error)
                    meeting[ABANDONED] = 1

            try:
                for queue in self._queues[: threads - 1]:
                    queue.put(go)
                step(meeting, 0)
            except BaseException:
                meeting[ABANDONED] = 1
                raise
            if failures:
                raise failures[0]

    def _hire(self) -> None:
        queue: SimpleQueue[Callable[[int], None]] = SimpleQueue()
        number = len(self._queues) + 1

        def work() -> None:
            while True:
                queue.get()(number)

        threading.Thread(target=work, name=f"generation-{number}", daemon=True).start()
        self._queues.append(queue)


TEAM = Team()
