"""What stands under a softmax, without the softmax: one number a row instead of one for each token of a vocabulary."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from gptcore.model.kernels import softmax_sums


def under_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of logits (N, V) the largest (N,), and log sum e^logits (N,) in double precision."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return logits.amax(-1), torch.logsumexp(logits, -1).double()
    most, sums = torch.empty(len(logits)), torch.empty(len(logits), dtype=torch.double)
    threads = torch.get_num_threads()
    each = max(1, -(-len(logits) // threads))
    parts = [slice(begin, begin + each) for begin in range(0, len(logits), each)]
    arrays = logits.numpy(), most.numpy(), sums.numpy()
    list(_pool(threads).map(lambda part: softmax_sums(*(array[part] for array in arrays)), parts))
    return most, sums


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "softmax")
