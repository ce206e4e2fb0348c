"""`gptmill verify` finds every kind of damage and says what to do."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest

from flows.commands.verify import main
from gptcore.durable import write_bytes
from gptcore.store import FileRecord, Manifest, Store


def stored(store: Store, stage: str, key: str, content: bytes) -> Path:
    directory, _ = store.begin(stage, key, {"stage": stage})
    write_bytes(directory / "result.bin", content)

    def manifest(files: dict[str, FileRecord], digest: str) -> Manifest:
        return Manifest(
            stage=stage, key=key, identity={}, output_digest=digest, files=files, metrics={}, seconds=1.0, attempts=1,
            finished=1.0, preset="tiny", code_digest="", git={}, execution={}, mlflow_run_id=None,
            mlflow_parent_run_id=None,
        )  # fmt: skip

    store.commit(manifest, directory, ("result.bin",))
    return directory


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path))
    return tmp_path


def verify(stage: str | None = None) -> int:
    return main(argparse.Namespace(stage=stage))


def test_intact_outputs(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(at / "store")
    stored(store, "corpus", "a" * 64, b"one")
    stored(store, "tokens", "b" * 64, b"two")
    store.begin("tokens", "c" * 64, {"unfinished": True})
    assert verify() == 0
    shown = capsys.readouterr()
    assert shown.out.count("ok  ") == 2 and "2 files of 2 outputs read" in shown.out and "0 damaged" in shown.out
    assert shown.err == ""


def test_one_changed_byte_of_equal_size(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(at / "store")
    stored(store, "corpus", "a" * 64, b"one")
    bad = stored(store, "tokens", "b" * 64, b"two")
    (bad / "result.bin").write_bytes(b"twO")
    assert verify() == 1
    shown = capsys.readouterr()
    assert "damaged  tokens" in shown.out and "result.bin does not have its recorded sha256" in shown.out
    assert f"rm -r {bad}" in shown.err
    assert verify("corpus") == 0

    shutil.rmtree(bad)
    assert verify() == 0, "the command it gives repairs the store"


def test_lost_files_and_torn_manifests(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(at / "store")
    lost = stored(store, "corpus", "a" * 64, b"one")
    torn = stored(store, "tokens", "b" * 64, b"two")
    (lost / "result.bin").unlink()
    (torn / "MANIFEST.json").write_bytes(b'{"stage": "tok')
    assert verify() == 1
    shown = capsys.readouterr()
    assert (
        "result.bin is lost" in shown.out and "MANIFEST.json cannot be read" in shown.out and "2 damaged" in shown.out
    )
    assert str(lost) in shown.err and str(torn) in shown.err
    assert verify("tokens") == 1


def test_an_unknown_stage_is_refused(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("corpus") == 2
    assert "gptmill run PRESET" in capsys.readouterr().err
    stored(Store(at / "store"), "corpus", "a" * 64, b"one")
    assert verify("corpsu") == 2
    problem = capsys.readouterr().err
    assert problem.count("\n") == 1 and "corpsu" in problem and "there are: corpus" in problem


def test_an_empty_store_has_nothing_damaged(at: Path) -> None:
    assert verify() == 0
    assert not (at / "store").exists()
