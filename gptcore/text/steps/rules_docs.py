"""Rules for technical prose: texts that say nothing of the thing they stand at. They are our own."""

from __future__ import annotations

import re

from gptcore.text.steps.page import Page
from gptcore.text.steps.rules import without_lines

LICENCES = (
    "permission is hereby granted, free of charge",
    "redistribution and use in source and binary forms",
    "licensed under the apache license",
    "gnu general public license as published",
    "gnu lesser general public license as published",
)
COPYRIGHT = ("copyright (c)", "copyright ©", "(c) copyright", "all rights reserved", "spdx-license-identifier")
COPYRIGHT_CHARACTERS = 100
"""A longer line is a paragraph that only mentions such words."""
PLACEHOLDERS = re.compile(
    r"(to ?do|fix ?me|tbd|n/?a|none|placeholder|(missing|empty|no) doc(s|string|umentation)?|docstring|documentation"
    r"|(add|write|insert|your) (a )?(docstring|documentation|description)( here)?"
    r"|(please )?(see|refer to|inherited from|inherit from|overrides?|implements?) (the )?(docs? (of|in|from) )?"
    r"(base|parent|super|abstract)[ -]?class( (method|docstring|documentation|for details|for documentation|docs?))?"
    r"|inherit(ed)?( doc(s|string)?)?|\{@?inheritdoc\}|auto-?generated( docstring)?)[\s.:!]*"
)


def copyright_lines(text: str) -> tuple[str, int]:
    """Short lines that say whose rights they are."""
    return without_lines(text, COPYRIGHT, COPYRIGHT_CHARACTERS)


def licence(page: Page) -> str | None:
    """A licence's terms in place of documentation."""
    text = " ".join(page.lower.split()) if "\n" in page.lower else page.lower
    return next((f"holds {mark!r}" for mark in LICENCES if mark in text), None)


def placeholder(page: Page) -> str | None:
    """A text that only says where documentation is or should be."""
    # Longer texts say more; and the pattern need not be tried on them.
    if len(page.text) <= 100 and PLACEHOLDERS.fullmatch(" ".join(page.lower.split())):
        return f"only {page.text[:60]!r}"
    return None
