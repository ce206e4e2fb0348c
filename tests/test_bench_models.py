"""`gptmill bench lm-eval` on every kind of MODEL: a directory, hf:, a registered version, a run's stage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from finished_stages import train_tiny_tokenizer, write_model
from mlflow_fixtures import facts, new_tracker
from standard_data import write_data
from test_publish import finished_inputs, run_publish

from flows.command_line import main
from gptcore.adapters.hf import export_hf
from gptcore.adapters.mlflow_runs import StageResult
from gptcore.store import FileRecord, Manifest, Store
from gptcore.work import Work

KEY = "f".ljust(64, "0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One model in the store of a run and as registered version 2, another one as version 1, and as hf:."""
    root = tmp_path_factory.mktemp("made")
    tracker, tokenizer = new_tracker(root / "home"), train_tiny_tokenizer(root)
    for version, seed in ((1, 5), (2, 0)):
        inputs = finished_inputs(root / str(version), tokenizer)
        write_model(inputs["finetune-qa"], tokenizer, "qa", seed=seed)
        run_publish(tracker, Work(root / f"publish-{version}", inputs), f"key-{version}")
    export_hf(inputs["finetune-qa"], root / "hf")

    store = Store(root / "home" / "store")
    directory, _ = store.begin("finetune-qa", KEY, {"key": KEY})
    write_model(directory, tokenizer, "qa")

    def manifest(files: dict[str, FileRecord], digest: str) -> Manifest:
        return Manifest("finetune-qa", KEY, {}, digest, files, {}, 1.0, 1, 0.0, "tiny", "", {}, {}, None, None)

    digest = store.commit(manifest, directory, ("model.safetensors",)).output_digest
    parent = tracker.open_parent("tiny", "tiny", {}, {})
    stage = tracker.open_stage(parent, facts("finetune-qa", KEY))
    stage.finish("FINISHED", {})
    tracker.summarize_parent(parent, {"finetune-qa": StageResult(stage.run_id, digest, {})})
    tracker.close(parent, "FINISHED")
    return {
        "home": str(root / "home"),
        "data": str(write_data(root / "data")),
        "directory": str(inputs["finetune-qa"]),
        "hf": f"hf:{root / 'hf'}",
        "version 2": "models:/tiny-qa/2",
        "version 1": "models:/tiny-qa/1",
        "alias": "models:/tiny-qa@candidate",
        "stage": f"{parent}/finetune-qa",
        "short": f"{parent[:8]}/finetune-qa",
        "latest": "latest/finetune-qa",
    }


@pytest.fixture(autouse=True)
def at_home(made: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTMILL_HOME", made["home"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def bench(made: dict[str, str], model: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    arguments = ["bench", "lm-eval", model, "--tasks", "hellaswag,wikitext", "--data-dir", made["data"], "--json"]
    assert main(arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["model"] == model
    return {task: result["metrics"] for task, result in found["tasks"].items()}


@pytest.mark.parametrize("kind", ["version 2", "alias", "stage", "short", "latest"])
def test_a_name_is_the_model_behind_it(kind: str, made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(made, made[kind], capsys) == bench(made, made["directory"], capsys)


def test_a_version_is_no_other_one(made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (bench(made, made[f"version {number}"], capsys) for number in (1, 2))
    assert first["wikitext"]["bits_per_byte"] != second["wikitext"]["bits_per_byte"]


def test_a_directory_of_transformers(made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    found, ours = bench(made, made["hf"], capsys), bench(made, made["directory"], capsys)
    for task, metrics in ours.items():
        assert found[task] == pytest.approx(metrics, rel=1e-4)
        assert {name: v for name, v in found[task].items() if "acc" in name} == {
            name: v for name, v in metrics.items() if "acc" in name
        }


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("models:/tiny-qa/9", "models:/tiny-qa/9 is not registered"),
        ("latest/corpus", "has no stage 'corpus'; it has: finetune-qa"),
        ("hf:{directory}", "without hf:"),
        ("{data}", "config.json"),
    ],
)
def test_what_is_no_model(model: str, told: str, made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "lm-eval", model.format(**made), "--tasks", "hellaswag", "--data-dir", made["data"]]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and len(err.splitlines()) == 1, err


def test_a_tracker_that_is_away(
    made: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    arguments = ["bench", "lm-eval", made["stage"], "--tasks", "hellaswag", "--data-dir", made["data"]]
    assert main(arguments) == 2
    assert "does not answer" in capsys.readouterr().err
