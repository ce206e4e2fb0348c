"""Scores that belong to all predictions together: BLEU, chrF, macro F1, Matthews; their error by bootstrap."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcore.config_skill import CORPUS_METRICS

RESAMPLES = 500
"""Draws behind a standard error: it is then known to 3 %."""
ALL_TOGETHER = (*CORPUS_METRICS, "macro_f1", "matthews")
"""Metrics that are no mean over items."""

_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab", **dict.fromkeys(("th", "lo", "km", "my", "bo"), "char")}
_NEEDS = {"ja-mecab": "MeCab", "ko-mecab": "mecab_ko"}


def bleu_tokenizer(language: str | None) -> str:
    """How sacrebleu splits a language into words: 13a where spaces do; by the character where no splitter is there."""
    name = _TOKENIZERS.get(language or "", "13a")
    return "char" if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None else name


@functools.cache
def _scorer(metric: str, language: str | None, single: bool = False) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    # effective_order is what sacrebleu asks for with single texts: orders longer than the text do not count.
    return BLEU(tokenize=bleu_tokenizer(language), effective_order=single) if metric == "bleu" else CHRF()


def sentence_score(metric: str, prediction: str, target: str, language: str | None = None) -> float:
    """bleu or chrf of one text, in [0, 100]."""
    return float(_scorer(metric, language, single=True).sentence_score(prediction, [target]).score)


def signature(metric: str, language: str | None = None) -> str:
    """What sacrebleu asks to be published beside its score: tokenizer, smoothing, version; after it has scored."""
    return str(_scorer(metric, language).get_signature())


def corpus_score(
    metric: str, predictions: Sequence[str], targets: Sequence[str], seed: int, language: str | None = None
) -> tuple[float, float | None]:
    """A metric of ALL_TOGETHER over all items, and its standard error (None for fewer than two items).

    The error is the deviation of the score over RESAMPLES draws of the items with replacement; equal seed, equal error.
    Raises ValueError for another metric, or without items.
    """
    if metric not in ALL_TOGETHER:
        raise ValueError(f"{metric!r} is not scored over all items; these are: {', '.join(ALL_TOGETHER)}")
    if not predictions:
        raise ValueError(f"no predictions to score by {metric}")
    n = len(predictions)
    if metric in CORPUS_METRICS:
        of = _texts(metric, predictions, targets, language)
        value = of(np.arange(n))
    else:
        of = _labels(metric, predictions, targets)
        value = _by_scikit_learn(metric, predictions, targets)
    if n == 1:
        return value, None
    draw = np.random.default_rng(seed)
    return value, float(np.std([of(draw.integers(n, size=n)) for _ in range(RESAMPLES)], ddof=1))


Drawn = Callable[[npt.NDArray[np.int64]], float]


def _texts(metric: str, predictions: Sequence[str], targets: Sequence[str], language: str | None) -> Drawn:
    """A score of some items: n-grams are counted once, and a draw adds up the counts, as sacrebleu's own bootstrap."""
    scorer = _scorer(metric, language)
    counts = np.array(scorer._extract_corpus_statistics(predictions, [targets]))  # (N, counts)

    def score(items: npt.NDArray[np.int64]) -> float:
        return float(scorer._compute_score_from_stats(counts[items].sum(0).tolist()).score)

    return score


def _by_scikit_learn(metric: str, predictions: Sequence[str], targets: Sequence[str]) -> float:
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric == "matthews":
        return float(matthews_corrcoef(targets, predictions))
    return float(f1_score(targets, predictions, average="macro", zero_division=0.0))


def _labels(metric: str, predictions: Sequence[str], targets: Sequence[str]) -> Drawn:
    """A score of some items by their confusion matrix: scikit-learn itself takes a tenth of a second a draw."""
    names = sorted({*predictions, *targets})
    numbers = {name: number for number, name in enumerate(names)}
    cell = np.array([numbers[t] * len(names) + numbers[p] for p, t in zip(predictions, targets, strict=True)])

    def score(items: npt.NDArray[np.int64]) -> float:
        drawn = np.bincount(cell[items], minlength=len(names) ** 2).reshape(len(names), -1)
        return matthews(drawn) if metric == "matthews" else macro_f1(drawn)

    return score


def macro_f1(confusion: npt.NDArray[np.int64]) -> float:
    """Mean over labels of F1 (labels, labels; right ones in rows); labels that neither side has do not count."""
    below = confusion.sum(0) + confusion.sum(1)
    return float(np.mean(2 * np.diag(confusion)[below > 0] / below[below > 0]))


def matthews(confusion: npt.NDArray[np.int64]) -> float:
    """Matthews' correlation of guessed and right labels, in [-1, 1]; 0 where one side has a single label (Gorodkin)."""
    right, guessed, n = confusion.sum(1).astype(float), confusion.sum(0).astype(float), float(confusion.sum())
    shared = float(np.trace(confusion)) * n - float(right @ guessed)
    below = (n * n - float(guessed @ guessed)) * (n * n - float(right @ right))
    return shared / below**0.5 if below > 0 else 0.0
