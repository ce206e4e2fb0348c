"""Models of transformers, as its own save_pretrained leaves them, loaded and trained on as ours."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from test_finetune import SKILL, write_corpus
from test_tokenizer import ODD_TEXTS, random_text
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as BpeTokenizer
from transformers import GPT2Config, GPTNeoConfig, OpenAIGPTConfig, Qwen3Config

from gptcore import pretrained
from gptcore.adapters.hf import export_hf
from gptcore.adapters.hf_config import CLASSES, shape_of
from gptcore.adapters.pretrained import take_over
from gptcore.config import SPECIAL_TOKENS, Finetune, Preset, Runtime
from gptcore.loaded import load
from gptcore.model.weights import load_model
from gptcore.plan import difference, last_resolved, make_plan, resolve_sources
from gptcore.presets import ConfigError, load_preset
from gptcore.pretrained import DEFAULTS, NAMES, directory_of, shape_fields
from gptcore.store import Store
from gptcore.text.takeover import take_over_tokenizer
from gptcore.text.tokenizer import TextTokenizer
from gptcore.text.tokens import build_tokens
from gptcore.training.finetune import finetune
from gptcore.training.pretrain import pretrain
from gptcore.work import Interrupted, Work

TOKENS, CONTEXT = 400, 160
"""Of the models here; the tokenizer's are as many but where said."""
ADDED = len(SPECIAL_TOKENS) - 1
"""Special tokens that GPT-2's tokenizer lacks."""
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = (*ODD_TEXTS, "I\u2019ll  see\t\tit:\n\n  42 caf\u00e9 e\u0301 \u212b <|endoftext|><think>so</think>")


def bpe(kind: str = "gpt2", size: int = TOKENS) -> BpeTokenizer:
    """A byte-level BPE in GPT-2's form, the end of text last; or in Qwen's, with tokens that are no special ones."""
    found = BpeTokenizer(models.BPE())
    if kind == "gpt2":
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        added = [AddedToken("<|endoftext|>", special=True)]
    else:
        found.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN), "isolated")
        found.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        added = [AddedToken("<|endoftext|>", special=True), AddedToken("<|im_end|>", special=True)]
        added += [AddedToken("<think>", special=False), AddedToken("</think>", special=False)]
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - len(added), initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator([f"{text} the width of {i} is a float, it's" for i, text in enumerate(TEXTS)], trainer)
    found.add_tokens(added)
    assert found.get_vocab_size() == size
    return found


def save_tokenizer(directory: Path, kind: str = "gpt2", size: int = TOKENS) -> Path:
    """As transformers saves it."""
    ends = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe(kind, size), **ends)
    fast.save_pretrained(directory)
    return directory


CONFIGS: dict[str, Any] = {
    "gpt2": GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=CONTEXT, vocab_size=TOKENS),
    "openai-gpt": OpenAIGPTConfig(n_layer=2, n_head=2, n_embd=32, n_positions=CONTEXT, vocab_size=TOKENS),
    "gpt_neo": GPTNeoConfig(
        num_layers=2,
        num_heads=2,
        hidden_size=32,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
        max_position_embeddings=CONTEXT,
        vocab_size=TOKENS,
    ),
    "qwen3": Qwen3Config(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=32,
        intermediate_size=96,
        head_dim=8,
        max_position_embeddings=CONTEXT,
        vocab_size=TOKENS,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
    ),
}


def save_model(directory: Path, kind: str = "gpt2", tokenizer: str = "gpt2", **more: Any) -> Path:
    """A tiny model of a class of transformers, its weights all away from zero and one, and a tokenizer."""
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(directory, **more)
    return save_tokenizer(directory, tokenizer)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("pretrained") / "gpt2")


@pytest.fixture
def copied(gpt2: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    return Path(shutil.copytree(gpt2, tmp_path / "copied"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}))


def logits_of(directory: Path, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()(ids).logits
    return found


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(TOKENS, (2, CONTEXT), generator=torch.Generator().manual_seed(0))


# Loading


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_a_directory_of_transformers_loads_and_gives_its_logits(kind: str, tmp_path: Path, ids: torch.Tensor) -> None:
    directory = save_model(tmp_path / kind, kind)
    loaded = load(f"hf:{directory}")
    assert loaded.use is None and not loaded.model.training
    torch.testing.assert_close(loaded.model(ids), logits_of(directory, ids), atol=1e-4, rtol=0)
    assert isinstance(loaded.generate(["the width"], max_new_tokens=3)[0], str)


@torch.no_grad()
def test_parts_half_precision_and_bare_names_load_too(gpt2: Path, copied: Path, ids: torch.Tensor) -> None:
    expected = logits_of(gpt2, ids)
    sharded = save_model(copied.parent / "sharded", max_shard_size="50KB")
    assert (sharded / "model.safetensors.index.json").exists()
    torch.testing.assert_close(load(f"hf:{sharded}").model(ids), expected, atol=1e-4, rtol=0)

    weights = {name.removeprefix("transformer."): t for name, t in load_file(copied / "model.safetensors").items()}
    mask = torch.ones(1, 1, CONTEXT, CONTEXT).tril()
    weights |= {"h.0.attn.bias": mask, "h.1.attn.bias": mask.clone(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(weights, copied / "model.safetensors")
    torch.testing.assert_close(load(f"hf:{copied}").model(ids), expected, atol=1e-4, rtol=0)
    save_file({name: tensor.half() for name, tensor in weights.items()}, copied / "model.safetensors")
    halved = load(f"hf:{copied}").model
    assert halved.head.dtype == torch.float32
    torch.testing.assert_close(halved(ids), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", [*CONFIGS, "nanochat"])
def test_the_plain_reading_of_a_config_is_that_of_transformers(kind: str) -> None:
    written = [CONFIGS[kind].to_diff_dict()] if kind in CONFIGS else []
    for config in (*written, {"model_type": kind, **USUAL.get(kind, {})}):
        whole = CLASSES[kind](**{k: v for k, v in config.items() if k != "model_type"}).to_dict()
        assert {name for names in NAMES.values() for name in names if name in DEFAULTS[kind]} <= whole.keys()
        assert shape_fields(config) == shape_fields(whole), "what is left out is what transformers takes for it"
        assert shape_fields(config) == {k: v for k, v in vars(shape_of(config)).items() if k != "dropout"}


USUAL: dict[str, dict[str, Any]] = {
    "qwen3": {"intermediate_size": 10_944, "tie_word_embeddings": False},
    "nanochat": {"intermediate_size": 3072, "final_logit_softcapping": None},
}
"""What a config.json must say besides its type for a shape of ours."""


def test_the_command_line_starts_without_transformers() -> None:
    import subprocess

    program = "import sys, gptcore.pretrained, gptcore.loaded, flows.command_line; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_id_of_the_tables_padding_decodes_to_nothing(copied: Path) -> None:
    loaded = load(f"hf:{save_tokenizer(copied, size=TOKENS - 20)}")
    assert loaded.model.config.vocab_size == TOKENS
    assert loaded.tokenizer.decode([loaded.tokenizer.encode("a")[0], TOKENS - 1]) == "a"


# What cannot be taken


def refused(directory: Path | str) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(f"hf:{directory}")
    message = str(error.value)
    assert "\n" not in message
    return message


def test_weights_that_are_not_those_of_config_json_are_named(copied: Path) -> None:
    good = load_file(copied / "model.safetensors")
    name = "transformer.h.1.mlp.c_fc.weight"
    for bad, words in (
        ({**good, name: good[name][:, :-1].contiguous()}, f"{name} is (32, 127), config.json says (32, 128)"),
        ({k: v for k, v in good.items() if k != name}, f"{name} is missing"),
        ({**good, "score.weight": torch.ones(1)}, "score.weight is unknown"),
        ({**good, "lm_head.weight": torch.ones(TOKENS, 32)}, "only a tied head"),
        ({**good, name: good[name].long()}, f"{name} is of torch.int64"),
        ({**good, name: good[name].where(good[name] > 0, torch.nan)}, f"{name} holds values that are not finite"),
    ):
        save_file(bad, copied / "model.safetensors")
        assert words in refused(copied)
    (copied / "model.safetensors").write_bytes(b"no tensors")
    assert "truncated or not safetensors" in refused(copied)


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin)" in refused(copied)
    (copied / "pytorch_model.bin").unlink()
    assert "holds no model.safetensors" in refused(copied)


def test_a_lost_part_is_named(tmp_path: Path) -> None:
    sharded = save_model(tmp_path / "sharded", max_shard_size="50KB")
    lost = sorted(sharded.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert lost.name in refused(sharded)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "llama"}, "model_type 'llama' is not one of"),
        ({"model_type": ["gpt2"]}, "model_type ['gpt2'] is not one of"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06 cannot be taken over"),
        ({"vocab_size": TOKENS - 1}, f"wte.weight is ({TOKENS}, 32), config.json says ({TOKENS - 1}, 32)"),
        ({"n_layer": "2"}, "n_layer '2' is not a positive whole number"),
        ({"n_layer": True}, "n_layer True is not a positive whole number"),
        ({"vocab_size": "280"}, "vocab_size '280' is not a positive whole number"),
        ({"n_positions": None}, "n_positions None is not a positive whole number"),
        ({"activation_function": ["x"]}, "activation_function ['x'] is not one of"),
        ({"resid_pdrop": "a"}, "transformers cannot read it (StrictDataclassFieldValidationError: "),
        ({"layer_norm_epsilon": "x"}, "transformers cannot read it (StrictDataclassFieldValidationError: "),
        ({"dtype": "bogus"}, "transformers cannot read it (AttributeError: "),
        ({"resid_pdrop": 7}, "dropout 7 is not a number in [0, 1)"),
    ],
)
def test_other_kinds_and_settings_are_refused(values: dict[str, Any], words: str, copied: Path) -> None:
    change(copied / "config.json", **values)
    message = refused(copied)
    assert words in message and str(copied) in message


def test_rotary_positions_without_their_parameters_are_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path / "qwen3", "qwen3")
    change(directory / "config.json", rope_parameters={"rope_type": "yarn"})
    assert "rope" in refused(directory)


def test_a_tokenizer_larger_than_the_table_is_refused(copied: Path) -> None:
    assert f"its tokenizer has {TOKENS + 1} tokens, its config.json only {TOKENS}" in refused(
        save_tokenizer(copied, size=TOKENS + 1)
    )


@pytest.mark.parametrize("weight_map", [[], {"a": 5}, None])
def test_an_index_that_names_no_files_is_refused(weight_map: Any, copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    index = copied / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert refused(copied).startswith(f"{index} holds no weight_map")


def test_a_directory_of_ours_is_named_without_hf(copied: Path) -> None:
    shape = {"family": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "context": CONTEXT, "vocab_size": TOKENS}
    (copied / "config.json").write_text(json.dumps(shape))
    assert refused(copied).startswith(f"{copied} is a model directory of gptmill: load it without hf:")


def test_a_configuration_that_is_none_is_refused(copied: Path) -> None:
    (copied / "config.json").write_text("[]")
    assert "no JSON object" in refused(copied)
    (copied / "config.json").unlink()
    assert "config.json does not exist" in refused(copied)


def test_rotary_positions_of_another_base_are_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path / "qwen3", "qwen3")
    change(directory / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert "rope_parameters" in refused(directory)


@pytest.mark.parametrize("reference", ["", "/no/such/place", "./nowhere", "a/b/c", "no spaces allowed"])
def test_what_is_neither_directory_nor_id_is_refused(reference: str) -> None:
    assert "hf:" in refused(reference)


def test_without_a_network_a_directory_is_pointed_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import errors

    asked: list[Any] = []

    def away(repository: str, revision: str | None, **more: Any) -> str:
        asked.append((repository, revision, more["allow_patterns"]))
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", away)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    pretrained._downloaded.cache_clear()
    message = refused("someone/gpt2@0123abc")
    assert "cannot reach https://hub.example" in message and "hf:DIRECTORY" in message
    assert asked[0][:2] == ("someone/gpt2", "0123abc") and "pytorch_model.bin" not in asked[0][2]


def test_a_model_of_the_hub_is_asked_for_once(monkeypatch: pytest.MonkeyPatch, gpt2: Path) -> None:
    asked: list[Any] = []

    def found(repository: str, revision: str | None, **more: Any) -> str:
        asked.append((repository, revision))
        return str(gpt2)

    monkeypatch.setattr("huggingface_hub.snapshot_download", found)
    pretrained._downloaded.cache_clear()
    assert [directory_of("hf:gpt2-tiny") for _ in range(2)] == [gpt2, gpt2]
    assert asked == [("gpt2-tiny", None)]
    pretrained._downloaded.cache_clear()


# The tokenizer


@pytest.mark.parametrize("kind", ["gpt2", "qwen"])
def test_ids_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    auto = transformers.PreTrainedTokenizerFast.from_pretrained(save_tokenizer(tmp_path, kind))
    ours, rng = TextTokenizer.load(tmp_path), random.Random(7)
    assert (ours.eot, ours.vocab_size) == (auto.eos_token_id, TOKENS)
    for text in [*TEXTS, *(random_text(rng) for _ in range(400)), "a" + " " * 30_000 + "b"]:
        assert ours.encode_prompt(text) == auto(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == auto(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ours.decode(ours.encode(text)) == (auto.backend_tokenizer.normalizer or Same()).normalize_str(text)
    for text in TEXTS[:-1] if kind == "gpt2" else ():
        assert ours.token_bytes()[ours.encode(text)].sum() == len(text.encode())


class Same:
    """No normalizer."""

    def normalize_str(self, text: str) -> str:
        return text


def test_blanks_without_end_are_no_trouble(tmp_path: Path) -> None:
    ours = TextTokenizer.load(save_tokenizer(tmp_path))
    text = "a" + " " * 1_000_000 + "b"
    assert ours.decode(ours.encode(text)) == text


def test_vocab_and_merges_alone_are_the_same_tokenizer(tmp_path: Path) -> None:
    whole = TextTokenizer.load(save_tokenizer(tmp_path / "whole"))
    (tmp_path / "parts").mkdir()
    saved = json.loads((tmp_path / "whole" / "tokenizer.json").read_bytes())["model"]
    vocab = {**saved["vocab"], "<|endoftext|>": TOKENS - 1}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in saved["merges"]), ""]
    (tmp_path / "parts" / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "parts" / "merges.txt").write_text("\n".join(lines))
    parts, rng = TextTokenizer.load(tmp_path / "parts"), random.Random(8)
    assert (parts.special, parts.vocab_size) == (whole.special, whole.vocab_size)
    for text in [*TEXTS, *(random_text(rng) for _ in range(50))]:
        assert parts.encode_prompt(text) == whole.encode_prompt(text)
    (tmp_path / "parts" / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(ValueError, match="'Qwen2Tokenizer' says more than"):
        TextTokenizer.load(tmp_path / "parts")


def test_older_files_leave_out_what_goes_without_saying(tmp_path: Path) -> None:
    """GPT-2's own on the hub: merges as text, no word of the regular expression."""
    whole = TextTokenizer.load(save_tokenizer(tmp_path))
    saved = json.loads((tmp_path / "tokenizer.json").read_bytes())
    saved["model"]["merges"] = [" ".join(pair) for pair in saved["model"]["merges"]]
    saved["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    older = TextTokenizer.load(tmp_path)
    assert [older.encode(text) for text in TEXTS] == [whole.encode(text) for text in TEXTS]


def spoiled(**parts: Any) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads(bpe().to_str())
    return {**saved, **parts, "model": {**saved["model"], **parts.get("model", {})}}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": {"type": "WordPiece"}}, "WordPiece, neither BPE nor Unigram"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix is '</w>'"),
        ({"model": {"vocab": {"a": 0}, "merges": []}}, "255 of the 256 bytes have no id"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "neither GPT-2's nor one Split"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, "prefix space"),
        ({"pre_tokenizer": None}, "neither GPT-2's nor one Split"),
        ({"normalizer": {"type": "Lowercase"}}, "'Lowercase'} changes the text"),
        ({"added_tokens": [{"id": 399, "content": "<m>", "lstrip": True, "special": True}]}, "'<m>' has lstrip"),
        ({"added_tokens": []}, "no special token that ends a text"),
        ({"model": {"merges": [["a", "b"]]}}, "in the order of the merges"),
        ({"model": {"vocab": [["a", 1.0]]}}, "damaged, or no tokenizer that can be taken"),
    ],
)
def test_what_tiktoken_could_not_encode_alike_is_refused(parts: dict[str, Any], words: str, copied: Path) -> None:
    (copied / "tokenizer.json").write_text(json.dumps(spoiled(**parts)))
    (copied / "tokenizer_config.json").unlink()
    message = refused(copied)
    assert words in message and str(copied) in message


def test_no_tokenizer_is_said(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    assert "holds no tokenizer" in refused(copied)


# A preset that starts from it


def write_preset(folder: Path, init: Path | str, **parts: Any) -> Path:
    values = {
        "name": "taken",
        "corpus": {"sources": [{"kind": "files", "paths": [str(folder / "*.txt")]}]},
        "model": {"init": f"hf:{init}", **parts.pop("model", {})},
        "pretrain": {
            "steps": 12,
            "batch_tokens": 2 * CONTEXT,
            "warmup_steps": 2,
            "eval_every": 6,
            "eval_tokens": 2000,
            **parts.pop("pretrain", {}),
        },
        **parts,
    }
    path = folder / "taken.yaml"
    path.write_text(yaml.safe_dump(values))
    (folder / "a.txt").write_text("A text of the corpus, long enough to be kept in it, as it seems.\n")
    return path


def test_shape_and_vocabulary_follow_from_the_directory(tmp_path: Path, gpt2: Path) -> None:
    preset = load_preset(str(write_preset(tmp_path, gpt2)))
    model = preset.model
    assert (model.family, model.n_layer, model.n_head, model.n_embd, model.context) == ("gpt2", 2, 2, 32, CONTEXT)
    assert model.dropout == 0.0
    assert preset.tokenizer.vocab_size == TOKENS + ADDED
    same = {"n_layer": 2, "activation": "gelu_tanh", "bias": True, "positions": "learned", "context": CONTEXT}
    again = load_preset(str(write_preset(tmp_path, gpt2, model=same, tokenizer={"vocab_size": TOKENS + ADDED})))
    assert again.model == model
    assert load_preset(str(write_preset(tmp_path, gpt2, model={"context": CONTEXT // 2}))).model.context == CONTEXT // 2


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": {"n_layer": 3, "n_embd": 64}}, ["model.n_layer 3", ", 2; leave", "model.n_embd 64", "32"]),
        ({"model": {"family": "modern"}}, ["model.family 'modern'", "'gpt2'"]),
        ({"model": {"context": 2 * CONTEXT}}, [f"model.context {2 * CONTEXT}", str(CONTEXT)]),
        ({"model": {"activation": "gelu"}}, ["model.activation 'gelu'", "'gelu_tanh'"]),
        ({"tokenizer": {"vocab_size": 4096}}, ["tokenizer.vocab_size 4096", str(TOKENS + ADDED)]),
        ({"tokenizer": {"kind": "unigram"}}, ["tokenizer.kind unigram", "has a tokenizer; leave it out"]),
        ({"tokenizer": {"take": "hf:x"}}, ["tokenizer.take hf:x", "has a tokenizer; leave it out"]),
        ({"pretrain": {"size": "auto", "budget_tokens": 1000}}, ["pretrain.size auto", "model.init"]),
        ({"pretrain": {"steps": -1}}, ["pretrain.steps is -1"]),
    ],
)
def test_a_preset_that_says_otherwise_is_refused(
    parts: dict[str, Any], words: list[str], tmp_path: Path, gpt2: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        load_preset(str(write_preset(tmp_path, gpt2, **parts)))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": ["gpt2"]}, "model_type ['gpt2'] is not one of"),
        ({"activation_function": ["x"]}, "activation_function ['x'] is not one of"),
        ({"vocab_size": "280"}, "vocab_size '280' is not a positive whole number"),
        ({"n_positions": None}, "n_positions None is not a positive whole number"),
    ],
)
def test_a_plan_names_what_is_wrong_in_a_configuration(
    values: dict[str, Any], words: str, tmp_path: Path, copied: Path
) -> None:
    change(copied / "config.json", **values)
    with pytest.raises(ConfigError) as error:
        load_preset(str(write_preset(tmp_path, copied)))
    assert f"{copied / 'config.json'}: {words}" in str(error.value)


def test_bad_starts_are_refused_before_any_work(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(ConfigError, match="there is no directory /nowhere"):
        load_preset(str(write_preset(tmp_path, "/nowhere")))
    with pytest.raises(ConfigError, match=r"model\.init is 'gpt2'"):
        load_preset("quickstart", ["model.init=gpt2"])
    with pytest.raises(ConfigError, match=r"pretrain\.steps 0 leaves the model untrained"):
        load_preset("quickstart", ["pretrain.steps=0"])
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="only pickled weights"):
        load_preset(str(write_preset(tmp_path, copied)))


def test_an_unset_init_is_nowhere() -> None:
    preset = load_preset("quickstart")
    assert "init" not in preset.model.model_dump() and "init" not in preset.model.model_dump(mode="json")
    assert load_preset("quickstart", ["model.init=null"]) == preset


def test_keys_follow_the_bytes_and_not_the_place(tmp_path: Path, copied: Path) -> None:
    def identities(preset: Preset) -> dict[str, Any]:
        sources = last_resolved(preset, tmp_path) or []
        return {name: identity(stage, preset, DIGESTS, sources) for name, stage in stages(preset).items()}

    from gptcore.stages import identity, stages

    preset = load_preset(str(write_preset(tmp_path, copied)))
    DIGESTS = dict.fromkeys(stages(preset), "0")
    assert last_resolved(preset, tmp_path) is None
    assert len(resolve_sources(preset, tmp_path)) == 2
    first = identities(preset)
    assert set(first["tokenizer"]["init"]) == {"tokenizer"}
    assert set(first["pretrain"]["init"]) == {"config", "weights", "tokenizer"}
    assert [name for name, parts in first.items() if "init" in parts] == ["tokenizer", "pretrain"]
    assert len(first["corpus"]["sources"]) == 1
    moved = copied.rename(tmp_path / "moved")
    assert identities(load_preset(str(write_preset(tmp_path, moved)))) == first
    weights = load_file(moved / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, moved / "model.safetensors")
    changed = identities(load_preset(str(write_preset(tmp_path, moved))))
    assert [name for name in first if changed[name] != first[name]] == ["pretrain"]
    assert difference(first["pretrain"], changed["pretrain"]) == "other files behind model.init"


def test_plan_knows_it(tmp_path: Path, gpt2: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from flows.command_line import main

    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))
    path = write_preset(tmp_path, gpt2, pretrain={"steps": 0})
    assert main(["plan", str(path), "--refresh", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["model"]["vocab_size"] == TOKENS + ADDED and answer["model"]["n_embd"] == 32
    assert answer["cost"]["pretrain"]["steps"] == 0
    preset = load_preset(str(path))
    plan = make_plan(preset, Store(tmp_path / "home" / "store"), last_resolved(preset, tmp_path / "home"))
    assert plan["corpus"].key and plan["pretrain"].key is None


# The stages


class Stages:
    """tokenizer, tokens and pretrain of a preset, as plain functions."""

    def __init__(self, root: Path, preset: Preset) -> None:
        self.root, self.preset, self.works = root, preset, list[Work]()
        self.corpus = root / "corpus"
        if not self.corpus.exists():
            write_corpus(self.corpus, train=120, validation=20, test=5)

    def work(self, name: str, **inputs: Path) -> Work:
        runtime = Runtime(device="cpu", threads=1, workers=1, checkpoint_every=4)
        self.works.append(Work(self.root / name, inputs, runtime))
        return self.works[-1]

    def text(self) -> None:
        assert self.preset.model.init
        tokenizer, tokens = self.root / "tokenizer", self.root / "tokens"
        if not tokens.exists():
            directory = directory_of(self.preset.model.init)
            take_over_tokenizer(self.preset.tokenizer, directory, self.work("tokenizer", corpus=self.corpus))
            build_tokens(self.preset.tokens, self.work("tokens", corpus=self.corpus, tokenizer=tokenizer))

    def pretrain(self, name: str = "pretrain", **changes: Any) -> tuple[Path, dict[str, float]]:
        self.text()
        work = self.work(name, tokens=self.root / "tokens", tokenizer=self.root / "tokenizer")
        for attribute, value in changes.pop("work", {}).items():
            setattr(work, attribute, value)
        take_over(self.preset.model, work)
        config = self.preset.pretrain.model_copy(update=changes)
        return work.directory, pretrain(self.preset.model, config, work).metrics


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Stages] = []

    def of(init: Path, **parts: Any) -> Stages:
        made.append(Stages(tmp_path / "stages", load_preset(str(write_preset(tmp_path, init, **parts)))))
        return made[-1]

    yield of
    for stages in made:
        for work in stages.works:
            work.metrics.close()


@pytest.mark.parametrize(("kind", "tokenizer"), [*((kind, "gpt2") for kind in CONFIGS), ("qwen3", "qwen")])
@torch.no_grad()
def test_no_steps_leave_the_model_as_it_is(
    kind: str, tokenizer: str, make: Any, tmp_path: Path, ids: torch.Tensor
) -> None:
    directory = save_model(tmp_path / "there", kind, tokenizer)
    left, metrics = make(directory).pretrain(steps=0)
    assert metrics["pretrain/val_loss"] > 0 and metrics["pretrain/tokens"] == 0
    ours, there = load_model(left), logits_of(directory, ids)
    torch.testing.assert_close(ours(ids)[..., :TOKENS], there, atol=1e-4, rtol=0)
    added = len(SPECIAL_TOKENS) - 1
    assert ours.head.shape[0] == TOKENS + added
    torch.testing.assert_close(ours.head[TOKENS:], ours.head[:TOKENS].mean(0).expand(added, -1))
    text = TextTokenizer.load(left)
    before = TextTokenizer.load(directory)
    assert set(SPECIAL_TOKENS) <= set(text.special)
    for said in TEXTS:
        assert text.encode(said) == before.encode(said)
    auto = transformers.AutoTokenizer.from_pretrained(left)
    prompt = "<|context|>width : float<|question|>What?<|answer|>"
    assert auto(prompt)["input_ids"] == text.encode_prompt(prompt)
    assert text.encode_prompt(prompt)[0] == text.special["<|context|>"] >= TOKENS


def test_a_shorter_context_and_padding_rows(make: Any, tmp_path: Path) -> None:
    """Of the position table the first rows stay, of the token table those that have an id."""
    directory = save_model(tmp_path / "there")
    save_tokenizer(directory, size=TOKENS - 30)
    left, _ = make(directory, model={"context": CONTEXT // 2}).pretrain(steps=0)
    there, ours = load_file(directory / "model.safetensors"), load_model(left).state_dict()
    assert torch.equal(ours["wpe.weight"], there["transformer.wpe.weight"][: CONTEXT // 2])
    assert torch.equal(ours["wte.weight"][: TOKENS - 30], there["transformer.wte.weight"][: TOKENS - 30])
    assert len(ours["wte.weight"]) == TOKENS - 30 + ADDED


def test_training_goes_on_from_there(make: Any, gpt2: Path) -> None:
    stages = make(gpt2)
    _, before = stages.pretrain("start", steps=0)
    left, after = stages.pretrain()
    assert after["pretrain/val_loss"] < before["pretrain/val_loss"] - 0.1
    corpus = stages.corpus
    tuned = stages.work("tuned", pretrain=left, corpus=corpus)
    config = Finetune(
        steps=8, batch_tokens=512, warmup_steps=1, eval_every=4, max_input_tokens=140, max_target_tokens=16
    )
    metrics = finetune(config, SKILL, tuned).metrics
    assert metrics["finetune-qa/val_loss"] > 0
    exported = stages.root / "hf"
    export_hf(tuned.directory, exported)
    again = load(f"hf:{exported}")
    ids = torch.randint(TOKENS + ADDED, (1, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids), load_model(tuned.directory)(ids), atol=1e-5, rtol=0)
    assert again.tokenizer.special == load(tuned.directory).tokenizer.special


def test_an_interrupted_run_ends_with_the_same_bytes(make: Any, gpt2: Path) -> None:
    stages = make(gpt2, model={"dropout": 0.1})
    whole, metrics = stages.pretrain("whole")
    steps = 0

    def interrupt(*_: Any, **__: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            stages.works[-1]._pending = 15

    with pytest.raises(Interrupted):
        stages.pretrain("cut", work={"on_progress": interrupt})
    stages.works[-1].metrics.close()
    resumed, again = stages.pretrain("cut")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    assert again["pretrain/val_loss"] == metrics["pretrain/val_loss"]


def test_a_model_of_another_shape_than_the_preset_is_refused(make: Any, gpt2: Path) -> None:
    stages = make(gpt2)
    stages.text()
    work = stages.work("other", tokens=stages.root / "tokens", tokenizer=stages.root / "tokenizer")
    with pytest.raises(ValueError, match=r"not of the shape of hf:.*: n_layer 3, not 2"):
        take_over(stages.preset.model.model_copy(update={"n_layer": 3}), work)


def test_files_that_change_under_a_run_are_noticed(make: Any, copied: Path) -> None:
    stages = make(copied)
    stages.text()
    version = pretrained.version_of(copied)
    (copied / "model.safetensors").write_bytes(b"other")
    work = stages.work("other", tokens=stages.root / "tokens", tokenizer=stages.root / "tokenizer")
    with pytest.raises(ValueError, match=r"model\.safetensors changed since this run began"):
        take_over(stages.preset.model, work, version)
