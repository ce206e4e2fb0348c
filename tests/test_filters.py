"""The filter step: what each rule of each profile drops and what it just keeps, good samples, hostile texts."""

# ruff: noqa: RUF001 - full-width punctuation is meant

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filter_cases import CASES
from filter_texts import ARTICLE, DOCSTRING, NEWS, SOURCE, prose
from pydantic import TypeAdapter, ValidationError

from gptcore.config_steps import FILTER_RULES, Filter, Steps
from gptcore.text import python_docs
from gptcore.text.documents import Document, clean_text
from gptcore.text.steps import filters
from gptcore.text.steps.phrases import Phrases
from gptcore.text.steps.profiles import PROFILES
from gptcore.text.steps.step import Dropped, Kept, Step

ROOT = Path(__file__).parent.parent
GOOD = {"web": ARTICLE, "docs": DOCSTRING, "code": SOURCE, "zh": NEWS}


def config(profile: str, *without: str) -> Filter:
    return Filter.model_validate({"kind": "filter", "profile": profile, "without": without})


def step(profile: str, *without: str) -> Step:
    return filters.make(config(profile, *without))


PARAMETERS = [
    pytest.param(profile, *case, id=f"{profile}-{case[0]}-{number}")
    for profile, cases in CASES.items()
    for number, case in enumerate(cases)
]


@pytest.mark.parametrize(("profile", "rule", "bad", "near"), PARAMETERS)
def test_each_rule_alone_drops_a_text_and_keeps_one_just_inside_its_limit(
    profile: str, rule: str, bad: str, near: str
) -> None:
    dropped = step(profile)(bad)
    assert isinstance(dropped, Dropped)
    assert dropped.rule == rule, dropped.why
    assert dropped.why and "\n" not in dropped.why
    assert isinstance(step(profile, rule)(bad), Kept), "another rule would drop it too"
    kept = step(profile)(near)
    assert isinstance(kept, Kept), kept


@pytest.mark.parametrize("profile", FILTER_RULES)
def test_every_rule_has_such_a_text_and_the_schema_knows_it(profile: str) -> None:
    there = PROFILES[profile]
    assert FILTER_RULES[profile] == (*there.lines, *there.documents)
    assert {rule for rule, _, _ in CASES[profile]} == set(FILTER_RULES[profile])


@pytest.mark.parametrize("profile", FILTER_RULES)
def test_good_samples_stay_as_they_are(profile: str) -> None:
    text = GOOD[profile]
    kept = step(profile)(text)
    assert isinstance(kept, Kept), kept
    assert kept.text is text
    assert not kept.counts


def test_profiles_tell_kinds_of_text_apart() -> None:
    """web and zh take their own kind only; code, which knows no language, takes any well-formed text."""
    kept = {(name, kind) for name in GOOD for kind, text in GOOD.items() if isinstance(step(name)(text), Kept)}
    texts = {("docs", kind) for kind in ("web", "docs", "code")} | {("code", kind) for kind in GOOD}
    assert kept == texts | {("web", "web"), ("zh", "zh")}


def test_lines_are_removed_counted_and_the_rest_is_judged() -> None:
    notice = "Please enable JavaScript.\n\nThis site uses cookies; read our privacy policy.\n"
    kept = step("web")(f"{notice}{ARTICLE.strip()}\n\nTerms of use")
    assert isinstance(kept, Kept)
    assert (kept.text, kept.counts) == (ARTICLE.strip(), {"lines_removed": 3})
    dropped = step("web")(notice * 30 + prose(20))
    assert isinstance(dropped, Dropped)
    assert dropped == Dropped("words", "words 20, at least 50")
    assert step("web")(notice.strip()) == Dropped("policy_lines", "no line is left, 1 removed")
    chinese = step("zh")(NEWS + "\n版权所有 转载请注明出处\n京ICP备00000000号")
    assert isinstance(chinese, Kept)
    assert (chinese.text, chinese.counts) == (NEWS.strip("\n"), {"lines_removed": 2})
    long = NEWS.replace(
        "报。",
        "报，也常常在微信公众号上看新闻，下一篇读什么，总是要等到喝完第二杯茶、同邻居说完昨天晚上的球赛以后才会决定，从来不着急。",
        1,
    )
    assert step("zh")(long) == Kept(long)


def test_rules_can_be_left_out() -> None:
    short = "The harbour of pianos opened. It was loud. Nobody slept."
    assert step("web")(short) == Dropped("words", "words 10, at least 50")
    assert step("web", "words")(short) == Kept(short)
    noisy = f"{short}\nNo JavaScript."
    assert step("web", "words", "javascript_lines")(noisy) == Kept(noisy)
    for profile, names in FILTER_RULES.items():
        for text in ("", "{ lorem ipsum javascript 版权所有"):
            assert step(profile, *names)(text) == Kept(text)


def test_a_rule_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValidationError, match="'wrods', 'kana_share', no rule of the profile web; its rules are java"):
        config("web", "words", "wrods", "kana_share")
    for profile, names in FILTER_RULES.items():
        assert config(profile, *names).without == names


def test_the_names_of_rules_are_known_without_the_code_of_text() -> None:
    script = (
        "import sys, gptcore.config_steps; print([name for name in sys.modules if name.startswith('gptcore.text')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_list_of_steps_in_yaml_form_is_read() -> None:
    given: Any = [{"kind": "filter", "profile": "docs", "without": ["words"]}]
    assert TypeAdapter(Steps).validate_python(given) == (config("docs", "words"),)


@pytest.mark.parametrize("profile", FILTER_RULES)
def test_short_and_odd_texts_have_a_verdict(profile: str) -> None:
    """No rule divides by nothing, whichever stands first: each is tried alone."""
    odd = ["", " ", "\n", "a", "。", "...", "#", "0", "\u3000", "a\n\n\n\nb", "\U0010ffff", "-\n-\n-", "é" * 40]
    for name in FILTER_RULES[profile]:
        alone = step(profile, *(other for other in FILTER_RULES[profile] if other != name))
        for text in odd:
            verdict = alone(text)
            assert isinstance(verdict, Kept) or verdict.why


HOSTILE = {
    "one word": "a" * 1_000_000,
    "newlines": "\n" * 1_000_000,
    "one line": "the same line of text, and again.\n" * 100_000,
    "two words": "the and " * 125_000,
    "chinese": "的一是不了在人有我他" * 35_000,
    "dots": "." * 100_000,
    "quotes": '.""' * 100_000,
    "hexadecimal": "ab " * 330_000,
    "hexadecimal and gaps": ("ab" + " " * 500) * 2_000,
    "escapes": "\\x" * 500_000,
    "base64": ("A" * 63 + "-") * 15_000,
    "literals": '"' * 1_000_000,
    "literal and more": '"a", ' * 200_000 + "x",
    "brackets": "([" * 500_000,
    "generated": "code generated by " * 55_000,
    "digits": "1" * 1_000_000,
    "spaces": "a" + " " * 1_000_000 + "b",
    "marks": "javascript cookie 版权" * 50_000,
}


@pytest.mark.parametrize("profile", FILTER_RULES)
def test_hostile_texts_take_linear_time(profile: str) -> None:
    """Every rule, though an earlier one would drop the text; a quadratic one would take minutes for a megabyte."""
    names = FILTER_RULES[profile]
    started = time.process_time()
    for text in HOSTILE.values():
        step(profile)(text)
    assert time.process_time() - started < 10
    for kind, text in HOSTILE.items():
        few = text[: len(text) // 8]
        for name in names:
            alone = step(profile, *(other for other in names if other != name))
            started = time.process_time()
            alone(few)
            assert time.process_time() - started < 2, (kind, name)


def test_verdicts_do_not_depend_on_the_hash_seed() -> None:
    script = (
        "from filter_texts import *\n"
        "from gptcore.config_steps import FILTER_RULES, Filter\n"
        "from gptcore.text.steps import filters\n"
        "texts = [ARTICLE, DOCSTRING, SOURCE, NEWS, with_phrases([words(3)], 4), with_character_phrase(8, 9)]\n"
        "for profile, names in FILTER_RULES.items():\n"
        "    for first in range(len(names)):\n"
        "        step = filters.make(Filter(kind='filter', profile=profile, without=names[:first]))\n"
        "        print([step(text) for text in texts])\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT / "tests",
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert printed[0].count("Dropped(") > 50


# Phrases


def shares(items: str, n: int) -> tuple[float, float]:
    """(top, duplicated) by going through every n-gram."""
    at: dict[str, list[int]] = {}
    for first in range(len(items) - n + 1):
        at.setdefault(items[first : first + n], []).append(first)
    repeated = [found for found in at.values() if len(found) > 1]
    top = max((len({p + k for p in found for k in range(n)}) for found in repeated), default=0)
    again = {p + k for found in repeated for p in found[1:] for k in range(n)}
    return top / len(items), len(again) / len(items)


@pytest.mark.parametrize("text", ["aaaaaaaaaa", "abcabcabcabd", "abab cdcd abab", "abcdefgh", "mississippi" * 3])
def test_phrases_are_those_found_by_going_through_all(text: str) -> None:
    phrases = Phrases(text, [1] * len(text), 2)
    for n in (7, 2, 3, 4, 5, 6):
        assert (phrases.top(n), phrases.duplicated(n)) == pytest.approx(shares(text, n))


def test_phrases_weigh_words_by_their_characters() -> None:
    said = ["one", "fine", "day", "and", "another", "fine", "day"]
    phrases = Phrases(said, map(len, said), 2)
    assert phrases.top(2) == pytest.approx(14 / 27)
    assert phrases.duplicated(2) == pytest.approx(7 / 27)
    assert phrases.groups(3) == []


# Real text


def test_docs_keeps_the_standard_librarys_docstrings_and_code_its_source() -> None:
    root = python_docs.stdlib_root()
    paths = [path for path in python_docs.stdlib_files() if "/" not in path][:60]
    read = python_docs.read_unit(python_docs.STDLIB, root, paths, "python_docs")
    texts = [clean_text(item.text) for item in read if isinstance(item, Document)]
    assert len(texts) > 1000
    docs, web = step("docs"), step("web")
    assert sum(isinstance(docs(text), Kept) for text in texts) > 0.9 * len(texts)
    assert sum(isinstance(web(text), Kept) for text in texts) < 0.2 * len(texts), "what the profile is there for"
    sources = [clean_text(Path(root, path).read_text(encoding="utf-8")) for path in paths]
    assert sum(isinstance(step("code")(text), Kept) for text in sources) > 0.85 * len(sources)
    assert isinstance(step("code")(Path(root, "encodings/cp1252.py").read_text(encoding="utf-8")), Dropped)


@pytest.mark.parametrize("profile", FILTER_RULES)
def test_speed(profile: str) -> None:
    """Prints MB/s (`pytest -s`); fails only far below, since other things may run beside it."""
    text = GOOD[profile] + (prose(110, start=200) if profile == "web" else "")
    judge, size, passes = step(profile), len(text.encode()), 300
    assert isinstance(judge(text), Kept)
    started = time.process_time()
    for _ in range(passes):
        judge(text)
    speed = passes * size / (time.process_time() - started) / 1e6
    print(f"{profile}: {speed:.1f} MB/s, documents of {len(text):,} characters")
    assert speed > 1


# The page


def table() -> list[tuple[str, list[str], str]]:
    """(rule, profiles, limits) of the rows in docs/data.md."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \|(.+)\|$", page.split("| rule | profiles |")[1].split("\n\n")[0], flags=re.MULTILINE
    )
    cells = [(name, [cell.strip() for cell in rest.split("|")]) for name, rest in rows]
    return [(name, profiles.split(", "), limits) for name, (profiles, limits, _drops, _source) in cells]


def test_the_page_names_exactly_the_rules_there_are() -> None:
    named = sorted((profile, name) for name, profiles, _ in table() for profile in profiles)
    assert named == sorted((profile, name) for profile, names in FILTER_RULES.items() for name in names)


def numbers(value: Any) -> list[str]:
    """A limit's numbers as the page writes them."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in numbers(part)]
    return [f"{value:,}" if isinstance(value, int) else f"{value:g}"]


def test_the_page_gives_every_limit() -> None:
    checked = 0
    for name, profiles, limits in table():
        written = set(re.findall(r"[\d.,]*\d", limits))
        for profile in profiles:
            for value in getattr(PROFILES[profile].documents.get(name), "keywords", {}).values():
                assert set(numbers(value)) <= written, (name, profile)
                checked += 1
    assert checked > 50
