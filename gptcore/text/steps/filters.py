"""The filter step: takes lines out of a document, and drops it at the first rule of a profile that it breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptcore.text.steps.page import Page
from gptcore.text.steps.profiles import PROFILES
from gptcore.text.steps.step import Dropped, Kept, Step

if TYPE_CHECKING:
    from gptcore.config_steps import Filter

VERSION = 1
"""Of what the step does to the same text under the same config."""
LIBRARIES: tuple[str, ...] = ()
"""Libraries whose version changes its verdicts."""


def make(config: Filter) -> Step:
    """The profile's rules but for those in `config.without`. Counts `lines_removed` where lines went."""
    profile, without = PROFILES[config.profile], frozenset(config.without)
    line_rules = [(name, rule) for name, rule in profile.lines.items() if name not in without]
    rules = [(name, rule) for name, rule in profile.documents.items() if name not in without]

    def step(text: str) -> Kept | Dropped:
        removed = 0
        for name, take_out in line_rules:
            text, taken = take_out(text)
            if taken and not text:
                return Dropped(name, f"no line is left, {taken} removed")
            removed += taken
        page = Page(text)
        for name, rule in rules:
            if why := rule(page):
                return Dropped(name, why)
        return Kept(text, {"lines_removed": removed} if removed else {})

    return step
