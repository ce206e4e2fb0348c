"""A pretrained model directory of transformers: where it lies, which files count, what shape it has.

`hf:DIRECTORY`, or `hf:ID` or `hf:ID@REVISION` of the Hugging Face hub. Nothing here imports torch or transformers, so
that `plan` can ask; the weights are read by gptcore/adapters/pretrained.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gptcore.byte_vocabulary import readable
from gptcore.config import ACTIVATIONS, BAND, POSITIONS, SPECIAL_TOKENS
from gptcore.durable import sha256_file
from gptcore.hub_access import asking_hub
from gptcore.tokenizer_file import files_of, missing_tokens, read_saved, size_of
from gptcore.weight_files import WEIGHTS, no_weights, read_object

PREFIX = "hf:"
INDEX = "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")
DOWNLOADED = ("config.json", "model*.safetensors", INDEX, *TOKENIZER)
"""Of a repository of the hub."""

Version = dict[str, dict[str, str]]
"""sha256 by file name, of `config`, `weights` and `tokenizer`."""


def directory_of(reference: str) -> Path:
    """The local directory of `hf:REF`, downloaded where REF is no directory; ValueError where there is none."""
    return _found(reference, DOWNLOADED)


def tokenizer_directory(reference: str) -> Path:
    """As `directory_of`; of the hub only the tokenizer's files are downloaded."""
    return _found(reference, TOKENIZER)


def _found(reference: str, files: tuple[str, ...]) -> Path:
    name = reference.removeprefix(PREFIX)
    folder = Path(name).expanduser()
    if not name:
        raise ValueError(f"{reference} names no model; give {PREFIX}DIRECTORY, {PREFIX}ID or {PREFIX}ID@COMMIT")
    if folder.is_dir():
        return folder.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"{reference}: there is no directory {folder}, and no model of the hub is called so")
    repository, _, revision = name.partition("@")
    return _downloaded(repository, revision or None, files)


@cache
def _downloaded(repository: str, revision: str | None, files: tuple[str, ...]) -> Path:
    """The snapshot of a commit, asked for once a process, so that all of a run sees the same one.

    Without a network it is the commit that was downloaded last, if any.
    """
    from huggingface_hub import snapshot_download

    otherwise = f"; a directory with config.json, {WEIGHTS} and the tokenizer's files works too: {PREFIX}DIRECTORY"
    with asking_hub(f"{PREFIX}{repository}", revision, otherwise):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))


def weight_files(directory: Path) -> list[Path]:
    """model.safetensors, or its index and the parts it names; FileNotFoundError, or ValueError for pickled ones."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / INDEX
    if index.is_file():
        named = read_object(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise ValueError(f"{index} holds no weight_map from tensors to files; download it again")
        parts = [directory / name for name in sorted(set(named.values()))]
        if not parts or not all(part.is_file() and part.parent == directory for part in parts):
            lost = next((part.name for part in parts if not part.is_file()), "any part")
            raise FileNotFoundError(f"{index} names parts of the weights, but {lost} is not beside it")
        return [index, *parts]
    raise no_weights(directory)


def version_of(directory: Path, digest: Callable[[Path], str] = sha256_file) -> Version:
    """What the directory's content is identified by, wherever it lies."""
    files = {
        "config": [directory / "config.json"],
        "weights": weight_files(directory),
        "tokenizer": files_of(directory),
    }
    return {part: {path.name: digest(path) for path in paths} for part, paths in files.items()}


def tokenizer_version(directory: Path, digest: Callable[[Path], str] = sha256_file) -> Version:
    """The same of a tokenizer alone."""
    return {"tokenizer": {path.name: digest(path) for path in files_of(directory)}}


def check_unchanged(directory: Path, version: Version) -> None:
    """ValueError when a file is no longer what its version says."""
    for name, digest in (pair for part in version.values() for pair in part.items()):
        if sha256_file(directory / name) != digest:
            raise ValueError(f"{directory / name} changed since this run began; run again")


# The shape

CLASSIC = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50_257}
WIDE = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "max_position_embeddings": 32_768}
DEFAULTS: dict[str, dict[str, Any]] = {
    "openai-gpt": {**CLASSIC, "n_positions": 512, "vocab_size": 40_478},
    "gpt2": {**CLASSIC, "activation_function": "gelu_new"},
    "gpt_neo": {
        "num_layers": 24,
        "num_heads": 16,
        "hidden_size": 2048,
        "max_position_embeddings": 2048,
        "vocab_size": 50_257,
        "activation_function": "gelu_new",
        "window_size": BAND,
    },
    "qwen3": {**WIDE, "num_key_value_heads": 32, "vocab_size": 151_936},
    "nanochat": {
        **WIDE,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "hidden_size": 768,
        "max_position_embeddings": 2048,
        "num_key_value_heads": None,
        "vocab_size": 50_304,
    },
}
"""By model type, what transformers 5 takes for the keys that a config.json leaves out."""
FAMILIES = {"openai-gpt": "gpt1", "gpt2": "gpt2", "gpt_neo": "gpt3", "qwen3": "modern", "nanochat": "modern"}
NAMES = {
    "n_layer": ("n_layer", "num_layers", "num_hidden_layers"),
    "n_head": ("n_head", "num_heads", "num_attention_heads"),
    "n_embd": ("n_embd", "hidden_size"),
    "context": ("n_positions", "max_position_embeddings"),
    "vocab_size": ("vocab_size",),
}
"""Our fields, and what the model types call them."""
GELU = {"gelu_new": None, "gelu_pytorch_tanh": None, "gelu": "gelu"}


def shape_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `config.Model`, and `vocab_size`, that a config.json describes; None for a family's own.

    ValueError for a model type, an activation or a size that cannot be taken over. gptcore/adapters/hf_config.py looks
    at everything else when the weights are read.
    """
    kind = config.get("model_type")
    if kind not in list(DEFAULTS):
        raise ValueError(f"model_type {kind!r} is not one of {sorted(DEFAULTS)}, the kinds that can be taken over")
    values = {**DEFAULTS[kind], **config}
    shape: dict[str, Any] = {"family": FAMILIES[kind]}
    for field, names in NAMES.items():
        name = next(name for name in names if name in DEFAULTS[kind])
        shape[field] = _size(name, values[name])
    shape |= dict.fromkeys(("activation", "n_kv_head", "window", "positions", "bias"))
    if kind == "nanochat":
        shape["activation"] = "relu_squared"
    elif "activation_function" in DEFAULTS[kind]:
        activation = values["activation_function"]
        if activation not in list(GELU):
            raise ValueError(f"activation_function {activation!r} is not one of {sorted(GELU)}")
        shape["activation"] = GELU[activation]
    shared = values.get("num_key_value_heads")
    if shape["family"] == "modern" and shared not in (None, shape["n_head"]):
        shape["n_kv_head"] = _size("num_key_value_heads", shared)
    if kind == "gpt_neo" and values["window_size"] != BAND:
        shape["window"] = _size("window_size", values["window_size"])
    return shape


def _size(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} {value!r} is not a positive whole number")
    return value


def config_of(directory: Path) -> dict[str, Any]:
    """What config.json holds; FileNotFoundError, or ValueError for another thing than a JSON object, or one of ours."""
    found = read_object(directory / "config.json")
    if "family" in found and "model_type" not in found:
        raise ValueError(
            f"{directory} is a model directory of gptmill: load it without {PREFIX}; model.init takes those of "
            "transformers, such as publish writes"
        )
    return found


# A preset that starts from it


def with_start(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A preset's values with the shape and the vocabulary of `model.init`.

    ValueError or FileNotFoundError for a directory that cannot be taken over, and where the preset says something else
    than it does, every such field named.
    """
    model, init = values["model"], values["model"]["init"]
    if not isinstance(init, str) or not init.startswith(PREFIX):
        return values  # the validation of the whole preset names what is wrong
    directory = directory_of(init)
    config = config_of(directory)
    try:
        shape = shape_fields(config)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from None
    weight_files(directory)
    rows, saved = shape.pop("vocab_size"), read_saved(directory)
    readable(saved, directory)
    own, missing = size_of(saved), missing_tokens(saved)
    problems = _differing(model, shape, init)
    if own > rows:
        problems.append(f"{init}: its tokenizer has {own} tokens, the table of its config.json only {rows}")
    tokenizer = values.get("tokenizer", {})
    if isinstance(tokenizer, dict):
        given = tokenizer.get("vocab_size", own + len(missing))
        if given != own + len(missing):
            problems.append(
                f"tokenizer.vocab_size {given} is not that of model.init {init}, {own + len(missing)} ({own} tokens of "
                f"its own and {len(missing)} of {len(SPECIAL_TOKENS)} special ones added); leave it out"
            )
        problems += [
            f"tokenizer.{name} {tokenizer[name]}: model.init {init} has a tokenizer; leave it out"
            for name in ("kind", "take")
            if tokenizer.get(name) is not None
        ]
        tokenizer = {**tokenizer, "vocab_size": own + len(missing)}
    pretrain = values.get("pretrain", {})
    if isinstance(pretrain, dict) and pretrain.get("size") is not None:
        problems.append(f"pretrain.size {pretrain['size']} chooses a shape, model.init {init} has one; leave one out")
    if problems:
        raise ValueError("; ".join(problems))
    shape["context"] = model.get("context") or shape["context"]
    return {**values, "model": {**model, **shape}, "tokenizer": tokenizer}


def with_tokenizer(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A preset's values with the size of the vocabulary of `tokenizer.take`.

    ValueError or FileNotFoundError for one that cannot be taken, and where the preset says something else than it does.
    """
    tokenizer, take = values["tokenizer"], values["tokenizer"]["take"]
    if not isinstance(take, str) or not take.startswith(PREFIX):
        return values  # the validation of the whole preset names what is wrong
    directory = tokenizer_directory(take)
    saved = read_saved(directory)
    readable(saved, directory)
    size = size_of(saved) + len(missing_tokens(saved))
    if tokenizer.get("kind") is not None:
        raise ValueError(f"tokenizer.kind {tokenizer['kind']}: tokenizer.take {take} has its own; leave it out")
    if tokenizer.get("vocab_size", size) != size:
        raise ValueError(
            f"tokenizer.vocab_size {tokenizer['vocab_size']} is not that of tokenizer.take {take}, {size} with our "
            "special tokens; leave it out"
        )
    return {**values, "tokenizer": {**tokenizer, "vocab_size": size}}


def _differing(model: Mapping[str, Any], shape: Mapping[str, Any], init: str) -> list[str]:
    """The fields that the preset gives and config.json has otherwise; a shorter context is no difference."""
    family = shape["family"]
    own = {
        "activation": ACTIVATIONS[family][0],
        "positions": POSITIONS[family][0],
        "n_kv_head": shape["n_head"],
        "window": BAND,
        "bias": family != "modern",
    }
    problems = []
    for field, found in shape.items():
        given = model.get(field)
        if given is None or given == found or (found is None and given == own[field]):
            continue
        if field == "context" and isinstance(given, int) and 0 < given < found:
            continue
        there = own[field] if found is None else found
        problems.append(f"model.{field} {given!r} is not that of model.init {init}, {there!r}; leave it out")
    return problems
