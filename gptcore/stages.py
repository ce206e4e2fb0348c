"""The stages: what each reads, what defines its result, and so its key."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gptcore.config import (
    DIAL_FIELDS,
    EXECUTION,
    EXECUTION_OF_TRAINING,
    Finetune,
    Preset,
    all_sources,
    special_tokens,
)
from gptcore.config_skill import CORPUS_METRICS, LABEL_METRICS, OF_DATA, OF_ITEMS, Skill
from gptcore.config_sources import Source, identity_of
from gptcore.durable import sha256_json
from gptcore.hardware import library_version, resolve_device, resolve_dtype
from gptcore.presets import load_skill, skills_of

OUTSIDE_DIGEST = ("publish", "report")
"""Stages that leave no result files: their output digest says nothing."""
TRAININGS = ("text/bpe_training.py", "text/unigram_training.py", "text/word_training.py")
LIBRARIES_OF_STEPS = {"repair": ("ftfy",), "language": ("py3langid",)}
"""A test holds them against what the steps themselves say."""

Identity = Callable[[Preset], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline."""

    name: str
    version: int
    """Raised by hand when the stage's code gives other bytes for the same config."""
    inputs: tuple[str, ...]
    """Stages it reads."""
    identity: Identity
    """Config that defines the result."""
    libraries: tuple[str, ...]
    """Distributions whose version changes the result."""
    code: tuple[str, ...]
    """Where its code lives below gptcore, for the drift note."""
    root: bool = False
    """Whether it reads sources of its own, whose versions enter the key."""
    init: tuple[str, ...] = ()
    """Which parts of `model.init`, or of `tokenizer.take`, it reads, whose digests enter the key."""
    skill: str | None = None
    """The skill whose sources a root stage reads; None stands for the corpus's."""


def stages(preset: Preset) -> dict[str, Stage]:
    """Every stage of a preset by name, each after what it reads."""
    skills = tuple(preset.finetune)
    own = {name: f"items-{name}" for name, skill in skills_of(preset).items() if skill.data}
    models = {"base": "pretrain", **{skill: f"finetune-{skill}" for skill in skills}}
    benchmarks = tuple(f"benchmark-{model}" for model in models)
    skill_code = ("text/skills.py", "text/skill_items.py", "text/docstring_items.py")
    reader = ("text/tokenizer.py", "text/encodings.py", "text/splitting.py")
    text, learning = ("text",), ("model", "training", "shuffle.py", *reader, *skill_code)
    start = preset.model.init is not None
    taken = ("tokenizer",) if start or preset.tokenizer.take is not None else ()
    begun = ("config", "weights", "tokenizer") if start else ()
    reading = ("pretrained.py", "adapters/pretrained.py", "adapters/hf_weights.py") if start else ()
    added = ("text/takeover.py", "tokenizer_file.py", "byte_vocabulary.py") if taken else TRAININGS
    # A corpus is cleared of the test items that it can know; else it does not wait for them.
    clears = tuple(own.values()) if any(step.kind == "decontaminate" for step in preset.corpus.steps) else ()
    every = [
        *(
            Stage(name, 1, (), _items(skill), libraries_of_items(preset, skill), text, root=True, skill=skill)
            for skill, name in own.items()
        ),
        Stage("corpus", 3, clears, _corpus, corpus_libraries(preset), text, root=True),
        Stage("tokenizer", 1, ("corpus",), _tokenizer, ("tokenizers",), (*reader, *added), init=taken),
        Stage(
            "tokens",
            2,
            ("corpus", "tokenizer"),
            lambda p: _dump(p.tokens),
            ("tokenizers", "tiktoken"),
            (*text, "shuffle.py"),
        ),
        Stage("pretrain", 2, ("tokens", "tokenizer"), _pretrain, ("torch",), (*learning, *reading), init=begun),
        *(
            Stage(
                f"finetune-{skill}",
                1,
                ("pretrain", own.get(skill, "corpus")),
                _finetune(skill),
                _tuners(tuning),
                learning,
            )
            for skill, tuning in preset.finetune.items()
        ),
        *(
            Stage(
                f"benchmark-{model}",
                4,
                (stage, "corpus", *(name for skill, name in own.items() if model in ("base", skill))),
                _benchmark(model),
                ("torch", "lm-eval", "rouge-score", *libraries_of_metrics(preset, model)),
                (
                    "evaluation",
                    "adapters/benchmark.py",
                    "adapters/lm_eval.py",
                    "adapters/lm_eval_seeds.py",
                    "adapters/lm_eval_tasks.py",
                    "adapters/label_task.py",
                    "model",
                    "text/run_index.py",
                    "text/words.py",
                    *skill_code,
                ),
            )
            for model, stage in models.items()
        ),
        Stage(
            "publish",
            3,
            (*own.values(), "corpus", "tokenizer", "tokens", *models.values(), *benchmarks),
            lambda p: {
                "name": p.publish.name or p.name,
                "margin_stderr": p.publish.margin_stderr,
                "guard": list(p.publish.guard),
                "skills": {name: skill.target_metric for name, skill in skills_of(p).items()},
            },
            ("mlflow", "transformers"),
            ("adapters", "evaluation", "text/licences.py"),
        ),
    ]
    every.append(
        Stage(
            "report",
            1,
            tuple(stage.name for stage in every),
            _report,
            ("matplotlib",),
            ("evaluation",),
        )
    )
    return {stage.name: stage for stage in every}


def corpus_libraries(preset: Preset) -> tuple[str, ...]:
    """The distributions that a corpus's steps and sources leave decisions to."""
    kinds = {step.kind for step in preset.corpus.steps}
    found = {name for kind in kinds for name in LIBRARIES_OF_STEPS.get(kind, ())}
    if standard_benchmarks(preset):
        found.add("lm-eval")
    for source in preset.corpus.sources:
        found.update(libraries_of_source(source))
    return tuple(sorted(found))


def standard_benchmarks(preset: Preset) -> tuple[str, ...]:
    """The standard tasks whose documents a corpus is cleared of: those that the preset runs, if it decontaminates."""
    return preset.benchmark.tasks if any(step.kind == "decontaminate" for step in preset.corpus.steps) else ()


def libraries_of_source(source: Source) -> tuple[str, ...]:
    """The distributions that take the text out of a source's pages."""
    if source.kind == "files":
        names = source.paths
    elif source.kind == "url":
        names = (source.url,)
    else:
        return ("trafilatura",) if source.kind == "web" else ()
    # An archive's members are known only when it is read.
    return ("trafilatura",) if any(re.search(r"\.(html?|tar|tgz|zip)\b|\*$", name) for name in names) else ()


def identity(
    stage: Stage, preset: Preset, inputs: Mapping[str, str], sources: list[dict[str, Any]] | None
) -> dict[str, Any]:
    """The parts of a key. inputs: output digest by stage name.

    sources: resolved versions of the corpus's sources, after them that of `model.init` or `tokenizer.take`, that
    of the standard tasks' data, and those of the skills' own.
    """
    parts: dict[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "config": stage.identity(preset),
        "inputs": {name: inputs[name] for name in stage.inputs},
        "libraries": {name: library_version(name).split("+")[0] for name in stage.libraries},
    }
    if stage.root:
        of_skill = stage.skill and skill_versions(preset, sources or [], stage.skill)
        parts["sources"] = of_skill or corpus_versions(preset, sources or [])
    if data := task_data(sources or []) if reads_tasks(stage, preset) else {}:
        parts["task_data"] = data
    if stage.init:
        version = init_version(preset, sources or [])
        parts["init"] = {part: version[part] for part in stage.init}
    return parts


def corpus_versions(preset: Preset, sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the resolved versions those that the corpus follows from, in the order of `all_sources`."""
    return sources[: len(all_sources(preset.corpus))]


def reads_tasks(stage: Stage, preset: Preset) -> bool:
    """Whether a stage reads the data of standard tasks: every benchmark, and a corpus that is cleared of them."""
    if stage.name.startswith("benchmark-"):
        return bool(preset.benchmark.tasks)
    return stage.name == "corpus" and bool(standard_benchmarks(preset))


def task_data(sources: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the resolved versions those of the standard tasks' datasets, by name."""
    return next((version["task_data"] for version in sources if "task_data" in version), {})


def init_version(preset: Preset, sources: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the resolved versions that of `model.init` or `tokenizer.take`, which cannot both be there."""
    return sources[len(all_sources(preset.corpus))]


def skill_sources(preset: Preset) -> list[Source]:
    """The sources of all skills with data of their own, in the order of their resolved versions."""
    return [place.source for skill in skills_of(preset).values() for place in skill.data]


def skill_versions(preset: Preset, sources: list[dict[str, Any]], skill: str) -> list[dict[str, Any]]:
    """Of the resolved versions those of a skill's data; they stand behind all others."""
    counts = {name: len(own.data) for name, own in skills_of(preset).items()}
    begin = len(sources) - sum(counts.values())
    for name, count in counts.items():
        if name == skill:
            return sources[begin : begin + count]
        begin += count
    raise KeyError(skill)


def libraries_of_items(preset: Preset, skill: str) -> tuple[str, ...]:
    """The distributions that read a skill's data."""
    names = [path for place in skills_of(preset)[skill].data for path in getattr(place.source, "paths", ())]
    return ("babel",) if any(re.search(r"\.po\b|\*$", name) for name in names) else ()


def libraries_of_metrics(preset: Preset, model: str) -> tuple[str, ...]:
    """The distributions that score what a model says, besides rouge-score."""
    used = {metric for name, skill in skills_of(preset).items() if model in ("base", name) for metric in skill.metrics}
    found = {"sacrebleu": used & set(CORPUS_METRICS), "scikit-learn": used & set(LABEL_METRICS)}
    return tuple(name for name, metrics in found.items() if metrics)


def key_of(parts: dict[str, Any]) -> str:
    """sha256 of the parts' canonical JSON, hex."""
    return sha256_json(parts)


@cache
def code_digest(places: tuple[str, ...]) -> str:
    """Digest of the source below gptcore that a stage runs; recorded, never part of a key."""
    package = importlib.resources.files("gptcore")
    sources: dict[str, str] = {}

    def read(place: Any, name: str) -> None:
        if place.is_dir():
            for child in place.iterdir():
                read(child, f"{name}/{child.name}")
        elif name.endswith(".py"):
            sources[name] = place.read_text(encoding="utf-8")

    for place in places:
        read(package.joinpath(place), place)
    return sha256_json(sources)


def _dump(part: Any) -> dict[str, Any]:
    values: dict[str, Any] = part.model_dump(mode="json")
    return values


def _corpus(preset: Preset) -> dict[str, Any]:
    corpus, tasks = preset.corpus, standard_benchmarks(preset)
    values = {**_dump(corpus), "sources": [identity_of(source) for source in corpus.sources]}
    return {**values, "benchmarks": list(tasks)} if tasks else values


def _tokenizer(preset: Preset) -> dict[str, Any]:
    values = preset.tokenizer.model_dump(mode="json", exclude={"take"})
    return {**values, "special_tokens": list(special_tokens(preset.tokenizer.kind))}


def _training(preset: Preset, part: Any) -> dict[str, Any]:
    values = {name: value for name, value in _dump(part).items() if name not in EXECUTION_OF_TRAINING}
    return {**values, "dtype": resolve_dtype(part.dtype, resolve_device(preset.runtime))}


def _pretrain(preset: Preset) -> dict[str, Any]:
    decided = {k: v for k, v in _training(preset, preset.pretrain).items() if k not in DIAL_FIELDS}
    return {"model": preset.model.model_dump(mode="json", exclude={"init"}), **decided}


def _finetune(skill: str) -> Identity:
    return lambda preset: {"skill": _asked(preset, skill), **_training(preset, preset.finetune[skill])}


def _asked(preset: Preset, skill: str) -> dict[str, Any]:
    """A skill but for its data, whose items have a digest of their own."""
    values: dict[str, Any] = load_skill(skill, preset.skills_folder).model_dump(mode="json", exclude=set(OF_DATA))
    return values


def _items(name: str) -> Identity:
    """What decides a skill's items: not how they are asked or scored."""

    def of(preset: Preset) -> dict[str, Any]:
        skill: Skill = load_skill(name, preset.skills_folder)
        values = skill.model_dump(mode="json", include={*OF_DATA, *OF_ITEMS} - {"data"})
        places = [{"split": place.split, "target": place.target} for place in skill.data]
        return {**values, "sources": [identity_of(place.source) for place in skill.data], "places": places}

    return of


def _report(preset: Preset) -> dict[str, Any]:
    """The page shows what the dial was asked, beside its answers."""
    values: dict[str, Any] = preset.model_dump(mode="json", exclude=EXECUTION)
    return values


def _tuners(tuning: Finetune) -> tuple[str, ...]:
    return ("torch", "peft") if tuning.method == "lora" else ("torch",)


def _benchmark(model: str) -> Identity:
    """A tuned model is measured on its own skill, the base model on all."""

    def of(preset: Preset) -> dict[str, Any]:
        skills = {s: t for s, t in preset.finetune.items() if model in ("base", s)}
        return {
            **preset.benchmark.model_dump(mode="json", exclude={"data_dir"}),
            "skills": {
                skill: {
                    "skill": _asked(preset, skill),
                    "max_input_tokens": tuning.max_input_tokens,
                    "max_target_tokens": tuning.max_target_tokens,
                }
                for skill, tuning in skills.items()
            },
        }

    return of
