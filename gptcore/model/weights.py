"""Weights on disk: safetensors beside a config.json. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptcore import durable
from gptcore.model.families import build
from gptcore.model.gpt import GPT, GPTConfig
from gptcore.weight_files import check_fits, no_weights, read_object

DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint8: "U8",
}
"""Names that the safetensors format gives to the types we write."""


def write_tensors(file: IO[bytes], tensors: Mapping[str, Tensor]) -> str:
    """Write safetensors, one tensor at a time; returns the sha256 of what was written.

    The library's own writer needs every byte in memory at once and reports a full disk without an errno. The format:
    header length (8 bytes, little-endian), JSON header padded with spaces to a multiple of 8, raw tensors.
    """
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    digest = hashlib.sha256()
    for piece in (len(packed).to_bytes(8, "little"), packed):
        digest.update(piece)
        file.write(piece)
    for tensor in tensors.values():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        digest.update(raw)
        file.write(raw)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file; ValueError when it is truncated or something else."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not safetensors ({error}); restore or rebuild it") from None


def save_model(model: GPT, directory: Path) -> None:
    """Write model.safetensors, then config.json, each atomically."""
    with durable.writing(directory / "model.safetensors") as file:
        write_tensors(file, model.state_dict())
    durable.write_json(directory / "config.json", dataclasses.asdict(model.config))


def load_model(directory: Path, device: str | torch.device = "cpu") -> GPT:
    """The model of a directory, in evaluation mode.

    FileNotFoundError when a file is missing; ValueError for pickled weights, a damaged file, an unknown key in
    config.json, weights that do not fit it, or that `usable` refuses.
    """
    shape = read_config(directory / "config.json")
    path = directory / "model.safetensors"
    if not path.is_file():
        raise no_weights(directory)
    model = build(shape)  # on the meta device it would spare a second at 124 M, but its first use imports for 1.6 s
    tensors, wanted = read_tensors(path), model.state_dict()
    check_fits(path, *({name: tuple(t.shape) for name, t in found.items()} for found in (tensors, wanted)))
    model.load_state_dict(usable(path, tensors), assign=True)
    return model.to(device).eval()


def usable(where: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32; ValueError, naming the first, for whole numbers and for values that are not finite."""
    found = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(
                f"{where}: {name} is of {tensor.dtype}, and weights are floating-point numbers; rebuild it"
            )
        found[name] = tensor.float()
        if not torch.stack(torch.aminmax(found[name])).isfinite().all():
            raise ValueError(f"{where}: {name} holds values that are not finite; restore or rebuild it")
    return found


def read_config(path: Path) -> GPTConfig:
    """The shape in a config.json; FileNotFoundError, or ValueError naming what is wrong."""
    found = read_object(path)
    if "model_type" in found:
        raise ValueError(f"{path.parent} is a model directory of transformers: name it hf:{path.parent}")
    fields = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(GPTConfig)}
    unknown = sorted(found.keys() - fields)
    missing = sorted(name for name, needed in fields.items() if needed and name not in found)
    if unknown or missing:
        raise ValueError(f"{path}: unknown keys {unknown}, missing keys {missing}; known: {sorted(fields)}")
    try:
        return GPTConfig(**found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
