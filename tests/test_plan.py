"""What `plan` says of every stage, and that changing one knob changes what follows from it and nothing else."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flows.commands.plan_costs import block, expected
from gptcore.config import Preset
from gptcore.cost import costs, model_row, warnings
from gptcore.durable import write_bytes, write_json
from gptcore.plan import StagePlan, make_plan, select
from gptcore.presets import ConfigError, load_preset
from gptcore.speed import Machine
from gptcore.stages import code_digest, identity, key_of, stages
from gptcore.store import FileRecord, Manifest, Store

SOURCES: list[dict[str, Any]] = [{"kind": "python_docs", "digest": "1"}]


def finish(
    store: Store, preset: Preset, name: str, content: bytes, sources: list[dict[str, Any]] = SOURCES
) -> Manifest:
    """Commit a stage as if it had run, its one result holding `content`."""
    stage = stages(preset)[name]
    planned = make_plan(preset, store, sources)[name]
    assert planned.key and planned.identity
    directory, _ = store.begin(name, planned.key, planned.identity)
    write_bytes(directory / "result", content)

    def manifest(files: dict[str, FileRecord], digest: str) -> Manifest:
        assert planned.key and planned.identity
        return Manifest(
            stage=name,
            key=planned.key,
            identity=planned.identity,
            output_digest=digest,
            files=files,
            metrics={},
            seconds=10.0,
            attempts=1,
            finished=time.time(),
            preset=preset.name,
            code_digest=code_digest(stage.code),
            git={},
            execution={},
            mlflow_run_id=None,
            mlflow_parent_run_id=None,
        )

    return store.commit(manifest, directory, ("result",))


def finish_all(store: Store, preset: Preset) -> None:
    for name in stages(preset):
        finish(store, preset, name, name.encode())


def statuses(plan: dict[str, StagePlan]) -> dict[str, str]:
    return {name: p.status for name, p in plan.items()}


@pytest.fixture
def preset() -> Preset:
    return load_preset("quickstart")


def test_nothing_yet(tmp_path: Path, preset: Preset) -> None:
    plan = make_plan(preset, Store(tmp_path), SOURCES)
    assert set(statuses(plan).values()) == {"missing"}
    assert plan["corpus"].key is not None
    assert plan["tokenizer"].key is None
    assert plan["tokenizer"].reason == "upstream corpus is missing"


def test_sources_never_resolved(tmp_path: Path, preset: Preset) -> None:
    plan = make_plan(preset, Store(tmp_path), None)
    assert plan["corpus"].key is None
    assert "--refresh" in plan["corpus"].reason


def test_all_fresh(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    finish_all(store, preset)
    plan = make_plan(preset, store, SOURCES)
    assert set(statuses(plan).values()) == {"fresh"}
    assert {p.expected_s for p in plan.values()} == {0.0}


def test_one_knob_makes_stale_what_follows_from_it(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    finish_all(store, preset)
    plan = make_plan(load_preset("quickstart", ["pretrain.learning_rate=1e-5"]), store, SOURCES)
    assert [n for n, p in plan.items() if p.status == "fresh"] == ["corpus", "tokenizer", "tokens"]
    assert {p.status for n, p in plan.items() if n not in ("corpus", "tokenizer", "tokens")} == {"stale"}
    assert plan["pretrain"].reason == f"learning_rate {preset.pretrain.learning_rate} -> 1e-05"
    assert plan["finetune-qa"].key is None


def test_execution_config_changes_no_key(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    finish_all(store, preset)
    other = load_preset("quickstart", ["runtime.workers=7", "runtime.threads=1", "runtime.checkpoint_every=3"])
    assert set(statuses(make_plan(other, store, SOURCES)).values()) == {"fresh"}


def test_a_new_source_version_with_the_same_bytes_stops_there(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    finish_all(store, preset)
    moved = [{"kind": "python_docs", "digest": "2"}]
    plan = make_plan(preset, store, moved)
    assert plan["corpus"].status == "stale"
    assert plan["corpus"].reason == "new source version"
    finish(store, preset, "corpus", b"corpus", moved)
    assert set(statuses(make_plan(preset, store, moved)).values()) == {"fresh"}, "early cutoff"


def test_a_lost_file_is_named(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    finish_all(store, preset)
    tokens = make_plan(preset, store, SOURCES)["tokens"]
    assert tokens.key
    (store.directory("tokens", tokens.key) / "result").unlink()
    plan = make_plan(preset, store, SOURCES)
    assert plan["tokens"].status == "stale"
    assert plan["tokens"].reason == "result is lost"
    assert plan["benchmark-base"].key is None


def test_unfinished_training_says_its_step(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    for name in ("corpus", "tokenizer", "tokens"):
        finish(store, preset, name, name.encode())
    planned = make_plan(preset, store, SOURCES)["pretrain"]
    assert planned.key and planned.identity
    directory, _ = store.begin("pretrain", planned.key, planned.identity)
    assert make_plan(preset, store, SOURCES)["pretrain"].reason == "unfinished work"
    write_json(directory / "checkpoints" / "step-000400" / "MARKER.json", {"files": {}})
    planned = make_plan(preset, store, SOURCES)["pretrain"]
    assert (planned.status, planned.step, planned.reason) == ("resumable", 400, "unfinished work at step 400")


def test_expected_time_follows_the_tokens(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    finish_all(store, preset)
    longer = load_preset("quickstart", [f"pretrain.steps={3 * preset.pretrain.steps}"])
    assert make_plan(longer, store, SOURCES)["pretrain"].expected_s == 30.0


def test_expected_time_follows_the_size(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    finish_all(store, preset)
    deeper = load_preset("quickstart", [f"model.n_layer={10 * preset.model.n_layer}"])
    expected = make_plan(deeper, store, SOURCES)["pretrain"].expected_s
    assert expected
    assert 60 < expected < 100, "ten times the blocks, the same head"


# What training costs


MACHINE = Machine("cpu", None, cores=2, memory_bytes=16 * 10**9)


def test_measured_time_beats_estimated(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    before = costs(preset, make_plan(preset, store, SOURCES), MACHINE)
    assert list(before) == ["pretrain", "finetune-summarization", "finetune-qa"]
    for cost in before.values():
        assert cost.expected_s == cost.estimated_s
        assert not cost.measured
        assert expected(cost).startswith("~")
    assert 40 < (before["pretrain"].expected_s or 0) < 120, "74.6 s in benchmarks/RESULTS.md"
    finish_all(store, preset)
    longer = load_preset("quickstart", [f"pretrain.steps={3 * preset.pretrain.steps}"])
    after = costs(longer, make_plan(longer, store, SOURCES), MACHINE)
    assert (after["pretrain"].expected_s, after["pretrain"].measured) == (30.0, True)
    assert expected(after["pretrain"]) == "30.0 s"
    assert after["pretrain"].estimated_s != 30.0
    assert costs(preset, make_plan(preset, store, SOURCES), MACHINE)["pretrain"].fresh


def test_costs_of_the_124m_model() -> None:
    """The arithmetic in configs/gpt2-124m.yaml: 19,000 x 524,288 tokens x 855 MFLOP, 7 h on an H100, 1.5 GB saved."""
    preset = load_preset("gpt2-124m")
    machine = Machine("cuda", "NVIDIA H100 80GB HBM3", cores=16, memory_bytes=85 * 10**9)
    cost = costs(preset, make_plan(preset, Store(Path("nowhere")), None), machine)["pretrain"]
    assert cost.flops == pytest.approx(8.5e18, rel=0.01)
    assert cost.estimated_s == pytest.approx(7 * 3600, rel=0.05)
    assert cost.disk_bytes == pytest.approx(3 * 1.5e9, rel=0.01)
    assert cost.memory_bytes < 85e9, "the preset is for one GPU of 80 GB"
    threads = load_preset("gpt2-124m", ["runtime.device=cpu", "runtime.threads=1"])
    alone = costs(threads, make_plan(threads, Store(Path("nowhere")), None), MACHINE)["pretrain"]
    assert alone.estimated_s
    assert alone.estimated_s > 1000 * 86_400


def warned(overrides: list[str], machine: Machine = MACHINE, free: float = 1e12) -> list[str]:
    preset = load_preset("quickstart", overrides)
    return warnings(preset, costs(preset, make_plan(preset, Store(Path("nowhere")), None), machine), machine, int(free))


def test_what_will_not_fit_is_said() -> None:
    assert warned([]) == []
    (disk,) = warned([], free=1e6)
    assert "GB of disk" in disk
    memory = warned(["pretrain={size: gpt3-6.7b, batch_tokens: 1024}", "model={}"])
    assert [line.split()[0] for line in memory] == ["pretrain", "finetune-summarization", "finetune-qa"]
    assert "this machine's RAM has 16.0 GB" in memory[0]
    small = Machine("cuda", "NVIDIA L4", cores=4, memory_bytes=10**8)
    assert "the GPU has 0.1 GB" in warned([], small)[0]
    assert warned([], Machine("cuda", None, cores=4, memory_bytes=None)) == [], "nothing is known, nothing is said"


def test_a_name_that_promises_other_parameters_says_whose_they_are() -> None:
    published = {"family": "gpt3", "context": 2048}

    def line(name: str, model: dict[str, Any], vocabulary: int) -> str:
        overrides = [f"pretrain={{size: {name}}}", f"model={json.dumps(model)}", f"tokenizer.vocab_size={vocabulary}"]
        preset = load_preset("quickstart", overrides)
        return block(preset, model_row(preset), {}, []).splitlines()[0]

    assert line("gpt3-small", {"family": "modern"}, 4096).endswith(
        "; size gpt3-small (125 M as published: family gpt3, context 2,048, vocabulary 50,257)"
    )
    assert line("gpt3-small", published, 50_257).endswith("vocabulary 50,257; size gpt3-small")
    assert line("gpt2-xl", {"context": 1024}, 50_257).endswith("; size gpt2-xl")
    assert line("gpt1", {"family": "gpt1", "context": 512}, 40_478).endswith("; size gpt1")


def test_a_shape_that_given_fields_do_not_keep_is_said() -> None:
    line, *_ = warned(["pretrain.size=gpt2-small"])
    assert line.startswith("pretrain.size gpt2-small is 12 layers of 768 with 12 heads; fields of model")
    assert warned(["pretrain={size: gpt2-small, steps: 500, batch_tokens: 1024}", "model={}"]) == []


def test_a_budget_that_given_fields_do_not_keep_is_said() -> None:
    (line,) = warned(["pretrain.size=auto", "pretrain.budget_tokens=1_000_000_000"])
    assert line.startswith("pretrain.budget_tokens 1,000,000,000 is not what 400 updates of 1,024 tokens take")
    (line,) = warned(["runtime.device=cpu", "pretrain.size=auto", "pretrain.budget_minutes=6000"])
    assert line.startswith("pretrain.budget_minutes 6000 is not")


def test_every_input_of_a_key_changes_it(preset: Preset) -> None:
    stage = stages(preset)["corpus"]
    parts = identity(stage, preset, {}, SOURCES)
    keys = {key_of(parts)}
    for field in parts:
        keys.add(key_of({**parts, field: "other"}))
    assert len(keys) == 1 + len(parts)
    assert key_of(parts) == key_of(dict(reversed(parts.items()))), "the order of fields is no part of a key"


def test_no_path_in_any_identity(tmp_path: Path, preset: Preset) -> None:
    store = Store(tmp_path)
    finish_all(store, preset)
    for planned in make_plan(preset, store, SOURCES).values():
        assert str(tmp_path) not in repr(planned.identity)


def test_stages_come_after_what_they_read(preset: Preset) -> None:
    seen: set[str] = set()
    for stage in stages(preset).values():
        assert seen.issuperset(stage.inputs)
        seen.add(stage.name)


def test_selection(preset: Preset) -> None:
    assert select(preset, "tokens", None, None) == ["tokens"]
    assert select(preset, None, None, "tokens") == ["corpus", "tokenizer", "tokens"]
    assert select(preset, None, "publish", None) == ["publish", "report"]
    for wrong in (("token", None, None), (None, "report", "corpus"), ("corpus", "corpus", None)):
        with pytest.raises(ConfigError):
            select(preset, *wrong)


@pytest.mark.parametrize("overrides", [[], ["runtime.device=cpu", "pretrain.size=auto", "pretrain.budget_minutes=0.1"]])
def test_plan_is_quick_and_imports_no_torch(tmp_path: Path, overrides: list[str]) -> None:
    arguments = ["plan", "quickstart", "--json", *(word for one in overrides for word in ("--set", one))]
    code = (
        f"import sys; from flows.command_line import main; main({arguments})\n"
        "heavy = {'torch', 'prefect', 'mlflow', 'lm_eval', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GPTMILL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model"]["parameters"] == 1_328_768
    assert answer["model"]["size"] == ("auto" if overrides else None)
    cost = answer["cost"]["pretrain"]
    assert cost["tokens"] == cost["steps"] * cost["batch_tokens"]
    assert set(cost["memory"]) == {"weights", "gradients", "optimizer", "activations", "logits"}
    assert "model: 1.33 M parameters, modern, 4 layers of 128" in done.stderr
    assert "pretrain                 missing    -           ~" in done.stderr
