"""Texts for the tests of filters: good samples of every kind, and pieces of which each word is new."""

# ruff: noqa: RUF001 - full-width punctuation is meant

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

ARTICLE = """\
How the harbour changed

The old harbour was built by fishermen who had little money and less timber, and for two centuries it served them well.
Small boats came in with the tide, unloaded at the stone steps, and went out again before the water left the basin dry.
Nobody thought of dredging it, because nobody owned a vessel that would have needed the depth.

That began to change when the railway reached the town. Coal could be brought down from the hills in a single morning,
and merchants who had ignored the place for years now asked whether a collier might lie alongside the quay. The answer
was that she might, provided that her captain did not mind resting on the mud for six hours of every twelve. Most of
them minded. A committee was formed to study the matter, and it studied for nine years.

When the new basin opened at last, the first ship through its gates carried no coal at all. She was loaded with pianos,
ordered from abroad by a music dealer who had expected them to arrive by rail. The town band, having prepared a march
about mining, played it anyway. Old people still tell their grandchildren that the sound of the harbour is the sound of
eighty pianos being rolled over cobblestones, slightly out of tune.
"""

DOCSTRING = """\
Return the moving average of a series.

Parameters
----------
values : array_like
    The series, of shape (n,).
window : int, optional
    How many values are averaged. Default is 3.
mode : {'valid', 'same'}, optional
    What happens at the ends:

    * 'valid': only whole windows, n - window + 1 values.
    * 'same': as many values as there were.

Returns
-------
ndarray
    The averages.

Examples
--------
>>> moving_average([1, 2, 3, 4], window=2)
array([1.5, 2.5, 3.5])
"""

SOURCE = '''\
"""Reading settings from a file."""

import json
from pathlib import Path

DEFAULTS = {"colour": "blue", "size": 12}


class Settings:
    """What the user chose, and defaults for the rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = dict(DEFAULTS)

    def load(self) -> None:
        """Read the file; a missing one leaves the defaults."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            self.values.update(json.load(file))

    def save(self) -> None:
        """Write every value, sorted by name."""
        text = json.dumps(self.values, indent=2, sort_keys=True)
        self.path.write_text(text + "\\n", encoding="utf-8")
'''

NEWS = """\
老城区的图书馆上个月重新开放了。为了这次改造，工程队花了将近两年的时间，把阴暗的书库变成了明亮的阅览室，还在屋顶上修了一座小花园。

馆长介绍说，过去来这里看书的大多是附近学校的学生，周末常常找不到座位。现在座位增加了一倍，老人也愿意带着孙子孙女来坐一坐。“我们希望
图书馆不只是借书的地方，”她说，“也是邻居们见面、聊天、学习新东西的地方。”

住在对面的张先生每天早上都来读报。他记得小时候这里是一家茶馆，后来改成了仓库，再后来才有了第一排书架。说到屋顶的花园，他笑着摇头：夏天太热，
冬天太冷，可是傍晚坐在那里看夕阳，全城没有比它更好的位置。
"""


def new_words(start: int = 0, size: int = 6) -> Iterator[str]:
    """Words of `size` letters, no two alike until all of that length are used."""
    digits = ["aeiou" if place % 2 else "bdfgklmnprstv" for place in range(size)]
    there = math.prod(map(len, digits))
    for number in itertools.count(start):
        # A prime as factor shuffles the numbers below `there`, so that neighbours do not look alike.
        rest, word = number * 982_451_653 % there, ""
        for letters in digits:
            rest, letter = divmod(rest, len(letters))
            word += letters[letter]
        yield word


def words(count: int, start: int = 0, size: int = 6) -> list[str]:
    """So many new words."""
    return list(itertools.islice(new_words(start, size), count))


def prose(count: int, per_line: int = 10, start: int = 0, size: int = 6, opening: str = "Of the and to have") -> str:
    """So many words in lines that are one sentence each; the first five are common ones."""
    said = opening.split()
    said += words(count - len(said), start, size)
    return "\n".join(" ".join(said[first : first + per_line]) + "." for first in range(0, count, per_line))


def with_phrases(phrases: list[list[str]], others: int, groups: int = 20) -> str:
    """Lines that begin with one phrase after the other in turn, each time with so many new words behind it."""
    fresh = new_words(1000)
    lines = []
    for group in range(groups):
        lines.append(" ".join([*phrases[group % len(phrases)], *itertools.islice(fresh, others)]) + ".")
    return "\n".join(["Of the and to have with.", *lines])


def characters(count: int, start: int = 0) -> str:
    """So many characters of Chinese, no two alike but for a comma after eleven."""
    return "".join("，" if i % 12 == 11 else chr(0x4E00 + start + i) for i in range(count))


def with_character_phrase(n: int, others: int, groups: int = 20) -> str:
    """Lines with the same n characters and so many new ones around them: else the comma before would come again too."""
    phrase = "".join(chr(0x9000 + i) for i in range(n))
    rest = [characters(others, start=group * others) for group in range(groups)]
    return "\n".join(["我们在这里有的是时间", *(f"{one[:5]}{phrase}{one[5:]}" for one in rest)])
