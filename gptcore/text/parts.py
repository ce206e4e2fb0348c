"""Finished units of a corpus that the next one can use: what a source held, and what each step said of it.

A part is a folder named after all that defines it, so that whatever asks for the same finds it, and a changed step
leaves the parts before it as they are. Blocks in it are committed one by one; a part that was cut short goes on.

<root>/<what>-<first 16 of the digest>/   the part
<root>/USES.json                          which parts each of the last corpora took
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from gptcore.durable import sha256_json, write_json

KEPT_CORPORA = 3
"""Corpora whose parts stay: enough to go back and forth between two versions of a step and to try a third."""


class DamagedPart(ValueError):
    """A kept file that no longer holds what was written."""


def part(root: Path, what: str, identity: Any) -> Path:
    """The folder of a part (made if need be); identity: all that its content follows from, JSON-able."""
    directory = root / f"{what}-{sha256_json(identity)[:16]}"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def being_used(root: Path, waiting: Callable[[], None]) -> Iterator[ExitStack]:
    """Inside, no part is swept. `own` writes with the stack given; locks die with their holder."""
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        _lock(stack, root / ".lock", fcntl.LOCK_SH, waiting)
        yield stack


def own(stack: ExitStack, parts: Sequence[Path], waiting: Callable[[], None]) -> None:
    """Be the only writer of some parts until the stack closes; `waiting` is called when another is."""
    for directory in sorted(set(parts)):  # everybody in this order, so that nobody waits in a circle
        _lock(stack, directory.with_name(f".{directory.name}.lock"), fcntl.LOCK_EX, waiting)


def _lock(stack: ExitStack, path: Path, kind: int, waiting: Callable[[], None]) -> IO[str]:
    handle = stack.enter_context(path.open("a"))
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(handle, kind)
    return handle


def sweep(root: Path, corpus: str, parts: Sequence[Path]) -> None:
    """Note which parts a finished corpus took, and remove those that none of the last `KEPT_CORPORA` did.

    Call it after `being_used`. Where another corpus is being made, nothing is removed: a later one does it.
    """
    with (root / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        path = root / "USES.json"
        try:
            uses = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            uses = []
        uses = [use for use in uses if use["corpus"] != corpus]
        uses.append({"corpus": corpus, "parts": sorted({directory.name for directory in parts})})
        uses = uses[-KEPT_CORPORA:]
        write_json(path, uses)
        used = {name for use in uses for name in use["parts"]}
        for directory in root.iterdir():
            if directory.is_dir() and directory.name not in used:
                shutil.rmtree(directory)
                directory.with_name(f".{directory.name}.lock").unlink(missing_ok=True)


def checked(path: Path, sha256: str) -> bytes:
    """A kept file's bytes; raises DamagedPart when they are not those that were written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DamagedPart(f"{path} is lost") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedPart(f"{path} does not hold what was written")
    return data
