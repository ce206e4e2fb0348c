"""The corpus stage on very many tiny files: time, and the peak memory of the process and of each worker.

Writes a tenth of `--files` and then all of them, 1,000 to a folder, each some 200 bytes of words; makes a corpus of
each in a fresh process: the source is looked at, looked at once more, and the stage is run. Files of an earlier call in
`--folder` are used again. Peaks are VmHWM of /proc, each process's own. One JSON object last.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory import children

SAMPLED_EVERY_S = 0.05
FOLDER_FILES = 1000
WORDS = 30
"""Of a file; of ten letters at most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; or, asked by itself, run the stage once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000, help="how many (1,000,000)")
    parser.add_argument("--folder", type=Path, help="where they are written, and stay (a temporary one)")
    parser.add_argument("--once", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once is not None:
        print(json.dumps(run_stage(*options.once)))
        return 0
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        found = []
        for files in (options.files // 10, options.files):
            text = (options.folder or Path(scratch)) / f"tiny-{files}"
            write_files(text, files)
            found.append({"files": files, **measured(text, Path(scratch) / f"corpus-{files}")})
    few, many = found
    grown = 1e6 * (many["parent_mb"] - few["parent_mb"]) / (many["files"] - few["files"])
    print(json.dumps({"tiny_files": found, "parent_bytes_per_file": round(grown, 1)}))
    return 0


def write_files(folder: Path, count: int) -> None:
    """Files of random words, the same ones every time; none where all are there."""
    last = count - 1
    if (folder / f"{last // FOLDER_FILES:05d}" / f"{last:07d}.txt").exists():
        return
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(10_000)]
    for number in range(count):
        inside = folder / f"{number // FOLDER_FILES:05d}"
        if number % FOLDER_FILES == 0:
            inside.mkdir(parents=True, exist_ok=True)
        (inside / f"{number:07d}.txt").write_text(" ".join(draw.choices(words, k=WORDS)))


def measured(text: Path, directory: Path) -> dict[str, Any]:
    """What a fresh process says of one run, with the peaks of it and of its largest worker, MB."""
    import psutil

    command = [sys.executable, __file__, "--once", str(text), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched = psutil.Process(process.pid)
    worker = 0.0
    while process.poll() is None:
        worker = max([worker, *(peak_mb(child.pid) for child in children(watched))])
        time.sleep(SAMPLED_EVERY_S)
    assert process.stdout is not None
    said = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {**json.loads(said.splitlines()[-1]), "worker_mb": round(worker, 1)}


def run_stage(text: Path, directory: Path) -> dict[str, Any]:
    """The measured process: look at the source twice, then build; seconds, and its own processor time and peak."""
    from gptcore.config import Corpus
    from gptcore.text.corpus import build_corpus
    from gptcore.text.sources import resolve_source
    from gptcore.work import Work

    config = Corpus.model_validate({"sources": [{"kind": "files", "paths": [f"{text}/*/*.txt"]}]})
    (source,) = config.sources
    cache = directory.parent / "cache"
    idle = peak_mb("self")
    times, version = [time.perf_counter()], {}
    for _ in range(2):
        version = resolve_source(source, cache)
        times.append(time.perf_counter())
    outcome = build_corpus(config, [version], Work(directory, cache=cache))
    times.append(time.perf_counter())
    spent = zip(("resolve_s", "again_s", "stage_s"), times, times[1:], strict=False)
    return {
        **{name: round(end - begin, 1) for name, begin, end in spent},
        "documents": sum(outcome.metrics[f"corpus/{name}documents"] for name in ("", "validation_", "test_")),
        "parent_cpu_s": round(time.process_time(), 1),
        "idle_mb": round(idle, 1),
        "parent_mb": round(peak_mb("self"), 1),
    }


def peak_mb(process: int | str) -> float:
    """Peak resident memory of a living process, its own and not its parent's, MB; 0 for one that has just ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    raise SystemExit(main())
