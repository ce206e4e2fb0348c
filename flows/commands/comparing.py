"""`gptmill compare`: the first run, or group of seeds, against each of the others, with what noise explains."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.failures import refuse
from flows.commands.tables import aligned, printed, short, shown
from gptcore.evaluation.comparison import ALPHA, Comparison, Delta, compare, differences, direction, in_family, judged
from gptcore.evaluation.headline import STDERR
from gptcore.evaluation.seeds import is_seed, seed_groups
from gptcore.store import Store

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_history import PipelineRun
    from gptcore.adapters.mlflow_runs import Tracker
    from gptcore.evaluation.comparison import Found
    from gptcore.evaluation.paired import PairedDifference

BENCHMARK = "benchmark-"


@dataclass(frozen=True)
class Compared:
    """Two runs, or two groups of runs that differ in seeds alone."""

    a: Sequence[PipelineRun]
    b: Sequence[PipelineRun]
    result: Comparison

    def row(self, family: int) -> dict[str, Any]:
        """What --json prints of it."""
        grouped = {} if len(self.a) == len(self.b) == 1 else {"a_runs": _ids(self.a), "b_runs": _ids(self.b)}
        judged_by = {"correction": "holm", "alpha": ALPHA, "metrics": family}
        return {"a": self.a[0].run_id, "b": self.b[0].run_id, **grouped, **self.result.row(), "family": judged_by}


def compared(options: argparse.Namespace, tracker: Tracker) -> int:
    """Find the runs, put seeds together, compare and print."""
    from gptcore.adapters.mlflow_history import get_run

    if len(options.runs) < 2:
        return refuse(f"compare needs two runs at least, such as: gptmill compare {options.runs[0]} latest")
    try:
        runs = [get_run(tracker, reference) for reference in options.runs]
    except ValueError as problem:
        return refuse(problem)
    groups = [[runs[n] for n in places] for places in seed_groups([typed(run.params) for run in runs])]
    lone = seeds_of(groups[0]) if len(groups) == 1 else None
    if lone:  # seeds alone differ: their spread, and each against the first
        groups = [[run] for run in runs]
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [
            (group, differences(*_metrics(groups[0], group), _item_by_item(tracker, groups[0], group, Path(scratch))))
            for group in groups[1:]
        ]
    verdicts = judged([deltas for _, deltas in pairs])
    every = [
        Compared(groups[0], group, _compare(groups[0][0], group[0], metrics, max(len(groups[0]), len(group)) > 1))
        for (group, _), metrics in zip(pairs, verdicts, strict=True)
    ]
    family = sum(in_family(name, delta) for metrics in verdicts for name, delta in metrics.items())
    rows = [one.row(family) for one in every]
    answer = (rows[0] if len(runs) == 2 else {"comparisons": rows}) | ({"seeds": lone} if lone else {})
    words = [*(compared_text(one) for one in every), *([_seeds_text(lone)] if lone else []), _explained(every, family)]
    printed(options, "\n\n".join(words), answer)
    return 0


def seeds_of(runs: Sequence[PipelineRun]) -> dict[str, Any]:
    """Mean, standard deviation and count of every metric over runs that differ in seeds alone."""
    names = sorted(set.intersection(*(set(run.metrics) for run in runs)))
    metrics = {
        name: {"mean": statistics.fmean(values), "deviation": statistics.stdev(values), "count": len(values)}
        for name in names
        if direction(name) is not None and not name.endswith(STDERR)
        for values in [[run.metrics[name] for run in runs]]
    }
    return {"runs": _ids(runs), "metrics": metrics}


def _seeds_text(seeds: Mapping[str, Any]) -> str:
    rows = [[name, shown(m["mean"]), shown(m["deviation"])] for name, m in seeds["metrics"].items()]
    title = f"the same config under {len(seeds['runs'])} seeds"
    return aligned([[title, "mean", "deviation"], *rows])


def _ids(runs: Sequence[PipelineRun]) -> list[str]:
    return [run.run_id for run in runs]


def _metrics(
    a: Sequence[PipelineRun], b: Sequence[PipelineRun]
) -> tuple[list[Mapping[str, float]], list[Mapping[str, float]]]:
    return [run.metrics for run in a], [run.metrics for run in b]


def _compare(a: PipelineRun, b: PipelineRun, metrics: Mapping[str, Delta], grouped: bool) -> Comparison:
    configs = [typed(run.params) for run in (a, b)]
    if grouped:
        configs = [{field: value for field, value in config.items() if not is_seed(field)} for config in configs]
    digests = [{name: stage["digest"] for name, stage in run.stages.items() if "digest" in stage} for run in (a, b)]
    return compare((configs[0], configs[1]), (digests[0], digests[1]), metrics)


def _item_by_item(tracker: Tracker, a: Sequence[PipelineRun], b: Sequence[PipelineRun], scratch: Path) -> Found:
    """Every benchmark's differences over the items that all of these runs have."""
    from gptcore.adapters.mlflow_samples import benchmark_directory
    from gptcore.evaluation.measured import grouped_differences

    store = Store(tracker.home / "store")
    found: dict[str, PairedDifference | str] = {}
    stages = [name for name in a[0].stages if name.startswith(BENCHMARK)]
    for stage in stages:
        places = [
            [benchmark_directory(tracker, store, stage, run.stages.get(stage, {}), scratch) for run in group]
            for group in (a, b)
        ]
        first, second = ([place for place in group if place is not None] for group in places)
        if (len(first), len(second)) == (len(a), len(b)):
            found |= grouped_differences(first, second, stage.removeprefix(BENCHMARK))
    return found


def typed(params: Mapping[str, str]) -> dict[str, Any]:
    """MLflow's text values as what they were: JSON where they are JSON, text otherwise."""
    values: dict[str, Any] = {}
    for name, text in params.items():
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def compared_text(one: Compared) -> str:
    """The comparison in words and tables."""
    result = one.result
    lines = [
        f"{which}  {run.run_id}  {run.preset}  {run.status}"
        for which, runs in (("a", one.a), ("b", one.b))
        for run in runs
    ]
    lines.append("")
    if result.config:
        fields = [[field, short(x), short(y)] for field, (x, y) in result.config.items()]
        lines.append(aligned([["config", "a", "b"], *fields]))
    else:
        lines.append("config: no difference")
    lines += ["", f"first stage that differs: {result.first_stage or 'none'}"]
    lines += [
        f"only in {which}: {', '.join(stages)}" for which, stages in zip("ab", result.only_in, strict=True) if stages
    ]
    if result.metrics:
        head = ["metric", "a", "b", "b - a", "stderr", "95 % interval", "p", "items", "overlap", "b is"]
        lines += ["", aligned([head, *(_line(name, delta) for name, delta in result.metrics.items())])]
    return "\n".join(lines)


def _line(name: str, delta: Delta) -> list[str]:
    values = [
        shown(value) if spread is None else f"{shown(value)} (sd {shown(spread)})"
        for value, spread in zip((delta.a, delta.b), delta.spread, strict=True)
    ]
    interval = f"{delta.interval[0]:+.4g} to {delta.interval[1]:+.4g}" if delta.interval else ""
    p = "" if delta.p_corrected is None else f"{delta.p_corrected:.4f}"
    items = f"{delta.items:,}" if delta.items is not None else "not paired" if delta.p is not None else ""
    overlaps = list(dict.fromkeys(f"{share:.1%}" for share in delta.overlap if share is not None))
    change = [f"{delta.delta:+.4g}", shown(delta.stderr)]
    return [name, *values, *change, interval, p, items, " / ".join(overlaps), delta.verdict]


def _explained(every: Sequence[Compared], family: int) -> str:
    """What the table's numbers mean, what could not be paired, and what the errors leave out."""
    lines = [
        f"p: corrected by Holm over the {family} metrics of all comparisons that have a direction; better or worse "
        f"under {ALPHA:g}. Intervals are each metric's own. overlap: items with 13 words of the training text."
    ]
    reasons: dict[str, list[str]] = {}
    for one in every:
        for name, delta in one.result.metrics.items():
            if delta.p is None:
                continue
            unknown = None if delta.paired else "no samples in the store or in MLflow"
            if reason := delta.note or unknown:
                reasons.setdefault(f"{'not paired: ' if not delta.paired else ''}{reason}", []).append(name)
    lines += [f"{reason}: {', '.join(dict.fromkeys(names))}" for reason, names in reasons.items()]
    if any(len(one.a) == len(one.b) == 1 for one in every):
        lines.append("One seed each: what another seed would change is not in these errors; give runs of other seeds.")
    if any({len(one.a), len(one.b)} != {1} for one in every):
        lines.append("Several seeds: a and b are means, sd is the spread between seeds, and it is in the errors.")
    return "\n".join(lines)
