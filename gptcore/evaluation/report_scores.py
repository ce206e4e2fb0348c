"""The report's sections on benchmarks and samples, from each model's scores.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptcore.evaluation.comparison import ABOUT_OTHERS
from gptcore.evaluation.headline import ERRORS, SEED_STD, STDERR
from gptcore.evaluation.repeats import each_once
from gptcore.evaluation.report_data import stage_json
from gptcore.evaluation.report_differences import EXPLAINED, Differences, difference
from gptcore.evaluation.report_plots import Bars, bars
from gptcore.evaluation.report_words import NOT_MEASURED, with_error
from gptcore.evaluation.safety import safety_scores
from gptcore.html_page import Markup, definitions, element, figure, joined, paragraph, table

SAMPLES = 4
"""Best and worst answers shown of each skill."""
SAMPLE_CHARS = 600
"""Longer texts of a sample are cut on the page; the stage's files hold them whole."""

Scores = Mapping[str, Mapping[str, Any]]
"""Results by task, as scores.json holds them."""


def read_scores(directory: Path) -> Scores:
    """Results of a benchmark stage; none where it left none."""
    found = stage_json({"benchmark": directory}, "benchmark", "scores.json")
    return found["tasks"] if found else {}


def benchmarks(scores: Mapping[str, Scores], from_base: Differences) -> Markup:
    """Every task's tables. scores: by the model measured."""
    tasks = list(dict.fromkeys(task for results in scores.values() for task in results))
    if not tasks:
        return NOT_MEASURED
    repeated = any("seeds" in result for results in scores.values() for result in results.values())
    spread = " sd: the standard deviation between seeds, where something is drawn." if repeated else ""
    compared = f" {EXPLAINED}" if from_base else ""
    explained = f"Value ± standard error, with the 95 % interval under it.{spread}{compared}"
    every = [_task(task, {m: r[task] for m, r in scores.items() if task in r}, from_base) for task in tasks]
    return joined([paragraph(explained, "soft"), *every])


def safety(scores: Mapping[str, Scores]) -> Markup:
    """The scores of the group `safety`, with what each says. scores: by the model measured."""
    rows = [
        (model, name, with_error(value, error), says)
        for model, results in scores.items()
        for name, value, error, says in safety_scores(results)
    ]
    if not rows:
        return paragraph("No benchmark of safety was run: the group is safety, in benchmark.tasks.", "soft")
    return table(("model", "figure", "value", "what it says"), rows, (2,))


def _task(task: str, results: Mapping[str, Mapping[str, Any]], from_base: Differences) -> Markup:
    """One task's tables: results by the model measured."""
    models = sorted(results, key=lambda model: (model == "base", model != task))  # a skill's own model first, base last
    first = results[models[0]]
    seeds = f" under {len(first['seeds'])} seeds" if "seeds" in first else ""
    pieces = [element("h3", f"{task}: {first['n']:,} items{seeds}")]
    own = list(own_metrics(first["metrics"]))
    compared = {model: from_base[model] for model in models if model in from_base}
    pieces.append(_metric_table(task, [("", first["n"], {m: results[m]["metrics"] for m in models})], own, compared))
    if first.get("kinds"):
        metric = first["target_metric"]
        rows = [
            (kind, part["n"], {m: results[m]["kinds"][kind]["metrics"] for m in models if kind in results[m]["kinds"]})
            for kind, part in sorted(first["kinds"].items(), key=lambda item: -item[1]["n"])
        ]
        pieces.append(
            figure(_kind_bars(task, metric, rows, models), f"{task}: {metric} by kind, whiskers two standard errors")
        )
        pieces += [_metric_table(task, rows, [name], compared, name) for name in own]
    overlap = first.get("overlap_13gram")
    if overlap:
        pieces.append(
            paragraph(
                f"Overlap: {overlap['overlapping']:,} of {overlap['n']:,} items share a run of 13 words with the "
                f"training text ({overlap['with_13_words']:,} are long enough to).",
                "soft",
            )
        )
    return joined(pieces)


Row = tuple[str, int, Mapping[str, Mapping[str, float | None]]]
"""Kind of item ("" for all), their number, metrics by model."""


def own_metrics(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Measures of the model itself: no error, no baseline, no overlap."""
    for name in metrics:
        if not name.endswith((*ERRORS, *ABOUT_OTHERS)) and name != "overlap_13gram":
            yield name


def _metric_table(
    task: str, rows: Sequence[Row], metrics: Sequence[str], from_base: Differences, caption: str = ""
) -> Markup:
    """One line a kind, or, for all items together, one a metric. from_base: of the models shown."""
    models = list(rows[0][2])
    has_baseline = any(f"{m}_baseline" in row[2][models[0]] for row in rows for m in metrics)
    head = ["metric", *models] if not caption else ["kind", "items", *models]
    if has_baseline:
        head.append("baseline")
    has_overlap = any("overlap_13gram" in row[2][models[0]] for row in rows)
    if has_overlap:
        head.append("items in training text")
    head += [f"{model} - base" for model in from_base]
    lines = []
    for kind, count, by_model in rows:
        for metric in metrics:
            cells: list[object] = [metric] if not caption else [kind, f"{count:,}"]
            cells += [_cell(by_model.get(model, {}), metric) for model in models]
            if has_baseline:
                cells.append(_cell(by_model[models[0]], f"{metric}_baseline"))
            if has_overlap:
                cells.append(f"{by_model[models[0]]['overlap_13gram'] or 0:.1%}")
            name = f"{task}/{metric}{f'_{kind}' if kind else ''}"
            cells += [difference(found.get(name)) for found in from_base.values()]
            lines.append(cells)
    return table(head, lines, range(1, len(head) - len(from_base)), caption)


def _cell(metrics: Mapping[str, float | None], name: str) -> Markup:
    return with_error(metrics.get(name), metrics.get(name + STDERR), metrics.get(name + SEED_STD))


def _kind_bars(task: str, metric: str, rows: Sequence[Row], models: Sequence[str]) -> str:
    def of(label: str, name: str, model: str) -> Bars:
        found = [row[2].get(model, {}) for row in rows]
        return Bars(label, [m.get(name) for m in found], [m.get(name + STDERR) for m in found])

    series = [of(model, metric, model) for model in models]
    series.append(of("baseline", f"{metric}_baseline", models[0]))
    return bars(f"{task}-kinds", [row[0] for row in rows], series, metric)


def samples_of(inputs: Mapping[str, Path], scores: Mapping[str, Scores]) -> Markup:
    """The best and worst answers of every tuned model on its own skill."""
    pieces: list[Markup] = []
    for skill in (model for model in scores if model != "base"):
        result = scores[skill].get(skill)
        path = inputs[f"benchmark-{skill}"] / f"samples-{skill}.jsonl"
        if result is None or not path.exists():
            pieces.append(paragraph(f"{skill}: no samples were kept.", "soft"))
            continue
        with path.open(encoding="utf-8") as lines:
            every = each_once([json.loads(line) for line in lines])
        best, worst = extremes(every, result["target_metric"])
        pieces.append(element("h3", f"{skill}: best, where the baseline is far off"))
        pieces.append(_side(best, result["target_metric"], "right"))
        pieces.append(element("h3", f"{skill}: worst"))
        pieces.append(_side(worst, result["target_metric"], "wrong"))
    return joined(pieces) if pieces else NOT_MEASURED


def extremes(samples: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[Any], list[Any]]:
    """The best and the worst few by a metric. Among equals: first those that the baseline gets wrong, or gets right."""

    def rank(sample: Mapping[str, Any]) -> tuple[float, float]:
        return -sample["scores"][metric], sample["baseline_scores"][metric]

    ordered = sorted(samples, key=lambda sample: (*rank(sample), sample["id"]))
    few = min(SAMPLES, len(ordered) // 2 or len(ordered))
    worst = sorted(samples, key=lambda sample: (*(-part for part in rank(sample)), sample["id"]))
    return ordered[:few], worst[: min(few, len(ordered) - few)]


def _side(samples: Sequence[Mapping[str, Any]], metric: str, side: str) -> Markup:
    return element("div", joined(_sample(sample, metric, side) for sample in samples), "samples")


def _sample(sample: Mapping[str, Any], metric: str, side: str) -> Markup:
    pairs = [(name, _cut(value)) for name, value in sample["fields"].items()]
    pairs += [
        ("answer", element("b", _cut(sample["prediction"]))),
        ("wanted", _cut(sample["target"])),
        ("baseline", _cut(sample["baseline"])),
        (metric, f"{sample['scores'][metric]:.3f} (baseline {sample['baseline_scores'][metric]:.3f})"),
    ]
    return element(
        "div", joined([definitions(pairs), element("small", f"{sample['kind']} · {sample['id']}")]), f"sample {side}"
    )


def _cut(words: str) -> str:
    return words if len(words) <= SAMPLE_CHARS else f"{words[:SAMPLE_CHARS]} …"
