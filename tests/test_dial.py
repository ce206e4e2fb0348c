"""One dial sets shape, steps, batch and rates; what the preset gives itself stands; the answers enter the key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gptcore import dial
from gptcore.config import DIAL_FIELDS, Preset, Pretrain
from gptcore.dial import TOKENS_PER_PARAMETER
from gptcore.evaluation.report_lineage import reproduction
from gptcore.named_sizes import GPT3, NAMED
from gptcore.presets import ConfigError, load_preset, parse_yaml, preset_names
from gptcore.sizes import Shape, count, flops_per_token
from gptcore.speed import Machine
from gptcore.stages import key_of, stages

CPU = Machine("cpu", None, cores=2, memory_bytes=24 * 10**9)
GPU = Machine("cuda", "NVIDIA H100 80GB HBM3", cores=16, memory_bytes=85 * 10**9)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The machine that a budget in minutes is for; a test may put another in its place."""
    at = [CPU]
    monkeypatch.setattr(dial, "this_machine", lambda runtime: at[0])
    return at


def load(tmp_path: Path, pretrain: dict[str, Any], **sections: Any) -> Preset:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "pretrain": pretrain, **sections}))
    return load_preset(str(path))


def parameters(preset: Preset) -> int:
    return count(Shape.of(preset.model, preset.tokenizer.vocab_size)).parameters


def tokens(preset: Preset) -> int:
    return preset.pretrain.steps * preset.pretrain.batch_tokens


def pretrain_config(preset: Preset) -> dict[str, Any]:
    return stages(preset)["pretrain"].identity(preset)


@pytest.mark.parametrize("name", preset_names())
def test_presets_without_a_size_are_what_they_say(name: str) -> None:
    values = parse_yaml((Path("configs") / f"{name}.yaml").read_text(), name)
    assert load_preset(name) == Preset.model_validate(values)


# What it answers


def test_ten_minutes_on_two_cores(tmp_path: Path, machine: list[Machine]) -> None:
    given = {"model": {"family": "modern"}, "tokenizer": {"vocab_size": 2048}}
    preset = load(tmp_path, {"size": "auto", "budget_minutes": 10, "optimizer": "muon"}, **given)
    model, pretrain = preset.model, preset.pretrain
    assert (model.n_layer, model.n_head, model.n_embd) == (4, 2, 128), "the smallest: 20 tokens a parameter take longer"
    assert pretrain.batch_tokens == 1024
    assert 0.008 <= pretrain.learning_rate <= 0.01
    assert pretrain.eval_every == pretrain.steps // 10
    per_token = flops_per_token(Shape.of(model, preset.tokenizer.vocab_size), model.context)
    rate = CPU.flops("float32", model.n_embd)
    assert rate
    assert 0.9 * 600 < tokens(preset) * per_token / rate <= 600


def test_twenty_tokens_a_parameter(tmp_path: Path) -> None:
    preset = load(tmp_path, {"size": "auto", "budget_tokens": 400_000_000})
    assert 0.99 * 4e8 < tokens(preset) <= 4e8
    assert 10e6 < parameters(preset) <= 4e8 / TOKENS_PER_PARAMETER


@pytest.mark.parametrize("field", ["budget_tokens", "budget_minutes"])
def test_more_budget_never_gives_less(tmp_path: Path, machine: list[Machine], field: str) -> None:
    before, flops = 0, 0
    found = []
    for budget in (1_000, 10_000, 100_000, 10**6, 10**7, 10**8, 10**9, 10**10, 10**12):
        preset = load(tmp_path, {"size": "auto", field: budget})
        work = tokens(preset) * flops_per_token(Shape.of(preset.model, preset.tokenizer.vocab_size), 256)
        assert parameters(preset) >= before
        assert work > flops
        before, flops = parameters(preset), work
        found.append(before)
    assert len(set(found)) >= 5


def test_small_models_learn_faster_in_smaller_batches(tmp_path: Path) -> None:
    every = [load(tmp_path, {"size": "auto", "budget_tokens": 10**n}) for n in (7, 8, 9, 10, 11)]
    rates = [preset.pretrain.learning_rate for preset in every]
    batches = [preset.pretrain.batch_tokens for preset in every]
    assert rates == sorted(rates, reverse=True)
    assert batches == sorted(batches)
    assert rates[0] > 2 * rates[-1]
    assert batches[0] < batches[-1] / 100


@pytest.mark.parametrize("name", GPT3)
def test_a_named_size_is_the_published_one(tmp_path: Path, name: str) -> None:
    size = GPT3[name]
    preset = load(tmp_path, {"size": name}, model={"context": 1024}, tokenizer={"vocab_size": 50257})
    assert (preset.model.n_layer, preset.model.n_head, preset.model.n_embd) == (size.n_layer, size.n_head, size.n_embd)
    assert preset.pretrain.batch_tokens == size.batch_tokens
    assert preset.pretrain.learning_rate == size.learning_rate
    assert preset.pretrain.warmup_steps <= 375e6 / size.batch_tokens + 1
    assert tokens(preset) == pytest.approx(TOKENS_PER_PARAMETER * parameters(preset), rel=0.01)


def test_gpt2s_sizes_take_the_rate_from_the_line(tmp_path: Path) -> None:
    sizes = [name for name in NAMED if name.startswith("gpt2")]
    rates = [load(tmp_path, {"size": name}).pretrain.learning_rate for name in sizes]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(6e-4, rel=0.15)


def test_few_tokens_still_give_many_updates(tmp_path: Path) -> None:
    preset = load(tmp_path, {"size": "gpt3-small", "budget_tokens": 10_000_000})
    assert preset.pretrain.steps >= 500
    assert tokens(preset) == pytest.approx(10_000_000, rel=0.01)


def test_fine_tuning_follows(tmp_path: Path) -> None:
    small = load(
        tmp_path, {"size": "auto", "budget_tokens": 10**6}, finetune={"qa": {}, "summarization": {"steps": 70}}
    )
    for tuning in small.finetune.values():
        assert tuning.batch_tokens == small.pretrain.batch_tokens
        assert tuning.learning_rate == pytest.approx(small.pretrain.learning_rate / 2)
        assert tuning.matrix_learning_rate == small.pretrain.matrix_learning_rate / 2
    assert small.finetune["summarization"].steps == 70
    large = load(tmp_path, {"size": "gpt3-small"}, finetune={"qa": {"learning_rate": 1e-5}})
    assert (large.finetune["qa"].batch_tokens, large.finetune["qa"].learning_rate) == (32_768, 1e-5)


# What stands


def test_what_the_preset_gives_stands(tmp_path: Path) -> None:
    given = {"steps": 77, "batch_tokens": 2048, "learning_rate": 0.123, "warmup_steps": 3, "eval_every": 11}
    given |= {"eval_tokens": 999, "min_lr_ratio": 0.3}
    model = {"n_layer": 3, "n_head": 3, "n_embd": 96}
    preset = load(tmp_path, {"size": "auto", "budget_tokens": 10**9, **given}, model=model)
    assert {name: getattr(preset.pretrain, name) for name in given} == given
    assert {name: getattr(preset.model, name) for name in model} == model


def test_overrides_stand_too(machine: list[Machine]) -> None:
    asked = ["pretrain.size=auto", "pretrain.budget_minutes=600"]
    shipped, free = load_preset("quickstart"), load_preset("quickstart", asked)
    assert parameters(free) > parameters(shipped)
    assert free.model.n_head == shipped.model.n_head == 2
    assert free.pretrain.steps == shipped.pretrain.steps, "quickstart gives its steps"
    assert load_preset("quickstart", [*asked, "model.n_layer=2"]).model.n_layer == 2


@pytest.mark.parametrize("model", [{"n_head": 6}, {"n_embd": 100}, {"n_embd": 448}, {"context": 1000}, {"n_layer": 9}])
@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_a_part_of_the_shape_may_be_given(tmp_path: Path, model: dict[str, int], family: str) -> None:
    preset = load(tmp_path, {"size": "auto", "budget_tokens": 10**8}, model={**model, "family": family})
    assert {name: getattr(preset.model, name) for name in model} == model


# Keys


def test_the_answers_enter_the_key_and_the_question_does_not(tmp_path: Path, machine: list[Machine]) -> None:
    asking = {"size": "auto", "budget_minutes": 60, "optimizer": "muon"}
    preset = load(tmp_path, asking)
    config = pretrain_config(preset)
    assert not set(DIAL_FIELDS) & set(config)
    assert key_of(config) == key_of(pretrain_config(load(tmp_path, asking)))
    answers = {k: v for k, v in preset.pretrain.model_dump().items() if k not in DIAL_FIELDS}
    spelled_out = load(tmp_path, answers, model=preset.model.model_dump())
    assert key_of(config) == key_of(pretrain_config(spelled_out))
    machine[0] = GPU
    assert pretrain_config(load(tmp_path, asking))["model"] != config["model"], "a faster device affords more"


def test_threads_change_no_key(tmp_path: Path) -> None:
    asking = {"size": "auto", "budget_minutes": 6000}
    keys = {
        key_of(pretrain_config(load(tmp_path, asking, runtime={"device": "cpu", "threads": threads})))
        for threads in (None, 1, 2)
    }
    assert len(keys) == 1


def test_a_report_reproduces_the_answers(tmp_path: Path, machine: list[Machine]) -> None:
    asking = {"size": "auto", "budget_minutes": 6000}
    preset = load(tmp_path, asking)
    _, _, written = reproduction(preset).partition(".yaml\n\n")
    (tmp_path / "again.yaml").write_text(written)
    machine[0] = GPU
    again = load_preset(str(tmp_path / "again.yaml"))
    assert again.pretrain.size is None
    assert pretrain_config(again) == pretrain_config(preset)
    shipped = reproduction(load_preset("quickstart", ["pretrain.size=gpt3-small"]))
    assert "--set model.n_layer=12" in shipped
    assert "pretrain.size" not in shipped


# What it refuses


@pytest.mark.parametrize(
    ("pretrain", "message"),
    [
        ({"size": "auto"}, "size auto needs a budget: give budget_tokens or budget_minutes"),
        ({"size": "auto", "budget_tokens": 5, "budget_minutes": 5}, "say the same thing twice; leave one out"),
        ({"budget_tokens": 500}, "budget_tokens 500 is for a size; set size to auto or to a name"),
        ({"size": "gpt5"}, "pretrain.size is 'gpt5'"),
        ({"size": "auto", "budget_tokens": -5}, "pretrain.budget_tokens is -5"),
        ({"size": "auto", "budget_minutes": float("inf")}, "pretrain.budget_minutes is inf"),
        ({"size": "gpt3-small", "steps": "many"}, "pretrain.steps is 'many'"),
        ({"size": "gpt3-small", "batch_tokens": 1000}, "1000 is no multiple of model.context 256"),
    ],
)
def test_a_dial_that_cannot_be(tmp_path: Path, pretrain: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, pretrain)


@pytest.mark.parametrize("model", [{"family": "gpt9"}, {"n_layer": 0}, {"n_layre": 3}, None, {"n_head": 7}])
def test_a_model_that_cannot_be_is_named_by_the_schema(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ConfigError, match=r"model|n_head 7 does not divide"):
        load(tmp_path, {"size": "gpt3-small"}, model=model)


@pytest.mark.parametrize(("name", "dtype"), [("NVIDIA Unheard-of", "auto"), (None, "auto"), (GPU.name, "float32")])
def test_minutes_on_a_device_in_no_table(tmp_path: Path, machine: list[Machine], name: str | None, dtype: str) -> None:
    machine[0] = Machine("cuda", name, cores=8, memory_bytes=None)
    with pytest.raises(ConfigError, match=r"no table says how fast .* give pretrain\.budget_tokens instead"):
        load(tmp_path, {"size": "auto", "budget_minutes": 5, "dtype": dtype})
    assert load(tmp_path, {"size": "auto", "budget_tokens": 5}).pretrain.steps == 1


def test_the_schema_alone_refuses_a_bad_dial() -> None:
    with pytest.raises(ValueError, match="needs a budget"):
        Pretrain(size="auto")
