"""The teams by the way they share a model."""

from __future__ import annotations

from gptcore.training.processes import Processes
from gptcore.training.replicas import Replicas
from gptcore.training.shards import Shards
from gptcore.training.slices import Slices

TEAMS: dict[str, type[Processes]] = {"ddp": Replicas, "fsdp": Shards, "tensor": Slices}


def team_like(parallel: str) -> Processes:
    """The team of this process; the process group must stand."""
    return TEAMS[parallel]()
