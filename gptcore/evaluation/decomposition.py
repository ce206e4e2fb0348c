"""How a benchmark's figure follows from its items: every figure here is a function of sums over items.

So a figure of other items (a resample, a subset, two models' answers exchanged) needs no second look at them. A form is
used only where it gives the recorded figure again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]
Figure = Callable[[Sums], Sums]
"""(..., k) sums over items to (...) figures."""
Sample = Mapping[str, Any]
"""One line of samples-<task>.jsonl."""

TEXT_SCORES = ("bleu", "chrf", "ter")
TOKENIZERS = ("13a", "zh", "char", "intl", "none")
"""Those of sacrebleu's BLEU that are tried until the recorded figure comes out."""
SCALES = (1.0, 0.01)
"""sacrebleu counts to 100; a figure may stand as a share."""
MOST_LABELS = 500
"""More are free text: and three numbers a label are kept of every item."""
AS_RECORDED = 1e-4
"""Relative difference from the recorded figure that rounding of items and figures explains."""


class NotPaired(ValueError):
    """Why two models' items cannot be compared one by one."""


@dataclass(frozen=True)
class Parts:
    """What each item adds to the sums, and what the sums give."""

    items: Sums  # (n, k)
    figure: Figure

    def of(self, chosen: Sequence[int]) -> float:
        """The figure of some of the items."""
        return float(self.figure(self.items[np.asarray(chosen)].sum(axis=0)))


def decompose(metric: str, samples: Sequence[Sequence[Sample]], recorded: Sequence[float], column: str) -> Parts:
    """The parts of several models' items, each model's after those of the one before it.

    column: `scores` or `baseline_scores`. Of items under several seeds a figure is the mean of the seeds' figures.
    Raises NotPaired where no form gives every model's recorded figure.
    """
    ends = np.cumsum([0, *map(len, samples)]).tolist()
    models = [_by_seed(each, start) for each, start in zip(samples, ends, strict=False)]
    for parts in _forms(metric, [sample for each in samples for sample in each], column):
        found = [math.fsum(parts.of(rows) for rows in seeds) / len(seeds) for seeds in models]
        if all(abs(f - r) <= AS_RECORDED * max(1.0, abs(r)) for f, r in zip(found, recorded, strict=True)):
            return parts
    raise NotPaired("how the figure follows from its items is not known")


def _by_seed(samples: Sequence[Sample], start: int) -> list[list[int]]:
    """Row numbers of a model's samples, one list a seed; the first sample is row `start`."""
    seeds: dict[Any, list[int]] = {}
    for row, sample in enumerate(samples, start):
        seeds.setdefault(sample.get("seed"), []).append(row)
    return list(seeds.values())


def mean_over_seeds(figure: Figure, seeds: int) -> Figure:
    """The mean of the seeds' figures, of sums in which every seed has a block: (..., seeds * k)."""
    if seeds == 1:
        return figure
    return lambda sums: figure(sums.reshape(*sums.shape[:-1], seeds, -1)).mean(axis=-1)


def _forms(metric: str, samples: Sequence[Sample], column: str) -> Iterator[Parts]:
    """What the figure may be, the likeliest first."""
    if all("bits" in sample and "bytes" in sample for sample in samples):
        yield Parts(np.array([[s["bits"], s["bytes"]] for s in samples], dtype=float), _ratio)
        return
    answer = "prediction" if column == "scores" else "baseline"
    if all(isinstance(sample.get(part), str) for sample in samples for part in ("target", answer)):
        answers = [(sample["target"], sample[answer]) for sample in samples]
        if metric != "f1":  # of an answer's words here; lm-eval's, of labels, stands in pairs
            yield from _confusion(metric, answers)
        yield from _texts(metric, answers)
    values = [sample.get(column, {}).get(metric) for sample in samples]
    if all(_number(value) for value in values):
        means = np.array([[value, 1.0] for value in values], dtype=float)
        yield Parts(means, _ratio)
        yield Parts(means, lambda sums: np.exp(-_ratio(sums)))  # perplexity of lambada: one log-likelihood an item
    elif all(_pair(value) and all(map(_number, value)) for value in values):
        numbers = np.array(values, dtype=float)
        yield Parts(numbers, lambda sums: np.exp(-_ratio(sums)))  # log-likelihood and words, or bytes
        yield Parts(numbers, lambda sums: -_ratio(sums) / math.log(2))
        yield from _confusion(metric, [(str(gold), str(found)) for gold, found in values])
    elif all(_pair(value) and all(isinstance(part, str) for part in value) for value in values):
        yield from _texts(metric, values)


def _ratio(sums: Sums) -> Sums:
    """A mean (value, 1) or a ratio (bits, bytes)."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


# Labels: of each one whether the item was right, wanted it, and was given it


def _confusion(metric: str, labels: Sequence[tuple[str, str]]) -> Iterator[Parts]:
    figures: dict[str, Figure] = {"f1": _f1, "macro_f1": _macro_f1, "mcc": _mcc, "matthews": _mcc}
    known = sorted({label for pair in labels for label in pair})
    if metric not in figures or len(known) > MOST_LABELS:
        return
    place = {label: number for number, label in enumerate(known)}
    marks = np.zeros((len(labels), 3, len(known)))
    for item, (wanted, given) in enumerate(labels):
        marks[item, 0, place[given]] = wanted == given
        marks[item, 1, place[wanted]] = marks[item, 2, place[given]] = 1.0
    yield Parts(marks.reshape(len(labels), -1), figures[metric])


def _counts(sums: Sums) -> tuple[Sums, Sums, Sums]:
    """Right answers, wanted and given of each label: (..., labels)."""
    right, wanted, given = np.split(sums, 3, axis=-1)
    return right, wanted, given


def _each_f1(sums: Sums) -> tuple[Sums, NDArray[np.bool_]]:
    """F1 of each label, and whether it is there at all."""
    right, wanted, given = _counts(sums)
    there = wanted + given
    return np.divide(2 * right, there, out=np.zeros_like(there), where=there > 0), there > 0


def _f1(sums: Sums) -> Sums:
    """Of the last label, as scikit-learn's binary F1 takes label 1 of 0 and 1."""
    return np.asarray(_each_f1(sums)[0][..., -1])


def _macro_f1(sums: Sums) -> Sums:
    """The mean over the labels that are there, as scikit-learn's."""
    each, there = _each_f1(sums)
    return np.asarray(each.sum(axis=-1) / there.sum(axis=-1))


def _mcc(sums: Sums) -> Sums:
    """Matthews' correlation for any number of labels (Gorodkin 2004); 0 where all answers are one label."""
    right, wanted, given = _counts(sums)
    n = wanted.sum(axis=-1)
    above = right.sum(axis=-1) * n - (wanted * given).sum(axis=-1)
    below = np.sqrt((n**2 - (wanted**2).sum(axis=-1)) * (n**2 - (given**2).sum(axis=-1)))
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))


# Texts: sacrebleu's counts of each item


def _texts(metric: str, texts: Sequence[tuple[str, str]]) -> Iterator[Parts]:
    if metric not in TEXT_SCORES:
        return
    from sacrebleu.metrics import BLEU, CHRF, TER

    tries: dict[str, list[Callable[[], Any]]] = {
        "bleu": [lambda name=name: BLEU(tokenize=name) for name in TOKENIZERS],  # type: ignore[misc]
        "chrf": [CHRF, lambda: CHRF(word_order=2)],
        "ter": [TER],
    }
    for make in tries[metric]:
        score = make()
        wanted, given = [text[0] for text in texts], [text[1] for text in texts]
        counts = np.array(score._extract_corpus_statistics(given, [wanted]), dtype=float)

        for scale in SCALES:

            def figure(sums: Sums, score: Any = score, scale: float = scale) -> Sums:
                def one(counted: Sums) -> float:
                    whole = [int(count) for count in counted]
                    return scale * float(score._compute_score_from_stats(whole).score)

                return np.asarray(np.apply_along_axis(one, -1, sums), dtype=float)

            yield Parts(counts, figure)
