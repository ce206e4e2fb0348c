"""Shards of a checkpoint: safetensors written by several processes, each its part, and read by any number.

torch.distributed.checkpoint plans who writes and reads what. Its safetensors form is taken: the other one is pickled.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from gptcore import durable


def write_shards(directory: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup) -> None:
    """Write the group's distributed tensors into a directory that exists. Collective; OSError in every process.

    Plain tensors are taken to be equal everywhere, and are written once.
    """
    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    try:
        state_dict_saver.save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as failed:
        for error in failed.failures.values():
            cause = error[0]
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror) from failed
        raise


def sealed(directory: Path, number: int, of: int) -> dict[str, dict[str, Any]]:
    """Sync every `of`-th file of a directory; its size and digest, by its path from the directory above."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(directory.iterdir())[number::of]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        digest = durable.sha256_file(path)
        found[f"{directory.name}/{path.name}"] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def load_shards(directory: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup) -> None:
    """Fill the tensors, distributed or plain, in place. Collective."""
    state_dict_loader.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(directory)), process_group=group)


def names_in(directory: Path) -> set[str]:
    """Of the tensors in shards."""
    return set(HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata)


def read_shards(directory: Path) -> dict[str, dict[str, Tensor]]:
    """Every tensor whole, on the CPU: `model` by name, `optimizer` by `<name>:<slot>`. Asks no other process."""
    reader = HuggingFaceStorageReader(str(directory))
    found = reader.read_metadata().state_dict_metadata
    tensors = {}
    for name, held in found.items():
        assert isinstance(held, TensorStorageMetadata)
        tensors[name] = torch.empty(held.size, dtype=held.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant to be
        state_dict_loader.load(dict(tensors), storage_reader=reader, no_dist=True)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for key, tensor in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor
    return parts
