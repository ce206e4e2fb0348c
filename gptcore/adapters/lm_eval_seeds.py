"""lm-eval's tasks under several seeds: those whose prompts hold examples that are drawn."""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.samplers import FirstNSampler
from lm_eval.api.task import Task

from gptcore.adapters.lm_eval_tasks import run_tasks
from gptcore.config import Benchmark


def run_seeds(lm: LM, tasks: dict[str, Any], config: Benchmark) -> dict[int, dict[str, Any]]:
    """lm-eval's results and samples of loaded tasks by seed: `config.seed`, and as many further ones as it asks for.

    The first seed measures everything, the others what draws, and sum up every group that holds some of it.
    """
    settings = config.num_fewshot, config.limit
    first = run_tasks(lm, tasks, config.seed, *settings)
    found = {config.seed: first}
    drawing = {name: task for name, task in tasks["tasks"].items() if draws(task)}
    groups = {
        name: group
        for name, group in tasks.get("groups", {}).items()
        if any(task in drawing.values() for task in group.get_all_tasks())
    }
    for seed in config.repeats if drawing else ():
        again = run_tasks(lm, {"tasks": drawing}, seed, *settings)
        every = {**first["results"], **again["results"]}
        sums = {name: group.aggregate(every) for name, group in groups.items()}
        found[seed] = {"results": {**again["results"], **sums}, "samples": again["samples"]}
    return found


def draws(task: Task) -> bool:
    """Whether a task's prompts hold examples, and other ones under another seed."""
    if not task.get_config("num_fewshot") or task.OUTPUT_TYPE == "loglikelihood_rolling":
        return False
    return not isinstance(getattr(task, "sampler", None), FirstNSampler)
