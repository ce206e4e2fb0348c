"""For every rule of every profile: a text that it alone drops, and one just inside its limit."""

# ruff: noqa: RUF001 - full-width punctuation is meant

from __future__ import annotations

import base64
import hashlib
import math
import textwrap

from filter_texts import DOCSTRING, SOURCE, characters, prose, with_character_phrase, with_phrases, words

Case = tuple[str, str, str]
"""(rule, text that only it drops, near miss)."""

DIGEST = base64.b64encode(b"".join(hashlib.sha512(bytes([i])).digest() for i in range(13))).decode()
"""1,112 characters of base64."""
BASE64 = DIGEST.replace("/", "a").replace("+", "b")


def joined(*parts: str | list[str]) -> str:
    """Lines and lists of lines."""
    return "\n".join(line for part in parts for line in ([part] if isinstance(part, str) else part))


def others(n: int, most: float, again: float = 1.0, off: float = 0.01) -> tuple[int, int]:
    """Beside how many others a phrase of n has just more than a share, and beside how many just less."""
    return math.floor(n * again / (most + off) - n), math.ceil(n * again / (most - off) - n)


def later(text: str, put: str, times: int) -> str:
    """`put` for the first spaces after the first line."""
    head, rest = text.split("\n", 1)
    return f"{head}\n{rest.replace(' ', put, times)}"


def web() -> list[Case]:
    one_line = prose(60, per_line=60).replace(".", "") + ". Bafa kolu. Bafo kulo"
    listed = ["- " + line for line in prose(200).split("\n")]
    cases = [
        ("javascript_lines", f"{one_line} JavaScript.", f"{one_line} Java script."),
        ("policy_lines", f"{one_line} we use cookies.", f"{one_line} we used cookies."),
        ("lorem_ipsum", f"{prose(60)} Lorem ipsum.", f"{prose(60)} Lorem, ipsum."),
        ("curly_bracket", prose(60) + " {", prose(60) + " ("),
        ("words", prose(49), prose(50)),
        ("words", prose(100_001, per_line=20), prose(100_000, per_line=20)),
        ("mean_word_length", prose(100, size=11), prose(100, size=10)),
        ("mean_word_length", prose(60, size=2, per_line=20), prose(60, size=3, per_line=20)),
        ("symbols", later(prose(60), " #", 6), later(prose(60), " #", 5)),
        ("symbols", later(prose(60), "... ", 6), later(prose(60), "... ", 5)),
        ("duplicate_lines", *(joined(prose(400, 20), ["Bafa kolu.", "Gudi lame."] * n) for n in (7, 5))),
        ("duplicate_line_characters", *(_again(prose(n, 5).split("\n")) for n in (80, 100))),
        ("duplicate_paragraphs", *("\n\n".join([*_parted(prose(400, 20), n), *["Bafa kolu."] * 3]) for n in (1, 4))),
        ("bullet_lines", joined(listed), joined(listed, "Bafa kolu tame.", "Gudi lame.", "Domu.")),
        ("ellipsis_lines", *(_every(n, prose(400, 20), "..") for n in (3, 4))),
        ("ending_lines", *(_every(n, prose(270).replace(".", ""), ".") for n in (9, 6))),
        ("short_lines", *(joined(prose(50), [f"{word.title()}." for word in words(n, 5000)]) for n in (11, 10))),
        ("stop_words", prose(60, opening="the"), prose(60, opening="the of")),
        ("sentences", prose(60, 30), prose(60, 20)),
        ("words_with_letter", _numbers(prose(100), 21), _numbers(prose(100), 20)),
    ]
    for n, most in {2: 0.20, 3: 0.18, 4: 0.16}.items():
        cases.append(("top_phrase", *(with_phrases([words(n)], count) for count in others(n, most))))
    for n, most in {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}.items():
        counts = others(n, most, 0.95, 0.004)
        cases.append(("duplicate_phrases", *(with_phrases([words(n)], count) for count in counts)))
    return cases


def _again(lines: list[str]) -> str:
    """Two of the lines a second time, not side by side."""
    return joined(lines[:10], lines[2], lines[10:13], lines[5], lines[13:])


def _parted(text: str, parts: int) -> list[str]:
    """Paragraphs of equally many lines."""
    lines = text.split("\n")
    each = len(lines) // parts
    return [joined(lines[first : first + each]) for first in range(0, len(lines), each)]


def _every(n: int, text: str, end: str) -> str:
    """An end for every n-th line, from the first."""
    return "\n".join(line + end * (i % n == 0) for i, line in enumerate(text.split("\n")))


def _numbers(text: str, count: int) -> str:
    """Numbers for so many words, three of a line."""
    lines = [line.split(" ") for line in text.split("\n")]
    for number in range(count):
        lines[number // 3][6 + number % 3] = str(1234 + number)
    return "\n".join(map(" ".join, lines))


def docs() -> list[Case]:
    numbers = "\n".join(f"{17 * i} {19 * i} {23 * i}" for i in range(30))
    reads = [f"Read {word}." for word in words(5)]
    four = [words(n, 5000 + 100 * n)[i::5] for n in (60, 45) for i in range(5)]
    twelve, nine = four[:5], four[5:]
    return [
        ("copyright_lines", "Copyright (c) 2020 Someone Else.", "The copyright of 2020 is someone else's."),
        ("lorem_ipsum", DOCSTRING + "Lorem ipsum", DOCSTRING + "Lorem, ipsum"),
        ("placeholder", "Add docstring here.", "Add a docstring to the function here."),
        ("placeholder", "See base class method.", "See the base class's method for the limits."),
        (
            "licence",
            DOCSTRING + "Permission is hereby granted, free\nof charge, to any person.",
            DOCSTRING + "Permission is granted by the caller.",
        ),
        ("words", "Kqueue selector.", "A kqueue selector."),
        ("words", prose(100_001), prose(100_000)),
        ("mean_word_length", "a * b", "aa * bcd"),
        ("mean_word_length", f"Read the {'long' * 14}.", f"Read the {'long' * 12}."),
        ("duplicate_lines", joined(reads, ["False"] * 8), joined(reads, ["False"] * 6)),
        ("letters", "The table of values.\n" + numbers, "The table of values of the bond.\n" + numbers[:30]),
        ("encoded", DOCSTRING + BASE64[:260], DOCSTRING + BASE64[:250]),
        ("encoded", f"The digest is {BASE64[:64]}", f"{prose(20)} The digest is {BASE64[:64]}"),
        ("top_phrase", with_phrases([words(2)], 4), with_phrases([words(2)], 5)),
        ("top_phrase", with_phrases([words(3)], 6), with_phrases([words(3)], 8)),
        ("top_phrase", with_phrases([words(4)], 9), with_phrases([words(4)], 10)),
        ("duplicate_phrases", with_phrases(nine, 4), with_phrases(nine, 5)),
        ("duplicate_phrases", with_phrases(twelve, 8), with_phrases(twelve, 11)),
    ]


def code() -> list[Case]:
    names = words(400, 2000, 8)
    calls = [f"{a}({b})" for a, b in zip(names[:200], names[200:], strict=True)]
    wide = [f"{', '.join(names[i : i + 10])} = every(thing)" for i in range(0, 200, 10)]
    table = [f"    ({i}, '{names[i]}', 0.{i}, true),  # {names[i]}" for i in range(40)]
    escapes = textwrap.wrap("".join(f"\\x{i:02x}" for i in range(60)), 76)
    body = joined(SOURCE, calls[:60])
    return [
        ("lock_file", "# yarn lockfile v1\n" + SOURCE, "# the lockfile of yarn\n" + SOURCE),
        ("generated", "# Automatically generated.\n" + SOURCE, "\n" * 5 + "# Automatically generated.\n" + SOURCE),
        ("lines", *("\n".join(f"call_{i}(x)" for i in range(n)) for n in (100_001, 100_000))),
        ("mean_line_length", joined(wide), joined(wide, [""] * 4)),
        ("longest_line", *(f"{SOURCE}x = '{'word ' * n}'" for n in (199, 198))),
        ("duplicate_code", *(joined(calls[:20], ["    raise ValueError()"] * n) for n in (26, 20))),
        ("letters", *(joined(f"({c}{i} + {c}) * {i * i}" for i in range(100, 119)) for c in ("b", "bcdef"))),
        ("encoded", joined(body, "data = '''", " " + "\n".join(textwrap.wrap(BASE64, 76)), "'''"),
         joined(body, "data = '''", " " + "\n".join(textwrap.wrap(BASE64[:1000], 76)), "'''")),
        ("encoded", joined("data = (", escapes, ")"), joined("data = (", escapes, ")", SOURCE)),
        ("literal_lines", joined(table, calls[:13]), joined(table, calls[:14])),
    ]  # fmt: skip


def zh() -> list[Case]:
    opening = "我们在这里有的是时间，"
    base = opening + characters(240)
    rights = [characters(48, start=100 * i) for i in range(4)]
    cases = [
        (
            "boilerplate_lines",
            *(
                joined([f"{line}，{mark}{end}" for line, end in zip(rights, "的是在有", strict=True)])
                for mark in ("版权所有", "版权")
            ),
        ),
        ("chinese_characters", opening + characters(97), opening + characters(98)),
        ("chinese_characters", *(joined([opening, *_pages(n)]) for n in (200_001, 199_990))),
        ("chinese_share", *(base[:131] + _latin(50) + _digits(n) + _marks(n) for n in (40, 25))),
        ("kana_share", base + "ひらがなカタ", base + "ひらがなカ"),
        ("latin_share", base[:140] + _latin(70), base[:140] + _latin(50)),
        ("digit_share", base[:140] + _digits(40), base[:140] + _digits(30)),
        ("punctuation_share", base.replace("，", ""), base.replace("，", "", 15)),
        ("punctuation_share", base + _marks(90), base + _marks(70)),
        ("stop_characters", *(characters(240, start=0x300) + end for end in ("的不", "的不在"))),
        ("mean_line_length", *(joined(textwrap.wrap(base, n)) for n in (9, 11))),
        ("duplicate_lines", *(joined(opening, _lines(20), ["返回首"] * n) for n in (11, 9))),
        ("duplicate_line_characters", *(_twice(n) for n in (13, 16))),
    ]
    for n, most in {4: 0.20, 6: 0.18, 8: 0.16}.items():
        cases.append(("top_phrase", *(with_character_phrase(n, count) for count in others(n, most))))
    for n, most in {10: 0.15, 12: 0.14, 14: 0.13, 16: 0.12, 18: 0.11, 20: 0.10}.items():
        counts = others(n, most, 0.95, 0.004)
        cases.append(("duplicate_phrases", *(with_character_phrase(n, count) for count in counts)))
    return cases


def _lines(count: int) -> list[str]:
    return [characters(36, start=0x200 + 36 * i) for i in range(count)]


def _pages(count: int) -> list[str]:
    """So many Chinese characters in lines of at most forty; longer runs do not come twice."""
    number, drawn = 1, []
    for _ in range(count - len("我们在这里有的是时间")):
        number = number * 1_103_515_245 + 12_345 & 0x7FFFFFFF
        drawn.append(chr(0x4E00 + (number >> 8) % 20_000))
    said = "".join(drawn)
    return [said[first : first + 40] + "，" for first in range(0, len(said), 40)]


def _latin(count: int) -> str:
    return "".join(words(count))[:count]


def _digits(count: int) -> str:
    return "".join(str(i * i * 7919 + i) for i in range(1, 40))[:count]


def _marks(count: int) -> str:
    marks = "！？；：、“”‘’「」『』《》（）"
    return "".join(a + b for a in marks for b in marks if a < b)[:count]


def _twice(count: int) -> str:
    """Lines of which two short ones come twice, among so many characters for each of four other lines."""
    short = [characters(12, start=0x1000 + 12 * i)[:11] + "。" for i in range(2)]
    long = [characters(3 * count, start=3 * count * i) for i in range(4)]
    return joined("我们在这里有的是时间", *(line for pair in zip(long, short * 2, strict=True) for line in pair))


CASES: dict[str, list[Case]] = {"web": web(), "docs": docs(), "code": code(), "zh": zh()}
"""The cases of each profile."""
