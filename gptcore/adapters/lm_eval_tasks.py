"""lm-eval tasks: the project's own ones on documents in memory, and any other by name."""

from __future__ import annotations

import importlib.resources
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import lm_eval.api.task
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from gptcore.config import Skill
from gptcore.evaluation.scores import score
from gptcore.presets import parse_yaml
from gptcore.text.skills import Item

OWN_TASKS = Path(str(importlib.resources.files("configs") / "benchmarks"))
"""The folder of the project's own tasks, looked through before lm-eval's."""
BOOTSTRAP = 1000
"""Resamples behind the standard error of metrics without a closed form, in standard tasks."""


class _Split(list[dict[str, Any]]):
    """What lm-eval asks of a dataset split: no Arrow file, no cache on disk."""

    @property
    def features(self) -> dict[str, None]:
        """Column names, as keys."""
        return dict.fromkeys(self[0])


class MemoryTask(ConfigurableTask):  # type: ignore[misc]
    """A task of configs/benchmarks whose documents are handed over."""

    def __init__(self, name: str, documents: list[dict[str, Any]], **overrides: Any) -> None:
        """`name` is the YAML's; `overrides` replace its keys. Raises ValueError without documents."""
        if not documents:
            raise ValueError(f"benchmark task {name} has no documents")
        self._documents = _Split(documents)
        resource = importlib.resources.files("configs") / "benchmarks" / f"{name}.yaml"
        super().__init__(config={**parse_yaml(resource.read_text(encoding="utf-8"), f"{name}.yaml"), **overrides})

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Nothing to fetch."""
        self.dataset = {"test": self._documents}


class SkillTask(MemoryTask):
    """Generated answers to a skill's items. Prompts travel as token ids, made by the one function that builds them."""

    def __init__(self, skill: Skill, items: Sequence[Item], encode: Callable[[Item], list[int]], limit: int) -> None:
        """`limit`: new tokens at most."""
        documents = [
            {
                "id": item.id,
                "kind": item.kind,
                "fields": item.fields,
                "prompt": skill.template.format(**item.fields),
                "prompt_ids": encode(item),
                "target": item.target,
                "right": list(item.right),
            }
            for item in items
        ]
        metrics = list(skill.metrics)

        def scored(document: dict[str, Any], results: list[str]) -> dict[str, float]:
            return score(metrics, results[0], document["right"], skill.language)

        self._limit = limit
        super().__init__(
            "skill",
            documents,
            task=skill.name,
            process_results=scored,
            metric_list=[{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics],
        )

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> Instance:
        """One request, with the prompt's ids beside its text."""
        request = super().construct_requests(doc, ctx, **kwargs)
        generation = {"max_gen_toks": self._limit, "prompt_ids": doc["prompt_ids"]}
        request.arguments = (ctx, {**deepcopy(self.config.generation_kwargs), **generation})
        return request


def load_standard(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """Any task, group or tag that a YAML in `folders` or in lm-eval defines, as lm-eval's task dictionary.

    Raises ValueError for an unknown name, and where the task's data cannot be reached.
    """
    from lm_eval.tasks import TaskManager

    shipped = Path(lm_eval.__file__).parent / "tasks"
    places = _defining(name, folders, shipped)
    if not places:
        raise ValueError(f"unknown benchmark task {name!r}; `python -m lm_eval ls tasks` lists lm-eval's own")
    with _quiet():
        try:
            try:
                loaded = TaskManager(include_path=places, include_defaults=False).load(name)
            except (KeyError, ValueError):  # a group whose members stand elsewhere: index everything, 11-37 s
                loaded = TaskManager(include_path=[str(folder) for folder in folders]).load(name)
        except Exception as error:  # whatever a dataset library, a hub client or a task's own code raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ValueError(f"benchmark task {name!r} cannot be loaded; is its data within reach? {reason}") from error
    return dict(loaded)


def standard_texts(name: str, folders: Sequence[Path]) -> list[tuple[str, Iterator[str]]]:
    """For decontamination: every task that a name stands for, with the text of each document that it is measured on.

    A document's text is all that its fields hold, question, choices and answer, each on its own lines, as the data has
    them. Raises ValueError as `load_standard`.
    """
    tasks = load_standard(name, folders)["tasks"]
    return [(task, ("\n".join(strings(document)) for document in found.eval_docs)) for task, found in tasks.items()]


def strings(value: Any) -> Iterator[str]:
    """Every text inside a value of JSON's kinds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inside in value.values():
            yield from strings(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from strings(inside)


def _defining(name: str, folders: Sequence[Path], shipped: Path) -> list[str]:
    """The folders whose YAMLs define a name, found by their bytes: a second, where indexing takes 11-37."""
    line = re.compile(rb"^(?:task|group|tag)\s*:\s*[\"']?" + re.escape(name.encode()) + rb"[\"']?\s*(?:#.*)?$", re.M)
    listed = re.compile(rb"^tag\s*:\s*\n(?:\s*-.*\n)*?\s*-\s*[\"']?" + re.escape(name.encode()) + rb"[\"']?\s*$", re.M)
    found: set[str] = set()
    for root in [*folders, shipped]:
        for path in root.rglob("*.yaml"):
            text = path.read_bytes()
            if line.search(text) or listed.search(text):
                inside = path.relative_to(root).parts
                found.add(str(root / inside[0] if len(inside) > 1 else root))
        if found:
            break
    return sorted(found)


def run_tasks(
    lm: LM, tasks: dict[str, Any], seed: int, num_fewshot: int = 0, limit: int | None = None
) -> dict[str, Any]:
    """lm-eval's results and samples for loaded tasks; its environment report (2 s a call) is left out."""
    for task in tasks["tasks"].values():
        if not isinstance(task, MemoryTask):
            if task.get_config("num_fewshot") != 0:  # 0 in a task's own YAML means that examples make no sense
                task.set_config(key="num_fewshot", value=num_fewshot)
            task.set_fewshot_seed(seed=seed)
    with _quiet():
        results = evaluate(lm=lm, task_dict=tasks, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=True)
    assert results is not None  # None is for ranks other than 0
    return dict(results)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's bars and notes off a terminal that shows our own; its prints go to stderr.

    Its bootstrap stays in this process: forking one that runs torch and trackers in threads can hang.
    """
    logger, bars = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level = logger.level
    os.environ["DISABLE_MULTIPROC"] = "1"
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda things, **_: things
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        lm_eval.api.task.tqdm = bars
        logger.setLevel(level)
