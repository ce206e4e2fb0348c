"""Which rules each profile of the filter step has, with which limits, in the order they are tried: cheapest first.

The names are those of `gptcore.config_steps.FILTER_RULES`, which the schema needs without importing this. First lines
are taken out, then the document is judged by what is left. The limits' sources stand at the rules; where a limit is
not its source's, a comment here says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from gptcore.text.steps import rules, rules_code, rules_docs, rules_zh
from gptcore.text.steps.page import Page

LineRule = Callable[[str], tuple[str, int]]
"""The text without some of its lines, and how many those were."""
Rule = Callable[[Page], str | None]
"""None, or why the document goes: value and limit."""


@dataclass(frozen=True)
class Profile:
    """The rules for one kind of text, by name, in order."""

    lines: Mapping[str, LineRule]
    """What is taken out of a document."""
    documents: Mapping[str, Rule]
    """What a document must hold."""


TOP_PHRASE = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE_PHRASES = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

WEB = Profile(
    # C4 also takes out lines of few words and lines without an end mark: that costs headings, lists and verse, and
    # Penedo et al. 2024, section 3.5, left the second out, for it took 30 % of all tokens. `ending_lines` and
    # `short_lines` judge the whole document instead.
    lines={
        "javascript_lines": rules.javascript_lines,
        "policy_lines": rules.policy_lines,
    },
    documents={
        "lorem_ipsum": rules.lorem_ipsum,
        "curly_bracket": rules.curly_bracket,
        "words": partial(rules.words, least=50, most=100_000),
        "mean_word_length": partial(rules.mean_word_length, least=3, most=10),
        "symbols": partial(rules.symbols, limit=0.1),
        "duplicate_lines": partial(rules.duplicate_lines, most=0.30),
        # FineWeb's limit. It implies Gopher's 0.20 for the characters of duplicate lines and of duplicate paragraphs.
        "duplicate_line_characters": partial(rules.duplicate_line_characters, limit=0.10),
        "duplicate_paragraphs": partial(rules.duplicate_paragraphs, most=0.30),
        "bullet_lines": partial(rules.bullet_lines, most=0.9),
        "ellipsis_lines": partial(rules.ellipsis_lines, most=0.3),
        "ending_lines": partial(rules.ending_lines, limit=0.12),
        "short_lines": partial(rules.short_lines, limit=0.67),
        "stop_words": partial(rules.stop_words, least=2),
        "sentences": partial(rules.sentences, least=3),
        "words_with_letter": partial(rules.words_with_letter, least=0.8),
        "top_phrase": partial(rules.top_phrase, limits=TOP_PHRASE),
        "duplicate_phrases": partial(rules.duplicate_phrases, limits=DUPLICATE_PHRASES),
    },
)

# Measured on docstrings of installed packages, by reading what each rule dropped. A parameter list says much in equal
# words, so repetition counts only in long texts, and only where most of the text is repeated.
DOCS = Profile(
    lines={"copyright_lines": rules_docs.copyright_lines},
    documents={
        "lorem_ipsum": rules.lorem_ipsum,
        "placeholder": rules_docs.placeholder,
        "licence": rules_docs.licence,
        "words": partial(rules.words, least=3, most=100_000),
        "mean_word_length": partial(rules.mean_word_length, least=2, most=20),
        "duplicate_lines": partial(rules.duplicate_lines, most=0.5, from_lines=10),
        "letters": partial(rules.letters, least=0.4),
        "encoded": partial(rules_code.encoded, longest=256, share=0.5),
        "top_phrase": partial(rules.top_phrase, limits={2: 0.3, 3: 0.3, 4: 0.3}, from_words=100),
        "duplicate_phrases": partial(rules.duplicate_phrases, limits={5: 0.5, 10: 0.4}, from_words=100),
    },
)

CODE = Profile(
    lines={},
    documents={
        "lock_file": rules_code.lock_file,
        "generated": rules_code.generated,
        "lines": partial(rules_code.lines, most=100_000),
        "mean_line_length": partial(rules_code.mean_line_length, most=100),
        "longest_line": partial(rules_code.longest_line, most=1000),
        "duplicate_code": partial(rules_code.duplicate_code, most=0.5, from_lines=20),
        "letters": partial(rules_code.letters, least=0.25),
        "encoded": partial(rules_code.encoded, longest=1024, share=0.5),
        "literal_lines": partial(rules_code.literal_lines, most=0.75, from_lines=20),
    },
)

ZH = Profile(
    lines={"boilerplate_lines": rules_zh.boilerplate_lines},
    documents={
        # Gopher's 50 to 100,000 words and its phrases, a Chinese word taken as two characters.
        "chinese_characters": partial(rules_zh.chinese_characters, least=100, most=200_000),
        # Chen et al. 2023 ask for 0.3, which passes pages that are half English.
        "chinese_share": partial(rules_zh.chinese_share, least=0.5),
        "kana_share": partial(rules_zh.kana_share, most=0.02),
        "latin_share": partial(rules_zh.latin_share, most=0.3),
        "digit_share": partial(rules_zh.digit_share, most=0.2),
        "punctuation_share": partial(rules_zh.punctuation_share, least=0.02, most=0.3),
        "stop_characters": partial(rules_zh.stop_characters, least=3),
        "mean_line_length": partial(rules_zh.mean_line_length, least=10),  # Chen et al. 2023
        "duplicate_lines": partial(rules.duplicate_lines, most=0.30),
        "duplicate_line_characters": partial(rules.duplicate_line_characters, limit=0.10),
        "top_phrase": partial(rules.top_character_phrase, limits={2 * n: most for n, most in TOP_PHRASE.items()}),
        "duplicate_phrases": partial(
            rules.duplicate_character_phrases, limits={2 * n: most for n, most in DUPLICATE_PHRASES.items()}
        ),
    },
)

PROFILES: Mapping[str, Profile] = {"web": WEB, "docs": DOCS, "code": CODE, "zh": ZH}
