"""Rules for Chinese text, simplified or traditional. Limits after Chen et al. 2023 (ChineseWebText, arXiv 2311.01149)
where profiles.py says so; else our own."""

# ruff: noqa: RUF001 - full-width punctuation is meant

from __future__ import annotations

import re

from gptcore.text.steps.page import KANA, Page, count
from gptcore.text.steps.rules import at_least, at_most, fraction, without_lines

BOILERPLATE = (
    "版权所有", "版權所有", "保留所有权利", "icp备", "icp證", "公网安备",
    "转载请注明", "轉載請註明", "未经授权", "责任编辑", "責任編輯", "免责声明",
    "免責聲明", "微信公众号", "扫码关注", "扫描二维码", "长按识别", "点击下载",
    "点击关注", "点击查看更多", "上一篇", "下一篇", "相关阅读", "相关推荐",
    "延伸閱讀", "返回顶部", "加入收藏", "设为首页", "联系我们", "用户协议",
    "隐私政策", "隱私權政策", "使用cookie",
)  # fmt: skip
"""What the lines around a text say: rights, registration, follow us, next page."""
BOILERPLATE_CHARACTERS = 60
"""A longer line is a paragraph that only mentions such words."""
COMMON = frozenset("的了是在不有和人这這我他们們就也上中大为為个個到说說以要")
"""Among the commonest characters of modern Chinese; the first, 的, alone is about one in 25."""
PUNCTUATION = re.compile("[，。！？；：、“”‘’「」『』《》（）…—,.!?;:()\"']+")
LATIN = re.compile("[A-Za-z\u00c0-\u024f\uff21-\uff3a\uff41-\uff5a]+")
DIGITS = re.compile(r"\d+")


def boilerplate_lines(text: str) -> tuple[str, int]:
    """Short lines of rights, advertisement and navigation."""
    return without_lines(text, BOILERPLATE, BOILERPLATE_CHARACTERS)


def chinese_characters(page: Page, least: int, most: int) -> str | None:
    """Length in Chinese characters."""
    return at_least("Chinese characters", page.han, least) or at_most("Chinese characters", page.han, most)


def chinese_share(page: Page, least: float) -> str | None:
    """Share of Chinese characters among those that are not spaces."""
    return at_least("share of Chinese characters", fraction(page.han, page.characters), least)


def kana_share(page: Page, most: float) -> str | None:
    """Share of Japanese syllables: Japanese, which shares the characters, is no Chinese."""
    return at_most("share of kana", fraction(count(KANA, page.text), page.characters), most)


def latin_share(page: Page, most: float) -> str | None:
    """Share of Latin letters."""
    return at_most("share of Latin letters", fraction(count(LATIN, page.text), page.characters), most)


def digit_share(page: Page, most: float) -> str | None:
    """Share of digits: prices, tables, telephone numbers."""
    return at_most("share of digits", fraction(count(DIGITS, page.text), page.characters), most)


def punctuation_share(page: Page, least: float, most: float) -> str | None:
    """Share of punctuation: lists of keywords have none, prose about one in ten, drawn lines are nothing else."""
    share = fraction(count(PUNCTUATION, page.text), page.characters)
    return at_least("share of punctuation", share, least) or at_most("share of punctuation", share, most)


def mean_line_length(page: Page, least: float) -> str | None:
    """Characters a line that is not blank: menus and tags have few."""
    return at_least("mean line length", fraction(page.line_characters, len(page.lines)), least)


def stop_characters(page: Page, least: int) -> str | None:
    """Different characters of the commonest, without which there is no prose."""
    return at_least("common characters", len(COMMON.intersection(page.text)), least)
