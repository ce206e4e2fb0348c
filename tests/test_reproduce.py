"""`gptmill reproduce` on a real record: preset file and store gone, killed, data changed, the record changed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PATIENCE_S
from mlflow_fixtures import Server, facts, new_tracker
from prefect_fixtures import Api
from tiny_pipeline import answer, gptmill

from benchmarks.kill import kill_in
from flows.command_line import parser
from flows.commands import reproduce
from gptcore.adapters.mlflow_history import find_runs, get_run
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_record import Record, read_record, read_text
from gptcore.adapters.mlflow_runs import StageResult, Tracker
from gptcore.durable import sha256_file
from gptcore.presets import load_preset, load_skill, preset_names, skills_given, written
from gptcore.recorded_sources import look_again
from gptcore.reproduction import (
    Difference,
    changes,
    code_differences,
    data_differences,
    execution_of,
    library_differences,
    machine_differences,
    pins_of,
    recorded_preset,
    tasks_not_pinned,
)
from gptcore.verdicts import NO_REASON, contradictions_of, verdicts

STAGES = ["items-capitals", "corpus", "tokenizer", "tokens", "pretrain", "finetune-capitals"]
PRESET = """\
name: small
corpus: {sources: [{kind: files, paths: ['TEXTS/*.txt'], by_line: true}], validation_share: 0.1}
tokenizer: {vocab_size: 300}
model: {n_layer: 1, n_head: 2, n_embd: 32, context: 32}
pretrain: {steps: 300, batch_tokens: 256, warmup_steps: 5, eval_every: 100, eval_tokens: 500}
finetune:
  capitals: {steps: 10, batch_tokens: 256, warmup_steps: 2, max_input_tokens: 24, max_target_tokens: 8}
runtime: {checkpoint_every: 5, threads: 1, workers: 1}
"""
SKILL = """\
name: capitals
data: {source: {kind: files, paths: ['ROWS']}}
template: "{input}<|answer|>"
truncate: input
metrics: [exact_match]
target_metric: exact_match
baseline: most_frequent_answer
"""
SENTENCE = "the sum of an array over one axis is what this function returns when no axis was given"

pytestmark = pytest.mark.timeout(900)


@dataclass
class Made:
    """A run whose preset file and store are gone: MLflow and the sources are what is left."""

    folder: Path
    prefect: Api
    first: dict[str, Any]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def tracker(self) -> Tracker:
        return Tracker(default_uri(self.home), self.home, print)

    @property
    def text(self) -> Path:
        return self.folder / "texts" / "b.txt"

    @property
    def run_id(self) -> str:
        return str(self.first["run_id"])

    def record(self) -> Record:
        return read_record(self.tracker, self.run_id)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, prefect: Api) -> Made:
    folder = tmp_path_factory.mktemp("reproduce")
    draw = random.Random(1)
    (folder / "texts").mkdir()
    for name in "ab":
        lines = (" ".join(draw.choices(SENTENCE.split(), k=30)) for _ in range(150))
        (folder / "texts" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    rows = ({"input": f"Land {n}?", "target": f"town {n % 7}"} for n in range(60))
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    skill = folder / "skills" / "capitals.yaml"
    skill.parent.mkdir()
    skill.write_text(SKILL.replace("ROWS", str(folder / "rows.jsonl")))
    preset = folder / "small.yaml"
    preset.write_text(PRESET.replace("TEXTS", str(folder / "texts")))
    home = folder / "home"
    done = gptmill(
        home, "run", preset, "--until", STAGES[-1], "--json", timeout=PATIENCE_S, PREFECT_API_URL=prefect.url
    )
    first = answer(done)
    preset.write_text("name: another\n")
    skill.write_text("name: another\n")
    (home / "store").rename(folder / "moved-away")
    return Made(folder, prefect, first)


@pytest.fixture
def here(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv("GPTMILL_HOME", str(made.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


@pytest.fixture
def changed_text(made: Made) -> Iterator[tuple[str, str]]:
    """A source is written in capitals; sha256 before and now."""
    before, old = made.text.read_bytes(), sha256_file(made.text)
    made.text.write_bytes(before.upper())
    yield old, sha256_file(made.text)
    made.text.write_bytes(before)


def command(*arguments: str) -> int:
    return reproduce.main(parser().parse_args(["reproduce", *arguments]))


def digests(first: dict[str, Any]) -> dict[str, str]:
    return {name: row["digest"] for name, row in first["stages"].items()}


# Refused before any work


def test_a_changed_source_is_refused_and_named(
    here: Made, changed_text: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("latest", "--json") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = [line for line in shown.err.splitlines() if "data" in line and "b.txt" in line]
    assert f"{changed_text[0]} recorded, {changed_text[1]} here" in line
    assert "a.txt" not in line and "--anyway" in shown.err
    assert not (here.home / "reproductions").exists()


def test_a_lost_source_is_refused(here: Made, capsys: pytest.CaptureFixture[str]) -> None:
    aside = here.folder / "aside"
    (here.folder / "texts").rename(aside)
    try:
        assert command("latest", "--anyway") == 2
    finally:
        aside.rename(here.folder / "texts")
    said = capsys.readouterr().err
    assert f"{here.folder}/texts" in said and f"started in {here.folder}" in said


def test_a_run_of_before_is_refused_with_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert command("latest") == 2
    assert "there is no run yet" in capsys.readouterr().err
    tracker = new_tracker(tmp_path)
    parent = tracker.open_parent("old", "old", {"pretrain": {"steps": 3}}, {})
    child = tracker.open_stage(parent, facts("corpus")).run_id
    tracker.summarize_parent(parent, {"corpus": StageResult(child, "d" * 64, {})})
    assert command("latest") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "preset.yaml, skills.yaml, requirements.txt, the MANIFEST.json of corpus" in line
    assert "gptmill run old --force report" in line


def test_a_folder_of_something_else_is_refused(here: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("latest", "--into", str(here.folder)) == 2
    assert "no reproduction, and not empty" in capsys.readouterr().err
    assert command("latest", "--until", "benchmark-base") == 2
    assert f"there are: {', '.join(STAGES)}" in capsys.readouterr().err


# Built again


@pytest.fixture(scope="module")
def rebuilt(made: Made) -> dict[str, Any]:
    """In another home, with the first one's tracker; killed in the middle, then the same command again."""
    other = made.folder / "elsewhere"
    more = {
        "OMP_NUM_THREADS": "2", "PREFECT_API_URL": made.prefect.url, "MLFLOW_TRACKING_URI": default_uri(made.home),
    }  # fmt: skip
    arguments = ["reproduce", made.run_id[:8], "--json"]
    killed = kill_in("pretrain", 0.4, arguments, other, **more)
    assert killed == "pretrain"
    return answer(gptmill(other, *arguments, timeout=PATIENCE_S, **more))


def test_every_stage_agrees(made: Made, rebuilt: dict[str, Any]) -> None:
    assert rebuilt["agrees"] is True and rebuilt["first_difference"] is None
    assert (rebuilt["run_id"], rebuilt["preset"], rebuilt["left_out"]) == (made.run_id, "small", [])
    assert list(rebuilt["stages"]) == STAGES
    for name, digest in digests(made.first).items():
        row = rebuilt["stages"][name]
        assert (row["verdict"], row["recorded"], row["found"]) == ("agrees", digest, digest)
    into = Path(rebuilt["into"])
    assert into == made.folder / "elsewhere" / "reproductions" / made.run_id[:8]
    assert sha256_file(next(into.glob("store/pretrain/*/model.safetensors"))) == sha256_file(
        next((made.folder / "moved-away").glob("pretrain/*/model.safetensors"))
    )


def test_it_has_one_run_that_latest_passes_over(made: Made, rebuilt: dict[str, Any]) -> None:
    tracker = made.tracker
    assert [run.run_id for run in find_runs(tracker)] == [made.run_id]
    again = get_run(tracker, rebuilt["reproduction_run_id"])
    assert (again.preset, again.status, again.name) == ("small", "FINISHED", f"reproduction of {made.run_id[:8]}")
    assert (again.tags["reproduces"], again.tags["agrees"]) == (made.run_id, "True")
    assert {name: stage["digest"] for name, stage in again.stages.items()} == digests(made.first)
    experiment = [tracker.experiment("small")]
    parents = tracker.client.search_runs(experiment, "tags.`gptmill.role` = 'reproduction'")
    assert len(parents) == 1, "the killed one and the one that went on are the same"
    assert {run.info.status for run in tracker.client.search_runs(experiment)} == {"FINISHED"}
    answered = tracker.client.download_artifacts(rebuilt["reproduction_run_id"], "reproduction.json")
    assert json.loads(Path(answered).read_text()) == rebuilt


def test_a_changed_record_is_told(
    here: Made, rebuilt: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPTMILL_HOME", str(here.folder / "elsewhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri(here.home))
    right = digests(here.first)["tokens"]
    here.tracker.tag(here.run_id, {"stage.tokens.digest": "0" * 64})
    assert command("latest", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["agrees"], found["first_difference"]) == (False, "tokens")
    assert {name: row["verdict"] for name, row in found["stages"].items()} == {
        **dict.fromkeys(STAGES, "agrees"), "tokens": "differs",
    }  # fmt: skip
    (reason,) = found["stages"]["tokens"]["reasons"]
    assert (
        reason
        == f"the record contradicts itself: the pipeline run's tag says 000000000000, MANIFEST.json says {right[:12]}"
    )
    here.tracker.tag(here.run_id, {"stage.tokens.digest": right})
    assert command("latest") == 0
    assert "every stage agrees: 6 output digests are equal" in capsys.readouterr().out


def test_other_data_gives_other_digests(made: Made, changed_text: tuple[str, str]) -> None:
    done = gptmill(
        made.home, "reproduce", "latest", "--anyway", "--until", "tokenizer", "--json",
        timeout=PATIENCE_S, PREFECT_API_URL=made.prefect.url,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["first_difference"] == "corpus"
    rows = found["stages"]
    assert rows["corpus"]["reasons"] == ["new source version"] and "data_card.json" in rows["corpus"]["files"]
    assert rows["tokenizer"]["verdict"] == "differs"
    assert rows["tokenizer"]["reasons"] == ["reads corpus, which differs"]
    assert rows["items-capitals"]["verdict"] == "agrees"
    assert {rows[name]["verdict"] for name in STAGES[3:]} == {"not run"}


# What is told from a record


def test_a_record_holds_what_a_rebuild_needs(made: Made) -> None:
    record = made.record()
    preset = recorded_preset(record.preset, record.stages, "preset.yaml")
    assert preset.pretrain.dtype == "float32", "auto is what it was then"
    assert recorded_preset(record.preset, {}, "preset.yaml").pretrain.dtype == "auto"
    assert record.skills["capitals"]["template"] == "{input}<|answer|>"
    assert set(record.stages) == set(STAGES) and "torch==" in record.requirements
    around = record.stages["pretrain"].manifest.surroundings
    assert around["threads"] == 1 and around["devices"] == 1 and around["python"]
    for name, stage in record.stages.items():
        assert contradictions_of(stage) == () and execution_of(name, stage, preset) == []
        threads = replace(stage.manifest, execution={**stage.manifest.execution, "threads": 3})
        assert execution_of(name, replace(stage, manifest=threads), preset) == ["runtime.threads=3"]


def test_a_stage_that_the_parent_does_not_name_is_found_by_its_digest(made: Made) -> None:
    client = made.tracker.client
    tags = client.get_run(made.run_id).data.tags
    held = {key: tags[key] for key in (f"stage.{n}.{f}" for n in STAGES[:3] for f in ("run_id", "digest"))}
    for key in held:
        client.delete_tag(made.run_id, key)
    try:
        assert set(made.record().stages) == set(STAGES)
    finally:
        made.tracker.tag(made.run_id, held)


def test_stages_that_ran_alike_are_built_in_one_go(made: Made) -> None:
    record = made.record()
    preset = recorded_preset(record.preset, record.stages, "preset.yaml")
    with skills_given(record.skills):
        assert list(reproduce._groups(preset, record, STAGES)) == [(STAGES[0], STAGES[-1], [])]
        threads = {**record.stages["pretrain"].manifest.execution, "threads": 2}
        other = replace(record.stages["pretrain"].manifest, execution=threads)
        mixed = {**record.stages, "pretrain": replace(record.stages["pretrain"], manifest=other)}
        gap = [name for name in STAGES if name != "tokenizer"]
        assert list(reproduce._groups(preset, replace(record, stages=mixed), gap)) == [
            ("items-capitals", "corpus", []),
            ("tokens", "tokens", []),
            ("pretrain", "pretrain", ["runtime.threads=2"]),
            ("finetune-capitals", "finetune-capitals", []),
        ]


def test_changed_data_of_a_skill_is_named(here: Made, capsys: pytest.CaptureFixture[str]) -> None:
    rows, lines = here.folder / "rows.jsonl", (here.folder / "rows.jsonl").read_text()
    rows.write_text(lines.replace("town 3", "town 8"))
    try:
        assert command("latest") == 2
        named = [line for line in capsys.readouterr().err.splitlines() if "data" in line]
        assert any(f"files {rows} files.rows.jsonl: " in line for line in named), named
    finally:
        rows.write_text(lines)


def test_changed_data_of_an_installed_package_is_named(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = tmp_path / "some_words" / "locale" / "de.po"
    catalogue.parent.mkdir(parents=True)
    (tmp_path / "some_words" / "__init__.py").touch()
    catalogue.write_text('msgid "Yes"\nmsgstr "Ja"\n')
    monkeypatch.syspath_prepend(tmp_path)
    skill = yaml.safe_load(SKILL.replace("ROWS", "package:some_words/**/*.po"))
    record = made.record()
    stage = record.stages["items-capitals"]

    def seen() -> list[Difference]:
        with skills_given({"capitals": skill}):
            preset = recorded_preset(record.preset, record.stages, "preset.yaml")
            (own,) = [source for source in look_again(preset, recorded, tmp_path) if source.packages]
        return data_differences([own], pins_of("# Python 3\nsome-words==1.2\n"))

    then = {"kind": "files", "files": [["de.po", sha256_file(catalogue)]]}
    recorded = {
        "items-capitals": replace(
            stage, manifest=replace(stage.manifest, identity={**stage.manifest.identity, "sources": [then]})
        )
    }
    assert seen() == []
    catalogue.write_text('msgid "Yes"\nmsgstr "Jawohl"\n')
    (changed,) = seen()
    assert changed.what == "files package:some_words/**/*.po files.de.po"
    assert (changed.recorded, changed.here) == (then["files"][0][1], sha256_file(catalogue))
    assert changed.way_out == "pip install some-words==1.2"
    catalogue.unlink()
    (lost,) = seen()
    assert "no file matches" in str(lost.here) and lost.way_out == "pip install some-words==1.2"


def test_what_a_standard_task_reads_unpinned_is_said(made: Made, tmp_path: Path) -> None:
    record = made.record()
    values = {**record.preset, "benchmark": {**record.preset["benchmark"], "tasks": ["squadv2", "hellaswag"]}}
    preset = recorded_preset(values, record.stages, "preset.yaml")
    stage = record.stages["pretrain"]
    with skills_given(record.skills):
        assert tasks_not_pinned(preset, {"pretrain": stage}, tmp_path) == []
        (found,) = tasks_not_pinned(preset, {"pretrain": stage, "benchmark-base": stage}, tmp_path)
    assert (
        found.line()
        == "unpinned data of task squadv2: no version recorded, what its own code fetches here (benchmark-base)"
    )


def test_a_record_is_read_from_a_server(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    server.start()
    try:
        tracker = Tracker(server.uri, tmp_path, print)
        run_id = tracker.open_parent("small", "small", {}, {})
        tracker.log_texts(run_id, {"preset.yaml": "name: é\n"})
        assert read_text(tracker, run_id, "preset.yaml") == "name: é\n"
        assert read_text(tracker, run_id, "skills.yaml") is None and read_text(tracker, "0" * 32, "preset.yaml") is None
    finally:
        server.kill()


def test_what_differs_is_named_with_the_way_out(made: Made) -> None:
    record = made.record()
    preset = recorded_preset(record.preset, record.stages, "preset.yaml")
    stage = record.stages["pretrain"]
    torch = stage.manifest.identity["libraries"]["torch"]
    libraries = {**stage.manifest.surroundings["libraries"], "torch": "9.9"}
    (found,) = library_differences({"pretrain": stage}, libraries)
    assert found.line() == f"library  torch: {torch} recorded, 9.9 here; pip install torch=={torch}"
    assert library_differences({"pretrain": stage}, {**libraries, "torch": torch}) == []
    other = replace(stage.manifest, code_digest="0" * 64, git={"commit": "abc", "dirty": False})
    with skills_given(record.skills):
        assert code_differences(preset, record.stages) == []
        (code,) = code_differences(preset, {"pretrain": replace(stage, manifest=other)})
    assert (code.what, code.way_out) == ("pretrain", "git checkout abc")
    assert machine_differences(record.stages, stage.manifest.surroundings["python"]) == []
    cuda = replace(stage.manifest, execution={**stage.manifest.execution, "resolved_device": "cuda"})
    machine = machine_differences({"pretrain": replace(stage, manifest=cuda)}, "3.0")
    assert {"device", "python"} <= {difference.what for difference in machine} or Path("/dev/nvidia0").exists()

    bytes_differ = replace(stage.manifest, output_digest="1" * 64)
    (verdict,) = verdicts(STAGES, {"pretrain": stage}, {"pretrain": bytes_differ}, [found, code, *machine])
    assert (verdict.verdict, verdict.found) == ("differs", "1" * 64)
    assert "its code changed; git checkout abc" in verdict.reasons
    assert any(reason.startswith("python ") for reason in verdict.reasons)
    (verdict,) = verdicts(STAGES, {"pretrain": stage}, {"pretrain": bytes_differ}, [])
    assert verdict.reasons == (NO_REASON,)


def test_versions_are_compared_leaf_by_leaf() -> None:
    old = {"kind": "files", "files": [["a", "1"], ["b", "2"]]}
    assert changes(old, old) == {}
    assert changes(old, {"kind": "files", "files": [["a", "3"], ["c", "4"]]}) == {
        "files.a": ("1", "3"), "files.b": ("2", None), "files.c": (None, "4"),
    }  # fmt: skip
    assert changes({"commit": "x"}, {"commit": "y"}) == {"commit": ("x", "y")}
    assert changes({"packages": {"n": {"version": "1"}}}, {"packages": {}}) == {"packages.n.version": ("1", None)}


def test_the_recorded_skill_stands_whatever_its_file_says() -> None:
    edited = {**load_skill("qa").model_dump(mode="json"), "baseline": "lead_sentence"}
    with skills_given({"qa": edited}):
        assert load_skill("qa").baseline == "lead_sentence"
    assert load_skill("qa").baseline == "most_frequent_answer"


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_comes_back_from_its_record(name: str, tmp_path: Path) -> None:
    preset = load_preset(name)
    (tmp_path / "preset.yaml").write_text(written(preset.model_dump(mode="json")))
    assert load_preset(str(tmp_path / "preset.yaml")) == preset
    assert recorded_preset(preset.model_dump(mode="json"), {}, name).pretrain.size is None
    shutil.rmtree(tmp_path)
