"""What a step is: a function of one document's text, which keeps it, changes it, or drops it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Kept:
    """The document stays."""

    text: str
    """Its text from here on; the same object where nothing changed."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was found in it, by name, to be added up for the data card: `{"email": 2}`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The document goes."""

    rule: str
    """The first rule it broke, by the name that the data card and the config use."""
    why: str
    """Value and limit, for the data card's examples: `mean word length 2.1, at least 3`."""


Step = Callable[[str], Kept | Dropped]
"""Pure: the same text, the same verdict, whatever came before it."""
