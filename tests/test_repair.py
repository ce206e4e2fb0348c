"""Mending decoded text: what is mended, what stays, and that a line spared from ftfy needed none."""

# ruff: noqa: RUF001
from __future__ import annotations

import itertools
import random
import re
import time
from pathlib import Path

import ftfy
import pytest
from ftfy.badness import BADNESS_RE, MOJIBAKE_CATEGORIES, is_bad
from pydantic import ValidationError

from gptcore.config_steps import Repair
from gptcore.text.steps import repair
from gptcore.text.steps.step import Kept

UNTOUCHED = [
    "",
    "Plain text, with tabs\tand\x0cpages.\n",
    "“Curly” quotes’ stay — and so do dashes…",
    "机器学习（Machine Learning）是人工智能的一个分支：“学习”，『数据』……１２３。",
    "العربية: تعلُّم الآلة هو فرع من الذكاء الاصطناعي",
    "मशीन लर्निंग कृत्रिम बुद्धिमत्ता की एक शाखा है। ज़िन्दगी",
    "Família 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️",
    "L’été, là-bas : « déjà vu », œuvre à 5 €, Ça coûte 3 £ ! ÀÉ",
    "Übergröße, ½ × ² ± µm, 20 °C, § 5, ÖÄÜ",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň. ĄĘ €",
    "машинное обучение — раздел ИИ; μηχανική μάθηση",
    "ﾊﾝｶｸ full-width Ａ",
    "│ a │ b │\n╞═══╪═══╡\n",
    "&lt;p&gt; &amp; &nbsp; stay",
]
SENTENCES = [
    "Voilà l’été — « déjà » : ça coûte 5 € à Zürich…",
    "机器学习是人工智能的一个分支。",
    "машинное обучение — это раздел",
    "naïve café “quoted” señor Łódź",
    "日本語のテキストです",
]
READ_AS = ["latin-1", "sloppy-windows-1252", "sloppy-windows-1251", "sloppy-windows-1250", "macroman", "cp437"]


def every_line_by_ftfy(text: str, config: Repair) -> str:
    """What the step promises: ftfy without a gate, until nothing changes."""
    while True:
        before = text
        text = ftfy.fix_text(
            text,
            unescape_html=config.entities and "<" not in text,
            fix_character_width=False,
            uncurl_quotes=False,
            normalization=config.form,
        )
        if text == before:
            return text


def mojibake(text: str, encoding: str) -> str:
    return text.encode().decode(encoding, errors="replace")


@pytest.fixture(scope="module")
def step():
    return repair.make(Repair(kind="repair"))


@pytest.mark.parametrize("text", UNTOUCHED)
def test_good_text_stays(step, text):
    kept = step(text)
    assert kept == Kept(text) and kept.text is text
    assert every_line_by_ftfy(text, Repair(kind="repair")) == text


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("It doesnâ€™t matter", "It doesn’t matter"),
        ("good line\nschÃ¶n, cafÃ©\nlast", "good line\nschön, café\nlast"),
        ("æœºå™¨å\xad¦ä¹\xa0", "机器学习"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "Привет"),
        ("it\x92s", "it’s"),
        ("eﬃcient ﬁle", "efficient file"),
        ("\x1b[31mred\x1b[0m \x00bell\x07\ufeff", "red bell"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d alone", "\ufffd alone"),
        ("e\u0301 and A\u030a", "é and Å"),
    ],
)
def test_what_is_mended(step, text, mended):
    assert step(text) == Kept(mended, {"mended": 1})
    assert step(mended) == Kept(mended)


def test_compatibility_forms_and_entities_are_asked_for():
    folding = repair.make(Repair(kind="repair", form="NFKC"))
    assert folding("Ａ１，ﾊﾝｶｸ x²").text == "A1,ハンカク x2"
    unescaping = repair.make(Repair(kind="repair", entities=True))
    assert unescaping("a &amp;&amp; b &lt;c&gt; &hellip;").text == "a && b <c> …"
    assert unescaping("Write &amp;amp; in <p>") == Kept("Write &amp;amp; in <p>")
    assert unescaping("ASCII & plain") == Kept("ASCII & plain")
    with pytest.raises(ValidationError, match="NFC"):
        Repair(kind="repair", form="NFD")


def test_no_mojibake_escapes_the_gate():
    """Every pair of the characters that ftfy's detector tells apart, and longer sequences drawn from all its kinds."""
    known = re.compile("[" + "".join(MOJIBAKE_CATEGORIES.values()) + "]")
    literal = [c for c in dict.fromkeys(BADNESS_RE.pattern) if c > "\x7f"]
    kinds = [
        [*filter(re.compile(f"[{kind}]").match, map(chr, range(0x80, 0x10000)))]
        for kind in MOJIBAKE_CATEGORIES.values()
    ]
    kinds += [list(kind) for kind in ("ØÙ", "ÂÃÎÐ", "ВГРС", "ΒΓΞΟ", "‚Äâó√≈×à", "вЂГўВЂВ", "œŒ", "aZ. \n", "ē中")]
    letters = sorted({*filter(known.match, map(chr, range(0x80, 0x10000))), *literal, *"aZ .\n中"})
    suspicious, _ = repair._suspicious(False)
    drawn = random.Random(0)
    pairs = ("".join(pair) for pair in itertools.product(letters, repeat=2))
    longer = ("".join(drawn.choice(drawn.choice(kinds)) for _ in range(drawn.randint(3, 6))) for _ in range(60_000))
    found = [text for text in itertools.chain(pairs, longer) if not suspicious.search(text)]
    assert len(found) > 10_000 and not [text for text in found if is_bad(text)]


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@pytest.mark.parametrize("entities", [False, True])
def test_the_gate_changes_no_result(form, entities):
    config = Repair(kind="repair", form=form, entities=entities)
    step, drawn = repair.make(config), random.Random(1)
    broken = [mojibake(text, encoding) for text in SENTENCES for encoding in READ_AS]
    broken += [mojibake(mojibake(text, "latin-1"), "sloppy-windows-1252") for text in SENTENCES]
    broken += ["it\x92s", "ﬁ", "\x1b[0m", "&eacute;", "e\u0301Ã", "A\u0303©", "\u212b\u037e"]
    changed = 0
    for _ in range(120):
        lines = drawn.choices(broken, k=2) + drawn.choices(SENTENCES + UNTOUCHED, k=4)
        drawn.shuffle(lines)
        text = drawn.choice(["\n", " "]).join(lines)
        expected = every_line_by_ftfy(text, config)
        assert step(text) == (Kept(text) if expected == text else Kept(expected, {"mended": 1}))
        changed += expected != text
    assert changed > 60


def test_the_gate_changes_no_result_on_the_standard_library(step):
    """Its source holds text of many scripts, and the tables of many encodings."""
    folder, config = Path(random.__file__).parent, Repair(kind="repair")
    paths = [*sorted((folder / "encodings").glob("cp8*.py"))[:3], folder / "html" / "entities.py", folder / "locale.py"]
    for path in paths:
        text = path.read_text(encoding="utf-8")[:30_000]
        assert step(text).text == every_line_by_ftfy(text, config)


@pytest.mark.parametrize("text", ["é”" * 300_000, "│" * 500_000, "Ù " * 300_000, "œ" * 500_000])
def test_hostile_text_takes_linear_time(step, text):
    def spent(size: int) -> float:
        started = time.process_time()
        step(text[:size])
        return time.process_time() - started

    small, large = spent(len(text) // 8), spent(len(text))
    assert large < 24 * small + 0.5, (small, large)


def test_good_text_passes_fast(step):
    text = "The quick brown fox jumps over the lazy dog, and then “rests” — or so they say.\n" * 12_000
    started = time.process_time()
    assert step(text).text is text
    assert len(text.encode()) / (time.process_time() - started) > 10e6
