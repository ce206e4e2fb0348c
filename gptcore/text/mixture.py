"""Sources by weight: how much of each a mixture takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]


def mixture(weights: Sequence[float], source: npt.NDArray[np.integer], size: npt.NDArray[np.integer],
            draw: npt.NDArray[np.uint64], eligible: Flags) -> Flags:  # fmt: skip
    """Which documents a mixture takes, (documents,): of each source a share of the bytes in proportion to its weight.

    source: number of each document's source, size: its bytes, draw: numbers by which some are taken before others
    (hashes of the texts, so that more text changes little), eligible: which may be taken; all (documents,). As much is
    taken as the source that is scarcest for its weight allows, and nothing twice: the whole of that one, and of every
    other the documents of the smallest draws that fit. Raises ValueError for a source that has nothing to give.
    """
    totals = np.array([size[eligible & (source == number)].sum(dtype=np.int64) for number in range(len(weights))])
    if (totals == 0).any():
        number = int(np.flatnonzero(totals == 0)[0])
        raise ValueError(
            f"source {number + 1} of corpus.sources has a weight of {weights[number]:g} and no training text; "
            "leave it out, or look at what was skipped and dropped"
        )
    whole = (totals / np.array(weights)).min()
    taken = np.zeros(len(source), bool)
    for number, weight in enumerate(weights):
        members = np.flatnonzero(eligible & (source == number))
        members = members[np.argsort(draw[members], kind="stable")]
        # Rounded up by a byte's share: the scarcest source must come out whole.
        fits = np.cumsum(size[members], dtype=np.int64) <= np.ceil(whole * weight - 1e-6)
        taken[members[fits]] = True
    return taken
