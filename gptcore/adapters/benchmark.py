"""The benchmark stage: held-out bits per byte, a model's skills, and standard tasks."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM

from gptcore import durable
from gptcore.adapters.label_task import LabelTask
from gptcore.adapters.lm_eval import GptmillLM
from gptcore.adapters.lm_eval_data import Versions
from gptcore.adapters.lm_eval_seeds import run_seeds
from gptcore.adapters.lm_eval_tasks import OWN_TASKS, MemoryTask, SkillTask, load_standard, run_tasks, strings
from gptcore.config import Benchmark, Finetune, Skill
from gptcore.evaluation.baselines import baseline
from gptcore.evaluation.headline import OVERLAP, headline_name, own_model
from gptcore.evaluation.labels import likeliest
from gptcore.evaluation.overlap import overlaps, together
from gptcore.evaluation.repeats import over_seeds
from gptcore.evaluation.scores import ratio_stderr, score
from gptcore.evaluation.skill_scores import DIGITS, rounded, summed
from gptcore.hardware import resolve_device
from gptcore.model.weights import load_model
from gptcore.text.documents import read_documents
from gptcore.text.skill_items import items_of, stage_of
from gptcore.text.skills import Item, encode_example, encode_target, even_sample, sample_items
from gptcore.text.tokenizer import TextTokenizer
from gptcore.work import Outcome, Work


def benchmark(
    config: Benchmark,
    finetune: Mapping[str, Finetune],
    skills: Mapping[str, Skill],
    model_stage: str,
    work: Work,
    task_data: Versions | None = None,
) -> Outcome:
    """Measure the model of `work.inputs[model_stage]`: held-out bits per byte, its skills, and standard tasks.

    The base model (stage pretrain) is measured on every skill, by its likeliest tokens: it ends no answer, and drawing
    many long ones takes minutes. A tuned model is measured on its own skill, decoded as that says. Leaves scores.json
    and a samples-<task>.jsonl for each task; a finished task is a unit that a resume keeps. Raises ValueError when the
    test split holds nothing to measure on, and for a standard task that cannot be loaded. task_data: resolved versions
    of the data that standard tasks read.
    """
    base = model_stage == "pretrain"
    own = sorted(skills) if base else [model_stage.removeprefix("finetune-")]
    units = [("heldout", "heldout"), *(("skill", name) for name in own), *(("standard", name) for name in config.tasks)]
    lm: GptmillLM | None = None
    tasks: dict[str, dict[str, Any]] = {}
    for number, (sort, name) in enumerate(units):
        unit = work.scratch / f"task-{number:03d}.json"
        if not unit.exists():
            lm = lm or _open(work, work.inputs[model_stage])
            lm.on_progress = functools.partial(_report, work, name)
            if sort == "heldout":
                found = [_heldout(lm, config, work)]
            elif sort == "skill":
                asked = skills[name].model_copy(update={"decoding": None}) if base else skills[name]
                found = [_skill(lm, asked, finetune[name], config, work)]
            else:
                found = standard(lm, name, config, [OWN_TASKS], task_data)
            durable.write_json(unit, found)
        tasks |= {task["task"]: task for task in json.loads(unit.read_bytes())}
    _add_overlap(tasks, skills, work)
    for name, task in tasks.items():
        lines = (json.dumps(sample, sort_keys=True, ensure_ascii=False) for sample in task.pop("samples"))
        durable.write_bytes(work.directory / f"samples-{name}.jsonl", "".join(f"{line}\n" for line in lines).encode())
    durable.write_json(work.directory / "scores.json", {"model": model_stage, "tasks": tasks})
    metrics = _headline(tasks, "base" if base else own[0])
    work.log(metrics)
    return Outcome(results=("scores.json", "samples-*.jsonl"), metrics=metrics)


def _report(work: Work, task: str, done: int, total: int) -> None:
    work.progress(done, total, "requests", task=task)


def _open(work: Work, directory: Path) -> GptmillLM:
    if work.runtime.threads is not None:
        torch.set_num_threads(work.runtime.threads)
    model = load_model(directory, resolve_device(work.runtime))
    return GptmillLM(model, TextTokenizer.load(directory), work.runtime.batch_items)


def _heldout(lm: GptmillLM, config: Benchmark, work: Work) -> dict[str, Any]:
    """Bits per byte over an even sample of test documents."""
    documents = even_sample(
        read_documents(work.inputs["corpus"], "test"), config.heldout_documents, "heldout", lambda document: document.id
    )
    if not documents:
        raise ValueError("the corpus has no test documents; set corpus.held_out or corpus.test_share")
    task = MemoryTask("heldout", [{"id": d.id, "group": d.group, "text": d.text} for d in documents])
    samples = []
    for sample in run_tasks(lm, {"tasks": {"heldout": task}}, config.seed)["samples"]["heldout"]:
        nats, size = sample["bits_per_byte"]
        doc, bits = sample["doc"], round(-nats / math.log(2), DIGITS)
        samples.append({"id": doc["id"], "group": doc["group"], "bytes": size, "bits": bits})
    value, stderr = ratio_stderr([(sample["bits"], sample["bytes"]) for sample in samples])
    return {
        "task": "heldout",
        "n": len(samples),
        "bytes": sum(sample["bytes"] for sample in samples),
        "metrics": rounded({"bits_per_byte": value, "bits_per_byte_stderr": stderr}),
        "samples": samples,
    }


def _skill(lm: GptmillLM, skill: Skill, tuning: Finetune, config: Benchmark, work: Work) -> dict[str, Any]:
    """Scores of generated answers, in all and per kind, beside the trivial answers'."""
    chosen = sample_items(items_of(skill, work.inputs, "test"), config.items, "benchmark")
    if not chosen:
        raise ValueError(
            f"the test split holds no items for the skill {skill.name}; set corpus.held_out to packages that have some"
        )
    if len(chosen) < config.items:
        work.say(f"{skill.name}: the test split holds {len(chosen)} items, benchmark.items asks for {config.items}")
    trivial = _baseline(skill.model_dump_json(), work.inputs[stage_of(skill) or "corpus"])

    def encode(item: Item) -> list[int]:
        return encode_example(skill, item.fields, None, lm.text, tuning.max_input_tokens)[0]

    labels = LabelTask(skill, chosen, encode, lambda label: encode_target(label, lm.text)) if skill.labels else None
    guesses = [trivial(item) for item in chosen]
    of_guesses = [
        rounded(score(skill.metrics, guess, item.right, skill.language))
        for item, guess in zip(chosen, guesses, strict=True)
    ]

    def under(seed: int) -> dict[str, Any]:
        task = labels or SkillTask(skill, chosen, encode, tuning.max_target_tokens, seed)
        results = run_tasks(lm, {"tasks": {skill.name: task}}, seed)["samples"][skill.name]
        samples = []
        for item, result, guess, guess_scores in zip(chosen, results, guesses, of_guesses, strict=True):
            shares = labels.probabilities(result) if labels else {}
            samples.append(
                {
                    "id": item.id,
                    "group": item.group,
                    "kind": item.kind,
                    "fields": item.fields,
                    "target": item.target,
                    "prediction": likeliest(shares) if labels else result["filtered_resps"][0],
                    **({"probabilities": rounded(shares)} if labels else {}),
                    "scores": rounded({metric: result[metric] for metric in skill.metrics if metric in result}),
                    "baseline": guess,
                    "baseline_scores": guess_scores,
                }
            )
        kinds = sorted({item.kind for item in chosen})
        per_kind = {
            kind: summed(skill, [sample for sample in samples if sample["kind"] == kind], seed) for kind in kinds
        }
        return {
            **summed(skill, samples, seed),
            "task": skill.name,
            "target_metric": skill.target_metric,
            "baseline": skill.baseline,
            "kinds": per_kind if len(kinds) > 1 else {},
            "texts": [_pieces(item) for item in chosen],
            "samples": samples,
        }

    seeds = [config.seed, *(config.repeats if skill.decoding and not labels else ())]
    return over_seeds({seed: under(seed) for seed in seeds})


@functools.cache
def _baseline(values: str, training: Path) -> Callable[[Item], str]:
    """The trivial answers, once for all benchmarks of a pipeline: finding them reads every training item."""
    skill = Skill.model_validate_json(values)
    return baseline(skill, items_of(skill, {stage_of(skill) or "corpus": training}, "train"))


def standard(
    lm: LM, name: str, config: Benchmark, folders: Sequence[Path], task_data: Versions | None = None
) -> list[dict[str, Any]]:
    """Results of a standard task, or of a group and its members; see `load_standard` for folders and errors."""
    tasks = load_standard(name, folders, config.data_dir, task_data)
    by_task: dict[str, dict[int, dict[str, Any]]] = {}
    for seed, results in run_seeds(lm, tasks, config).items():
        for found in _of_lm_eval(results, tasks.get("groups", {})):
            by_task.setdefault(found["task"], {})[seed] = found
    return [over_seeds(runs) for runs in by_task.values()]


def _of_lm_eval(results: Mapping[str, Any], groups: Mapping[str, Any]) -> list[dict[str, Any]]:
    """lm-eval's results as they stand in scores.json, with their samples. groups: with their tasks."""
    found = []
    for task, values in results["results"].items():
        if "sample_len" not in values:  # a group whose members stand for themselves: it sums nothing up
            continue
        metrics = {}
        for key, value in values.items():  # "acc,none", "exact_match,strict-match", "acc_stderr,none"
            metric, comma, choice = key.partition(",")
            if comma and isinstance(value, int | float):
                stem, stderr = metric.removesuffix("_stderr"), "_stderr" if metric.endswith("_stderr") else ""
                metrics[metric if choice == "none" else f"{stem}_{choice}{stderr}"] = float(value)
        samples = [
            {
                "id": sample["doc_id"],
                "document": sample["doc_hash"],
                "filter": sample["filter"],
                "target": sample["target"],
                "responses": sample["filtered_resps"],
                "scores": {metric: sample[metric] for metric in sample["metrics"]},
            }
            for sample in results["samples"].get(task, [])
        ]
        plain = json.loads(json.dumps(samples, default=_plain))
        measured = {sample["doc_id"]: sample["doc"] for sample in results["samples"].get(task, [])}
        texts = [list(strings(document)) for document in measured.values()]
        members = {"members": [of.task_name for of in groups[task].get_all_tasks()]} if task in groups else {}
        result = {"task": task, "n": values["sample_len"], "metrics": rounded(metrics), **members}
        found.append({**result, "texts": texts, "samples": plain})
    return found


def _add_overlap(tasks: Mapping[str, dict[str, Any]], skills: Mapping[str, Skill], work: Work) -> None:
    """Beside the scores of every task: how many of its items share 13 words with the training text.

    The `texts` of each task go. The corpus is gone through once for all; a skill's own data counts for it alone. A
    group of tasks has the items of its members.
    """
    texts = {name: pieces for name, task in tasks.items() if (pieces := task.pop("texts", None))}
    training = (document.text for document in read_documents(work.inputs["corpus"], "train"))
    own = {
        name: ("\n".join(_pieces(item)) for item in items_of(skill, work.inputs, "train"))
        for name, skill in skills.items()
        if skill.data and name in texts
    }
    found = overlaps(texts, training, own)
    for name, task in tasks.items():
        if counts := [found[member] for member in task.get("members", [name]) if member in found]:
            every = together(counts)
            task["metrics"][OVERLAP] = round(every.share, DIGITS)
            task[OVERLAP] = {
                "n": every.items,
                "with_13_words": every.long_enough,
                "overlapping": every.overlapping,
            }


def _pieces(item: Item) -> list[str]:
    """All text of an item."""
    return [*item.fields.values(), item.target]


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as numbers and lists, anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _headline(tasks: Mapping[str, Mapping[str, Any]], model: str) -> dict[str, float]:
    """Every figure under its headline name: `qa/exact_match_base` and `heldout/bits_per_byte_qa` stand side by side."""
    headline: dict[str, float] = {}

    for task, result in tasks.items():
        parts = [("", result), *((f"_{kind}", part) for kind, part in result.get("kinds", {}).items())]
        for ending, part in parts:
            for name, value in part["metrics"].items():
                if value is not None:
                    headline[headline_name(task, name, ending, model, own_model(task, result))] = value
    return headline
