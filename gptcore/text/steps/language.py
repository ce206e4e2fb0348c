"""Keeps documents of some languages, told offline by py3langid: naive Bayes over byte sequences (Lui & Baldwin 2012).

A document is judged by at most 4,000 characters: longer ones by pieces taken evenly from beginning to end, since the
first page alone may be a licence or a menu. Addresses and tags are left out of them. All languages of the model
compete, those that are not wanted too: a narrower choice would take French for English with certainty.

Probabilities follow the length: py3langid divides the scores by the square root of the bytes before normalising them.
So a short text is less certain and sooner dropped: an English sentence of 30 characters has about 0.9, one of 20 may
stay under 0.65, and without words no language has much over 0.1.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from gptcore.config_steps import Language
from gptcore.text.steps.step import Dropped, Kept, Step

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

VERSION = 1
LIBRARIES: tuple[str, ...] = ("py3langid",)

PIECES, PIECE = 8, 500
"""How many pieces of a long text are judged, and their characters."""
_NOISE = re.compile(r"https?://[!-~]+|<[A-Za-z/!][^<>]{0,300}>")


def make(config: Language) -> Step:
    """The step; it counts {"language:en": 1}. The model is read at the first document: 0.6 s and 90 MB a process."""
    keep = frozenset(config.keep)

    def language(text: str) -> Kept | Dropped:
        seen = _judged(text)
        name, share = _model().classify(seen)
        if name not in keep:
            return Dropped("language", f"{name} {share:.2f}, keep {' '.join(config.keep)}")
        if share < config.least_probability and len(keep) > 1:
            share = sum(part for other, part in _model().rank(seen) if other in keep)
        if share < config.least_probability:
            return Dropped("language", f"{name} {share:.2f}, at least {config.least_probability:g}")
        return Kept(text, {f"language:{name}": 1})

    return language


def _judged(text: str) -> str:
    """What a text is judged by."""
    if len(text) > PIECES * PIECE:
        last = len(text) - PIECE
        starts = (last * number // (PIECES - 1) for number in range(PIECES))
        text = "\n".join(text[start : start + PIECE] for start in starts)
    return _NOISE.sub(" ", text) if "://" in text or "<" in text else text


@functools.cache
def _model() -> LanguageIdentifier:
    """The model that comes with py3langid, read once a process."""
    import numpy as np
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # Stored as float16, and so converted anew for every text: a third of the time.
    model.nb_ptc = model.nb_ptc.astype(np.float32)
    return model
