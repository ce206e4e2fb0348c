"""What the rules of a filter measure of a text, each thing once and only when a rule asks for it."""

from __future__ import annotations

import re
from functools import cached_property

from gptcore.text.steps.phrases import Phrases

LETTERS = re.compile(r"[^\W\d_]+")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]+")
"""Chinese characters: the unified ideographs, their extensions and the compatibility ones."""
KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]+")
"""Japanese syllables; marks that Chinese text borrows, such as the middle dot, are not among them."""
ORDERS = {"words": 2, "characters": 4}
"""The smallest n-grams that rules ask for."""


def count(pattern: re.Pattern[str], text: str) -> int:
    """Characters in all matches of a pattern without groups."""
    return sum(map(len, pattern.findall(text)))


class Page:
    """One text. Everything is found in time linear in its length."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def lower(self) -> str:
        """The text in lower case."""
        return self.text.lower()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, without spaces around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def line_characters(self) -> int:
        """Characters in `lines`."""
        return sum(map(len, self.lines))

    @cached_property
    def repeated_lines(self) -> tuple[int, int]:
        """(lines, their characters) that stood in the text before."""
        first = set(self.lines)
        return len(self.lines) - len(first), self.line_characters - sum(map(len, first))

    @cached_property
    def paragraphs(self) -> list[str]:
        """What blank lines part."""
        return [paragraph for part in self.text.split("\n\n") if (paragraph := part.strip())]

    @cached_property
    def words(self) -> list[str]:
        """What spaces and line ends part, with the punctuation that touches it."""
        return self.text.split()

    @cached_property
    def characters(self) -> int:
        """Characters other than spaces and line ends."""
        return sum(map(len, self.words))

    @cached_property
    def letters(self) -> int:
        """Characters that are letters of any script."""
        return count(LETTERS, self.text)

    @cached_property
    def han(self) -> int:
        """Characters that are Chinese characters."""
        return count(HAN, self.text)

    @cached_property
    def word_phrases(self) -> Phrases:
        """Repeated n-grams of words, from order 2."""
        return Phrases(self.words, map(len, self.words), ORDERS["words"])

    @cached_property
    def character_phrases(self) -> Phrases:
        """Repeated n-grams of characters, spaces left out, from order 4."""
        solid = "".join(self.words)
        return Phrases(solid, [1] * len(solid), ORDERS["characters"])
