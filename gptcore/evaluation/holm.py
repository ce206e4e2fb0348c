"""Many comparisons at once: one of twenty would pass by chance."""

from __future__ import annotations

from collections.abc import Sequence


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities corrected for being looked at together (Holm 1979): the family-wise error stays under the level.

    The smallest is taken times their number, the next times one less, and none comes out below a smaller one.
    """
    order = sorted(range(len(probabilities)), key=lambda place: probabilities[place])
    corrected, highest = [0.0] * len(probabilities), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, probabilities[place] * (len(probabilities) - rank)))
        corrected[place] = highest
    return corrected
