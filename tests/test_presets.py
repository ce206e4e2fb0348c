"""A preset that cannot be is refused with one line that says field, value, limit and way out."""

from pathlib import Path

import pytest

from gptcore.config import CONTEXT_LIMITS, Preset
from gptcore.presets import ConfigError, load_preset, load_skill, parse_yaml, preset_names


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as failure:
        load_preset(str(path), overrides)
    message = str(failure.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: x\npretrain: {learning_rat: 1e-3}")
    assert "unknown key pretrain.learning_rat" in message
    assert "nearest: learning_rate" in message


def test_unknown_key_inside_a_source(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: x\ncorpus: {sources: [{kind: python_docs, package: [numpy]}]}")
    assert "nearest: packages" in message


def test_wrong_type_names_field_and_value(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: x\npretrain: {steps: many}")
    assert "pretrain.steps is 'many'" in message
    assert "valid integer" in message


def test_a_number_in_quotes_is_not_converted(tmp_path: Path) -> None:
    assert "pretrain.steps is '12'" in refused(tmp_path, "name: x\npretrain: {steps: '12'}")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: x\nmodle: {}\npretrain: {steps: -1}")
    assert "nearest: model" in message
    assert "pretrain.steps is -1" in message


def test_heads_that_do_not_divide_the_width(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: x\nmodel: {n_embd: 128, n_head: 5}")
    assert "n_head 5 does not divide n_embd 128" in message


def test_vocabulary_below_bytes_and_specials(tmp_path: Path) -> None:
    assert "tokenizer.vocab_size 256 is under 264" in refused(tmp_path, "name: x\ntokenizer: {vocab_size: 256}")


def test_one_mapping_may_take_over_the_keys_of_another(tmp_path: Path) -> None:
    text = "name: a\npretrain: &training {steps: 70, seed: 3}\nfinetune:\n  qa: {<<: *training, steps: 80}\n"
    (tmp_path / "a.yaml").write_text(text)
    tuning = load_preset(str(tmp_path / "a.yaml")).finetune["qa"]
    assert (tuning.steps, tuning.seed) == (80, 3)


def test_heads_of_odd_width_are_refused_where_positions_are_rotary(tmp_path: Path) -> None:
    overrides = ["model.n_embd=30", "model.n_head=2"]
    assert load_preset("quickstart", [*overrides, "model.family=gpt2", "pretrain.start=plain"]).model.n_embd == 30
    with pytest.raises(ConfigError, match=r"n_embd 30 over n_head 2 is odd, .*take a number of heads"):
        load_preset("quickstart", overrides)


def test_context_beyond_the_family(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: x\nmodel: {context: 2048}")
    assert f"context 2048 is longer than the gpt2 family allows ({CONTEXT_LIMITS['gpt2']})" in message


def test_a_batch_of_broken_sequences(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: x\npretrain: {batch_tokens: 1000}")
    assert "pretrain.batch_tokens 1000 is no multiple of model.context 256" in message


def test_unknown_skill(tmp_path: Path) -> None:
    assert "nearest: summarization" in refused(tmp_path, "name: x\nfinetune: {summarisation: {}}")


def test_overrides_reach_every_level_and_win() -> None:
    preset = load_preset(
        "quickstart", ["pretrain.learning_rate=3e-4", "finetune.qa.steps=77", "corpus.held_out=[numpy]"]
    )
    assert preset.pretrain.learning_rate == 3e-4
    assert preset.finetune["qa"].steps == 77
    assert preset.corpus.held_out == ("numpy",)


@pytest.mark.parametrize("override", ["pretrain.steps", "=3", "pretrain..steps=3", "pretrian.steps=3"])
def test_a_bad_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_preset("quickstart", [override])


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nearest: quickstart"):
        load_preset("quikstart")


def test_yaml_is_safe_and_strict() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("a: !!python/object/apply:os.system [true]", "x")
    with pytest.raises(ConfigError, match="given twice"):
        parse_yaml("a: 1\na: 2", "x")
    assert parse_yaml("[1e-3, 1E5, 1.5, 12, 1e3x]", "x") == [1e-3, 1e5, 1.5, 12, "1e3x"]


def test_presets_are_frozen() -> None:
    preset = load_preset("quickstart")
    with pytest.raises(Exception, match="frozen"):
        preset.name = "other"  # type: ignore[misc]


def test_every_field_has_a_docstring() -> None:
    import ast
    import inspect

    import gptcore.config

    tree = ast.parse(inspect.getsource(gptcore.config))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{node.name}.{field.target.id} has no docstring"  # type: ignore[union-attr]


def test_skills_load() -> None:
    for skill in load_preset("quickstart").finetune:
        assert load_skill(skill).name == skill
    assert isinstance(load_preset("quickstart"), Preset)
