"""The data stages on a Ray cluster of this machine: the same bytes, also when a worker is killed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from test_corpus import digests

from gptcore.adapters.ray_tasks import RayTasks
from gptcore.config import Corpus
from gptcore.config_sources import Files
from gptcore.text.corpus import build_corpus
from gptcore.text.sources import resolve_source
from gptcore.work import Work

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning:ray")
"""Ray leaves its own log files open."""


def build(directory: Path, config: Corpus, **execution: Any) -> None:
    work = Work(directory, **execution)
    versions = [resolve_source(source, directory.parent / "cache") for source in config.sources]
    try:
        build_corpus(config, versions, work)
    finally:
        work.metrics.close()


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One for all tests: it takes seconds to start."""
    yield
    ray.shutdown()


@pytest.fixture
def config(tmp_path: Path) -> Corpus:
    return corpus(tmp_path, 500)


def corpus(tmp_path: Path, count: int) -> Corpus:
    for number in range(6):
        rows = [{"text": f"Row {row} of file {number}, long enough to be a document."} for row in range(count)]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus(sources=(Files(kind="files", paths=(str(tmp_path / "*.jsonl"),)),))


def test_a_cluster_gives_the_bytes_of_this_machine(config: Corpus, tmp_path: Path) -> None:
    build(tmp_path / "here", config)
    build(tmp_path / "there", config, spread=RayTasks(None))
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


def test_a_killed_worker_changes_no_byte(tmp_path: Path) -> None:
    config = corpus(tmp_path, 10_000)
    build(tmp_path / "here", config)
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for child in psutil.Process().children(recursive=True):
                if "ray::_do" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    killed.append(child.pid)
                    return
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    build(tmp_path / "there", config, spread=RayTasks(None))
    killer.join()
    assert killed
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


def test_an_interrupt_still_reaches_the_stage(config: Corpus, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    build(tmp_path / "there", config, spread=RayTasks(None))
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_task_raises_is_raised_here(config: Corpus, tmp_path: Path) -> None:
    (tmp_path / "9.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match="no row has a text under 'text'; keys are body"):
        build(tmp_path / "there", config, spread=RayTasks(None))


def test_an_address_without_a_cluster_is_one_line(config: Corpus, tmp_path: Path) -> None:
    ray.shutdown()
    with pytest.raises(ValueError, match=r"runtime.ray_address 127.0.0.1:1: no Ray cluster answers there \("):
        build(tmp_path / "there", config, spread=RayTasks("127.0.0.1:1"))
