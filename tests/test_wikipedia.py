"""Dumps of a MediaWiki: markup to text, broken and hostile files, and the way through the corpus."""
# ruff: noqa: RUF001 - full-width punctuation is meant

from __future__ import annotations

import bz2
import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from html import escape
from itertools import pairwise
from pathlib import Path

import pytest
from test_corpus import build, split

from gptcore.config import Corpus, Runtime
from gptcore.config_sources import Wikipedia
from gptcore.text import wikipedia
from gptcore.text.documents import Document, Problem, read, write
from gptcore.text.licences import origins
from gptcore.text.sources import read_unit, resolve_source, source_units
from gptcore.text.wikitext import plain_text

BRIDGE = """{{Short description|Bridge in a made-up town}}
{{Infobox bridge
| name = Old Bridge
| image = [[File:Old Bridge.jpg|thumb]]
| crosses = {{plainlist|
* [[Ember (river)|Ember]]
}}
}}
[[File:Old Bridge.jpg|thumb|upright=1.2|The bridge, with the [[mill|old mill]] behind]]
The '''Old Bridge''' ({{lang-de|Alte Brücke}}; {{IPA|x}}) is a [[stone]] [[arch bridge|bridge]] over the ''Ember''.\
<ref name="a">{{cite book|title=Bridges}} p.&nbsp;4</ref><ref name="b" /> It spans&nbsp;{{convert|40|m}} &amp; was \
built<!-- when? --> in <span style="x">1540</span>.{{efn|Or {{circa|1541}}.}}

== History ==
=== Floods ===
* The flood of 1606<ref>x</ref> took one arch.
** It was [https://example.org/rebuilt rebuilt] at once.
# The flood of 1709
: A witness said: <nowiki>[[not a link]]</nowiki>.
{| class="wikitable"
|-
! Year !! Level
|-
| 1606 || {{nowrap|4 m}}
{| class="inner"
| x
|}
|}
Since then __NOTOC__ none; see ''[[:Category:Floods|all floods]]'' and [[levee]]s. If a < b, <math>a^2</math>holds.
<gallery>
File:A.jpg|one
</gallery>
== References ==
{{reflist}}
== External links ==
[[Category:Bridges]]
[[de:Alte Brücke]]"""

BRIDGE_TEXT = """The Old Bridge is a stone bridge over the Ember. It spans & was built in 1540.

History

Floods

- The flood of 1606 took one arch.
- It was rebuilt at once.
- The flood of 1709
A witness said: [[not a link]].

Since then none; see all floods and levees. If a < b, holds."""

BOOK = """{{noteTA|G1=IT|1=zh-hans:网络; zh-hant:網路;}}
'''书籍'''（{{lang-en|Book}}），又称'''-{zh-hans:图书;zh-hant:圖書}-'''，是[[纸|纸张]]装订成的[[印刷品]]。\
<ref>{{cite web|title=书}}</ref>
[[檔案:Book.jpg|thumb|一本[[书]]]]
== 历史 ==
早期的书写在[[竹简]]上-{H|zh-cn:竹简;zh-tw:竹簡}-，后来用-{zh-tw:紙張;zh-cn:纸}-。-{原文}-不变。
* 第一种：-{R|<span>卷轴</span>}-
== 参考文献 ==
{{reflist}}
[[分类:书籍]]"""

BOOK_TEXT = """书籍，又称图书，是纸张装订成的印刷品。

历史

早期的书写在竹简上，后来用纸。原文不变。
- 第一种：卷轴"""


def test_english_markup_becomes_text() -> None:
    assert plain_text(BRIDGE) == BRIDGE_TEXT


def test_chinese_markup_becomes_one_spelling() -> None:
    assert plain_text(BOOK) == BOOK_TEXT


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("[[Datei:A.jpg|mini|ein [[Bild]]]]Text[[kategorie:X]]", "Text"),
        ("{{{1|default}}}a{{{{{nested}}}}}b", "ab"),
        ("before {{never closed [[link|shown]] after", "before never closed shown after"),
        ("before }} [[a|b after", "before a|b after"),
        ("{{t|{| \n| cut off }}kept", "kept"),
        ("{|\n| cell {{open\n|}\nkept", "kept"),
        ("a<ref>never closed b", "anever closed b"),
        ("a<ref name=x/>b<ref>c</ref>d", "abd"),
        ("a<!-- <ref> -->b</ref>", "ab"),
        ("a<table><tr><td><table></table>x</td></tr></table>b", "ab"),
        ("a<br />b", "a\nb"),
        ("std::vector<int> &lt;ref&gt; &eacute;&#233;&#xe9; &nosuch; &#" + "9" * 5000 + ";", None),
        ("[[Help:Contents#Top]] [[a (b)|]] [[:fr:Paris]]", "Help:Contents#Top a (b) fr:Paris"),
        ("[http://a.b] [//c.d/e ''label'' x] http://bare.example", "label x http://bare.example"),
        ("'''''both''''' l''''amour''", "both l'amour"),
        ("-{T|zh-cn:标题}--{zh-tw:a}--{open", "a-{open"),
        ("= =\n==\n== kept ==\nx\n== dropped ==", "= =\n==\n\nkept\n\nx"),
        ("", ""),
    ],
)
def test_odd_markup(markup: str, text: str | None) -> None:
    found = plain_text(markup, ["Datei", "Kategorie"])
    if text is None:
        assert found.startswith("std::vector<int> <ref> ééé &nosuch; &#999")
    else:
        assert found == text


HOSTILE: list[Callable[[int], str]] = [
    lambda n: "{" * n,
    lambda n: "{{a|" * n,
    lambda n: "{{a" * n + "}}" * n,
    lambda n: "{|\n" * n,
    lambda n: "{{\n{|\n" * n + "}}" * n,
    lambda n: "[[" * n,
    lambda n: "[[a|b" * n + "]]" * n,
    lambda n: "[[aa-" + "bb-" * n + ":]]",
    lambda n: "[http://a" * n,
    lambda n: "[http://" + "a" * n,
    lambda n: "<ref>" * n,
    lambda n: "<table>" * n + "</table>",
    lambda n: "<!--" * n,
    lambda n: "<a " * n,
    lambda n: "<" + "a" * n,
    lambda n: "-{" * n + "}-" * n,
    lambda n: "-{" + "zh-cn:a;" * n + "}-",
    lambda n: "-{" + ";" + " " * n + "}-",
    lambda n: "'" * n,
    lambda n: "=" * n + "a",
    lambda n: "\n=a=" * n,
    lambda n: "&" * n,
    lambda n: "(, " * n,
    lambda n: " \t" * n + "x",
    lambda n: ":" * n + "{|",
    lambda n: "*#" * n,
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_markup_takes_linear_time(number: int) -> None:
    plain_text(HOSTILE[number](1000))
    started = time.process_time()
    plain_text(HOSTILE[number](100_000))
    assert time.process_time() - started < 2, "quadratic time would take minutes"


# Dumps

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo><sitename>Test</sitename><dbname>testwiki</dbname><case>first-letter</case>
    <namespaces>
      <namespace key="-2" case="first-letter">Medium</namespace><namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="10" case="first-letter">Vorlage</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"


def page(number: int, text: str, title: str = "", ns: int = 0, extra: str = "", model: str = "wikitext") -> str:
    return (
        f"<page><title>{escape(title or f'Page {number}')}</title><ns>{ns}</ns><id>{number}</id>{extra}"
        f"<revision><id>9{number}</id><timestamp>2024-05-06T07:08:09Z</timestamp><contributor><id>3</id></contributor>"
        f'<model>{model}</model><text bytes="1" xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def export(count: int = 60) -> str:
    words = "Article {0} tells of the matter number {0}, with a [[link|shown link]] and '''bold''' words."
    return HEAD + "".join(page(n, words.format(n)) for n in range(1, count + 1)) + TAIL


def dump(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes({".bz2": bz2.compress, ".gz": gzip.compress}.get(path.suffix, bytes)(data))
    return path


def items(path: Path, done: int = 0, most: int | None = None) -> list[Document | Problem]:
    return list(wikipedia.read_dump(path, path.name, "wikipedia", most, done))


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2", "a.xml.gz"])
def test_articles_are_read_and_gone_on_with(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikipedia, "CHUNK", 1000)
    whole = items(dump(tmp_path / name, export()))
    assert [item.id for item in whole if isinstance(item, Document)] == [f"wikipedia/{n}" for n in range(1, 61)]
    assert whole[4] == Document(
        "wikipedia/5",
        "wikipedia",
        "wikipedia/5",
        None,
        None,
        "Article 5 tells of the matter number 5, with a shown link and bold words.",
        "Page 5",
        "2024-05-06",
        "CC-BY-SA-4.0",
    )
    assert all(read(write(item)) == item for item in whole if isinstance(item, Document))
    assert [items(tmp_path / name, done) for done in (0, 1, 59, 60)] == [whole, whole[1:], whole[59:], []]
    assert items(tmp_path / name, most=7) == whole[:7] and items(tmp_path / name, 5, 7) == whole[5:7]


def test_only_articles_are_taken(tmp_path: Path) -> None:
    pages = [
        page(1, "One [[Datei:A.png|mini|x]][[KATEGORIE:B]]stays.", "Tom & <Jerry>"),
        page(2, "A talk.", ns=1),
        page(3, "#REDIRECT [[One]]", extra='<redirect title="One" />'),
        page(4, "#Redirect [[One]]"),
        page(5, "{}", model="json"),
        page(6, "Old exports have no ns.", "Vorlage:X").replace("<ns>0</ns>", ""),
        page(7, "first").replace("</page>", "<revision><id>8</id><text>second</text></revision></page>"),
    ]
    first, last = items(dump(tmp_path / "a.xml", HEAD + "".join(pages) + TAIL))
    assert isinstance(first, Document) and isinstance(last, Document)
    assert (first.id, first.title, first.text) == ("wikipedia/1", "Tom & <Jerry>", "One stays.")
    assert (last.id, last.text) == ("wikipedia/7", "second"), "of several revisions the last"


def test_multistream_bz2_is_read_to_its_end(tmp_path: Path) -> None:
    text = export()
    cuts = [0, len(HEAD), len(text) // 2, len(text) - len(TAIL), len(text)]
    streams = [bz2.compress(text[a:b].encode()) for a, b in pairwise(cuts)]
    (tmp_path / "a.xml.bz2").write_bytes(b"".join(streams))
    assert items(tmp_path / "a.xml.bz2") == items(dump(tmp_path / "b.xml", text))


@pytest.mark.parametrize("packing", ["", ".bz2", ".gz"])
def test_a_truncated_dump_gives_what_is_whole(tmp_path: Path, packing: str) -> None:
    path = dump(tmp_path / f"a.xml{packing}", export(400))
    data = path.read_bytes()
    if packing == ".bz2":  # a block holds more than this dump: the second of two streams is cut
        path.write_bytes(bz2.compress((HEAD + page(1, "One.")).encode()) + data[:500])
    else:
        path.write_bytes(data[: len(data) // 2])
    *documents, problem = items(path)
    assert 0 < len(documents) < 400 and all(isinstance(item, Document) for item in documents)
    assert problem == Problem("truncated", f"{path.name}: after {len(documents)} pages")
    assert items(path, len(documents)) == [problem]


def test_an_empty_dump_is_truncated(tmp_path: Path) -> None:
    assert items(dump(tmp_path / "a.xml", "")) == [Problem("truncated", "a.xml: after 0 pages")]


BROKEN = {
    "a tag": HEAD + page(1, "One.") + "<page></title>",
    "a character": HEAD + page(1, "One.") + "\x00" + page(2, "Two.") + TAIL,
    "depth": HEAD + page(1, "One.") + "<a>" * 100_000,
    "after the end": HEAD + page(1, "One.") + TAIL + "<more/>",
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_xml_gives_what_stands_before(tmp_path: Path, what: str) -> None:
    document, problem = items(dump(tmp_path / "a.xml", BROKEN[what]))
    assert isinstance(document, Document) and document.text == "One."
    assert isinstance(problem, Problem) and problem.kind == "damaged"
    assert problem.where.startswith("a.xml: after 1 pages (")


def test_damaged_packings_and_other_xml(tmp_path: Path) -> None:
    for name in ("a.xml.bz2", "a.xml.gz"):
        (tmp_path / name).write_bytes(b"no archive at all")
        (problem,) = items(tmp_path / name)
        assert isinstance(problem, Problem) and problem.kind == "damaged"
    (problem,) = items(dump(tmp_path / "b.xml", "<html><page></page></html>"))
    assert problem == Problem("damaged", "b.xml: after 0 pages (begins with <html>, not <mediawiki>)")


def test_an_entity_bomb_is_refused(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(12))
    bomb = f'<!DOCTYPE mediawiki [<!ENTITY a0 "lol">{entities}]>' + HEAD + "<page><title>&a12;</title></page>" + TAIL
    with pytest.raises(ValueError) as refused:
        items(dump(tmp_path / "a.xml", bomb))
    assert str(refused.value) == "a.xml: declares the XML entity 'a0', which no dump does; fetch the dump anew"


def test_an_endless_page_is_skipped_in_flat_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikipedia, "PAGE_CHARS", 10_000)
    text = HEAD + page(1, "One.") + page(2, "word " * 4_000_000) + page(3, "Three.") + TAIL
    path = dump(tmp_path / "a.xml.gz", text)
    del text
    tracemalloc.start()
    found = [item.id if isinstance(item, Document) else item for item in items(path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ["wikipedia/1", Problem("too_long", "a.xml.gz: page 2"), "wikipedia/3"]
    assert peak < 8_000_000, "of 20 MB"


def test_speed(tmp_path: Path) -> None:
    """The aim is 5 MB of XML a second; a tenth of it is asked for here, where other work goes on beside."""
    path = dump(tmp_path / "a.xml", HEAD + "".join(page(n, BRIDGE * 4) for n in range(400)) + TAIL)
    started = time.process_time()
    assert len(items(path)) == 400
    assert path.stat().st_size / (time.process_time() - started) > 500_000


# The source


def test_names_versions_and_changes(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.xml.bz2", export())
    source = Wikipedia(kind="wikipedia", paths=(str(tmp_path / "*.bz2"),), max_documents=3)
    version = resolve_source(source, tmp_path / "cache")
    assert [name for name, _ in version["files"]] == ["a.xml.bz2"] and str(tmp_path) not in json.dumps(version)
    (unit,) = source_units(source, version)
    reading = read_unit(unit, "wikipedia", 1000, tmp_path, lambda _: None, 1)
    assert [item.id for item in reading.items if isinstance(item, Document)] == ["wikipedia/2", "wikipedia/3"]
    reading.finish()
    dump(path, export(61))
    with pytest.raises(ValueError, match="changed while it was read"):
        reading.finish()
    (tmp_path / "a.sql.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.sql\.gz: no dump of a MediaWiki by its name; it must end in \.xml,"):
        resolve_source(Wikipedia(kind="wikipedia", paths=(str(tmp_path / "a.sql.gz"),)), tmp_path / "cache")


def test_dumps_become_a_corpus(tmp_path: Path) -> None:
    dump(tmp_path / "a.xml.bz2", export(50))
    text = "Der Artikel {} steht in der zweiten Datei und ist lang genug, um zu bleiben."
    rest = "".join(page(n, text.format(n)) for n in range(100, 120))
    dump(tmp_path / "b.xml", HEAD + rest)
    config = Corpus(sources=(Wikipedia(kind="wikipedia", paths=(str(tmp_path / "*.xml*"),)),), validation_share=0.1)
    said: list[str] = []
    build(tmp_path / "out", config, runtime=Runtime(workers=2), on_say=said.append)
    documents = [document for documents in split(tmp_path / "out").values() for document in documents]
    assert len(documents) == 70 and {document.licence for document in documents} == {"CC-BY-SA-4.0"}
    assert all(document.title and document.date == "2024-05-06" for document in documents)
    card = json.loads((tmp_path / "out/data_card.json").read_text())
    assert card["dropped"]["truncated"] == 1 and card["sources"][0]["kind"] == "wikipedia"
    assert "skipped 1 truncated: b.xml: after 20 pages" in said
    (origin,) = origins([config.sources[0].model_dump(mode="json")], card)
    assert (origin.kind, origin.name, origin.licence) == ("wikipedia", "*.xml*", "CC-BY-SA-4.0")
