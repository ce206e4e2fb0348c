"""A stage is finished when its manifest is there, and only while every byte is what the manifest says."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gptcore.durable import place, sha256_file, write_bytes, writing
from gptcore.store import MANIFEST, Attempts, Damaged, FileRecord, Manifest, Store, output_digest

KEY = "ab" * 32


def commit(store: Store, directory: Path, results: tuple[str, ...] = ("*.txt",)) -> Manifest:
    def manifest(files: dict[str, FileRecord], digest: str) -> Manifest:
        return Manifest(
            stage="corpus",
            key=KEY,
            identity={"stage": "corpus"},
            output_digest=digest,
            files=files,
            metrics={},
            seconds=1.0,
            attempts=1,
            finished=time.time(),
            preset="x",
            code_digest="",
            git={},
            execution={},
            mlflow_run_id=None,
            mlflow_parent_run_id=None,
        )

    return store.commit(manifest, directory, results)


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Store, Path]:
    store = Store(tmp_path)
    directory, resumed = store.begin("corpus", KEY, {"stage": "corpus"})
    assert not resumed
    write_bytes(directory / "a.txt", b"hello")
    write_bytes(directory / "metrics.jsonl", b"{}")
    commit(store, directory)
    return store, directory


def test_a_finished_stage_is_found(finished: tuple[Store, Path]) -> None:
    store, directory = finished
    manifest = store.manifest("corpus", KEY)
    assert manifest is not None
    assert manifest.files["a.txt"] == FileRecord(5, sha256_file(directory / "a.txt"), True)
    assert not manifest.files["metrics.jsonl"].result
    store.verify(manifest)


def test_the_digest_covers_results_only(finished: tuple[Store, Path]) -> None:
    store, _ = finished
    manifest = store.manifest("corpus", KEY)
    assert manifest is not None
    only = {"a.txt": manifest.files["a.txt"]}
    assert manifest.output_digest == output_digest(only)


def test_a_lost_file_is_no_hit(finished: tuple[Store, Path]) -> None:
    store, directory = finished
    (directory / "a.txt").unlink()
    assert store.manifest("corpus", KEY) is None


def test_a_truncated_file_is_no_hit(finished: tuple[Store, Path]) -> None:
    store, directory = finished
    os.truncate(directory / "a.txt", 3)
    assert store.manifest("corpus", KEY) is None


def test_changed_bytes_of_the_same_size_are_damage(finished: tuple[Store, Path]) -> None:
    store, directory = finished
    (directory / "a.txt").write_bytes(b"jello")
    manifest = store.manifest("corpus", KEY)
    assert manifest is not None
    with pytest.raises(Damaged, match=r"a\.txt does not have its recorded sha256"):
        store.verify(manifest)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"files": 3}', b"\xff\xfe"])
def test_a_torn_manifest_is_no_manifest(finished: tuple[Store, Path], text: bytes) -> None:
    store, directory = finished
    (directory / MANIFEST).write_bytes(text)
    assert store.manifest("corpus", KEY) is None
    assert store.manifests("corpus") == []
    _, resumed = store.begin("corpus", KEY, {"stage": "corpus"})
    assert not resumed, "a stage whose manifest is torn starts from nothing"


def test_unfinished_work_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    directory, _ = store.begin("corpus", KEY, {"stage": "corpus"})
    write_bytes(directory / "scratch" / "unit", b"1")
    again, resumed = store.begin("corpus", KEY, {"stage": "corpus"})
    assert resumed and again == directory and (directory / "scratch" / "unit").exists()
    assert store.unfinished() == [directory]


def test_files_written_aside_by_a_killed_try_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    directory, _ = store.begin("corpus", KEY, {"stage": "corpus"})
    write_bytes(directory / "a.txt", b"1")
    (directory / ".a.txt.123.part").write_bytes(b"half")
    manifest = commit(store, directory)
    assert set(manifest.files) == {"a.txt"}
    assert not (directory / ".a.txt.123.part").exists()


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError), writing(tmp_path / "a") as file:
        file.write(b"new")
        raise RuntimeError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_place_links(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"1")
    place(tmp_path / "a", tmp_path / "b" / "a")
    assert (tmp_path / "a").samefile(tmp_path / "b" / "a")


def test_the_lock_waits_for_a_living_holder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    waited = threading.Event()
    order: list[str] = []

    def second() -> None:
        with store.lock("corpus", KEY, waited.set):
            order.append("second")

    with store.lock("corpus", KEY):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gptcore.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).lock('corpus', {KEY!r}):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    started = time.monotonic()
    with Store(tmp_path).lock("corpus", KEY):
        assert time.monotonic() - started < 5


def test_attempts_add_up_across_kills(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.begin()
    attempts.spent(2.0)
    attempts.begin()
    attempts.spent(3.0)
    assert [a["seconds"] for a in attempts.all()] == [2.0, 3.0]
