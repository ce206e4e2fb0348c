"""Peak memory of every data stage on a corpus and on one ten times as large.

A stage runs as a process of its own that calls the stage function: no Prefect, no MLflow. Its peak is the largest sum
of resident memory over the process and its workers, sampled every 50 ms (shared pages count once a process, so it is
an upper bound), or its own high-water mark where that is more. MB are 10^6 bytes.

The text is that of the preset's python_docs sources, as JSON lines behind a `files` source; ten times as large means
ten variations of it, each with the words of every line in another order, so that none is a duplicate. One JSON object
last.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gptcore.config import Preset
from gptcore.config_sources import Files
from gptcore.presets import load_preset
from gptcore.work import Work

LIMIT_MB = 600.0
GROWTH = 1.1
GROWTH_MB = 64.0
TIMES = 10
SAMPLED_EVERY_S = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; or, asked by itself, run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart", help="a name in configs/, or the path of a YAML file")
    parser.add_argument("--megabytes", type=float, default=15.0, help="text of the smaller corpus (15)")
    parser.add_argument("--stage", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    preset = load_preset(options.preset)
    if options.stage is not None:
        run_stage(preset, **options.stage)
        return 0
    with tempfile.TemporaryDirectory(prefix="gptmill-memory-") as folder:
        print(json.dumps(measure(options.preset, Path(folder), int(options.megabytes * 1e6))))
    return 0


def measure(preset: str, folder: Path, size: int) -> dict[str, Any]:
    """All peaks. size: bytes of the smaller corpus."""
    peaks: dict[str, dict[str, float]] = {"corpus": {}, "tokenizer": {}, "tokens": {}}
    seconds: dict[str, dict[str, float]] = {name: {} for name in peaks}

    def stage(name: str, label: str, **asked: Any) -> None:
        directory = folder / f"{name}-{label}"
        inputs = {upstream: str(folder / f"{upstream}-{label}") for upstream in peaks if upstream != name}
        command = {"name": name, "directory": str(directory), "inputs": inputs, **asked}
        started = time.perf_counter()
        peaks[name][label] = peak_mb([sys.executable, __file__, "--preset", preset, "--stage", json.dumps(command)])
        seconds[name][label] = round(time.perf_counter() - started, 1)
        print(f"{name} {label}: {peaks[name][label]} MB, {seconds[name][label]} s", file=sys.stderr)

    idle = peak_mb([sys.executable, __file__, "--preset", preset, "--stage", '{"name": null}'])
    stage("corpus", "python_docs")
    sizes = {}
    for times in (1, TIMES):
        label, text = f"{times}x", folder / f"{times}x.jsonl"
        sizes[label] = write_text(folder / "corpus-python_docs", text, size, times)
        for name in peaks:
            stage(name, label, text=str(text))
    return {
        "peak_mb": peaks,
        "idle_mb": idle,
        "growth_ok": all(p[f"{TIMES}x"] <= GROWTH * p["1x"] + GROWTH_MB for p in peaks.values()),
        "within_limit": max(max(p.values()) for p in peaks.values()) <= LIMIT_MB,
        "limit_mb": LIMIT_MB,
        "text_mb": sizes,
        "tokenizer_train_bytes": load_preset(preset).tokenizer.train_bytes,
        "seconds": seconds,
    }


def run_stage(
    preset: Preset, name: str | None, directory: str = "", inputs: dict[str, str] | None = None, text: str | None = None
) -> None:
    """The measured process: one stage function, or none. text: a JSON lines file in place of the preset's sources."""
    from gptcore.text.corpus import build_corpus
    from gptcore.text.sources import resolve_source
    from gptcore.text.tokenizer import train_tokenizer
    from gptcore.text.tokens import build_tokens

    if name is None:
        return
    work = Work(Path(directory), {n: Path(path) for n, path in (inputs or {}).items()}, preset.runtime)
    if name == "corpus":
        corpus = preset.corpus
        if text is not None:
            source = Files(kind="files", paths=(text,))
            corpus = corpus.model_copy(update={"sources": (source,), "held_out": ()})
        build_corpus(corpus, [resolve_source(s, Path(directory).parent / "cache") for s in corpus.sources], work)
    elif name == "tokenizer":
        train_tokenizer(preset.tokenizer, work)
    else:
        build_tokens(preset.tokens, work)
    work.drop_scratch()


def peak_mb(command: Sequence[str]) -> float:
    """Peak resident memory of a process and its children, MB; CalledProcessError when it fails."""
    import psutil

    peak = 0
    process = subprocess.Popen(command)
    watched = psutil.Process(process.pid)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        together = 0
        for one in [watched, *children(watched)]:
            try:
                together += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, together)
        time.sleep(SAMPLED_EVERY_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return round(max(peak, usage.ru_maxrss * 1024) / 1e6, 1)


def children(process: Any) -> list[Any]:
    """The processes below one; none when it has just ended."""
    import psutil

    try:
        found: list[Any] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def write_text(corpus: Path, path: Path, size: int, times: int) -> float:
    """`size` bytes of the corpus' documents, `times` over and each time otherwise, as JSON lines; MB of text."""
    from gptcore.text.documents import read_documents

    def base() -> Iterator[str]:
        taken = 0
        for split in ("train", "validation", "test"):
            for document in read_documents(corpus, split):
                if taken >= size:
                    return
                taken += len(document.text.encode())
                yield document.text

    written = 0
    with path.open("w", encoding="utf-8") as file:
        for variation in range(times):
            for number, text in enumerate(base()):
                varied = shuffled(text, random.Random(f"{variation} {number}")) if variation else text
                written += len(varied.encode())
                file.write(json.dumps({"text": varied}, ensure_ascii=False) + "\n")
    return round(written / 1e6, 1)


def shuffled(text: str, chance: random.Random) -> str:
    """The same words, line by line in another order."""
    lines = [line.split(" ") for line in text.split("\n")]
    return "\n".join(" ".join(chance.sample(words, len(words))) for words in lines)


if __name__ == "__main__":
    sys.exit(main())
