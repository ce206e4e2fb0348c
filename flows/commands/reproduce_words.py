"""What `gptmill reproduce` says to a person."""

from __future__ import annotations

from collections.abc import Container, Sequence

from flows.commands.tables import aligned
from gptcore.stages import OUTSIDE_DIGEST
from gptcore.verdicts import Verdict, first_difference


def table(said: Sequence[Verdict]) -> str:
    """One line a stage."""
    rows = [[v.stage, v.recorded[:16], (v.found or "-")[:16], v.verdict] for v in said]
    return aligned([["stage", "recorded", "built", "digest"], *rows])


def left_out(recorded: Container[str]) -> str:
    """Which stages of the run have no digest to compare; nothing where it had none of them."""
    names = [name for name in OUTSIDE_DIGEST if name in recorded]
    if not names:
        return ""
    verb = "stand" if names[1:] else "stands"
    return f"{' and '.join(names)} {verb} outside the output digest: not rebuilt, no model was registered\n"


def closing(said: Sequence[Verdict]) -> str:
    """The answer."""
    first = first_difference(said)
    built = [v for v in said if v.verdict != "not run"]
    if first is None:
        whole = "every stage agrees" if built == list(said) else f"{len(built)} of {len(said)} stages were built"
        return f"{whole}: {len(built)} output digests are equal" if built else "no stage was built"
    lines = [f"first stage that differs: {first.stage}"]
    lines += [f"  likely: {reason}" for reason in first.reasons]
    if first.files:
        lines.append(f"  files: {', '.join(first.files)}")
    return "\n".join(lines)
