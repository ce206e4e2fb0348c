"""The tuned models' differences from the base model, for the report: item by item, as `gptmill compare` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gptcore.evaluation.comparison import Delta, Verdict, differences, direction, judged
from gptcore.evaluation.headline import BASELINE, STDERR
from gptcore.evaluation.measured import paired_differences, recorded
from gptcore.evaluation.report_words import DASH
from gptcore.html_page import Markup, joined, text

BASE = "base"
Differences = Mapping[str, Mapping[str, Delta]]
"""By the model measured and the figure's plain name: `qa/exact_match`, `qa/exact_match_type`."""

WORDS: Mapping[Verdict, str] = {
    "better": "better than base",
    "worse": "worse than base",
    "equal": "equal to base",
    "no difference shown": "not shown to differ from base",
}
EXPLAINED = (
    "A difference is that from the base model over the same items, with the standard error of the items' own "
    "differences; the verdict is corrected for the number of figures (Holm)."
)


def from_base(benchmarks: Mapping[str, Path]) -> Differences:
    """Every figure that a tuned model and the base model share, all of them judged together.

    benchmarks: finished stages by the model measured; those without scores are left out.
    """
    there = {model: directory for model, directory in benchmarks.items() if (directory / "scores.json").exists()}
    if BASE not in there:
        return {}
    base = _own(recorded(there[BASE]))
    tuned = {model: directory for model, directory in there.items() if model != BASE}
    found = [
        differences([base], [_own(recorded(directory))], paired_differences(there[BASE], directory, None))
        for directory in tuned.values()
    ]
    return dict(zip(tuned, judged(found), strict=True))


def _own(metrics: Mapping[str, float]) -> dict[str, float]:
    """Figures of the model itself that have a direction, with their standard errors."""
    return {
        name: value
        for name, value in metrics.items()
        if direction(name.removesuffix(STDERR)) is not None and BASELINE not in name
    }


def difference(delta: Delta | None) -> Markup:
    """`+0.471 ± 0.022`, and the verdict in small under it; a dash where there is none."""
    if delta is None:
        return DASH
    error = "" if delta.stderr is None else f" ± {delta.stderr:.3f}"
    said = [WORDS.get(delta.verdict, delta.verdict)] + ([] if delta.paired else ["not item by item"])
    return joined([Markup(f"{delta.delta:+.3f}{error}<br>"), Markup(f"<small>{text('; '.join(said))}</small>")])
