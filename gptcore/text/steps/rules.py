"""The rules of filters that hold for any kind of text: each gives None, or why the text goes.

A fraction of nothing is 0. Limits are handed in by gptcore/text/steps/profiles.py, which names the rules. Sources:
Rae et al. 2021 (Gopher, arXiv 2112.11446), Raffel et al. 2020 (C4, JMLR 21:140), Penedo et al. 2024 (FineWeb,
arXiv 2406.17557).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from gptcore.text.steps.page import Page
from gptcore.text.steps.phrases import Phrases

BULLETS = ("•", "‣", "◦", "▪", "●", "·", "- ", "* ", "\u2013 ")
LINE_ENDS = (".", "!", "?", '"', "'", "”", "\u2019", "…")
SENTENCE_ENDS = re.compile(r"[.!?…][\"'”\u2019)\]]*(?=\s|$)")
ENGLISH = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})


def fraction(part: float, whole: float) -> float:
    """part / whole, and 0 of nothing."""
    return part / whole if whole else 0.0


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def at_least(what: str, value: float, least: float) -> str | None:
    """The reason where value < least."""
    return f"{what} {_number(value)}, at least {_number(least)}" if value < least else None


def at_most(what: str, value: float, most: float) -> str | None:
    """The reason where value > most."""
    return f"{what} {_number(value)}, at most {_number(most)}" if value > most else None


def above(what: str, value: float, limit: float) -> str | None:
    """The reason where value <= limit."""
    return f"{what} {_number(value)}, must be above {_number(limit)}" if value <= limit else None


def below(what: str, value: float, limit: float) -> str | None:
    """The reason where value >= limit."""
    return f"{what} {_number(value)}, must be below {_number(limit)}" if value >= limit else None


# Lines that are taken out


def without_lines(text: str, marks: Sequence[str], most_characters: int | None = None) -> tuple[str, int]:
    """The text without the lines that hold a mark (given in lower case), and how many those were.

    With `most_characters` longer lines stay. The same text object where nothing is found.
    """

    def stays(line: str) -> bool:
        if most_characters is not None and len(line) > most_characters:
            return True
        lower = line.lower()
        return not any(mark in lower for mark in marks)

    lower = text.lower()
    if not any(mark in lower for mark in marks):
        return text, 0
    lines = text.split("\n")
    kept = list(filter(stays, lines))
    return ("\n".join(kept).strip("\n"), len(lines) - len(kept)) if len(kept) < len(lines) else (text, 0)


def javascript_lines(text: str) -> tuple[str, int]:
    """Notices that JavaScript should be enabled (Raffel et al. 2020, section 2.2)."""
    return without_lines(text, ("javascript",))


def policy_lines(text: str) -> tuple[str, int]:
    """Notices on terms, privacy and cookies (Raffel et al. 2020, section 2.2)."""
    marks = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
    return without_lines(text, marks)


# Words and characters


def lorem_ipsum(page: Page) -> str | None:
    """Placeholder text of layouts (Raffel et al. 2020, section 2.2)."""
    return "holds 'lorem ipsum'" if "lorem ipsum" in page.lower else None


def curly_bracket(page: Page) -> str | None:
    """Program text on a page of prose (Raffel et al. 2020, section 2.2)."""
    return "holds '{'" if "{" in page.text else None


def words(page: Page, least: int, most: int) -> str | None:
    """Length in words (Rae et al. 2021, section A.1.1)."""
    return at_least("words", len(page.words), least) or at_most("words", len(page.words), most)


def mean_word_length(page: Page, least: float, most: float) -> str | None:
    """Characters a word (Rae et al. 2021, section A.1.1)."""
    mean = fraction(page.characters, len(page.words))
    return at_least("mean word length", mean, least) or at_most("mean word length", mean, most)


def symbols(page: Page, limit: float) -> str | None:
    """Hash signs a word, and ellipses a word (Rae et al. 2021, section A.1.1)."""
    ellipses = page.text.count("...") + page.text.count("…")
    return below("hash signs a word", fraction(page.text.count("#"), len(page.words)), limit) or below(
        "ellipses a word", fraction(ellipses, len(page.words)), limit
    )


def words_with_letter(page: Page, least: float) -> str | None:
    """Share of words that hold a letter (Rae et al. 2021, section A.1.1)."""
    # Most words begin with one; only of the others every character is looked at.
    having = sum(1 for word in page.words if word[0].isalpha() or any(map(str.isalpha, word)))
    return at_least("share of words with a letter", fraction(having, len(page.words)), least)


def stop_words(page: Page, least: int) -> str | None:
    """Different words of the commonest in English, without which there is no prose (Rae et al. 2021, section A.1.1)."""
    return at_least("English stop words", len(ENGLISH.intersection(page.lower.split())), least)


def letters(page: Page, least: float) -> str | None:
    """Share of letters among the characters that are not spaces."""
    return at_least("share of letters", fraction(page.letters, page.characters), least)


def sentences(page: Page, least: int) -> str | None:
    """Ends of sentences (Raffel et al. 2020, section 2.2)."""
    return at_least("sentences", len(SENTENCE_ENDS.findall(page.text)), least)


# Lines and paragraphs


def _share_of_lines(page: Page, holds: Callable[[str], bool]) -> float:
    return fraction(sum(map(holds, page.lines)), len(page.lines))


def bullet_lines(page: Page, most: float) -> str | None:
    """Share of lines that begin with a bullet (Rae et al. 2021, section A.1.1)."""
    return at_most("share of bullet lines", _share_of_lines(page, lambda line: line.startswith(BULLETS)), most)


def ellipsis_lines(page: Page, most: float) -> str | None:
    """Share of lines that break off in an ellipsis (Rae et al. 2021, section A.1.1)."""
    share = _share_of_lines(page, lambda line: line.endswith(("...", "…")))
    return at_most("share of ellipsis lines", share, most)


def ending_lines(page: Page, limit: float) -> str | None:
    """Share of lines that end like a sentence (Penedo et al. 2024, section 3.6)."""
    return above("share of lines ending like a sentence", _share_of_lines(page, lambda x: x.endswith(LINE_ENDS)), limit)


def short_lines(page: Page, limit: float, characters: int = 30) -> str | None:
    """Share of lines under so many characters: menus, tags (Penedo et al. 2024, section 3.6)."""
    return below("share of short lines", _share_of_lines(page, lambda line: len(line) < characters), limit)


def duplicate_lines(page: Page, most: float, from_lines: int = 1) -> str | None:
    """Share of lines that stood before (Rae et al. 2021, table A1); texts of fewer than `from_lines` pass."""
    if len(page.lines) < from_lines:
        return None
    return at_most("share of duplicate lines", fraction(page.repeated_lines[0], len(page.lines)), most)


def duplicate_line_characters(page: Page, limit: float) -> str | None:
    """Share of characters in lines that stood before (Penedo et al. 2024, section 3.6; Rae et al. 2021, table A1)."""
    share = fraction(page.repeated_lines[1], page.line_characters)
    return below("share of characters in duplicate lines", share, limit)


def duplicate_paragraphs(page: Page, most: float) -> str | None:
    """Share of paragraphs that stood before (Rae et al. 2021, table A1)."""
    again = len(page.paragraphs) - len(set(page.paragraphs))
    return at_most("share of duplicate paragraphs", fraction(again, len(page.paragraphs)), most)


# Phrases


def _top(phrases: Phrases, limits: Mapping[int, float], unit: str) -> str | None:
    for n, most in limits.items():
        if why := at_most(f"share of the top {n}-{unit} phrase", phrases.top(n), most):
            return why
    return None


def _duplicated(phrases: Phrases, limits: Mapping[int, float], unit: str) -> str | None:
    for n, most in limits.items():
        if not phrases.groups(n):
            return None  # then no longer phrase is repeated either
        if why := at_most(f"share of duplicate {n}-{unit} phrases", phrases.duplicated(n), most):
            return why
    return None


def top_phrase(page: Page, limits: Mapping[int, float], from_words: int = 1) -> str | None:
    """Share of characters in the n-gram of words that fills most, for ascending n (Rae et al. 2021, table A1).

    Texts of fewer than `from_words` words pass.
    """
    return _top(page.word_phrases, limits, "word") if len(page.words) >= from_words else None


def duplicate_phrases(page: Page, limits: Mapping[int, float], from_words: int = 1) -> str | None:
    """Share of characters in n-grams of words that stood before, for ascending n (Rae et al. 2021, table A1).

    The first occurrence does not count, as for lines. Texts of fewer than `from_words` words pass.
    """
    return _duplicated(page.word_phrases, limits, "word") if len(page.words) >= from_words else None


def top_character_phrase(page: Page, limits: Mapping[int, float]) -> str | None:
    """As `top_phrase`, in characters."""
    return _top(page.character_phrases, limits, "character")


def duplicate_character_phrases(page: Page, limits: Mapping[int, float]) -> str | None:
    """As `duplicate_phrases`, in characters."""
    return _duplicated(page.character_phrases, limits, "character")
