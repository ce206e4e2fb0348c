"""Bad input and bad weather, met by the program itself: one clear line, the right exit code, nothing lost.

Most of them start from one home in which the preset ran to its base model.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import resource
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from pydoc_data.topics import topics
from subprocess import PIPE, CompletedProcess, Popen, run
from typing import Any

import mlflow_fixtures
import numpy as np
import pytest
from prefect_fixtures import Api
from safetensors.numpy import load_file
from tiny_pipeline import answer, environment, gptmill

from gptcore.adapters.mlflow_client import MlflowClient

Done = CompletedProcess[str]

PRESET = """\
name: weather
corpus: {{sources: [{source}], validation_share: 0.1, shard_bytes: 100_000}}
tokenizer: {{vocab_size: 400, train_bytes: 100_000}}
tokens: {{shard_bytes: 150_000}}
model: {{n_layer: 1, n_head: 2, n_embd: 32, context: 64}}
pretrain: {{steps: 60, batch_tokens: 256, warmup_steps: 5, eval_every: 30, eval_tokens: 2_000}}
runtime: {{checkpoint_every: 10, threads: 1}}
"""


def documents() -> bytes:
    """Python's own help pages, a paragraph a line (UTF-8 JSON lines), and two lines that no reader can take."""
    paragraphs = [p for _, page in sorted(topics.items()) for p in page.split("\n\n") if len(p) > 80]
    lines = [json.dumps({"text": paragraph}).encode() for paragraph in paragraphs]
    lines[100:100] = [
        b'{"text": "caf\xe9 au lait, in Latin-1, long enough to be a document of its own"}',
        b'{"text": "cut',
    ]
    return b"\n".join(lines) + b"\n"


def preset(folder: Path, source: str) -> Path:
    """The preset on one source, given as YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weather.yaml"
    path.write_text(PRESET.format(source=source))
    return path


def files(path: Path) -> str:
    return f'{{kind: files, paths: ["{path}"]}}'


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "help.jsonl"
    path.write_bytes(documents())
    return path


class Trained:
    """A home in which the preset ran to its base model, and what that run said."""

    def __init__(self, folder: Path, text: Path, prefect: Api) -> None:
        self.home = folder / "home"
        self.preset = preset(folder, files(text))
        self.prefect = prefect
        self.said = self.run("--until", "pretrain")
        self.stages = answer(self.said)["stages"]

    def run(self, *arguments: str, home: Path | None = None, preset: Path | None = None, **more: Any) -> Done:
        """`gptmill run --json`, in this home and of its preset unless others are given."""
        at, wanted = home or self.home, preset or self.preset
        return gptmill(at, "run", wanted, *arguments, "--json", PREFECT_API_URL=self.prefect.url, **more)

    def start(self, home: Path, *arguments: str, limit: Callable[[], None] | None = None, **more: str) -> Popen[str]:
        """`gptmill run --json` of the preset, in any home, not waited for."""
        return Popen(
            [sys.executable, "-m", "flows", "run", str(self.preset), *arguments, "--json"],
            env=environment(home, PREFECT_API_URL=self.prefect.url, **more),
            cwd=self.home.parent,
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            preexec_fn=limit,
        )

    def copy(self, home: Path, *without: str) -> Path:
        """Another home with the same stages but for some, and the same tracker's records."""
        for name, row in self.stages.items():
            if name not in without:
                shutil.copytree(row["path"], home / "store" / name / Path(row["path"]).name)
        shutil.copy(self.home / "mlflow.db", home / "mlflow.db")
        return home


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path, prefect: Api) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"), text, prefect)


def failed(done: Done, code: int, *words: str) -> None:
    """Ended with this exit code and exactly one line about it, which holds these words; no trace of Python anywhere."""
    assert done.returncode == code, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("gptmill: ")]
    assert len(lines) == 1, done.stderr[-3000:]
    missing = [word for word in words if not re.search(word, lines[0])]
    assert not missing, f"{missing} not in {lines[0]!r}"
    assert "Traceback" not in done.stdout + done.stderr
    if code == 1:
        assert re.search(r"resume with:\n  gptmill run .*weather\.yaml", done.stderr)


# sources


def test_a_missing_or_unreadable_source_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def run(path: Path) -> Done:
        return gptmill(home, "run", preset(tmp_path, files(path)))

    failed(run(tmp_path / "absent.jsonl"), 2, r"no file matches .*absent\.jsonl")
    unreadable = tmp_path / "unreadable.jsonl"
    unreadable.symlink_to("/proc/self/mem")  # reading it is an error even for root
    failed(run(unreadable), 2, r"cannot read .*unreadable\.jsonl: Input/output error")
    assert not (home / "store").exists() and not (home / "mlflow.db").exists()


def test_a_package_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    wanted = preset(tmp_path, "{kind: python_docs, stdlib: false, packages: [numpi]}")
    failed(gptmill(tmp_path / "home", "run", wanted), 2, "numpi", "numpy")


def test_an_empty_corpus_ends_in_one_line(tmp_path: Path, trained: Trained) -> None:
    for name, content in (("empty.jsonl", b""), ("short.jsonl", b'{"text": "too short"}\n')):
        (tmp_path / name).write_bytes(content)
    done = trained.run("--until", "corpus", preset=preset(tmp_path, files(tmp_path / "*.jsonl")))
    failed(done, 1, "no document is left for training: 1 found, 1 shorter than corpus.min_chars 40", "corpus.sources")


def test_text_that_is_not_utf8_is_skipped_with_a_count(trained: Trained) -> None:
    assert "skipped 1 undecodable: help.jsonl:101" in trained.said.stderr
    assert "skipped 1 unparsable: help.jsonl:102" in trained.said.stderr
    assert trained.stages["corpus"]["metrics"]["corpus/skipped"] == 2


class Server(http.server.ThreadingHTTPServer):
    """One file behind an address; `weather` is taken from the left, one for each GET."""

    daemon_threads = True

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.weather, self.starts = data, list[str](), list[int]()
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/help.jsonl"

    def handle_error(self, *_: Any) -> None:
        """A client that gave up is what the tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        if "absent" in self.path:
            self.send_error(404)
        else:
            self._head(200, 0)

    def _head(self, status: int, start: int) -> None:
        size = len(self.server.data)
        self.send_response(status)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(size - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()

    def do_GET(self) -> None:
        weather = self.server.weather.pop(0) if self.server.weather else "fair"
        if "absent" in self.path:
            self.send_error(404)
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.server.starts.append(start)
        self._head(206 if start else 200, start)
        rest = self.server.data[start:]
        self.wfile.write(rest if weather == "fair" else rest[: len(rest) // 2])
        if weather == "hang":
            self.server.release.wait(60)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(documents()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def url(server: Server, path: str = "help.jsonl", **more: Any) -> str:
    settings = "".join(f", {name}: {json.dumps(value)}" for name, value in more.items())
    return f'{{kind: url, url: "http://127.0.0.1:{server.server_port}/{path}", timeout_s: 0.5, attempts: 2{settings}}}'


def test_an_address_that_is_not_there(server: Server, tmp_path: Path) -> None:
    done = gptmill(tmp_path / "home", "run", preset(tmp_path, url(server, "absent.jsonl")))
    failed(done, 2, r"absent\.jsonl: the server answers 404")


def test_a_server_that_hangs_and_one_that_cuts(server: Server, tmp_path: Path, trained: Trained) -> None:
    wanted = preset(tmp_path, url(server))
    server.weather = ["hang", "hang"]
    failed(trained.run("--until", "corpus", preset=wanted), 1, r"help\.jsonl: no byte came in time \(2 tries\)")
    server.weather = ["cut"]
    done = trained.run("--until", "corpus", preset=wanted)
    assert answer(done)["stages"]["corpus"]["status"] == "resumed"
    assert "the connection ended after" in done.stderr
    half = len(server.data) // 2
    assert server.starts[0] == 0 and server.starts[1] == half and sorted(server.starts) == server.starts
    assert len(server.starts) == 4, "each try went on where the one before it ended, the second run's too"


def test_a_wrong_checksum(server: Server, tmp_path: Path, trained: Trained) -> None:
    done = trained.run("--until", "corpus", preset=preset(tmp_path, url(server, sha256="0" * 64)))
    failed(done, 1, f"have sha256 {hashlib.sha256(server.data).hexdigest()}, expected 0000")


# the machine


class Disk:
    """Room that runs out: a small file system of its own or, where none can be mounted, a limit on each file's size."""

    def __init__(self, root: Path) -> None:
        self.root, self._ballast = root, root / "ballast"
        root.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "gptmill-test", str(root)]
        self.mounted = shutil.which("mount") is not None and run(mount, capture_output=True).returncode == 0
        self._largest = resource.RLIM_INFINITY

    def fill(self, room: int, largest: int) -> None:
        """Leave this many bytes, or files of this many."""
        self._largest = largest
        if self.mounted:
            self._ballast.write_bytes(bytes(shutil.disk_usage(self.root).free - room))

    def limit(self) -> None:
        """Called in the new process before the program."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def free(self, process: int | None = None) -> None:
        """Make room, for a process that runs too."""
        if self.mounted:
            self._ballast.unlink()
        elif process is not None:
            hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(process, resource.RLIMIT_FSIZE, (hard, hard))

    def close(self) -> None:
        if self.mounted:
            run(["umount", str(self.root)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


def unfinished_runs(database: Path) -> int:
    with closing(sqlite3.connect(database)) as opened:
        (found,) = opened.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()
    return int(found)


def test_a_full_disk_while_shards_are_written(disk: Disk, trained: Trained) -> None:
    home = trained.copy(disk.root / "home", "tokens", "pretrain")
    disk.fill(room=350_000, largest=90_000)
    with trained.start(home, "--until", "tokens", limit=disk.limit) as process:
        said = process.communicate(timeout=280)
    failed(Done(process.args, process.returncode, *said), 1, r"MB are free under .*; make room")
    kept = {path: path.stat().st_ino for path in home.glob("store/tokens/*/*.bin")}
    assert len(kept) < len(list(Path(trained.stages["tokens"]["path"]).glob("*.bin")))
    disk.free()
    again = trained.run("--until", "tokens", home=home)
    tokens = answer(again)["stages"]["tokens"]
    assert (tokens["status"], tokens["digest"]) == ("resumed", trained.stages["tokens"]["digest"])
    assert {path: path.stat().st_ino for path in kept} == kept
    assert unfinished_runs(home / "mlflow.db") == 0


def test_training_goes_on_while_the_disk_is_full(disk: Disk, trained: Trained) -> None:
    home = trained.copy(disk.root / "home", "pretrain")
    disk.fill(room=350_000, largest=90_000)
    said = []
    with trained.start(home, "--until", "pretrain", limit=disk.limit) as process:
        assert process.stderr and process.stdout
        for line in process.stderr:
            said.append(line)
            if "no room for the checkpoint" in line:
                disk.free(process.pid)
        stdout = process.stdout.read()
    assert process.returncode == 0, said
    assert [line for line in said if "there is room again" in line], said
    row = json.loads(stdout.splitlines()[-1])["stages"]["pretrain"]
    assert (row["status"], row["digest"]) == ("ran", trained.stages["pretrain"]["digest"])


def wait_for(pattern: str, process: Popen[str], home: Path) -> Path:
    """What a running program leaves in its home sooner or later."""
    while process.poll() is None:
        if path := next(home.glob(pattern), None):
            return path
        time.sleep(0.002)
    raise AssertionError(process.communicate()[1])


def test_a_truncated_checkpoint_is_noticed_and_the_one_before_it_serves(tmp_path: Path, trained: Trained) -> None:
    home = trained.copy(tmp_path / "home", "pretrain")
    with trained.start(home, "--until", "pretrain") as process:
        checkpoints = wait_for("store/pretrain/*/checkpoints/step-000020", process, home).parent
        process.kill()
        process.communicate()
    before, newest = sorted(checkpoints.glob("step-*"))[-2:]
    weights = newest / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    done = trained.run("--until", "pretrain", home=home)
    row = answer(done)["stages"]["pretrain"]
    assert (row["status"], row["digest"]) == ("resumed", trained.stages["pretrain"]["digest"])
    assert f"checkpoint {newest.name} is damaged" in done.stderr
    assert f"resuming at step {int(before.name.removeprefix('step-'))} of 60" in done.stderr


def test_damaged_outputs_are_noticed_and_rebuilt(tmp_path: Path, trained: Trained) -> None:
    """A document changed without a change of size, a manifest cut short, a shard cut short."""
    home = trained.copy(tmp_path / "home")
    (documents,) = home.glob("store/corpus/*/documents/train-00001.jsonl")
    data = documents.read_bytes()
    documents.write_bytes(data.replace(b"Python", b"python", 1))
    (manifest,) = home.glob("store/tokenizer/*/MANIFEST.json")
    os.truncate(manifest, manifest.stat().st_size // 2)
    (shard,) = home.glob("store/tokens/*/train-00000.bin")
    os.truncate(shard, 1000)
    done = trained.run("--until", "pretrain", home=home)
    rows = answer(done)["stages"]
    assert {name: row["digest"] for name, row in rows.items()} == {n: r["digest"] for n, r in trained.stages.items()}
    assert {name: row["status"] for name, row in rows.items() if name != "pretrain"} == dict.fromkeys(
        ("corpus", "tokenizer", "tokens"), "ran"
    )
    assert rows["pretrain"]["status"] == "reused"
    assert "documents/train-00001.jsonl does not have its recorded sha256" in done.stderr


def test_a_vocabulary_larger_than_the_text_supports(trained: Trained) -> None:
    done = trained.run("--until", "tokenizer", "--set", "tokenizer.vocab_size=30000")
    failed(done, 1, r"tokenizer\.vocab_size 30000 is more than \d+ bytes of text support: at most \d+; lower it")
    assert done.stderr.rstrip().endswith("--until tokenizer --set tokenizer.vocab_size=30000")


def test_a_loss_that_is_no_number_stops_before_the_update(trained: Trained) -> None:
    more = ["--set", "pretrain.learning_rate=1e3", "--set", "runtime.checkpoint_every=1"]
    done = trained.run("--until", "pretrain", *more)
    bad = r"(loss|gradient norm) is (nan|inf) at step \d+; \d+ of the last \d+ updates were skipped"
    failed(done, 1, bad, "the run went back 3 times already", "lower learning_rate")
    found = re.search(r"at step (\d+); .* the last good checkpoint is (\S+);", done.stderr)
    assert found
    kept = Path(found[2])
    assert kept.name == f"step-{int(found[1]) - 1:06d}"
    assert all(np.isfinite(tensor).all() for tensor in load_file(kept / "model.safetensors").values())


def test_a_tracker_that_dies_during_training(tmp_path: Path, trained: Trained) -> None:
    tracker = mlflow_fixtures.Server(tmp_path / "tracker")
    home = trained.copy(tmp_path / "home", "pretrain")
    wanted = ("--until", "pretrain", "--set", "pretrain.steps=300")
    tracker.start()
    try:
        with trained.start(home, *wanted, MLFLOW_TRACKING_URI=tracker.uri) as process:
            wait_for("store/pretrain/*/checkpoints/step-000020", process, home)
            tracker.kill()
            stdout, stderr = process.communicate(timeout=280)
        assert process.returncode == 0, stderr
        assert f"MLflow at {tracker.uri} does not answer" in stderr and "Traceback" not in stderr
        row = json.loads(stdout.splitlines()[-1])["stages"]["pretrain"]
        assert row["status"] == "ran"
        tracker.start()
        again = answer(trained.run(*wanted, home=home, MLFLOW_TRACKING_URI=tracker.uri))["stages"]["pretrain"]
        logged = MlflowClient(tracker.uri).get_metric_history(again["mlflow_run_id"], "pretrain/loss")
    finally:
        tracker.kill()
    assert again["status"] == "reused"
    assert [metric.step for metric in logged] == list(range(10, 301, 10))
    assert unfinished_runs(tracker.home / "mlflow.db") == 0
