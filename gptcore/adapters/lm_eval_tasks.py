"""lm-eval tasks: the project's own ones on documents in memory, and any other by name."""

from __future__ import annotations

import importlib.resources
import logging
import os
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

from gptcore.adapters.lm_eval_data import Versions, reading
from gptcore.config import Skill
from gptcore.durable import sha256_json, write_bytes
from gptcore.evaluation.scores import score
from gptcore.evaluation.task_catalogue import OWN_TASKS, Catalogue, check_tasks
from gptcore.evaluation.task_data import DataDir
from gptcore.hardware import library_version
from gptcore.home import home
from gptcore.presets import parse_yaml
from gptcore.text.skills import Item

__all__ = ["OWN_TASKS", "MemoryTask", "SkillTask", "load_once", "load_standard", "run_tasks", "standard_texts"]

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

    def __init__(
        self, skill: Skill, items: Sequence[Item], encode: Callable[[Item], list[int]], limit: int, seed: int = 1
    ) -> None:
        """`limit`: new tokens at most. `seed`: of answers that are drawn; 1 gives those of a served model."""
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

        self._limit, self._skill, self._seed = limit, skill, seed
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
        if self._skill.decoding:
            text, seed = doc["fields"][self._skill.truncate], self._seed - 1  # a served model draws by seed 0
            generation |= {"decoding": self._skill.decoding, "text": text, "seed": seed}
        request.arguments = (ctx, {**deepcopy(self.config.generation_kwargs), **generation})
        return request


def load_standard(
    name: str, folders: Sequence[Path], data_dir: DataDir = None, versions: Versions | None = None
) -> dict[str, Any]:
    """Any task, group or tag that a YAML in `folders` or in lm-eval defines, as lm-eval's task dictionary.

    Its data comes from `data_dir`, or from the hub at the commits in `versions`. Raises ValueError for an unknown name,
    and where the task's data cannot be reached.
    """
    from lm_eval.tasks import TaskManager

    catalogue = Catalogue(home() / "cache", folders)
    check_tasks([name], catalogue, "benchmark")
    places = catalogue.folders_of(name)  # indexing all of lm-eval's takes 11-37 s
    with _quiet(), reading(data_dir, versions):
        try:
            loaded = TaskManager(include_path=places, include_defaults=False).load(name)
        except Exception as error:  # whatever a dataset library, a hub client or a task's own code raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ValueError(f"benchmark task {name!r} cannot be loaded; is its data within reach? {reason}") from error
    return dict(loaded)


def load_once(names: Sequence[str], data_dir: DataDir, versions: Versions) -> None:
    """Load tasks before hours of training rather than after: the splits they ask for, the columns, the code they run.

    What loaded once is remembered with its versions. Raises ValueError as `load_standard`.
    """
    asked = {"data_dir": data_dir, "versions": versions, "lm-eval": library_version("lm-eval")}
    for name in names:
        loaded = home() / "cache" / "loaded_tasks" / sha256_json({**asked, "task": name})[:16]
        if not loaded.exists():
            load_standard(name, [OWN_TASKS], data_dir, versions)
            write_bytes(loaded, name.encode())


def standard_texts(
    name: str, folders: Sequence[Path], data_dir: DataDir = None, versions: Versions | None = None
) -> list[tuple[str, Iterator[str]]]:
    """For decontamination: every task that a name stands for, with the text of each document that it is measured on.

    A document's text is all that its fields hold, question, choices and answer, each on its own lines, as the data has
    them. Raises ValueError as `load_standard`.
    """
    tasks = load_standard(name, folders, data_dir, versions)["tasks"]
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
