"""The stable names under which a benchmark's figures stand everywhere: MLflow, comparisons, the gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HELDOUT = "heldout"
BASELINE, OVERLAP, STDERR = "_baseline", "overlap_13gram", "_stderr"
SEED_STD = "_seed_std"
"""Of a score that was measured under several seeds: the standard deviation between them."""
ERRORS = (STDERR, SEED_STD)
"""Endings of what tells how sure a score is."""


def own_model(task: str, result: Mapping[str, Any]) -> str:
    """Whose score of a task needs no model's name: a skill's own model's, and of a standard task the base model's.

    result: the task's entry in scores.json. Held-out text is nobody's own.
    """
    if task == HELDOUT:
        return ""
    return task if "target_metric" in result else "base"


def headline_name(task: str, name: str, ending: str, model: str, own: str) -> str:
    """`qa/exact_match`, `qa/exact_match_type`, `hellaswag/acc_norm` of the model whose `own` the task is.

    Any other score ends in the name of its model. name: as in scores.json. ending: `_<kind>` of a kind of item, else
    nothing. model: `base`, or a skill.
    """
    error = next((end for end in ERRORS if name.endswith(end)), "")
    stem = name.removesuffix(error)
    of_model = model != own and not stem.endswith(BASELINE) and stem != OVERLAP
    return f"{task}/{stem}{ending}{f'_{model}' if of_model else ''}{error}"
