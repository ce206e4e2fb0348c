"""A model directory in memory: every setting of `generate`, streaming, stop strings, int8, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_stages import FIELDS, train_tiny_tokenizer, write_model
from tiny_pipeline import environment

import gptcore
from flows.command_line import main
from gptcore.config import SPECIAL_TOKENS
from gptcore.loaded import ContextFull, How, InputCut, LoadedModel
from gptcore.model.families import build
from gptcore.model.generation_times import generation_times
from gptcore.model.gpt import GPTConfig
from gptcore.model.int8 import Int8Matrix, quantized
from gptcore.model.weights import save_model
from gptcore.text.skills import encode_prompt
from gptcore.text.stops import Pieces, Stops

FAMILIES = ("gpt1", "gpt2", "gpt3", "modern")
TEXTS = ["Return the", "sum of an array\n", "é → 一"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model") / request.param
    write_model(found, tokenizer, "qa", family=request.param)
    return found


@pytest.fixture(scope="module")
def model(directory: Path) -> LoadedModel:
    return gptcore.load(directory)


@pytest.fixture(scope="module")
def plain(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One family stands for all."""
    found = tmp_path_factory.mktemp("model") / "plain"
    write_model(found, tokenizer, "qa")
    return found


def test_one_text_or_several_one_answer_or_several(model: LoadedModel) -> None:
    one, several = model.generate(TEXTS[0], 12), model.generate(TEXTS, 12)
    assert isinstance(one, str) and len(several) == 3 and several[0] == one
    samples = model.generate(TEXTS, 12, num_return_sequences=4, temperature=1.5)
    assert [len(group) for group in samples] == [4, 4, 4] and len(set(samples[0])) > 1
    assert model.generate(TEXTS[0], 12, num_return_sequences=4, temperature=1.5) == samples[0]
    beams = model.generate(TEXTS[0], 12, num_return_sequences=2, num_beams=3)
    assert len(beams) == 2 and beams[0] == model.generate(TEXTS[0], 12, num_beams=3)


def test_a_seed_gives_its_text_whatever_stands_beside_it(model: LoadedModel) -> None:
    how: dict[str, Any] = {"temperature": 1.5, "top_k": 50, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2}
    warm = [model.generate(TEXTS, 12, seed=seed, **how) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    assert [model.generate(text, 12, seed=1, **how) for text in TEXTS] == warm[0]


@pytest.mark.parametrize("how", [{}, {"temperature": 2.0, "seed": 3}], ids=["greedy", "drawn"])
def test_what_is_streamed_is_the_answer(model: LoadedModel, how: dict[str, Any]) -> None:
    for text in TEXTS:
        pieces: list[str] = []
        assert model.generate(text, 30, stream=pieces.append, **how) == "".join(pieces)
        assert len(pieces) > 1 and all(pieces)


def drawn_text(model: LoadedModel) -> tuple[dict[str, Any], re.Match[str]]:
    """Settings, and what they write: something that begins with text and holds five characters of it in a row."""
    for seed in range(1000):
        settings = {"temperature": 2.0, "seed": seed}
        if found := re.fullmatch(r"([^\ufffd].*?)([^\ufffd]{5}).*", model.generate(TEXTS[0], 30, **settings), re.S):
            return settings, found
    raise AssertionError("no seed writes text")


def test_an_answer_ends_before_a_stop_string(model: LoadedModel) -> None:
    how, found = drawn_text(model)
    whole = found[0]
    for length in (1, 2, 5):
        stop, pieces = found[2][:length], list[str]()
        cut = model.generate(TEXTS[0], 30, stop=["never there", stop], stream=pieces.append, **how)
        assert cut == whole[: whole.index(stop)] == "".join(pieces)
    assert model.generate(TEXTS[0], 30, stop=whole[:1], **how) == ""


def test_a_stop_may_be_a_special_token(model: LoadedModel) -> None:
    answers = model.generate(TEXTS[0], 40, num_return_sequences=30, temperature=30.0)
    ended = model.generate(TEXTS[0], 40, num_return_sequences=30, temperature=30.0, stop=SPECIAL_TOKENS)
    assert (
        all(whole.startswith(cut.rstrip("\ufffd")) for whole, cut in zip(answers, ended, strict=True))
        and ended != answers
    )


def test_a_full_context_is_said(model: LoadedModel) -> None:
    long = "x" * 50
    with pytest.warns(ContextFull, match=r"1 of 2 answers ended before max_new_tokens 40.* context of 64 tokens"):
        answers = model.generate([long, "y"], 40)
    assert len(model.tokenizer.encode(long)) + 14 >= 64 and answers[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(["y"], 40)


def test_what_a_stop_ends_is_not_said_to_fill_the_context(plain: Path) -> None:
    model, text = gptcore.load(plain), "x" * 50
    how: dict[str, Any]
    for how in ({"num_beams": 2}, {"temperature": 2.0}):
        with pytest.warns(ContextFull, match="1 of 1"):
            whole = model.generate(text, 40, **how)
        stop = next(character for character in whole[1:] if character != "\ufffd")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert model.generate(text, 40, stop=stop, **how) == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("texts", "how", "message"),
    [
        ("", {}, "prompt 0 has 0 tokens"),
        ("x" * 64, {}, "prompt 0 has 64 tokens .*allowed: 1 to 63"),
        ("x", {"max_new_tokens": 0}, "max_new_tokens 0 must be at least 1"),
        ("x", {"temperature": 0.0}, "temperature 0.0 must be a positive number; leave it out"),
        ("x", {"temperature": -1.0}, "temperature -1.0"),
        ("x", {"temperature": 1.0, "top_p": 0.0}, "top_p 0.0 must be above 0 and at most 1"),
        ("x", {"temperature": 1.0, "top_p": 1.5}, "top_p 1.5 must be above 0 and at most 1"),
        ("x", {"top_k": 3}, "top_k without a temperature"),
        ("x", {"num_return_sequences": 3}, "num_return_sequences 3 would all be the same"),
        ("x", {"num_return_sequences": 3, "temperature": None}, "num_return_sequences 3 would all be the same"),
        ("x", {"num_return_sequences": 0}, "num_return_sequences 0 must be at least 1"),
        ("x", {"num_beams": 2, "temperature": 1.0}, "num_beams takes no temperature"),
        ("x", {"num_beams": 2, "repetition_penalty": 2.0}, "num_beams takes no repetition_penalty"),
        ("x", {"num_beams": 2, "num_return_sequences": 3}, "num_beams 2 gives at most as many answers, not 3"),
        ("x", {"num_beams": 0}, "num_beams 0 must be at least 1"),
        ("x", {"num_beams": 300}, "num_beams 300 is more than the vocabulary of 280 tokens"),
        ("x", {"length_penalty": 2.0}, "length_penalty 2.0 without num_beams"),
        ("x", {"num_beams": 2, "length_penalty": 1000.0}, "length_penalty 1000.0 must be between -10 and 10"),
        ("x", {"seed": True}, "seed True must be a whole number"),
        ("x", {"stop": ["a", ""]}, "a stop string is empty"),
        ("x", {"stop": "a\ufffd"}, r"a stop string holds U\+FFFD"),
        (["x", "y"], {"stream": print}, "stream tells the text of a single answer"),
        ("x", {"num_beams": 2, "stream": print}, "stream tells the text of a single answer"),
    ],
)
def test_impossible_settings_are_refused(
    plain: Path, texts: str | list[str], how: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gptcore.load(plain).generate(texts, **how)  # type: ignore[call-overload]


def test_a_misspelt_setting_is_named(plain: Path) -> None:
    with pytest.raises(TypeError, match=r"takes no 'top'; it takes .*'top_k'"):
        gptcore.load(plain).generate("x", top=1, temperature=-1.0)  # type: ignore[call-overload]


def test_none_is_not_given(plain: Path) -> None:
    model = gptcore.load(plain)
    assert model.generate("x", 9, **dict.fromkeys(How.__annotations__)) == model.generate("x", 9)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"quantize": "int4"}, "quantize 'int4' is not int8, the only rounding there is"),
        ({"quantize": ""}, "quantize '' is not int8"),
        ({"device": "foo"}, "device 'foo' cannot be used here; cpu always can"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ],
)
def test_impossible_ways_of_loading_are_refused(plain: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gptcore.load(plain, **how)


# Stop strings and pieces


class Letters:
    """A tokenizer of three-byte tokens at most, so that characters and stops fall apart."""

    def __init__(self, text: str) -> None:
        data, sizes, at = text.encode(), (1, 2, 3, 1, 1), 0
        self.pieces: list[bytes] = []
        while at < len(data):
            size = sizes[len(self.pieces) % len(sizes)]
            self.pieces.append(data[at : at + size])
            at += size

    def text_bytes(self, ids: Any) -> bytes:
        return b"".join(self.pieces[i] for i in ids)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("aaab", ["aab"], "a"),
        ("abababac", ["ababac", "zz"], "ab"),
        ("é一→x", ["→"], "é一"),
        ("é一→x", ["x", "一"], "é"),
        ("nothing", ["thingy"], "nothing"),
        ("nothing", [], "nothing"),
        ("half \udce4".encode("utf-8", "surrogateescape").decode("latin-1"), ["q"], "half ä"),
    ],
)
def test_stops_are_found_however_tokens_cut_them(text: str, stops: list[str], expected: str) -> None:
    letters: Any = Letters(text)
    ids, told = list(range(len(letters.pieces))), []
    reached, pieces = Stops(letters, stops), Pieces(letters, stops, lambda piece: told.append(piece))
    ended = next((n for n in range(1, len(ids) + 1) if reached(ids[:n])), None)
    assert (ended is not None) == (expected != text)
    if ended:
        before = b"".join(letters.pieces[: ended - 1])
        assert not any(stop.encode() in before for stop in stops)
    for token in ids[:ended]:
        pieces.take(token)
    pieces.end()
    assert "".join(told) == expected


def test_bytes_that_are_no_text_are_told_as_they_are_decoded() -> None:
    letters: Any = Letters("")
    letters.pieces, told = [b"a\xff", b"\xe4\xb8", b"b"], []
    pieces = Pieces(letters, [], lambda piece: told.append(piece))
    for token in range(3):
        pieces.take(token)
    pieces.end()
    assert "".join(told) == b"a\xff\xe4\xb8b".decode(errors="replace")


# int8


def test_rounded_rows_are_within_half_a_step() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 64, generator=draw) * torch.logspace(-6, 0, 40)[:, None]
    weight[7] = 0.0
    matrix = Int8Matrix(weight)
    back = matrix.weight.float() * matrix.scale[:, None]
    assert ((back - weight).abs() <= 0.5001 * weight.abs().amax(1, keepdim=True) / 127).all()
    for rows in (1, 3, 50):
        x = torch.randn(2, rows, 64, generator=draw)
        exact, size = x @ back.T, back.norm(dim=1)
        assert ((matrix.times(x) - exact).abs() <= 1e-5 * size).all()


def test_a_rounded_model_computes_nearly_the_same(model: LoadedModel, directory: Path) -> None:
    ids = torch.randint(model.model.config.vocab_size, (2, 60), generator=torch.Generator().manual_seed(0))
    rounded = gptcore.load(directory, quantize="int8")
    with torch.no_grad():
        exact, near = model.model(ids), rounded.model(ids)
    assert 0 < float((exact - near).abs().max()) < 0.05 * float(exact.abs().max())
    assert rounded.generate(TEXTS, 12) == [rounded.generate(text, 12) for text in TEXTS]
    assert rounded.answer([FIELDS])

    def size(loaded: LoadedModel) -> int:
        tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
        return sum(t.numel() * t.element_size() for t in tensors if t.dim() == 2 and t.shape[0] != 64)

    assert size(rounded) * 4 == size(model)


def test_rounding_is_for_a_cpu(plain: Path) -> None:
    with pytest.raises(ValueError, match="int8 is for a CPU, and the model is on meta"):
        quantized(gptcore.load(plain).model.to("meta"))


# Directories that hold no model of ours


@pytest.fixture
def broken(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


def test_pickled_weights_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        gptcore.load(broken)


def test_an_unknown_key_of_the_configuration_is_named(broken: Path) -> None:
    values = json.loads((broken / "config.json").read_bytes())
    (broken / "config.json").write_text(json.dumps({**values, "n_layers": 3}))
    with pytest.raises(ValueError, match=r"unknown keys \['n_layers'\]"):
        gptcore.load(broken)


def test_weights_of_another_shape_are_named(broken: Path) -> None:
    values = json.loads((broken / "config.json").read_bytes())
    (broken / "config.json").write_text(json.dumps({**values, "n_embd": 64}))
    with pytest.raises(ValueError, match=r"does not fit its config\.json: .* config\.json says"):
        gptcore.load(broken)


def test_a_directory_of_transformers_is_pointed_to(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken / "config.json").write_text(json.dumps({"model_type": "gpt2", **dict.fromkeys(map(str, range(200)))}))
    assert main(["generate", str(broken), "x"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"gptmill: {broken} is a model directory of transformers: name it hf:{broken}\n"


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused(broken: Path, plain: Path) -> None:
    tokens = gptcore.load(plain).tokenizer.vocab_size
    model = build(GPTConfig("gpt2", 2, 2, 32, 64, tokens + 10)).initialise(0)
    save_model(model, broken)
    with pytest.raises(ValueError, match=rf"its tokenizer has {tokens} tokens, its config\.json says {tokens + 10}"):
        gptcore.load(broken)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "skill.json is not JSON"),
        ("[]", "skill.json holds no JSON object"),
        ("{}", "skill.json: max_input_tokens None is not a positive whole number"),
        ('{"max_input_tokens": 9, "max_target_tokens": "9"}', "skill.json: max_target_tokens '9' is not"),
        ('{"max_input_tokens": 9, "max_target_tokens": 9, "name": "qa"}', "skill.json: template is missing; truncate"),
    ],
)
def test_a_damaged_skill_is_named(text: str, words: str, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken / "skill.json").write_text(text)
    assert main(["generate", str(broken), "x"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err


@pytest.mark.parametrize("reference", ["nowhere", "./no/where", "/no/where", "~/nowhere"])
def test_a_reference_to_nothing_is_refused(reference: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not exist; a model is a directory, hf:ID, models:/NAME@ALIAS"):
        gptcore.load(reference)


def test_the_package_is_light_until_a_model_is_loaded() -> None:
    script = "import sys, gptcore; assert 'torch' not in sys.modules; gptcore.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        gptcore.lod  # noqa: B018


def test_an_empty_reference_is_not_this_directory(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(plain)
    assert main(["generate", "", "x"]) == 2
    assert capsys.readouterr().err.startswith("gptmill: the model's name is empty; a model is a directory")
    assert gptcore.load(Path()).generate("x", 1) == gptcore.load(plain).generate("x", 1)


# The command line


def test_a_long_input_is_said_to_be_cut(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "axis : int, default 0. " * 9
    model, fields = gptcore.load(plain), {"question": "Type?", "context": words}
    ask = ["ask", fields["question"], "--model", str(plain), "--context"]
    given = len(model.tokenizer.encode(words))
    lost = encode_prompt(model.use.skill, fields, model.tokenizer, 48).lost if model.use else 0
    assert 0 < lost < given
    with pytest.warns(InputCut) as told:
        model.answer([fields, FIELDS, fields])
    assert str(told[0].message).startswith(
        f"2 of 3 prompts were cut: their context lost the last {2 * lost} of {2 * given} tokens; the limit is 48"
    )
    assert main([*ask, words]) == 0
    note = f"1 of 1 prompts were cut: their context lost the last {lost} of {given} tokens; the limit is 48 tokens"
    assert capsys.readouterr().err == f"note: {note} a prompt\n"
    assert main([*ask, "axis"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["generate", "summarize", "ask", "bench generate"])
def test_help_names_every_kind_of_model(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "a directory, models:/NAME@ALIAS, or RUN/STAGE" in words
    assert ("hf:DIRECTORY, hf:ID" in words) == (command not in ("summarize", "ask")), "those need a tuned model"


def test_a_reader_that_has_gone_is_no_refusal(plain: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows", "generate", str(plain), "Return the"]
    with subprocess.Popen(
        command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writing:
        assert writing.stdout and writing.stderr
        writing.stdout.close()
        assert (writing.stderr.read(), writing.wait(120)) == (b"", 1)


def test_an_empty_question_is_refused(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", " ", "--context", "axis : int", "--model", str(plain)]) == 2
    assert capsys.readouterr() == ("", "gptmill: the question is empty\n")


def test_generate_prints_the_beginning_and_what_follows(plain: Path, tmp_path: Path) -> None:
    limit = [sys.executable, "-m", "flows", "generate", str(plain), "Return the", "--max-new-tokens", "20"]
    done = subprocess.run(limit, env=environment(tmp_path), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == f"Return the{gptcore.load(plain).generate('Return the', 20)}\n"


@pytest.mark.parametrize(
    ("options", "how"),
    [
        (["--temperature", "1.5", "--top-k", "9", "--seed", "4"], {"temperature": 1.5, "top_k": 9, "seed": 4}),
        (["--temperature", "1", "--top-p", "0.5", "--min-p", "0.1"], {"temperature": 1.0, "top_p": 0.5, "min_p": 0.1}),
        (["--num-beams", "3", "--length-penalty", "2"], {"num_beams": 3, "length_penalty": 2.0}),
        (["--repetition-penalty", "2", "--stop", "e", "--stop", "o"], {"repetition_penalty": 2.0, "stop": ["e", "o"]}),
    ],
)
def test_options_are_settings(
    options: list[str], how: dict[str, Any], plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(plain), "sum", "--max-new-tokens", "9", *options]) == 0
    assert capsys.readouterr().out == f"sum{gptcore.load(plain).generate('sum', 9, **how)}\n"


def test_several_answers_and_a_full_context(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = ["--temperature", "2", "--num-return-sequences", "3", "--max-new-tokens", "99"]
    assert main(["generate", str(plain), "sum", *drawn]) == 0
    out, err = capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = gptcore.load(plain).generate("sum", 99, temperature=2.0, num_return_sequences=3)
    assert out == "\n\n".join(f"sum{text}" for text in expected) + "\n"
    assert err.startswith("note: ") and "fill the model's context of 64 tokens" in err and err.count("\n") == 1


def test_bench_generate_prints_times(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--prompt-tokens", "20", "--new-tokens", "10", "--rows", "3", "--rounds", "2"]
    for more in ([], ["--int8"]):
        assert main(["bench", "generate", str(plain), *sizes, *more]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["int8"] == bool(more) and found["rows"] == 3
        first, each, speed = (found[f"{n}"] for n in ("time_to_first_token_s", "time_per_token_s", "tokens_per_s"))
        assert first > 0 and each > 0
        assert speed == pytest.approx(30 / (first + 9 * each), rel=0.5)
    assert main(["bench", "generate", str(plain), "--prompt-tokens", "60"]) == 2
    assert "prompt_tokens 60 + new_tokens 64 exceed the model's context of 64" in capsys.readouterr().err


def test_times_of_nothing_are_refused(plain: Path) -> None:
    with pytest.raises(ValueError, match="rows 0 must be at least 1"):
        generation_times(gptcore.load(plain).model, 1, 1, 0, 1)
