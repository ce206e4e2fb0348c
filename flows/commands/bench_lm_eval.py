"""`gptmill bench lm-eval`: standard tasks on any model."""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

from flows.commands.failures import one_line, refuse
from flows.commands.use_model import load
from gptcore.config import MOST_SEEDS, Benchmark
from gptcore.evaluation.headline import ERRORS
from gptcore.evaluation.task_catalogue import Catalogue, check_tasks
from gptcore.evaluation.task_data import needs, versions_of
from gptcore.home import home
from gptcore.text.digests import DigestCache


def main(options: argparse.Namespace) -> int:
    """Print a table, and with --json one JSON object after it."""
    try:
        names = tuple(name for part in options.tasks for name in part.split(",") if name)
        for option, value, least in (
            ("--limit", options.limit, 1),
            ("--num-fewshot", options.num_fewshot, 0),
            ("--seeds", options.seeds, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{option} {value} must be at least {least}")
        if options.seeds > MOST_SEEDS:
            raise ValueError(f"--seeds {options.seeds} must be at most {MOST_SEEDS}")
        if not names:
            raise ValueError("--tasks names no task, such as hellaswag")
        cache = home() / "cache"
        with DigestCache(cache) as digests:
            needed = needs(check_tasks(names, Catalogue(cache), "--tasks"))
            data = versions_of(needed, options.data_dir, digests)
        loaded = load(options)
        found = _measured(loaded, names, options, data)
    except (ValueError, OSError) as problem:
        return refuse(problem if isinstance(problem, ValueError) else one_line(problem))
    if options.output is not None:
        _write(Path(options.output), found)
    print(table(found), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        scores = {task["task"]: {"n": task["n"], "metrics": task["metrics"]} for task in found}
        settings = {"num_fewshot": options.num_fewshot, "limit": options.limit, "seeds": options.seeds}
        print(json.dumps({"model": options.model, **settings, "task_data": data, "tasks": scores}))
    return 0


def _measured(loaded: Any, names: tuple[str, ...], options: argparse.Namespace, data: Any) -> list[dict[str, Any]]:
    """Every task's results, with a bar where somebody watches."""
    from gptcore.adapters.benchmark import standard
    from gptcore.adapters.lm_eval import GptmillLM
    from gptcore.evaluation.task_catalogue import OWN_TASKS

    config = Benchmark(tasks=names, num_fewshot=options.num_fewshot, limit=options.limit, seeds=options.seeds)
    config = config.model_copy(update={"data_dir": options.data_dir})
    lm = GptmillLM(loaded.model, loaded.tokenizer, batch_items=64)
    found: list[dict[str, Any]] = []
    for name in names:
        if sys.stderr.isatty():
            lm.on_progress = functools.partial(_bar, name)
        found += standard(lm, name, config, [OWN_TASKS], data)
    return found


def _bar(task: str, done: int, total: int) -> None:
    print(f"\r{task}: {done:,} of {total:,} requests", end="\n" if done >= total else "", file=sys.stderr, flush=True)


def _write(folder: Path, found: list[dict[str, Any]]) -> None:
    """scores.json, and the samples of each task, as a benchmark stage leaves them."""
    from gptcore import durable

    scores = {task["task"]: {k: v for k, v in task.items() if k not in ("samples", "task", "texts")} for task in found}
    durable.write_json(folder / "scores.json", {"tasks": scores})
    for task in found:
        lines = (json.dumps(sample, sort_keys=True, ensure_ascii=False) + "\n" for sample in task["samples"])
        name = re.sub(r"[^\w.-]+", "_", task["task"])
        durable.write_bytes(folder / f"samples-{name}.jsonl", "".join(lines).encode())


def table(found: list[dict[str, Any]]) -> str:
    """A line for each metric, with its standard error."""
    lines = [f"{'task':<36} {'n':>7}  {'metric':<20} {'value':>12}  {'stderr':>9}"]
    for task in found:
        for metric, value in task["metrics"].items():
            if metric.endswith(ERRORS) or value is None:
                continue
            error = task["metrics"].get(f"{metric}_stderr")
            shown = "" if error is None else f"{error:.4f}"
            lines.append(f"{task['task']:<36} {task['n']:>7,}  {metric:<20} {value:>12.4f}  {shown:>9}")
    return "\n".join(lines)
