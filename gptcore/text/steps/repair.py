"""Mends text that was decoded wrongly, with ftfy (Speer 2019), and brings its characters into one Unicode form.

What ftfy does here: undo mojibake (UTF-8 read as Windows-1252, Mac Roman and others), put the characters of
Windows-1252 in place of C1 controls, take Latin ligatures apart, pair surrogates, end lines with \\n, take out terminal
escapes, control characters and byte order marks. Curly quotes and, under NFC, full-width forms stay: they are what the
author wrote. HTML entities stay unless the config says otherwise: text about HTML quotes them.

ftfy looks at every line for some 300 ns a character. Here a line reaches it only where one regular expression finds a
character, or two side by side, without which ftfy changes nothing; the result is that of ftfy on every line.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

from gptcore.config_steps import Repair
from gptcore.text.steps.step import Dropped, Kept, Step

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

VERSION = 1
LIBRARIES: tuple[str, ...] = ("ftfy",)

CONTROLS = "\x00-\x08\x0b\r\x0e-\x1f\x7f"
"""ASCII that ftfy takes out or replaces wherever it stands."""
MORE_CONTROLS = "\u2028\u2029\ud800-\udfff\u206a-\u206f\ufeff\ufff9-\ufffc"
"""Beyond ASCII, the same."""
REACH = 5
"""Characters of a sequence that ftfy takes for mojibake, before or after one of them: the longest has six."""

CAPITALS = "\u0412\u0413\u0420\u0421\u0392\u0393\u039e\u039f"
"""First letters of the Cyrillic and the Greek alphabet when their UTF-8 is read as Windows-1251 and Windows-1253."""


def make(config: Repair) -> Step:
    """The step; it counts {"mended": 1} where the text changed."""
    import ftfy

    plain = re.compile(f"[{CONTROLS}{'&' if config.entities else ''}]")
    fixes = ftfy.TextFixerConfig(
        unescape_html=False,
        fix_character_width=False,
        uncurl_quotes=False,
        normalization=config.form,
        explain=False,
    )

    def repair(text: str) -> Kept | Dropped:
        if text.isascii() and not plain.search(text):
            return Kept(text)
        mended = _mended(text, fixes._replace(unescape_html=config.entities and "<" not in text))
        return Kept(text) if mended == text else Kept(mended, {"mended": 1})

    return repair


def _mended(text: str, fixes: TextFixerConfig) -> str:
    """Line by line and then as a whole, until nothing changes: a normalised character may make mojibake readable."""
    while True:
        before = text
        text = unicodedata.normalize(fixes.normalization, _lines_mended(text, fixes))
        if text == before:
            return text


def _lines_mended(text: str, fixes: TextFixerConfig) -> str:
    """The lines that may need it through ftfy, the others as they are.

    1. Find the next suspicious place.
    2. If a character there means nothing by itself, ask ftfy's own detector, within the few characters it may take in.
    3. Give the whole line to ftfy, as ftfy itself divides a text, and go on behind it.
    """
    import ftfy
    from ftfy.badness import is_bad

    suspicious, certain = _suspicious(bool(fixes.unescape_html))
    pieces: list[str] = []
    done = place = start = end = 0
    while found := suspicious.search(text, place):
        place = found.end()
        if found.start() >= end:
            start = text.rfind("\n", end, found.start()) + 1 or end
            end = text.find("\n", found.end()) + 1 or len(text)
        if found[0][0] in certain or is_bad(text[max(start, found.start() - REACH) : min(end, found.end() + REACH)]):
            pieces += [text[done:start], ftfy.fix_text(text[start:end], fixes)]
            done = place = end
    return "".join([*pieces, text[done:]]) if pieces else text


@functools.cache
def _suspicious(entities: bool) -> tuple[re.Pattern[str], frozenset[str]]:
    """Where ftfy may change a line, and the characters that it changes wherever they stand.

    Every sequence that ftfy 6.3 takes for mojibake holds a character that is rare in good text (`rare`), or a small
    letter with an accent beside a quotation mark or the like, or one of eight Cyrillic and Greek capitals before one,
    or the ligature œ before something else than a letter. A test holds this against the detector itself.
    """
    from ftfy.badness import MOJIBAKE_CATEGORIES as KINDS
    from ftfy.chardata import LIGATURES

    ligatures = "".join(map(chr, LIGATURES))
    always = f"{CONTROLS}{MORE_CONTROLS}{ligatures}{'&' if entities else ''}"
    rare = "".join(KINDS[kind] for kind in ("c1", "bad", "upper_accented", "box", "currency", "numeric", "law")) + "ÙЂ"
    letters, marks = KINDS["lower_accented"], KINDS["start_punctuation"] + KINDS["end_punctuation"]
    # One class of characters stands first, because that is what `re` searches for fast.
    pattern = f"[{always}{rare}{letters}{marks}{CAPITALS}](?:(?<=[{always}])|(?<=[{rare}])[{rare}]*"
    pattern += f"|(?<=[{letters}])[{marks}]|(?<=[{marks}])[{letters}ó]|(?<=[{CAPITALS}])[{marks}°]|(?<=œ)(?![A-Za-z]))"
    one = re.compile(f"[{always}]")
    return re.compile(pattern), frozenset(filter(one.match, map(chr, range(0x10000))))
