"""`gptmill verify`: every stored byte read again and compared with the manifests."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from flows.commands.failures import FAILED, refuse
from gptcore.home import home
from gptcore.store import MANIFEST, Damaged, Manifest, Store


def main(options: argparse.Namespace) -> int:
    """One line a stored output; exit code 1 if any is damaged."""
    store = Store(home() / "store")
    stored = sorted({path.parent.parent.name for path in store.root.glob(f"*/*/{MANIFEST}")})
    if options.stage and options.stage not in stored:
        there = ", ".join(stored) or "none; `gptmill run PRESET` makes some"
        return refuse(f"no stored output of stage {options.stage}; there are: {there}")
    manifests = [m for stage in ([options.stage] if options.stage else stored) for m in store.manifests(stage)]
    problems = {store.directory(m.stage, m.key): _check(store, m) for m in manifests}
    damaged = sorted(directory for directory, problem in problems.items() if problem)
    for directory in sorted(path.parent for path in store.root.glob(f"{options.stage or '*'}/*/{MANIFEST}")):
        if directory not in problems:
            print(_line("damaged", directory, f"its {MANIFEST} cannot be read"))
            damaged.append(directory)
    files = sum(len(m.files) for m in manifests)
    size = sum(record.size for m in manifests for record in m.files.values())
    print(f"{files} files of {len(manifests)} outputs read, {size / 1e6:,.1f} MB: {len(damaged)} damaged")
    if damaged:
        print("remove what is damaged, and the next run that needs it builds it anew:", file=sys.stderr)
        print(f"  rm -r {shlex.join(map(str, damaged))}", file=sys.stderr)
    return FAILED if damaged else 0


def _check(store: Store, manifest: Manifest) -> str | None:
    """Print an output's line; what is wrong with it, if anything."""
    problem = None
    try:
        store.verify(manifest)
    except Damaged as damage:
        problem = damage.problem
    except OSError as error:  # a bad disk, or someone removed it meanwhile
        problem = f"{error.filename} cannot be read: {error.strerror}"
    directory = store.directory(manifest.stage, manifest.key)
    print(_line("damaged" if problem else "ok", directory, problem or f"{len(manifest.files)} files"), flush=True)
    return problem


def _line(state: str, directory: Path, words: str) -> str:
    return f"{state:<8} {directory.parent.name:<24} {directory.name}  {words}"
