"""Data parallelism: each process holds the whole model and computes its share of every batch (Li et al. 2020)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from gptcore.model.gpt import GPT
from gptcore.training.processes import Processes
from gptcore.training.team import Forward


class Replicas(Processes):
    """A team on DistributedDataParallel, which averages gradients while the backward pass goes on."""

    def forward(self, model: GPT) -> Forward:
        """The wrapped model.

        Left alone, DDP would pack its buckets anew after the first update. Three processes or more add up in an order
        that depends on a number's place in its bucket, so a resumed run, whose first update comes later, would get
        other last bits. Looking for unused parameters keeps the first packing.
        """
        self._wrapped = DistributedDataParallel(
            model,
            device_ids=[torch.cuda.current_device()] if model.device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
        )
        return self._wrapped

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Gradients of the micro-batches before the last stay here."""
        return nullcontext() if last else self._wrapped.no_sync()
