"""The main text of pages: encodings, what is left out, and pages made to hurt."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from web_server import article

from gptcore.text import html_limits, html_text
from gptcore.text.html_limits import MAX_ATTRIBUTES, bounded_markup
from gptcore.text.html_text import Page, page_of
from gptcore.text.page_charset import decode_page, known_charset

CHINESE = "黄河发源于青藏高原,流经九个省区,最后注入渤海,全长约五千四百六十四公里。"
TEXT = b"<html><body><p>" + b"Words of a page that somebody wrote. " * 20


def test_menus_and_footers_are_left_out() -> None:
    page = page_of(article("Bridge").encode(), "https://example.org/bridge")
    assert page is not None
    assert (page.title, page.date) == ("Bridge", "2021-03-04")
    assert "Bridge 0: The old bridge" in page.text and "Bridge 2: The old bridge" in page.text
    assert "Menu entry" not in page.text and "rights reserved" not in page.text


def test_a_page_without_title_and_date_has_none() -> None:
    assert page_of(TEXT) == Page(
        "Words of a page that somebody wrote. ".strip() + (" Words of a page that somebody wrote." * 19), None, None
    )


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "gb2312", "utf-16"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_chinese_page_in_its_encodings(encoding: str, declared: bool) -> None:
    meta = f'<meta charset="{encoding}">' if declared else ""
    markup = article("黄河", CHINESE).replace("<head>", f"<head>{meta}")
    page = page_of(markup.encode(encoding))
    assert page is not None and page.title == "黄河"
    assert CHINESE * 3 in page.text


def test_who_says_what_encoding_a_page_has() -> None:
    word = "é€"
    assert decode_page(b"\xef\xbb\xbf" + word.encode(), "iso-8859-1") == word, "the mark before the header"
    assert decode_page(b'<meta charset="koi8-r">' + word.encode("cp1252"), "windows-1252").endswith(word)
    assert decode_page(b'<meta charset="iso-8859-1">' + word.encode("cp1252")).endswith(word), "as browsers read it"
    assert (
        decode_page(b'<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">' + "я".encode("koi8-r"))[-1]
        == "я"
    )
    assert decode_page(b'<meta charset="utf-16">' + word.encode()).endswith(word)
    assert decode_page(b'<meta charset="nonsense">' + word.encode()).endswith(word)
    assert decode_page(b'<meta charset="utf-8">a\xff') == '<meta charset="utf-8">a\ufffd'
    for label in ("utf-7", "punycode", "rot13", "base64", "idna", "unicode_escape", "", "a" * 10_000, None, "\0"):
        assert known_charset(label) is None


def test_markup_keeps_its_meaning() -> None:
    page = article("Bridge")
    assert bounded_markup(page) == page
    assert bounded_markup("<!doctype html PUBLIC 'x'><p>a < b <3 </p>") == "<!DOCTYPE html><p>a &lt; b &lt;3 </p>"
    assert bounded_markup("a<!-- <p> -->b<!-->c<!--->d<!-- x --!>e<?php x ?>f") == "abcdef"
    assert bounded_markup("<script>if (a<b) '</p>' <!-- </script><p x='>' y=\">\" z=a>b") == (
        "<script>if (a&lt;b) ' /p>'  !-- </script><p x='>' y=\">\" z=a>b"
    ).replace("a&lt;b", "a b")
    many = " ".join(f"a{n}" for n in range(MAX_ATTRIBUTES + 1))
    assert bounded_markup(f"<p {many}>x</p>") == "<p>x</p>"
    assert bounded_markup(f"<p {many.rpartition(' ')[0]}>x") == f"<p {many.rpartition(' ')[0]}>x"


def test_a_title_is_a_line_that_can_be_written() -> None:
    data = (
        b'{"@context":"https://schema.org","@type":"Article","headline":"A\\ud800 \\n B","datePublished":"2020-02-02"}'
    )
    page = page_of(b'<html><head><script type="application/ld+json">' + data + b"</script></head>" + TEXT[6:])
    assert page is not None and (page.title, page.date) == ("A B", "2020-02-02")


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nested": lambda: b"<html><body>" + b"<div>" * 100_000 + TEXT + b"</div>" * 100_000,
    "nested lists": lambda: b"<html><body>" + b"<ul><li>" * 50_000 + TEXT,
    "attributes": lambda: TEXT + b"<p " + b" ".join(b"a%d='x'" % n for n in range(900_000)) + b">x",
    "attributes behind a script": lambda: TEXT + b'<script><!--<script></script>"<p ' + b"a b c " * 300_000 + b">",
    "a long attribute": lambda: TEXT + b"<p x='" + b"a" * 10_000_000 + b"'>x",
    "open quotes": lambda: TEXT + b'<a "' * 2_000_000,
    "open tags": lambda: TEXT + b"<a " * 3_000_000,
    "open comments": lambda: TEXT + b"<!-" * 3_000_000,
    "doctype": lambda: b"<!doctype " + b"/" * 9_000_000 + TEXT,
    "zeros": lambda: TEXT + b"\0" * 1_000_000,
    "every byte": lambda: bytes(range(256)) * 10_000,
    "half a character": lambda: TEXT + b"\xe4\xb8" * 100_000,
    "spaces": lambda: TEXT + b" " * 9_000_000,
    "more tags than are read": lambda: TEXT + b"<b>" * 300_000,
    "more bytes than are read": lambda: TEXT + b"a" * html_text.MAX_BYTES,
    "json": lambda: b"<html><head><script type='application/ld+json'>" + b"[{" * 2_000_000 + b"</script>" + TEXT,
    "nothing": lambda: b"",
    "a mark and nothing": lambda: b"\xff\xfe",
    "one sign": lambda: b"<",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_pages_made_to_hurt_give_text_or_nothing_in_time(kind: str) -> None:
    data = HOSTILE[kind]()
    started = time.process_time()
    page = page_of(data, "https://example.org/")
    assert time.process_time() - started < 8, "seconds; most take less than one"
    assert page is None or (page.text and "\0" not in page.text)


def test_too_much_markup_gives_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert page_of(TEXT + b"<b>x</b>" * 10) is not None
    monkeypatch.setattr(html_limits, "MAX_TAGS", 15)
    assert page_of(TEXT + b"<b>x</b>" * 10) is None


def test_the_same_page_gives_the_same_text() -> None:
    data = article("Bridge").encode()
    first = page_of(data)
    page_of(article("Another").encode())
    assert page_of(data) == first
