"""The corpus stage: splits without leaks, exact deduplication, and the same bytes after any kill."""

from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from test_python_docs import install

from gptcore import durable
from gptcore.config import Corpus, Runtime
from gptcore.config_sources import Files, HubDataset, PythonDocs, Url
from gptcore.text import corpus as stage
from gptcore.text import workers
from gptcore.text.corpus_table import PRIORITY, repeated
from gptcore.text.documents import FILE_PROBLEMS, Document, clean_text, read, read_documents, write
from gptcore.text.sources import resolve_source, source_labels
from gptcore.text.web_problems import WEB_PROBLEMS
from gptcore.work import Outcome, Work

ROOT = Path(__file__).parents[1]
SHARED = "The same sentence stands in more than one package of this small world."


def module(package: str, number: int) -> bytes:
    """A module with a docstring of its own, one that others have too, and one that is too short."""
    return (
        f'"""Module {number} of {package} explains itself in words of its own."""\n'
        f'def shared():\n    """{SHARED}"""\n'
        f'def short():\n    """Short."""\n'
        f'def own():\n    """Function {number} of {package}:   \n\n    does what none of the others does."""\n'
    ).encode()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three installed packages: 30 modules each, and one broken file."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    for package in ("alpha", "beta", "gamma"):
        install(site, package, {f"{package}/m{n:02d}.py": module(package, n) for n in range(30)})
    (site / "alpha-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.4\nLicense-Expression: MIT\n")
    install(site, "broken", {"broken/a.py": b"def (", "broken/b.py": b'"""\xff"""'})
    return site


PACKAGES = PythonDocs(stdlib=False, packages=("alpha", "beta", "broken", "gamma"))


def build(directory: Path, config: Corpus, **execution: Any) -> Outcome:
    versions = [resolve_source(source, directory.parent / "cache") for source in config.sources]
    work = Work(directory, **execution)
    try:
        return stage.build_corpus(config, versions, work)
    finally:
        work.metrics.close()


def digests(directory: Path, outcome: Sequence[str] = ("documents/*.jsonl", "data_card.json")) -> dict[str, str]:
    files = sorted(path for pattern in outcome for path in directory.glob(pattern))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def split(directory: Path) -> dict[str, list[Document]]:
    return {name: list(read_documents(directory, name)) for name in ("train", "validation", "test")}


def test_a_document_is_read_as_it_was_written() -> None:
    document = Document("a/b:1", "files", "a/b:1", None, None, 'Zeilen\n"Ünïcode" \u2028 und \\n')
    assert read(write(document)) == document
    assert write(document).count(b"\n") == 1
    assert list(json.loads(write(document))) == sorted(json.loads(write(document)))


def test_text_is_cleaned() -> None:
    assert clean_text("\n\n a\u0301 b  \r\nc\t\rd\n\n") == " á b\nc\nd"
    with pytest.raises(UnicodeEncodeError):
        clean_text("half a \ud83d pair")


def test_held_out_packages_are_the_test_split_and_nothing_of_them_is_trained_on(site: Path, tmp_path: Path) -> None:
    config = Corpus(sources=(PACKAGES,), held_out=("Gamma",), validation_share=0.2)
    said: list[str] = []
    outcome = build(tmp_path / "out", config, on_say=said.append)
    splits = split(tmp_path / "out")
    assert {document.package for document in splits["test"]} == {"gamma"}
    assert {document.package for document in splits["train"] + splits["validation"]} == {"alpha", "beta"}
    texts = {name: {document.text for document in documents} for name, documents in splits.items()}
    assert SHARED in texts["test"], "the held-out copy stays, those in training packages go"
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    groups = {name: {document.group for document in documents} for name, documents in splits.items()}
    assert not groups["train"] & groups["validation"] and len(groups["validation"]) > 2
    every = [document for documents in splits.values() for document in documents]
    assert len(every) == len({document.text for document in every}) == len({document.id for document in every}) == 181
    assert [d.id for d in splits["train"]] == sorted(d.id for d in splits["train"])

    card = json.loads((tmp_path / "out/data_card.json").read_text())
    assert {document.licence for document in every if document.package == "alpha"} == {"MIT"}
    assert {document.licence for document in every if document.package != "alpha"} == {None}
    by_licence = {name: sum(of["documents"].values()) for name, of in card["licences"].items()}
    alpha = sum(document.package == "alpha" for document in every)
    assert by_licence == {"MIT": alpha, "unknown": 181 - alpha} and card["packages"]["alpha"]["licence"] == "MIT"
    assert "<td>MIT</td>" in (tmp_path / "out/data_card.html").read_text()
    assert card["documents"] == {name: len(documents) for name, documents in splits.items()}
    assert card["bytes"]["train"] == sum(len(document.text.encode()) for document in splits["train"])
    assert card["dropped"] == {
        "duplicates": 89,
        "too_short": 90,
        "undecodable": 1,
        "unparsable": 1,
        **dict.fromkeys(("no_text", "too_long", "truncated", "missing", *FILE_PROBLEMS, *WEB_PROBLEMS), 0),
    }
    assert card["packages"]["gamma"]["held_out"] and card["packages"]["gamma"]["documents"]["test"] == 61
    assert outcome.metrics["corpus/duplicates"] == 89 and outcome.metrics["corpus/skipped"] == 2
    assert "skipped 1 unparsable: broken: broken/a.py" in said


def test_workers_and_shard_sizes_change_no_document(site: Path, tmp_path: Path) -> None:
    plain = Corpus(sources=(PACKAGES,))
    build(tmp_path / "one", plain, runtime=Runtime(workers=1))
    build(tmp_path / "three", plain, runtime=Runtime(workers=3))
    assert digests(tmp_path / "one") == digests(tmp_path / "three")
    build(tmp_path / "small", Corpus(sources=(PACKAGES,), shard_bytes=2000))
    shards = sorted((tmp_path / "small/documents").glob("train-*.jsonl"))
    assert len(shards) > 5
    assert all(1700 < path.stat().st_size < 2300 for path in shards[:-1])
    build(tmp_path / "tiny", Corpus(sources=(PACKAGES,), shard_bytes=1))
    assert all(path.read_bytes().count(b"\n") == 1 for path in (tmp_path / "tiny/documents").iterdir())
    assert b"".join(path.read_bytes() for path in shards) == (tmp_path / "one/documents/train-00000.jsonl").read_bytes()


def test_splits_are_drawn_by_group_in_the_shares_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"Row {n} of a corpus of many short rows."}) + "\n" for n in range(4000))
    )
    config = Corpus(
        sources=(Files(kind="files", paths=(str(path),)),), min_chars=1, validation_share=0.1, test_share=0.2
    )
    metrics = build(tmp_path / "out", config).metrics
    assert abs(metrics["corpus/validation_documents"] - 400) < 60
    assert abs(metrics["corpus/test_documents"] - 800) < 80
    assert (
        metrics["corpus/documents"] == 4000 - metrics["corpus/validation_documents"] - metrics["corpus/test_documents"]
    )


def test_equal_texts_stay_where_training_cannot_see_them() -> None:
    text = np.array([5, 5, 7, 5, 7, 9, 9], np.uint64)
    test, validation, train = (PRIORITY.index(name) for name in ("test", "validation", "train"))
    splits = np.array([train, validation, train, test, train, validation, validation], np.uint8)
    assert repeated(text, splits).tolist() == [True, True, False, False, True, False, True]


def test_long_documents_are_cut_and_bad_text_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "'
        + "x" * 300
        + '"}\n{"text": "half a pair: \\ud83d, and more text to be long"}\n{"text": "second one"}\n'
    )
    said: list[str] = []
    config = Corpus(sources=(Files(kind="files", paths=(str(path),)),), max_chars=100, min_chars=5)
    build(tmp_path / "out", config, on_say=said.append)
    assert sorted(len(d.text) for documents in split(tmp_path / "out").values() for d in documents) == [10, 100]
    assert said == [
        "skipped 1 undecodable: files/a.jsonl:2",
        "cut 1 documents at corpus.max_chars = 100 characters; the rest of them is left out",
    ]


def test_sources_of_a_kind_keep_their_documents_apart(tmp_path: Path) -> None:
    sources = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for n in range(3):
            (tmp_path / folder / f"{n}.txt").write_text(f"File {n} of folder {folder}, with text enough to be kept.")
        sources.append(Files(kind="files", paths=(str(tmp_path / folder / "*.txt"),)))
    assert source_labels(sources) == ["files", "files-2"]
    build(tmp_path / "out", Corpus(sources=tuple(sources)))
    documents = [d for documents in split(tmp_path / "out").values() for d in documents]
    assert len({d.id for d in documents}) == 6 and {d.source for d in documents} == {"files"}
    assert split(tmp_path / "out")["validation"], "a share too small for six groups still takes one"


def test_every_kind_of_source_goes_into_one_corpus(site: Path, tmp_path: Path) -> None:
    for folder in ("hub", "web"):
        (tmp_path / folder).mkdir()
        lines = [json.dumps({"text": f"Document {n} of the {folder}, read by a worker."}) + "\n" for n in range(50)]
        (tmp_path / folder / "part.jsonl").write_text("".join(lines))
    handler = functools.partial(Quiet, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        sources = (
            HubDataset(kind="hub", dataset=str(tmp_path / "hub"), max_documents=40),
            Url(kind="url", url=f"http://127.0.0.1:{server.server_port}/part.jsonl"),
            PACKAGES,
        )
        build(tmp_path / "out", Corpus(sources=sources))
        server.shutdown()
        thread.join()
    card = json.loads((tmp_path / "out/data_card.json").read_text())
    found = [(source["kind"], sum(source["documents"].values())) for source in card["sources"]]
    assert found == [("hub", 40), ("url", 50), ("python_docs", 181)]
    assert str(tmp_path) not in json.dumps(card)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_what_cannot_become_a_corpus_is_one_line(site: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"held_out 'gama' is no package of a python_docs source \(nearest: gamma\)"):
        build(tmp_path / "a", Corpus(sources=(PACKAGES,), held_out=("gama",)))
    with pytest.raises(ValueError, match=r"no document is left for training: \d+ found, \d+ shorter than"):
        build(tmp_path / "b", Corpus(sources=(PACKAGES,), min_chars=5000, validation_share=0))
    with pytest.raises(ValueError, match="no document is left for training"):
        build(tmp_path / "c", Corpus(sources=(PACKAGES,), held_out=("alpha", "beta", "gamma", "broken")))
    (tmp_path / "one.txt").write_text("One text alone cannot be split in two, however long it may be.")
    with pytest.raises(ValueError, match=r"needs at least two documents.*validation_share: 0"):
        build(tmp_path / "d", Corpus(sources=(Files(kind="files", paths=(str(tmp_path / "one.txt"),)),)))
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match="no row has a text under 'text'; keys are body"):
        build(tmp_path / "e", Corpus(sources=(Files(kind="files", paths=(str(tmp_path / "a.jsonl"),)),)))


def test_a_full_disk_loses_nothing(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Corpus(sources=(PACKAGES,), shard_bytes=4000)
    build(tmp_path / "whole", config)
    real, left = os.fsync, [3]

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            build(tmp_path / "out", config)
    assert 0 < len(list((tmp_path / "out/documents").iterdir())) < len(digests(tmp_path / "whole"))
    build(tmp_path / "out", config)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


# kills: a real process, ended at a chosen moment

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from gptcore.config import Corpus
from gptcore.text import harvest
from gptcore.text.corpus import build_corpus
from gptcore.text.sources import resolve_source
from gptcore.work import Interrupted, Work
config = Corpus.model_validate_json(sys.argv[4])
deadly = int(sys.argv[5])
calls = 0
def progress(*_, **__):
    global calls
    calls += 1
    if calls == deadly:
        os.killpg(0, signal.SIGKILL)
    print("progress", flush=True)
work = Work(Path(sys.argv[3]), on_progress=progress)
try:
    with work.signals():
        build_corpus(config, [resolve_source(s, Path(sys.argv[3]).parent / "cache") for s in config.sources], work)
except Interrupted as stop:
    sys.exit(128 + stop.signum)
"""


def start(site: Path, directory: Path, config: Corpus, deadly: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(ROOT), str(site), str(directory), config.model_dump_json(), str(deadly)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive, f"{alive} outlived the process that asked"


@pytest.mark.parametrize("deadly", [1, 2, 4, 6, 10])
def test_killed_at_any_unit_and_run_again_gives_the_same_bytes(
    site: Path, tmp_path: Path, deadly: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Corpus(sources=(PACKAGES,), held_out=("beta",), shard_bytes=3000)
    build(tmp_path / "whole", config)
    for _ in range(2):
        with start(site, tmp_path / "out", config, deadly) as killed:
            out, _ = killed.communicate(timeout=60)
        assert killed.returncode == -signal.SIGKILL and out.count("progress") == deadly - 1
    (tmp_path / "out/documents").mkdir(exist_ok=True)
    (tmp_path / "out/documents/.train-00000.jsonl.1.part").write_text("torn")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("[!.]*-0*.json*")}
    build(tmp_path / "out", config)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items()), "a committed unit was made again"
    assert not list((tmp_path / "out").rglob(".*.part"))


def test_a_large_file_goes_on_from_its_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 20 kB instead of 16 MB, and a kill after each of the first ones."""
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"Row {n} of a large file, {hashlib.sha256(str(n).encode()).hexdigest()}"} for n in range(2000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Corpus(sources=(Files(kind="files", paths=(str(path),)),))
    small = "import gptcore.text.harvest as h; h.BLOCK_BYTES = 20_000; from gptcore.text.workers import serve"
    monkeypatch.setattr(workers, "BOOT", workers.BOOT.replace("from gptcore.text.workers import serve", small))
    build(tmp_path / "whole", config)
    build(tmp_path / "out", config)
    blocks = sorted(tmp_path.glob("out/scratch/harvest-files-*/*.json"))
    assert len(blocks) > 10
    for block in blocks[4:]:
        block.unlink()
    kept = [(block, block.stat().st_ino) for block in blocks[:4]]
    for shard in (tmp_path / "out/documents").iterdir():
        shard.unlink()
    build(tmp_path / "out", config)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert [(block, block.stat().st_ino) for block, _ in kept] == kept


class Silent(http.server.BaseHTTPRequestHandler):
    """Accepts a request and never answers."""

    release = threading.Event()

    def do_GET(self) -> None:
        self.release.wait(30)


@pytest.fixture
def silent() -> Iterator[Url]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield Url(kind="url", url=f"http://127.0.0.1:{server.server_port}/a.txt", sha256="0" * 64)
        Silent.release.set()
        server.shutdown()
        thread.join()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = psutil.Process(process.pid).children(recursive=True)
        if found:
            time.sleep(0.5)  # into their work
            return found
        time.sleep(0.02)
    raise AssertionError("no worker was started")


def test_workers_die_with_a_killed_parent(site: Path, tmp_path: Path, silent: Url) -> None:
    with start(site, tmp_path / "out", Corpus(sources=(silent,))) as process:
        children = workers_of(process)
        process.kill()
        wait_gone(children)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_the_group_is_the_parent_s_alone(
    site: Path, tmp_path: Path, silent: Url, signum: signal.Signals
) -> None:
    with start(site, tmp_path / "out", Corpus(sources=(silent,))) as process:
        children = workers_of(process)
        os.killpg(process.pid, signum)
        _, errors = process.communicate(timeout=10)
        wait_gone(children)
    assert process.returncode == 128 + signum
    assert errors == "", "no worker adds its own trace"


def test_a_worker_that_dies_or_fails_is_said(site: Path, tmp_path: Path, silent: Url) -> None:
    with start(site, tmp_path / "out", Corpus(sources=(silent,))) as process:
        (child,) = workers_of(process)
        child.kill()
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "WorkerDied: a worker was killed by SIGKILL; run again to go on" in errors
    with pytest.raises(workers.WorkerDied, match="a worker failed: TypeError"):
        list(workers.run_tasks("os:getpid", [{}], 1))
