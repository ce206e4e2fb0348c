"""Puts a placeholder in place of e-mail addresses, telephone numbers, IP addresses and credentials.

| what | placeholder | forms |
|---|---|---|
| key | <KEY> | gptcore/text/steps/keys.py |
| email, ip | <EMAIL>, <IP> | gptcore/text/steps/addresses.py |
| phone | <PHONE> | gptcore/text/steps/phones.py |

Every search begins at a character that must be there and looks a bounded way around it, so that the time is linear in
the text, whatever the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gptcore.config_steps import Mask
from gptcore.text.steps.addresses import emails, ips
from gptcore.text.steps.keys import keys
from gptcore.text.steps.phones import phones
from gptcore.text.steps.step import Dropped, Kept, Step

VERSION = 1
LIBRARIES: tuple[str, ...] = ()

Span = tuple[int, int]
"""Where something begins and ends in the text."""
_FINDERS: dict[str, Callable[[str], Iterable[Span]]] = {"key": keys, "email": emails, "ip": ips, "phone": phones}
"""Keys come first, because they may hold what looks like the others."""


def make(config: Mask) -> Step:
    """The step; it counts what it masked: {"email": 2, "key": 1}."""
    finders = [(name, finder) for name, finder in _FINDERS.items() if name in config.what]

    def mask(text: str) -> Kept | Dropped:
        counts = {}
        for name, finder in finders:
            if spans := sorted(finder(text)):
                text, counts[name] = _masked(text, spans, f"<{name.upper()}>")
        return Kept(text, counts)

    return mask


def _masked(text: str, spans: list[Span], placeholder: str) -> tuple[str, int]:
    """The text with one placeholder for each run of overlapping spans, and their number."""
    pieces, done = [], 0
    for start, end in spans:
        if start >= done:
            pieces.append(text[done:start])
        done = max(done, end)
    return placeholder.join([*pieces, text[done:]]), len(pieces)
