"""Strings at which an answer ends, and its text while it is being written."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptcore.text.tokenizer import TextTokenizer

NO_TEXT = "\ufffd"


def before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string."""
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]


class Stops:
    """Looks for stop strings in tokens, of which each string may take several or a part."""

    def __init__(self, tokenizer: TextTokenizer, strings: Sequence[str]) -> None:
        """ValueError for an empty string, at which every answer would end, and for one that is never written."""
        if not all(strings):
            raise ValueError("a stop string is empty; leave it out")
        if any(NO_TEXT in string for string in strings):
            raise ValueError("a stop string holds U+FFFD, which only stands for bytes that are no text; leave it out")
        self._tokenizer = tokenizer
        self._wanted = [string.encode() for string in strings]
        self._longest = max(map(len, self._wanted), default=0)

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether one stands in the text of these tokens, and not yet before the last of them."""
        if not self._wanted:
            return False
        tail = self._tokenizer.text_bytes(tokens[-1:])
        enough, place = len(tail) + self._longest, len(tokens) - 1
        while len(tail) < enough and place > 0:
            place -= 1
            tail = self._tokenizer.text_bytes(tokens[place : place + 1]) + tail
        return any(string in tail for string in self._wanted)


class Pieces:
    """Tells the text of one answer as its tokens come: whole characters, and nothing of a stop string."""

    def __init__(self, tokenizer: TextTokenizer, stops: Sequence[str], tell: Callable[[str], object]) -> None:
        self._tokenizer, self._stops, self._tell = tokenizer, stops, tell
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._ended = False

    def take(self, token: int) -> None:
        """Tell what can be told now."""
        self._add(self._decoder.decode(self._tokenizer.text_bytes([token])), last=False)

    def end(self) -> None:
        """Tell the rest."""
        self._add(self._decoder.decode(b"", final=True), last=True)

    def _add(self, text: str, last: bool) -> None:
        if self._ended:
            return
        self._held += text
        ready = before(self._held, self._stops)
        self._ended = len(ready) < len(self._held)
        if not (self._ended or last):
            ready = ready[: len(ready) - self._begun()]
        self._held = self._held[len(ready) :]
        if ready:
            self._tell(ready)

    def _begun(self) -> int:
        """Characters at the end that a stop string may begin with."""
        longest = max(map(len, self._stops), default=1) - 1
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(self._held[-n:]) for stop in self._stops)), 0)
