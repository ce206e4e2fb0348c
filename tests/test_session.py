"""The envelope around every stage, with stage functions of the test and no Prefect server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_fixtures import new_tracker

from gptcore.adapters.mlflow_client import Run
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import PARENT, Tracker
from gptcore.durable import write_bytes, write_json
from gptcore.store import MANIFEST, Manifest, recorded_in
from gptcore.work import Interrupted, Outcome, Work
from tasks.result import NotFresh, Quiet, StageResult
from tasks.session import Session, StageFunction, opened, shown_on


class Saying(Quiet):
    """A display that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Place:
    """A home with its MLflow database, and a preset of one small file."""

    def __init__(self, folder: Path) -> None:
        self.home, self.text, self.preset = folder / "home", folder / "text.txt", folder / "small.yaml"
        self.text.write_text("A text.\n")
        self.preset.write_text(
            f"name: small\ncorpus: {{sources: [{{kind: files, paths: ['{self.text}']}}]}}\nruntime: {{threads: 1}}\n"
        )
        self.tracker = new_tracker(self.home)

    def run(self, *stages: str, content: str = "content", force: tuple[str, ...] = ()) -> list[StageResult]:
        """An invocation of these stages, each writing `content`."""
        with opened(str(self.preset), selected=stages, force=force) as session:
            return [session.stage(name, lambda: writes(content)) for name in stages]

    def runs(self, tracker: Tracker | None = None) -> dict[str, Run]:
        """MLflow runs by name, the parent under the preset's, without its id."""
        client = (tracker or self.tracker).client
        found = client.search_runs([e.experiment_id for e in client.search_experiments()])
        named = {run.info.run_name.removesuffix(f" {run.info.run_id[:8]}"): run for run in found}
        assert len(named) == len(found)
        return named


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))
    return Place(tmp_path)


def writes(content: str) -> StageFunction:
    def stage(work: Work) -> Outcome:
        for step in (1, 2, 3):
            work.log({"curve": step / 2}, step)
        write_bytes(work.directory / "result.txt", content.encode())
        return Outcome(("result.txt",), {"length": float(len(content))})

    return stage


def never() -> StageFunction:
    raise AssertionError("a finished stage was prepared again")


def test_a_finished_stage_is_reused(place: Place) -> None:
    (first,) = place.run("corpus")
    assert (first.status, first.metrics) == ("ran", {"length": 7.0})
    with opened(str(place.preset)) as session:
        again = session.stage("corpus", never)
        summary = session.summary()
    assert (again.status, again.seconds) == ("reused", 0.0)
    assert (again.key, again.digest, again.path, again.mlflow_run_id) == (
        first.key, first.digest, first.path, first.mlflow_run_id,
    )  # fmt: skip
    runs = place.runs()
    assert set(runs) == {"small", "corpus"}, "the second invocation left no row"
    assert summary["run_id"] == runs["small"].info.run_id, "it points to the run that holds the result"


def test_a_stage_is_logged_as_a_child_with_its_curve(place: Place) -> None:
    corpus, tokenizer = place.run("corpus", "tokenizer")
    runs = place.runs()
    parent = runs["small"]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["stage.tokenizer.run_id"] == tokenizer.mlflow_run_id == runs["tokenizer"].info.run_id
    child = runs["corpus"]
    assert (child.info.status, child.data.tags[PARENT]) == ("FINISHED", parent.info.run_id)
    assert (child.data.tags["key"], child.data.tags["digest"]) == (corpus.key, corpus.digest)
    curve = place.tracker.client.get_metric_history(child.info.run_id, "curve")
    assert sorted((point.step, point.value) for point in curve) == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert not list((place.home / "invocations").glob("*.json")), "nothing is left to take over"


def test_what_is_read_must_be_fresh(place: Place) -> None:
    with (
        pytest.raises(NotFresh, match=rf"tokenizer reads corpus, .* gptmill run {place.preset} --until corpus$"),
        opened(str(place.preset)) as session,
    ):
        session.stage("tokenizer", never)
    assert place.runs() == {}


def test_a_failure_leaves_unfinished_work_that_the_same_command_resumes(place: Place) -> None:
    def breaks(work: Work) -> Outcome:
        write_json(work.scratch / "unit-1.json", 1)
        raise RuntimeError("the third unit broke")

    with pytest.raises(RuntimeError, match="third unit"), opened(str(place.preset)) as session:
        session.stage("corpus", lambda: breaks)
    before = place.runs()
    assert {name: run.info.status for name, run in before.items()} == {"small": "FAILED", "corpus": "FAILED"}
    (unfinished,) = session.store.unfinished()
    assert json.loads((unfinished / "scratch/unit-1.json").read_bytes()) == 1

    def goes_on(work: Work) -> Outcome:
        assert (work.scratch / "unit-1.json").exists()
        return writes("content")(work)

    with opened(str(place.preset)) as session:
        result = session.stage("corpus", lambda: goes_on)
    assert result.status == "resumed" and result.path == str(unfinished)
    assert not (unfinished / "scratch").exists()
    assert Manifest.parse((unfinished / MANIFEST).read_bytes()).attempts == 2
    after = place.runs()
    assert {name: run.info.run_id for name, run in after.items()} == {n: r.info.run_id for n, r in before.items()}
    assert {run.info.status for run in after.values()} == {"FINISHED"}


def test_an_interrupt_ends_the_runs_as_killed(place: Place) -> None:
    def stopped(work: Work) -> Outcome:
        raise Interrupted(15)

    with pytest.raises(Interrupted), opened(str(place.preset)) as session:
        session.stage("corpus", lambda: stopped)
    assert {run.info.status for run in place.runs().values()} == {"KILLED"}


def test_equal_bytes_from_a_new_source_stop_there(place: Place) -> None:
    first = place.run("corpus", "tokenizer")
    place.text.write_text("Another text.\n")
    with opened(str(place.preset)) as session:
        corpus = session.stage("corpus", lambda: writes("content"))
        tokenizer = session.stage("tokenizer", never)
    assert corpus.status == "ran" and corpus.key != first[0].key and corpus.digest == first[0].digest
    assert (tokenizer.status, tokenizer.key) == ("reused", first[1].key)


def test_force_runs_again(place: Place) -> None:
    first = place.run("corpus", "tokenizer")
    again = place.run("corpus", "tokenizer", force=("corpus",))
    assert [r.status for r in again] == ["ran", "reused"]
    assert again[0].digest == first[0].digest and again[0].mlflow_run_id != first[0].mlflow_run_id


def damage(result: StageResult) -> None:
    path = Path(result.path) / "result.txt"
    path.write_bytes(b"C" + path.read_bytes()[1:])


def test_a_damaged_stage_is_rebuilt_when_something_reads_it(place: Place) -> None:
    display = Saying()
    first = place.run("corpus", "tokenizer")
    damage(first[0])
    with shown_on(display):
        again = place.run("corpus", "tokenizer", force=("tokenizer",))
    assert [r.status for r in again] == ["ran", "ran"]
    assert [r.digest for r in again] == [r.digest for r in first]
    (line,) = (line for line in display.lines if "rebuilding it" in line)
    assert "corpus: result.txt does not have its recorded sha256" in line


def test_a_stage_alone_refuses_a_damaged_input(place: Place) -> None:
    corpus, _ = place.run("corpus", "tokenizer")
    damage(corpus)
    with pytest.raises(NotFresh, match=rf"sha256 .*: gptmill run {place.preset} --until corpus --force corpus$"):
        place.run("tokenizer", force=("tokenizer",))
    assert [r.status for r in place.run("corpus", force=("corpus",))] == ["ran"]
    assert [r.status for r in place.run("tokenizer", force=("tokenizer",))] == ["ran"]


def test_without_a_tracker_the_stage_finishes_and_the_next_run_tells_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", away)
        display = Saying()
        with shown_on(display):
            (result,) = place.run("corpus")
    assert (result.status, result.mlflow_run_id) == ("ran", None)
    assert (Path(result.path) / MANIFEST).exists()
    record = recorded_in(Path(result.path), away)
    assert record == {"run_id": None, "parent_run_id": None, "complete": False}
    assert any(away in line and "corpus goes on" in line for line in display.lines)

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (told,) = place.run("corpus")
    runs = place.runs()
    assert (told.status, told.mlflow_run_id) == ("reused", runs["corpus"].info.run_id)
    assert runs["corpus"].info.status == "FINISHED" and runs["corpus"].data.metrics["length"] == 7
    assert len(place.tracker.client.get_metric_history(runs["corpus"].info.run_id, "curve")) == 3
    assert runs["small"].data.tags["stage.corpus.run_id"] == runs["corpus"].info.run_id


def test_a_tracker_lost_in_the_middle_of_a_stage_is_told_at_the_next_run(place: Place, tmp_path: Path) -> None:
    """The database turns into a folder while the stage works: everything after that waits on disk."""
    database, aside = place.home / "mlflow.db", tmp_path / "aside.db"

    def loses_it(work: Work) -> Outcome:
        place.tracker.client._tracking_client.store.engine.dispose()
        database.rename(aside)
        database.mkdir()
        return writes("content")(work)

    with opened(str(place.preset)) as session:
        result = session.stage("corpus", lambda: loses_it)
    assert result.status == "ran"
    record = recorded_in(Path(result.path), default_uri(place.home))
    assert record and not record["complete"]
    database.rmdir()
    aside.rename(database)
    (told,) = place.run("corpus")
    assert told.status == "reused"
    runs = place.runs()
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(place.tracker.client.get_metric_history(runs["corpus"].info.run_id, "curve")) == 3


def test_another_tracker_gets_its_own_record_and_the_first_keeps_its(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = place.run("corpus")
    other = new_tracker(tmp_path / "other")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other.uri)
    (there,) = place.run("corpus")
    assert there.status == "reused" and there.mlflow_run_id == place.runs(other)["corpus"].info.run_id
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (back,) = place.run("corpus")
    assert back.mlflow_run_id == first.mlflow_run_id
    assert set(place.runs()) == {"small", "corpus"}, "nothing was told twice"


def test_a_second_writer_waits_and_uses_the_result(place: Place) -> None:
    working, go_on, waiting = threading.Event(), threading.Event(), threading.Event()

    def slow(work: Work) -> Outcome:
        working.set()
        assert go_on.wait(30)
        return writes("content")(work)

    class Waiting(Quiet):
        def say(self, line: str) -> None:
            if "waiting for another run" in line:
                waiting.set()

    def session(display: Quiet) -> Session:
        with opened(str(place.preset)) as model:
            made = Session(model.preset, model.sources, ["corpus"], (), display, place.home)
        made.tracking.begin()
        return made

    def in_thread(session: Session, prepare: Callable[[], StageFunction], to: list[StageResult]) -> threading.Thread:
        def run() -> None:
            to.append(session.stage("corpus", prepare))
            session.tracking.close("FINISHED", session.results)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    one, two = session(Quiet()), session(Waiting())
    results: list[list[StageResult]] = [[], []]
    threads = [in_thread(one, lambda: slow, results[0])]
    assert working.wait(30)
    threads.append(in_thread(two, never, results[1]))
    assert waiting.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert [r.status for (r,) in results] == ["ran", "reused"]
    assert results[0][0].mlflow_run_id == results[1][0].mlflow_run_id
