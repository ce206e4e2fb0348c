"""The stable names under which a benchmark's figures stand everywhere: MLflow, comparisons, the gate."""

from __future__ import annotations

BASELINE, OVERLAP, STDERR = "_baseline", "overlap_13gram", "_stderr"


def headline_name(task: str, name: str, ending: str, model: str) -> str:
    """`qa/exact_match`, `qa/exact_match_type`, ... of the model tuned for it; any other score ends in the model's name.

    name: as in scores.json. ending: `_<kind>` of a kind of item, else nothing. model: `base`, or a skill.
    """
    stem, stderr = name.removesuffix(STDERR), STDERR if name.endswith(STDERR) else ""
    of_model = task != model and not stem.endswith(BASELINE) and stem != OVERLAP
    return f"{task}/{stem}{ending}{f'_{model}' if of_model else ''}{stderr}"
