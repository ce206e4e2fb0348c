"""No garbage collections while libraries are imported: what they make stays, and there are a million objects of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """What is made inside is never walked through, neither now, nor later, nor by the interpreter's last collections.

    Two seconds of a run's imports, and up to four of its end; a tenth of `gptmill plan`.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
