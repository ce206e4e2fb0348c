"""The publish stage: every tuned model as a Hugging Face directory and as a registered MLflow model version."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptcore.adapters.champion import guarded_figures, weighing
from gptcore.adapters.hf import TOKENIZER_FILES, export_hf
from gptcore.adapters.mlflow_client import (
    ColSpec,
    DataType,
    LoggedModel,
    LoggedModelStatus,
    Model,
    ModelSignature,
    ModelVersion,
    Schema,
    save_model,
)
from gptcore.adapters.mlflow_models import CHAMPION, DATASET, SKILL, ModelRegistry
from gptcore.adapters.model_card import model_card
from gptcore.adapters.model_card_facts import gather
from gptcore.config import Publish, Skill, counterpart
from gptcore.durable import locked, place, sha256_json, write_bytes, write_json
from gptcore.evaluation.gate import Evidence, score_of
from gptcore.evaluation.measured import recorded
from gptcore.evaluation.repeats import each_once
from gptcore.model.weights import read_config
from gptcore.store import read_json
from gptcore.work import Outcome, Work

MODEL_FILES = ("model.safetensors", "config.json", "skill.json", *TOKENIZER_FILES)
"""What a model directory holds besides checkpoints and curves."""
REQUIREMENTS = ("gptmill", "mlflow", "torch", "safetensors", "tokenizers", "tiktoken", "numpy")
PUBLISHED, BEFORE = "published.json", "champion_before"
"""What the stage leaves, and in it the champion of before: its version, and every figure's difference from it."""


@dataclass(frozen=True)
class Measured:
    """The scores of one tuned model on its own skill, with the base model's and the baseline's beside them."""

    metrics: dict[str, float]
    dataset: str
    digest: str
    example: dict[str, str]
    """The fields of one test item."""


def publish(
    config: Publish, preset_name: str, skills: Mapping[str, Skill], registry: ModelRegistry, work: Work
) -> Outcome:
    """Publish every skill's model. Inputs: `finetune-<skill>` and `benchmark-<skill>` of each, `benchmark-base`.

    For the model cards also `corpus`, `tokenizer`, `tokens`, `pretrain`, `items-<skill>` of a skill with data of its
    own, and every input's manifest.

    1. Write all Hugging Face directories; a wrong one stops here, before anything is registered. A network that no
    class of transformers computes has none.
    2. For each skill: logged model, its metrics, version, aliases. What an earlier try did is found and kept.

    Raises TrackerAway where MLflow does not answer (the stage can be resumed), ValueError for an export that differs.
    """

    def registered(skill: str) -> str:
        return f"{config.name or preset_name}-{skill}"

    measured = {name: measure(skill, work.inputs) for name, skill in skills.items()}
    for done, (name, skill) in enumerate(skills.items()):
        tuned = work.inputs[f"finetune-{name}"]
        if counterpart(read_config(tuned / "config.json")):
            directory = work.directory / "hf" / name
            export_hf(tuned, directory)
            card = model_card(gather(registered(name), skill, measured[name].digest, work.inputs, directory))
            write_bytes(directory / "README.md", card.encode())
        else:
            work.say(f"{name}: no class of transformers computes this network, so there is no Hugging Face directory")
        work.progress(done + 1, 2 * len(skills), "models")
    published: dict[str, Any] = {}
    for done, (name, skill) in enumerate(skills.items(), len(skills)):
        published[name] = _publish_one(config, registered(name), skill, measured[name], registry, work)
        work.progress(done + 1, 2 * len(skills), "models")
    write_json(work.directory / PUBLISHED, published)
    return Outcome((), {f"{name}/published_version": float(entry["version"]) for name, entry in published.items()})


def _publish_one(
    config: Publish, name: str, skill: Skill, measured: Measured, registry: ModelRegistry, work: Work
) -> dict[str, Any]:
    tuned = work.inputs[f"finetune-{skill.name}"]
    shape = json.loads((tuned / "config.json").read_bytes())
    model = registry.logged_model(name, skill.name, {key: str(value) for key, value in shape.items()})
    if model.status == LoggedModelStatus.PENDING:
        registry.complete(model, save_pyfunc(model, skill, measured.example, tuned, work.scratch / skill.name))
    registry.link(model, measured.metrics, measured.dataset, measured.digest)
    metric = f"{skill.name}/{skill.target_metric}"
    tags = {SKILL: skill.name, DATASET: measured.digest}
    benchmark = work.inputs[f"benchmark-{skill.name}"]
    kept = guarded_figures(recorded(benchmark), config.guard) | measured.metrics
    tags |= {key: repr(value) for key, value in kept.items()}
    skills = {stage.removeprefix("finetune-") for stage in work.inputs if stage.startswith("finetune-")} - {skill.name}
    compare = weighing(registry.tracker, benchmark, skill.name, metric, config.guard, skills, work.scratch / "champion")
    seen = work.scratch / f"against-{skill.name}.json"  # written before aliases move, so that a kill does not lose it

    def weigh(champion: ModelVersion) -> Evidence:
        evidence = compare(champion)
        figures = {figure: asdict(delta) for figure, delta in evidence.beside.items()}
        write_json(seen, {"version": str(champion.version), "figures": figures})
        return evidence

    with locked(registry.tracker.home / "registry.lock"):  # two publications at once: the gate sees one after the other
        version = registry.register(name, model, tags)
        decision = registry.move_aliases(version, metric, config.margin_stderr, weigh)
        champion = registry.champion(name)
    work.say(f"{name} version {version.version}: {decision.reason}")
    score = score_of(measured.metrics, metric)
    return {
        "name": name,
        "version": str(version.version),
        "model_id": model.model_id,
        "uri": f"models:/{name}/{version.version}",
        "promoted": decision.promote,
        "reason": decision.reason,
        CHAMPION: None if champion is None else str(champion.version),
        BEFORE: read_json(seen),
        "target_metric": metric,
        "score": None if score is None else score.value,
        "metrics": measured.metrics,
    }


def measure(skill: Skill, inputs: Mapping[str, Path]) -> Measured:
    """A skill's scores as `benchmark-<skill>` left them, with the base model's as `<metric>_base`.

    The digest stands for the test items alone, so that scores of equal digest are comparable.
    """
    name, directory = skill.name, inputs[f"benchmark-{skill.name}"]
    metrics = {f"{name}/{key}": value for key, value in _metrics(directory, name).items()}
    base = _metrics(inputs["benchmark-base"], name)
    for metric in skill.metrics:
        for ending in ("", "_stderr"):
            if f"{metric}{ending}" in base:
                metrics[f"{name}/{metric}_base{ending}"] = base[f"{metric}{ending}"]
    lines = (directory / f"samples-{name}.jsonl").read_bytes().splitlines()
    samples = each_once([json.loads(line) for line in lines])
    digest = sha256_json([[sample["id"], sample["fields"], sample["target"]] for sample in samples])
    return Measured(metrics, f"{name}-test", digest, samples[0]["fields"])


def _metrics(directory: Path, task: str) -> dict[str, float]:
    found = json.loads((directory / "scores.json").read_bytes())["tasks"][task]["metrics"]
    return {name: value for name, value in found.items() if value is not None}


def save_pyfunc(model: LoggedModel, skill: Skill, example: Mapping[str, str], tuned: Path, scratch: Path) -> Path:
    """Build the MLflow model directory of a tuned model: its code as a file, its weights as safetensors; the path.

    MLflow copies artifacts, so it is given the small files only; then links to the originals take their places.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    small, built = scratch / "model", scratch / "pyfunc"
    names = [name for name in MODEL_FILES if (tuned / name).exists()]
    for name in names:
        if not name.endswith(".safetensors"):
            place(tuned / name, small / name)
    described = Model(run_id=model.source_run_id, model_id=model.model_id)
    save_model(
        path=built,
        python_model=Path(__file__).with_name("pyfunc_model.py"),
        artifacts={"model": str(small)},
        signature=signature_of(skill),
        input_example=[dict(example)],
        pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS],
        mlflow_model=described,
    )
    inside = built / described.flavors["python_function"]["artifacts"]["model"]["path"]
    for name in names:
        place(tuned / name, inside / name)
    described.model_size_bytes = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
    described.save(built / "MLmodel")
    return built


def signature_of(skill: Skill) -> ModelSignature:
    """Input: the template's fields, all text; output: text."""
    fields = [field for _, field, _, _ in string.Formatter().parse(skill.template) if field]
    return ModelSignature(
        Schema([ColSpec(DataType.string, field) for field in dict.fromkeys(fields)]), Schema([ColSpec(DataType.string)])
    )
