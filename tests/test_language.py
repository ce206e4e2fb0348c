"""Languages told offline: which stay, which go and why, and what a document is judged by."""

# ruff: noqa: RUF001
from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from gptcore.config_steps import LANGUAGES, MEANT, Language
from gptcore.text.steps import language
from gptcore.text.steps.step import Dropped, Kept

TEXTS = {
    "en": "Machine learning is a field of study concerned with algorithms that can learn from data and generalise.",
    "zh": "机器学习是人工智能的一个分支，主要研究如何让计算机从数据中学习规律，从而对新的数据做出预测。",
    "fr": "L’apprentissage automatique est un champ d’étude de l’intelligence artificielle qui vise à apprendre.",
    "de": "Maschinelles Lernen ist ein Teilgebiet der künstlichen Intelligenz und lernt Muster aus Daten.",
    "ja": "機械学習は人工知能の一分野であり、データから規則性を学習する方法を研究する。",
    "ko": "기계 학습은 인공지능의 한 분야로 데이터에서 규칙을 학습하는 방법을 연구한다.",
    "ru": "Машинное обучение — раздел искусственного интеллекта, изучающий методы обучения по данным.",
    "ar": "تعلم الآلة هو فرع من الذكاء الاصطناعي يهتم بتصميم الخوارزميات التي تتعلم من البيانات.",
    "hi": "मशीन लर्निंग कृत्रिम बुद्धिमत्ता की एक शाखा है जो आंकड़ों से सीखने वाली विधियों का अध्ययन करती है।",
    "es": "El aprendizaje automático es una rama de la inteligencia artificial que aprende a partir de los datos.",
}
SERBIAN = "Mašinsko učenje je grana veštačke inteligencije koja proučava metode učenja iz podataka."


def step(*keep, **more):
    return language.make(Language(kind="language", keep=keep, **more))


@pytest.mark.parametrize("code", TEXTS)
def test_a_kept_language_stays_and_is_counted(code):
    text = TEXTS[code]
    kept = step(*TEXTS)(text)
    assert kept == Kept(text, {f"language:{code}": 1}) and kept.text is text
    others = step(*(other for other in TEXTS if other != code))(text)
    assert isinstance(others, Dropped) and others.why.startswith(f"{code} ")


def test_why_a_document_goes():
    gone = step("en", "de")(TEXTS["fr"])
    assert gone.rule == "language" and gone.why.endswith(", keep en de")
    assert 0.9 < float(gone.why.split()[1].rstrip(",")) <= 1
    short = step("en")("Compute the mean.")
    assert short.rule == "language" and short.why.startswith("en 0.") and short.why.endswith(", at least 0.65")
    assert isinstance(step("en", least_probability=0.2)("Compute the mean."), Kept)


def test_relatives_are_taken_together():
    assert isinstance(step("hr", least_probability=0.9)(SERBIAN), Dropped)
    assert isinstance(step("bs", least_probability=0.9)(SERBIAN), Dropped)
    kept = step("hr", "bs", "sr", least_probability=0.9)(SERBIAN)
    assert isinstance(kept, Kept) and len(kept.counts) == 1
    mixed = "使用 pip install numpy 安装，然后 import numpy as np 即可。"
    assert isinstance(step("zh", "yue", "wuu")(mixed), Kept)


@pytest.mark.parametrize("text", ["", " ", "123 456", "https://example.com/a/b", "<p></p>"])
def test_without_letters_nothing_is_told(text):
    assert isinstance(step("en", "zh")(text), Dropped)


def test_markup_and_addresses_do_not_count():
    page = "".join(f'<div class="maschinelles-lernen-und-daten-{i}"><a href="/über/uns">' for i in range(12))
    address = "https://beispiel.de/maschinelles-lernen-ist-ein-teilgebiet-der-kuenstlichen-intelligenz "
    assert language._judged(page + TEXTS["zh"]).strip() == TEXTS["zh"]
    assert step("en")(page + address * 3 + TEXTS["en"]) == Kept(page + address * 3 + TEXTS["en"], {"language:en": 1})
    assert language._judged("见https://example.com/a?b=c，谢谢") == "见 ，谢谢"
    assert language._judged("if a < b and c > d") == "if a < b and c > d"


def test_a_long_text_is_judged_from_beginning_to_end():
    text = TEXTS["fr"] * 8 + TEXTS["en"] * 400
    seen = language._judged(text)
    assert len(seen) <= 4_010
    assert seen.startswith(text[:500]) and seen.endswith(text[-500:])
    assert isinstance(step("en")(text), Kept)
    whole = TEXTS["en"] * 3
    assert language._judged(whole) is whole


def test_same_verdict_whatever_came_before():
    texts = [*TEXTS.values(), SERBIAN, "short", TEXTS["en"] * 100]
    first = [step("en", "zh", "hr")(text) for text in texts]
    assert [step("en", "zh", "hr")(text) for text in reversed(texts)] == first[::-1]


def test_the_table_is_that_of_the_model():
    assert frozenset(language._model().labels) == LANGUAGES
    assert set(MEANT.values()) <= LANGUAGES and not set(MEANT) & LANGUAGES


def test_scores_are_those_of_py3langid():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    plain = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    for text in TEXTS.values():
        expected, found = dict(plain.rank(text)), dict(language._model().rank(text))
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("code", "near"), [("cn", "zh"), ("zh-CN", "zh"), ("en_US", "en"), ("EN", "en"), ("english", "en"), ("gct", "gcf")]
)
def test_an_unknown_code_is_told_what_was_meant(code, near):
    with pytest.raises(ValidationError, match=f"'{code}' is no language code that py3langid knows; near it: .*{near}"):
        Language(kind="language", keep=("fr", code))
    with pytest.raises(ValidationError, match="there are ace, af, am"):
        Language(kind="language", keep=("%%",))
    with pytest.raises(ValidationError, match="at least 1"):
        Language(kind="language", keep=())


def test_the_model_is_read_at_the_first_document():
    code = (
        "import sys; from gptcore.text.steps import language; from gptcore.config_steps import Language\n"
        "step = language.make(Language(kind='language', keep=('en',)))\n"
        "assert 'py3langid' not in sys.modules and 'numpy' not in sys.modules\n"
        "step('text'); assert 'py3langid' in sys.modules and language._model() is language._model()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
