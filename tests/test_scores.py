"""Scores against their definitions, baselines and n-gram overlap."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path

import pytest

from gptcore.config import Skill
from gptcore.evaluation.baselines import baseline
from gptcore.evaluation.corpus_scores import bleu_tokenizer, corpus_score, macro_f1, matthews, signature
from gptcore.evaluation.overlap import N, Overlap, OverlapCounter, overlaps
from gptcore.evaluation.scores import (
    edit_similarity,
    exact_match,
    f1,
    mean_stderr,
    parses,
    ratio_stderr,
    rouge,
    score,
)
from gptcore.evaluation.skill_scores import summed
from gptcore.presets import ConfigError, load_skill, validated
from gptcore.text.skills import Item
from gptcore.text.words import words


def test_exact_match_forgives_case_articles_and_punctuation_only() -> None:
    assert exact_match("The  Array-like.", "arraylike") == 1
    assert exact_match("int or None", "int") == 0
    assert exact_match("", "int") == 0
    assert exact_match("''", "()") == 0, "answers that are nothing but punctuation are compared as they are"
    assert exact_match("''", "''") == 1


def test_f1_counts_shared_words() -> None:
    assert f1("int or float", "float") == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert f1("x x y", "x y y") == pytest.approx(2 / 3)
    assert f1("str", "int") == 0
    assert f1("the int", "int") == 1


def test_chinese_is_compared_by_the_character() -> None:
    text, other = "今天天气很好,我们去公园。", "今天天气不好,我们去学校。"
    assert rouge(text, text) == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    assert rouge(text, other)["rouge1"] == pytest.approx(8 / 11)
    assert f1(text, text) == 1.0 and 0 < f1(text, other) < 1
    assert rouge("Résumé of snake_case", "résumé of snake case")["rougeL"] == 1.0


def test_ascii_text_is_split_as_rouge_score_does() -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    from gptcore.text.words import letter_words

    text = "Don't split_this-thing: 3.14 e-mails (A1), it's x**2;\ttabs\nlines __init__"
    assert letter_words(text) == DefaultTokenizer().tokenize(text)


def test_rouge_matches_a_hand_count() -> None:
    # target: 5 words; prediction: 4; 3 shared words, 1 shared pair, longest common subsequence "the cat sat"
    scores = rouge("the cat really sat", "the cat sat down today")
    assert scores["rouge1"] == pytest.approx(2 * 3 / 9)
    assert scores["rouge2"] == pytest.approx(2 * 1 / 7)
    assert scores["rougeL"] == pytest.approx(2 * 3 / 9)


def test_score_gives_the_named_metrics() -> None:
    assert score(("exact_match", "f1"), "int", "int") == {"exact_match": 1.0, "f1": 1.0}
    assert list(score(("rougeL",), "a b", "a b")) == ["rougeL"]
    with pytest.raises(ValueError, match="unknown metric meteor; there are: exact_match"):
        score(("meteor",), "a", "b")


def test_mean_and_its_error() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    mean, stderr = mean_stderr(values)
    assert mean == 0.6
    assert stderr == pytest.approx(statistics.stdev(values) / math.sqrt(5))
    assert mean_stderr([0.5]) == (0.5, None)
    with pytest.raises(ValueError, match="no values"):
        mean_stderr([])


def test_ratio_error_agrees_with_resampling() -> None:
    draw = random.Random(1)
    parts = [(size * draw.gauss(2.0, 0.4), size) for size in (draw.uniform(50, 900) for _ in range(300))]
    ratio, stderr = ratio_stderr(parts)
    assert ratio == pytest.approx(sum(a for a, _ in parts) / sum(b for _, b in parts))
    resampled = [ratio_stderr(draw.choices(parts, k=len(parts)))[0] for _ in range(400)]
    assert stderr == pytest.approx(statistics.stdev(resampled), rel=0.15)
    with pytest.raises(ValueError, match="add up to nothing"):
        ratio_stderr([])


def item(kind: str, target: str, number: int, **fields: str) -> Item:
    return Item(f"{kind}-{number}", "group", kind, fields, target)


def test_most_frequent_answer_of_each_kind() -> None:
    training = [item("type", "int", i) for i in range(5)] + [item("type", "str", i) for i in range(5, 8)]
    training += [item("default", "None", i) for i in range(4)]
    answer = baseline(load_skill("qa"), iter(training))
    assert answer(item("type", "x", 0)) == "int"
    assert answer(item("default", "x", 0)) == "None"
    assert answer(item("raises", "x", 0)) == "int", "an unseen kind gets the most frequent answer of all"


def test_lead_sentence_reads_no_training_items() -> None:
    answer = baseline(load_skill("summarization"), iter(()))
    text = "It sorts, e.g. names, in place. Then it returns.\nA second paragraph."
    assert answer(item("summarization", "x", 0, document=text)) == "It sorts, e.g. names, in place"


def test_overlap_equals_a_plain_search() -> None:
    draw = random.Random(0)
    vocabulary = [f"word{i}" for i in range(60)]

    def text(length: int) -> str:
        return " ".join(draw.choice(vocabulary) for _ in range(length))

    training = [text(200) for _ in range(30)]
    tests = [[text(40), text(5)] for _ in range(20)]
    tests[3][0] += " " + " ".join(training[7].split()[20:33])  # exactly 13 words in a row
    tests[5][0] += " " + " ".join(training[9].split()[20:32])  # one short of it
    tests[8] = [training[1].upper().replace(" ", ", ")]  # case and punctuation do not count
    tests.append([text(N - 1)])
    tests.append([" ".join(training[2].split()[:7]), " ".join(training[2].split()[7:14])])  # no n-gram spans pieces

    def grams(piece: str) -> set[tuple[str, ...]]:
        found = words(piece)
        return {tuple(found[i : i + N]) for i in range(len(found) - N + 1)}

    known = set().union(*map(grams, training))
    expected = sum(any(grams(piece) & known for piece in pieces) for pieces in tests)
    counter = OverlapCounter([("tests", tests)])
    for document in training:
        counter.add(document)
    result = counter.results()["tests"]
    assert (result.items, result.long_enough, result.overlapping) == (22, 20, expected)
    assert expected == 2
    assert result.share == 2 / 22


def test_overlap_of_short_items_is_nothing() -> None:
    counter = OverlapCounter([("tests", [["int"], ["a b c"]])])
    counter.add("int a b c")
    result = counter.results()["tests"]
    assert (result.long_enough, result.overlapping) == (0, 0)


def test_overlap_of_several_tasks_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcore.evaluation.overlap.BLOCK", 50)
    draw = random.Random(4)
    vocabulary = [*(f"word{i}" for i in range(200)), "Ωmega", "船", "灰"]

    def text(length: int) -> str:
        return " ".join(draw.choice(vocabulary) for _ in range(length))

    training = [text(n) for n in (3, 400, 1, 12, 25, 700)]
    whole = words(training[5])
    tasks = {
        "inside": [[" ".join(whole[i : i + N])] for i in range(0, len(whole) - N + 1, 7)],
        "across": [[" ".join([*words(training[3]), *words(training[4])[:1]])], [training[4]]],
        "apart": [[text(40)], ["short"]],
        "same": [[training[4]], [training[4]]],
        "empty": [],
    }
    found = overlaps(tasks, iter(training))
    assert found["inside"].overlapping == found["inside"].items > 90, "whatever is hashed together"
    assert (found["across"].overlapping, found["across"].long_enough) == (1, 2), "no n-gram spans two documents"
    assert (found["apart"].overlapping, found["apart"].long_enough) == (0, 1)
    assert found["same"].overlapping == 2, "an n-gram may be of several tasks and items"
    assert found["empty"].share == 0
    more = overlaps(tasks, training, {"apart": [tasks["apart"][0][0]]})
    assert more == {**found, "apart": Overlap(2, 1, 1)}, "texts of its own count for one task alone"
    assert overlaps({}, training) == {}
    with pytest.raises(ValueError, match="'a' is there twice"):
        OverlapCounter([("a", []), ("a", [])])


def test_code_parses_or_not_and_is_never_run(tmp_path: Path) -> None:
    assert parses("return x + 1") == 1
    assert parses("    if x:\n        return [await y]\n    yield 1") == 1, "indented as in its function"
    assert parses("return x +") == 0 and parses("") == 0 and parses("a\x00") == 0 and parses("(" * 100_000) == 0
    assert parses(f"open({str(tmp_path / 'made')!r}, 'w')") == 1 and not list(tmp_path.iterdir())


def test_edit_similarity_is_a_share_of_both_texts() -> None:
    assert edit_similarity("return x", "return x") == 1
    assert edit_similarity("abcd", "bcde") == pytest.approx(2 * 3 / 8)
    assert edit_similarity("", "x") == 0


def test_the_nearest_of_several_right_outputs_counts() -> None:
    assert score(("exact_match", "f1"), "int", ("str or int", "int")) == {"exact_match": 1.0, "f1": 1.0}


def test_corpus_bleu_and_chrf_are_sacrebleus_with_the_languages_words() -> None:
    import sacrebleu

    said = ["the cat sat on the mat", "there is a dog in the garden", "no"]
    right = ["the cat sat on a mat", "there is a dog in the yard", "yes"]
    assert corpus_score("bleu", said, right, 1)[0] == pytest.approx(sacrebleu.corpus_bleu(said, [right]).score)
    assert corpus_score("chrf", said, right, 1)[0] == pytest.approx(sacrebleu.corpus_chrf(said, [right]).score)
    chinese = ["今天天气很好,我们去公园。"]
    assert corpus_score("bleu", chinese, chinese, 1, "zh") == (pytest.approx(100), None)
    assert corpus_score("bleu", chinese, chinese, 1)[0] < 100, "13a finds one word there, and no pair of words"
    corpus_score("bleu", said, right, 1, "de")
    assert "tok:zh" in signature("bleu", "zh") and "tok:13a" in signature("bleu", "de")
    assert bleu_tokenizer("ja") in ("ja-mecab", "char") and bleu_tokenizer("th") == "char"


def test_the_bootstrap_error_is_that_of_repeated_samples_and_follows_from_its_seed() -> None:
    draw = random.Random(7)

    def sample() -> tuple[list[str], list[str]]:
        right = [draw.choice("ab") for _ in range(200)]
        return [label if draw.random() < 0.8 else draw.choice("ab") for label in right], right

    said, right = sample()
    for metric in ("macro_f1", "matthews"):
        value, error = corpus_score(metric, said, right, 3)
        assert (value, error) == corpus_score(metric, said, right, 3) != corpus_score(metric, said, right, 4)
        spread = statistics.stdev(corpus_score(metric, *sample(), 3)[0] for _ in range(40))
        assert error == pytest.approx(spread, rel=0.4)
    assert corpus_score("macro_f1", ["a"], ["b"], 1) == (0.0, None)


def test_scores_of_drawn_labels_are_scikit_learns() -> None:
    from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

    draw = random.Random(3)
    said, right = ([draw.choice(labels) for _ in range(60)] for labels in ("aab", "abbc"))
    table = confusion_matrix(right, said)
    assert macro_f1(table) == pytest.approx(f1_score(right, said, average="macro", zero_division=0))
    assert matthews(table) == pytest.approx(matthews_corrcoef(right, said))
    assert matthews(confusion_matrix(["a", "b"], ["a", "a"])) == 0


def test_scores_of_a_skill_stand_beside_the_trivial_answers() -> None:
    samples = [
        {"prediction": said, "baseline": "x", "target": right, "scores": {}, "baseline_scores": {}}
        for said, right in (("a dog sat there", "a dog sat there"), ("nothing", "the cat is grey"))
    ]
    skill = load_skill("summarization").model_copy(
        update={"metrics": ("chrf", "bleu"), "target_metric": "chrf", "language": "de"}
    )
    found = summed(skill, samples, 1)
    assert found["metrics"]["chrf"] > 40 and found["metrics"]["chrf_stderr"] > 0
    assert found["metrics"]["chrf_baseline"] == 0 and "tok:13a" in found["signatures"]["bleu"]


def test_what_a_metric_is_for_is_checked_at_load() -> None:
    values = load_skill("qa").model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"unknown metric meteor; there are: exact_match, f1, rouge1"):
        validated(Skill, {**values, "metrics": ["meteor"]}, "skill qa")
    with pytest.raises(ConfigError, match=r"metrics accuracy need labels"):
        validated(Skill, {**values, "metrics": ["accuracy"], "target_metric": "accuracy"}, "skill qa")
    with pytest.raises(ConfigError, match=r"target_metric 'f2' is not one of metrics"):
        validated(Skill, {**values, "target_metric": "f2"}, "skill qa")
