"""The report stage: everything a run did, on one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from gptcore.config import Preset
from gptcore.durable import write_bytes
from gptcore.evaluation.headline import STDERR
from gptcore.evaluation.report_data import corpus, own_data, published, tokenizer
from gptcore.evaluation.report_differences import from_base
from gptcore.evaluation.report_lineage import asked, lineage, reproduce
from gptcore.evaluation.report_scores import Scores, benchmarks, read_scores, safety, samples_of
from gptcore.evaluation.report_training import cost, training
from gptcore.evaluation.report_words import DASH, NOT_MEASURED, duration, number
from gptcore.html_page import Markup, card, element, joined, page, paragraph
from gptcore.store import Manifest
from gptcore.work import Outcome, Work


def build_report(preset: Preset, manifests: Mapping[str, Manifest], work: Work) -> Outcome:
    """Write report.html from the finished stages. Inputs: any of the pipeline's; what is absent is said to be.

    manifests: of the finished stages, by name. Raises ValueError for an input file that is there but broken.
    """
    manifests = {name: manifest for name, manifest in manifests.items() if name != "report"}
    measured = {
        name.removeprefix("benchmark-"): directory
        for name, directory in work.inputs.items()
        if name.startswith("benchmark-")
    }
    scores = {model: read_scores(directory) for model, directory in measured.items()}
    sections: list[tuple[str, Markup]] = [
        ("Asked for", asked(preset)),
        ("Training", training(work.inputs)),
        ("Benchmarks", benchmarks(scores, from_base(measured))),
        ("Safety", safety(scores)),
        ("Samples", samples_of(work.inputs, scores)),
        ("Published models", published(work.inputs)),
        ("Corpus", corpus(work.inputs)),
        *([("Skills' own data", own)] if (own := own_data(work.inputs, manifests)) else []),
        ("Tokenizer", tokenizer(work.inputs)),
        ("Lineage", lineage(manifests)),
        ("Cost", cost(manifests)),
        ("Reproduce", reproduce(preset, manifests)),
    ]
    written = page(f"gptmill · {preset.name}", _opening(preset, manifests, scores), sections)
    write_bytes(work.directory / "report.html", written)
    return Outcome(results=(), metrics={"report/bytes": float(len(written))})


def _opening(preset: Preset, manifests: Mapping[str, Manifest], scores: Mapping[str, Scores]) -> Markup:
    finished = max((m.finished for m in manifests.values()), default=None)
    facts = [f"{len(manifests)} stages"]
    if finished is not None:
        facts.append(f"last one finished {datetime.fromtimestamp(finished, UTC):%Y-%m-%d %H:%M} UTC")
        facts.append(f"{duration(sum(m.seconds for m in manifests.values()))} of work")
        facts.append("on " + ", ".join(sorted({str(m.execution.get("resolved_device")) for m in manifests.values()})))
    cards = [*_quality_cards(preset, scores), *_training_cards(manifests)]
    return joined(
        [paragraph(", ".join(facts), "soft"), element("div", joined(cards), "cards") if cards else NOT_MEASURED]
    )


def _quality_cards(preset: Preset, scores: Mapping[str, Scores]) -> Iterator[Markup]:
    for skill in preset.finetune:
        tuned = scores.get(skill, {}).get(skill)
        if tuned is None:
            yield card(f"{skill}", DASH, "not measured")
            continue
        metric, metrics = tuned["target_metric"], tuned["metrics"]
        base = scores.get("base", {}).get(skill, {}).get("metrics", {})
        beside = [f"base model {base[metric]:.3f}" if base.get(metric) is not None else "base model not measured"]
        if metrics.get(f"{metric}_baseline") is not None:
            beside.append(f"{tuned['baseline'].replace('_', ' ')} {metrics[f'{metric}_baseline']:.3f}")
        yield card(f"{skill}: {metric}", _plus_minus(metrics, metric), f"{', '.join(beside)}; {tuned['n']:,} items")
    heldout = scores.get("base", {}).get("heldout")
    if heldout:
        below = f"base model, {heldout['n']:,} unseen documents; lower is better"
        yield card("held-out bits per byte", _plus_minus(heldout["metrics"], "bits_per_byte"), below)


def _plus_minus(metrics: Mapping[str, float | None], metric: str) -> Markup:
    value, error = metrics.get(metric), metrics.get(metric + STDERR)
    if value is None:
        return DASH
    return Markup(f"{value:.3f}" + (f" <small>± {error:.3f}</small>" if error is not None else ""))


def _training_cards(manifests: Mapping[str, Manifest]) -> Iterator[Markup]:
    metrics = manifests["pretrain"].metrics if "pretrain" in manifests else {}
    if "pretrain/val_bits_per_byte" in metrics:
        below = " · ".join(
            f"{number(metrics[f'pretrain/{name}'])} {words}"
            for name, words in (("parameters", "parameters"), ("tokens", "tokens"), ("tokens_per_second", "tokens/s"))
            if f"pretrain/{name}" in metrics
        )
        yield card("validation bits per byte", f"{metrics['pretrain/val_bits_per_byte']:.3f}", f"pretraining; {below}")
