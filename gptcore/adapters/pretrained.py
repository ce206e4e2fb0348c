"""Pretrained models of transformers as ours: from their directory to a network, and to where pretraining starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptcore.adapters.hf_config import shape_of
from gptcore.adapters.hf_weights import PREFIX as WITH_HEAD
from gptcore.adapters.hf_weights import from_hf, to_hf
from gptcore.config import Model
from gptcore.model.families import build
from gptcore.model.gpt import GPT, GPTConfig
from gptcore.model.weights import read_tensors, save_model, usable
from gptcore.pretrained import Version, check_unchanged, config_of, directory_of, weight_files
from gptcore.text.tokenizer import TextTokenizer
from gptcore.tokenizer_file import extended, read_saved, size_of
from gptcore.training.pretrain import START
from gptcore.weight_files import check_fits
from gptcore.work import Work

MASKS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
"""What old files hold beside the weights: it follows from the shape."""
HEAD = "lm_head.weight"
TABLES = ("wte.weight", "tokens.weight", "unembed.weight")
"""Ours with a row for every token."""


def load_pretrained(reference: str) -> tuple[GPT, TextTokenizer]:
    """The model and the tokenizer of `hf:REF` as they are; ValueError or FileNotFoundError where they cannot be."""
    directory = directory_of(reference)
    shape = checked_shape(directory)
    tokenizer = TextTokenizer.load(directory, shape.vocab_size)
    _check_rows(directory, tokenizer.vocab_size, shape)
    model = build(shape)
    model.load_state_dict(read_weights(directory, shape), assign=True)
    return model.eval(), tokenizer


def checked_shape(directory: Path) -> GPTConfig:
    """The shape of a directory whose files fit it, by their headers alone.

    FileNotFoundError for what is missing; ValueError for a model type or a setting that no shape of ours has, for
    pickled weights, and for tensors that config.json does not describe, the first of them named.
    """
    config = config_of(directory)
    try:
        shape = shape_of(config)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from None
    found: dict[str, tuple[int, ...]] = {}
    for path in _parts(directory):
        try:
            with safe_open(path, "pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is truncated or not safetensors ({error}); download it again") from None
    names = _names(shape, found)
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in to_hf(shape, build(shape).state_dict()).items()}
    there = {ours: found[theirs] for theirs, ours in names.items() if ours != HEAD or HEAD in wanted}
    check_fits(directory, there, wanted)
    return shape


def read_weights(directory: Path, shape: GPTConfig) -> dict[str, Tensor]:
    """The weights of a directory of a `checked_shape` under our names, in float32.

    ValueError for an untied head, and for what `usable` refuses.
    """
    theirs: dict[str, Tensor] = {}
    for path in _parts(directory):
        theirs |= read_tensors(path)
    named = usable(directory, {ours: theirs[name] for name, ours in _names(shape, theirs).items()})
    if shape.family != "modern":
        state = from_hf(shape, named)
        if HEAD in named and not torch.equal(named[HEAD], state["wte.weight"]):
            raise ValueError(f"{directory}: {HEAD} is not the token table; only a tied head can be taken over")
        return state
    return from_hf(shape, named)


def _parts(directory: Path) -> list[Path]:
    return [path for path in weight_files(directory) if path.suffix == ".safetensors"]


def _names(shape: GPTConfig, found: Iterable[str]) -> dict[str, str]:
    """What files hold -> how the class with a head calls it; files of the bare model lack a prefix. Masks are left."""
    prefix = "model." if shape.family == "modern" else WITH_HEAD
    kept = [name for name in found if not name.endswith(MASKS)]
    return {name: name if name == HEAD else prefix + name.removeprefix(prefix) for name in kept}


def _check_rows(directory: Path, tokens: int, shape: GPTConfig) -> None:
    if tokens > shape.vocab_size:
        raise ValueError(f"{directory}: its tokenizer has {tokens} tokens, its config.json only {shape.vocab_size}")


# Where pretraining starts


def take_over(model: Model, work: Work, version: Version | None = None) -> None:
    """Leave the model of `model.init`, fitted to the input `tokenizer`, where `pretrain` looks for it.

    version: what its files must still be. Raises ValueError as `load_pretrained`, and where the preset's shape or the
    tokenizer is not the directory's.
    """
    start = work.scratch / START
    if (start / "config.json").exists():  # an earlier try left it, whole
        return
    assert model.init is not None
    directory = directory_of(model.init)
    if version is not None:
        check_unchanged(directory, version)
    shape, saved = checked_shape(directory), read_saved(directory)
    size = TextTokenizer.load(work.inputs["tokenizer"]).vocab_size
    if size != size_of(extended(saved)):
        raise ValueError(f"the tokenizer stage has {size} tokens, {directory} with ours {size_of(extended(saved))}")
    _check_rows(directory, size_of(saved), shape)
    _check_shape(model, shape)
    state = read_weights(directory, shape)
    fitted = replace(shape, vocab_size=size, context=model.context, dropout=model.dropout)
    gpt = build(fitted)
    gpt.load_state_dict(with_rows(with_context(state, model.context), size_of(saved), size), assign=True)
    save_model(gpt, start)


def _check_shape(model: Model, shape: GPTConfig) -> None:
    """ValueError where a preset's model is not of the shape; its context may be shorter, its dropout its own."""
    wanted = asdict(replace(shape, context=min(shape.context, model.context), dropout=model.dropout))
    given = asdict(GPTConfig.of(model, shape.vocab_size))
    if other := [f"{name} {given[name]!r}, not {wanted[name]!r}" for name in wanted if given[name] != wanted[name]]:
        raise ValueError(f"the preset's model is not of the shape of {model.init}: {'; '.join(other)}")


def with_rows(state: Mapping[str, Tensor], own: int, size: int) -> dict[str, Tensor]:
    """The weights with rows for `size` tokens, of which `own` were there.

    Rows behind those are padding that no id reaches, and go. A new row is the mean of the old ones: its logit is then
    never far above the others', so that the new tokens take next to no probability from text before they are trained,
    where random rows can take nearly all (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language
    Models").
    """

    def resized(table: Tensor) -> Tensor:
        rows = table[:own]
        mean = rows.double().mean(0, keepdim=True).to(rows.dtype)
        return torch.cat([rows, mean.expand(size - own, -1)])

    return {name: resized(tensor) if name in TABLES else tensor for name, tensor in state.items()}


def with_context(state: Mapping[str, Tensor], context: int) -> dict[str, Tensor]:
    """The weights for a shorter context: of a position table the first rows, the only ones it would ever read."""
    return {name: tensor[:context].clone() if name == "wpe.weight" else tensor for name, tensor in state.items()}


def checked_start(model: Model, version: Version) -> Path:
    """The directory of `model.init`, refused before any stage's work where pretraining could not start from it."""
    assert model.init is not None
    directory = directory_of(model.init)
    check_unchanged(directory, version)
    _check_shape(model, checked_shape(directory))
    return directory
