"""What one prediction is worth, and how sure a mean of such scores is."""

from __future__ import annotations

import ast
import difflib
import functools
import math
import re
import string
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from gptcore.config_skill import CORPUS_METRICS, LABEL_METRICS, METRICS
from gptcore.evaluation.corpus_scores import sentence_score
from gptcore.text.words import letter_words, spaced

ROUGE = ("rouge1", "rouge2", "rougeL")

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """Lower case, without punctuation, articles and repeated spaces (SQuAD's script, Rajpurkar et al. 2016).

    An answer that is nothing but these, such as `''` or `()`, stays as it is: else all of them would be equal.
    """
    plain = _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION))
    return " ".join(plain.split()) or " ".join(answer.split())


def exact_match(prediction: str, target: str) -> float:
    """1.0 when both are equal after `normalise`, else 0.0."""
    return float(normalise(prediction) == normalise(target))


def f1(prediction: str, target: str) -> float:
    """Harmonic mean of precision and recall over normalised words, in [0, 1] (SQuAD); Chinese by the character."""
    predicted, wanted = (spaced(normalise(answer)).split() for answer in (prediction, target))
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted)) if shared else 0.0


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # about 1.5 s: it imports nltk with all its models

    return RougeScorer(list(ROUGE), tokenizer=_Words())


class _Words:
    """What rouge_score splits texts by; its own takes only a to z and 0 to 9, which gives equal Chinese texts 0."""

    def tokenize(self, text: str) -> list[str]:
        return letter_words(text)


def rouge(prediction: str, target: str) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures, in [0, 1], without stemming (rouge_score, Lin 2004)."""
    return {name: float(value.fmeasure) for name, value in _rouge_scorer().score(target, prediction).items()}


def edit_similarity(prediction: str, target: str) -> float:
    """How much of both texts is the same, character by character and in order, in [0, 1] (difflib's ratio)."""
    return difflib.SequenceMatcher(None, prediction, target, autojunk=False).ratio()


def parses(body: str) -> float:
    """1.0 when a text is the body of a Python function by its grammar, else 0.0. It is read, never run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in a text that somebody else wrote
            ast.parse("async def function():\n" + textwrap.indent(textwrap.dedent(body), "    "))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0
    return 1.0


def score(
    metrics: Iterable[str], prediction: str, targets: str | Sequence[str], language: str | None = None
) -> dict[str, float]:
    """The named scores of one prediction against the right output, or the best of several.

    bleu and chrf are those of the one text, beside which the score of all texts stands; macro_f1 and matthews have none
    and are left out. Raises ValueError for a name not in METRICS.
    """
    names = list(metrics)
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"unknown metric {', '.join(unknown)}; there are: {', '.join(METRICS)}")
    found = [
        _score(names, prediction, target, language) for target in ([targets] if isinstance(targets, str) else targets)
    ]
    return {name: max(values[name] for values in found) for name in found[0]}


def _score(names: Sequence[str], prediction: str, target: str, language: str | None) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in names:
        if name in ROUGE:
            if name not in values:
                values |= rouge(prediction, target)
        elif name in CORPUS_METRICS:
            values[name] = sentence_score(name, prediction, target, language)
        elif name in LABEL_METRICS:
            values["accuracy"] = float(prediction == target)
        elif name == "parses":
            values[name] = parses(prediction)
        else:
            values[name] = {"exact_match": exact_match, "f1": f1, "edit_similarity": edit_similarity}[name](
                prediction, target
            )
    return {name: values[name] for name in names if name in values}


def mean_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error (sample deviation over root n); the error of fewer than two values is None."""
    n = len(values)
    if n == 0:
        raise ValueError("no values to take a mean of")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def ratio_stderr(parts: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """Sum of numerators over sum of denominators, and its standard error (delta method over the pairs).

    For bits per byte, documents being the units: tokens of one document are not independent of each other.
    """
    n, below = len(parts), math.fsum(b for _, b in parts)
    if below <= 0:
        raise ValueError("the denominators of a ratio add up to nothing")
    ratio = math.fsum(a for a, _ in parts) / below
    if n == 1:
        return ratio, None
    return ratio, math.sqrt(n / (n - 1) * math.fsum((a - ratio * b) ** 2 for a, b in parts)) / below
