"""Labels by their likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def probabilities(labels: Sequence[str], nats: Sequence[float]) -> dict[str, float]:
    """Each label's share of the probability that all of them have together, from their log-likelihoods."""
    top = max(nats)
    shares = [math.exp(value - top) for value in nats]
    return {label: share / math.fsum(shares) for label, share in zip(labels, shares, strict=True)}


def likeliest(shares: Mapping[str, float]) -> str:
    """The label of the largest share, the first of equal ones."""
    return max(shares, key=lambda label: shares[label])
