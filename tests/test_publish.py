"""Publication of tiny real models: what MLflow and transformers then load, and a kill at every instant."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_stages import FIELDS, train_tiny_tokenizer, write_manifests, write_model, write_scores
from mlflow_fixtures import DEAD, facts, new_tracker
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from gptcore.adapters import hf, mlflow_client
from gptcore.adapters.hf import export_hf
from gptcore.adapters.hf_weights import to_hf
from gptcore.adapters.mlflow_client import MlflowClient, TrackerAway
from gptcore.adapters.mlflow_models import ModelRegistry
from gptcore.adapters.mlflow_runs import Tracker
from gptcore.adapters.publish import publish
from gptcore.config import Publish
from gptcore.loaded import load
from gptcore.model.gpt import GPT, GPTConfig
from gptcore.model.weights import load_model, save_model
from gptcore.presets import load_skill
from gptcore.text.tokenizer import TextTokenizer
from gptcore.work import Work


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def score(directory: Path, skill: str, value: float, stderr: float = 0.01) -> None:
    """A finished benchmark stage."""
    metrics: dict[str, Any] = {}
    for name in load_skill(skill).metrics:
        metrics |= {name: value, f"{name}_stderr": stderr, f"{name}_baseline": 0.07, f"{name}_baseline_stderr": None}
    sample = {"id": "d#type:axis", "fields": FIELDS, "target": "int", "prediction": "str"}
    write_scores(directory, skill, metrics, sample)


def finished_inputs(root: Path, tokenizer: Path, value: float = 0.5) -> dict[str, Path]:
    inputs = write_manifests(root, "qa")
    if not (inputs["finetune-qa"] / "model.safetensors").exists():
        write_model(inputs["finetune-qa"], tokenizer, "qa")
    score(inputs["benchmark-qa"], "qa", value)
    score(inputs["benchmark-base"], "qa", 0.1)
    return inputs


def run_publish(tracker: Tracker, work: Work, key: str, run_id: str | None = None) -> dict[str, Any]:
    if run_id is None:
        run_id = tracker.open_stage(tracker.open_parent("p", "n", {}, {}), facts("publish", key)).run_id
    try:
        publish(Publish(), "tiny", {"qa": load_skill("qa")}, ModelRegistry(tracker, run_id, key), work)
    finally:
        work.metrics.close()
    found: dict[str, Any] = json.loads((work.directory / "published.json").read_bytes())["qa"]
    return found


def test_what_is_published_loads_and_answers(tmp_path: Path, tokenizer: Path) -> None:
    tracker = new_tracker(tmp_path / "home")
    inputs, said = finished_inputs(tmp_path, tokenizer), []
    work = Work(tmp_path / "publish", inputs, on_say=said.append)
    found = run_publish(tracker, work, "key")
    assert (found["name"], found["version"], found["promoted"], found["champion"]) == ("tiny-qa", "1", True, "1")
    assert "no champion yet" in found["reason"] and found["reason"] in said[0]
    assert (found["score"], found["target_metric"]) == (0.5, "qa/exact_match")
    assert found["metrics"]["qa/exact_match_base"] == 0.1 and found["metrics"]["qa/exact_match_baseline"] == 0.07

    ours = load(inputs["finetune-qa"])
    version = tracker.client.get_model_version_by_alias("tiny-qa", "champion")
    published = mlflow_client.load_model(version.source)
    rows = [FIELDS, {**FIELDS, "question": "What is axis?"}]
    assert published.predict(rows) == ours.answer(rows)
    assert published.metadata.signature.inputs.input_names() == ["context", "question"]
    root = Path(version.source)
    weights = inputs["finetune-qa"] / "model.safetensors"
    assert (root / "artifacts" / "model" / "model.safetensors").samefile(weights)
    names = {path.suffix for path in root.rglob("*") if path.is_file()}
    assert not names & {".pkl", ".pickle", ".bin", ".pt"}
    files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]  # loading compiles
    size = sum(path.stat().st_size for path in files)
    assert abs(published.metadata.model_size_bytes - size) < 1000  # MLmodel holds its own size

    exported = work.directory / "hf" / "qa"
    theirs, words = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    prompt = load_skill("qa").template.format(**FIELDS)
    ids = words(prompt, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == ours.tokenizer.encode_prompt(prompt)
    written = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)[0, ids.shape[1] :]
    assert words.decode(written, skip_special_tokens=True).strip() == ours.answer([FIELDS])[0]
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "| qa/exact_match | 0.5000 | 0.0100 | 0.0700 | 0.1000 |" in card


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("gpt1", {}),
        ("gpt2", {"bias": False, "activation": "gelu"}),
        ("gpt3", {"positions": "sinusoidal"}),
        ("modern", {"n_kv_head": 1}),
        ("modern", {"activation": "relu_squared"}),
    ],
)
def test_every_family_is_exported(tmp_path: Path, tokenizer: Path, family: str, shape: dict[str, Any]) -> None:
    write_model(tmp_path, tokenizer, "qa", family=family, **shape)
    export_hf(tmp_path, tmp_path / "hf")  # proves that transformers computes the same logits
    theirs, words = (kind.from_pretrained(tmp_path / "hf") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert theirs.config.vocab_size == load_model(tmp_path).config.vocab_size
    text = "Return the SUM of  Ünï 12345,\n\n\taxis<|answer|>"  # some classes of transformers lower and split text
    assert words(text)["input_ids"] == TextTokenizer.load(tokenizer).encode_prompt(text)
    assert theirs.generate(max_new_tokens=3).shape[0] == 1, "from the beginning of a text, which the files name"


def test_a_network_without_a_counterpart_is_registered_only(tmp_path: Path, tokenizer: Path) -> None:
    inputs, said = finished_inputs(tmp_path, tokenizer), list[str]()
    write_model(inputs["finetune-qa"], tokenizer, "qa", positions="rotary")
    work = Work(tmp_path / "publish", inputs, on_say=said.append)
    assert run_publish(new_tracker(tmp_path / "home"), work, "key")["version"] == "1"
    assert "no Hugging Face directory" in said[0] and not (work.directory / "hf").exists()


def test_an_export_that_differs_is_not_published(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(shape: GPTConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor + 0.001 for name, tensor in to_hf(shape, state).items()}

    tracker = new_tracker(tmp_path / "home")
    monkeypatch.setattr(hf, "to_hf", wrong)
    work = Work(tmp_path / "publish", finished_inputs(tmp_path, tokenizer))
    with pytest.raises(ValueError, match=r"differ from ours by \d.*more than 1e-04"):
        run_publish(tracker, work, "key")
    assert tracker.client.search_registered_models() == []
    monkeypatch.undo()
    export_hf(tmp_path / "finetune-qa", tmp_path / "fine")


def larger_logits(directory: Path, tokenizer: Path, times: float) -> GPT:
    write_model(directory, tokenizer, "qa")
    model = load_model(directory)
    model.get_parameter("ln_f.weight").data.mul_(times)
    save_model(model, directory)
    return model


@torch.no_grad()
def test_what_float32_rounds_is_no_difference(tmp_path: Path, tokenizer: Path) -> None:
    model = larger_logits(tmp_path, tokenizer, 400.0)
    export_hf(tmp_path, tmp_path / "hf")
    ids = torch.arange(model.config.context)[None]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(ids).logits
    assert float(theirs.abs().max()) > 500 and float((model(ids) - theirs).abs().max()) > hf.TOLERANCE


@pytest.mark.parametrize("times", [1.0, 400.0])
def test_a_difference_at_the_last_position_alone_is_found(
    times: float, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(shape: GPTConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = to_hf(shape, state)
        table = found["transformer.wpe.weight"]
        return found | {"transformer.wpe.weight": torch.cat([table[:-1], table[-1:] * 1.001])}

    larger_logits(tmp_path, tokenizer, times)
    monkeypatch.setattr(hf, "to_hf", wrong)
    monkeypatch.setattr(hf, "POSITIONS", 7)
    with pytest.raises(ValueError, match=r"differ from ours by \d.*more than 1e-04"):
        export_hf(tmp_path, tmp_path / "hf")


def test_the_gate_looks_at_two_thousand_positions_of_any_context() -> None:
    for context in (1, 2, 64, 1024, 1025, 32_768):
        places = hf.compared(context)
        assert len(set(places.tolist())) == len(places) == min(context, 1024)
        assert (places[0], places[-1]) == (0, context - 1)


def test_a_dead_tracker_is_one_line_and_resumable(tmp_path: Path, tokenizer: Path) -> None:
    inputs = finished_inputs(tmp_path, tokenizer)
    away = Tracker(DEAD, tmp_path / "home", print)
    with pytest.raises(TrackerAway, match="does not answer"):
        run_publish(away, Work(tmp_path / "publish", inputs), "key", run_id="0" * 32)
    assert not (tmp_path / "publish" / "published.json").exists()
    assert run_publish(new_tracker(tmp_path / "home"), Work(tmp_path / "publish", inputs), "key")["version"] == "1"


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


CHANGES = (
    "create_logged_model",
    "finalize_logged_model",
    "log_batch",
    "log_outputs",
    "create_registered_model",
    "create_model_version",
    "set_logged_model_tags",
    "set_model_version_tag",
    "update_model_version",
    "set_registered_model_alias",
)


def test_killed_before_every_change_in_turn(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publication n dies before its n-th change of the tracker, and is then resumed: one model, one version each."""
    tracker = new_tracker(tmp_path / "home")
    left = 0

    def counted(name: str) -> Any:
        real = getattr(MlflowClient, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return real(*args, **kwargs)

        return call

    for name in CHANGES:
        monkeypatch.setattr(MlflowClient, name, counted(name))
    parent = tracker.open_parent("p", "n", {}, {})
    deaths, survived = 0, False
    while not survived:
        key, inputs = f"key-{deaths}", finished_inputs(tmp_path, tokenizer, value=0.1 + 0.05 * deaths)
        run = tracker.open_stage(parent, facts("publish", key)).run_id
        directory = tmp_path / key
        left = deaths + 1
        try:
            run_publish(tracker, Work(directory, inputs), key, run)
            survived = True
        except Killed:
            left = 0
            deaths += 1
            run_publish(tracker, Work(directory, inputs), key, run)
        assert_published_once(tracker, key, directory)
    assert deaths == 11


def assert_published_once(tracker: Tracker, key: str, directory: Path) -> None:
    """One version and one whole logged model of this key, newest and best of all: candidate and champion."""
    client, found = tracker.client, json.loads((directory / "published.json").read_bytes())["qa"]
    versions = client.search_model_versions(f"name = 'tiny-qa' AND tags.`gptmill.key` = '{key}'")
    models = client.search_logged_models([tracker.experiment("p")], f"tags.`gptmill.key` = '{key}'")
    assert [str(v.version) for v in versions] == [found["version"]]
    assert [(m.model_id, m.status.value) for m in models] == [(found["model_id"], "READY")]
    keys = [metric.key for metric in client.get_logged_model(found["model_id"]).metrics]
    assert len(keys) == len(set(keys)) == len(found["metrics"])
    aliases = client.get_registered_model("tiny-qa").aliases
    assert {name: str(version) for name, version in aliases.items()} == dict.fromkeys(
        ("candidate", "champion"), found["version"]
    )
    told = client.get_model_version("tiny-qa", found["version"])
    assert told.description == found["reason"] and found["promoted"]
    others = client.search_model_versions("name = 'tiny-qa'")
    assert ("no champion yet" in found["reason"]) == (len(others) == 1)
    assert "MLmodel" in {path.name for path in Path(models[0].artifact_location).iterdir()}


PUBLISHING = """
import json, sys
from pathlib import Path
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_models import ModelRegistry
from gptcore.adapters.mlflow_runs import StageFacts, Tracker
from gptcore.adapters.publish import publish
from gptcore.config import Publish
from gptcore.presets import load_skill
from gptcore.work import Work

root, parent = Path(sys.argv[1]), sys.argv[2]
tracker = Tracker(default_uri(root / "home"), root / "home", print)
print("working", flush=True)
run = tracker.open_stage(parent, StageFacts("publish", "key", {}, {}))
inputs = {path.parent.name: path.parent for path in root.glob("*/MANIFEST.json")}
work = Work(root / "publish", inputs)
publish(Publish(), "tiny", {"qa": load_skill("qa")}, ModelRegistry(tracker, run.run_id, "key"), work)
sys.exit(0 if run.finish("FINISHED") else 1)
"""


def test_sigkill_at_a_random_instant(tmp_path: Path, tokenizer: Path) -> None:
    tracker = new_tracker(tmp_path / "home")
    finished_inputs(tmp_path, tokenizer)
    parent = tracker.open_parent("p", "n", {}, {})
    for latest in (1.5, None):
        command = [sys.executable, "-c", PUBLISHING, str(tmp_path), parent]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            if latest is None:
                assert process.wait(60) == 0
            else:
                time.sleep(random.uniform(0, latest))
                process.send_signal(signal.SIGKILL)
                process.wait()
    assert_published_once(tracker, "key", tmp_path / "publish")
    runs = [run for run in tracker.client.search_runs([tracker.experiment("p")]) if run.info.run_id != parent]
    assert [run.info.status for run in runs] == ["FINISHED"]
