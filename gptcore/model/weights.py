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
from gptcore.pretrained import PICKLED

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
    config.json, or weights that do not fit it.
    """
    shape = read_config(directory / "config.json")
    path = directory / "model.safetensors"
    if not path.is_file():
        pickled = sorted(p.name for pattern in PICKLED for p in directory.glob(pattern))
        if pickled:
            raise ValueError(
                f"{directory} has only pickled weights ({pickled[0]}), which can run code when opened; "
                "convert them to model.safetensors"
            )
        raise FileNotFoundError(f"{path} does not exist")
    model = build(shape)  # on the meta device it would spare a second at 124 M, but its first use imports for 1.6 s
    tensors, wanted = read_tensors(path), model.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, config.json says {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{path} does not fit its config.json: {'; '.join(problems[:3])}{more}")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return model.to(device).eval()


def read_config(path: Path) -> GPTConfig:
    """The shape in a config.json; FileNotFoundError, or ValueError naming what is wrong."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a model directory holds config.json and model.safetensors")
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    fields = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(GPTConfig)}
    unknown = sorted(found.keys() - fields)
    missing = sorted(name for name, needed in fields.items() if needed and name not in found)
    if unknown or missing:
        raise ValueError(f"{path}: unknown keys {unknown}, missing keys {missing}; known: {sorted(fields)}")
    try:
        return GPTConfig(**found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
