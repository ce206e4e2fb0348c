"""Models of which each process holds a part, bad batches, and the best weights: teams under torchrun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from team_process import trouble_with
from teams import BROKEN_AT, KINDS, OTHERS, STILL, alone, losses, run_by_two, same_losses, settings
from tiny_training import history, inputs, pretrain_config, workspace

from gptcore.model.weights import load_model
from gptcore.training.checkpoint_names import MARKER, latest_step
from gptcore.training.pretrain import pretrain

pytestmark = pytest.mark.timeout(600)  # a launch imports torch three times, which takes long on a busy machine


PAIRS = [*(("tensor", shape) for shape in OTHERS), ("fsdp", "grouped"), ("fsdp", "gpt3")]
"""How other shapes are shared."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of both, unbroken, broken off, and begun or ended by one process or by another team."""
    root = tmp_path_factory.mktemp("shared")
    inputs(root)
    cases: list[dict[str, Any]] = []
    for family in KINDS:
        alone(root, f"one-{family}", family)
        for parallel in ("fsdp", "tensor"):
            case, name = {"parallel": parallel, **settings(family)}, f"{parallel}-{family}"
            cases.append({**case, "name": name})
            cases.append({**case, "name": f"from-{name}", "stop_at": BROKEN_AT})
            alone(root, f"to-{name}", family, stop_at=BROKEN_AT)
            cases.append({**case, "name": f"to-{name}", "micro_batch_tokens": 32})
    for shape in OTHERS:
        alone(root, f"one-{shape}", shape)
    cases += [{"parallel": parallel, **settings(shape), "name": f"{parallel}-{shape}"} for parallel, shape in PAIRS]
    fsdp, tensor = ({"parallel": parallel, **settings("modern")} for parallel in ("fsdp", "tensor"))
    broken = {**fsdp, "name": "broken"}
    cases += [{**broken, "stop_at": BROKEN_AT, "full_disk": [10, 20]}, broken]
    cases += [{**fsdp, "name": "fsdp-to-tensor", "stop_at": BROKEN_AT}, {**tensor, "name": "fsdp-to-tensor"}]
    run_by_two(root, cases)
    return root


@pytest.mark.parametrize(
    ("parallel", "family"), [*((parallel, family) for family in KINDS for parallel in ("fsdp", "tensor")), *PAIRS]
)
def test_a_shared_model_learns_what_one_process_learns(shared: Path, parallel: str, family: str) -> None:
    assert same_losses(shared / f"{parallel}-{family}", shared / f"one-{family}")
    ids = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(0))
    ours, theirs = (load_model(shared / name)(ids) for name in (f"{parallel}-{family}", f"one-{family}"))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("parallel", ["fsdp", "tensor"])
def test_one_process_goes_on_where_two_stopped_and_two_where_one_did(shared: Path, parallel: str, family: str) -> None:
    assert latest_step(shared / f"from-{parallel}-{family}/checkpoints") == BROKEN_AT
    alone(shared, f"from-{parallel}-{family}", family)
    for way in ("from", "to"):
        assert same_losses(shared / f"{way}-{parallel}-{family}", shared / f"one-{family}")


def test_a_shared_run_broken_off_ends_with_the_same_bytes(shared: Path) -> None:
    """After a full disk of the second process, too, which stops the saves of both."""
    broken, unbroken = shared / "broken", shared / "fsdp-modern"
    assert (broken / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert history(broken) == history(unbroken)
    refused, saved, resumed = (broken / "said").read_text().splitlines()
    assert refused.startswith("no room for the checkpoint of step 14 (File too large)")
    assert saved.startswith("checkpoint of step 21 saved")
    assert resumed == f"resuming at step {BROKEN_AT} of 50"


def test_another_kind_of_team_goes_on(shared: Path) -> None:
    assert same_losses(shared / "fsdp-to-tensor", shared / "one-modern")


def test_shards_are_safetensors_with_digests(shared: Path) -> None:
    (directory,) = (shared / "fsdp-modern/checkpoints").iterdir()
    shards = {f"shards/{path.name}" for path in (directory / "shards").iterdir()}
    assert len(shards) == 2 and {Path(name).suffix for name in shards} == {".safetensors"}
    assert shards < set(json.loads((directory / MARKER).read_text())["files"])


# Bad batches, and the best weights

HURT = {"hurt": [12, 41, 43, 46]}
"""A single skip; then a series, after which the run goes back."""
TOLD = [3.0, 1.0, 2.0, 2.0, 2.0]
"""Validation losses of five evaluations: the second is the best."""
HURT_CONFIG = {"steps": 60, "eval_every": 10, "eval_tokens": 128, "spike_window": 16, "most_skips": 3}
TEAMS_HURT = {"ddp": "gpt2", "fsdp": "modern", "tensor": "modern"}


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one and two processes in trouble; those of the best weights are broken off after the best."""
    root = tmp_path_factory.mktemp("hurt")
    inputs(root)
    cases: list[dict[str, Any]] = []
    for parallel, family in TEAMS_HURT.items():
        shape, optimizer = {"family": family}, {"optimizer": KINDS[family]}
        bad = {"model": shape, "config": {**HURT_CONFIG, **optimizer}, "trouble": HURT}
        best = {"model": shape, "config": {**settings(family)["config"], "keep_best": True}}
        cases.append({**bad, "name": f"hurt-{parallel}", "parallel": parallel})
        begun, ended = ({"trouble": {"told": losses}} for losses in (TOLD[:2], TOLD[2:]))
        cases.append({**best, **begun, "name": f"best-{parallel}", "parallel": parallel, "stop_at": BROKEN_AT})
        cases.append({**best, **ended, "name": f"best-{parallel}", "parallel": parallel})
        for name, case, trouble in (("hurt", bad, HURT), ("best", best, {"told": TOLD})):
            if not (root / f"one-{name}-{family}").exists():
                work = workspace(root, f"one-{name}-{family}")
                with trouble_with(**trouble):
                    pretrain(STILL.model_copy(update=shape), pretrain_config(**case["config"]), work)
                (work.directory / "said").write_text("".join(f"{line}\n" for line in work.said))
    run_by_two(root, cases)
    return root


def state(directory: Path) -> dict[str, Any]:
    (checkpoint,) = (directory / "checkpoints").iterdir()
    found: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return found


@pytest.mark.parametrize("parallel", TEAMS_HURT)
def test_two_processes_skip_and_go_back_as_one_does(hurt: Path, parallel: str) -> None:
    two, one = hurt / f"hurt-{parallel}", hurt / f"one-hurt-{TEAMS_HURT[parallel]}"
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    for name in ("step", "tokens", "passed_over", "rollbacks"):
        assert state(two)[name] == state(one)[name]
    assert state(two)["rollbacks"] == 1 and state(two)["passed_over"] > 0
    ours, theirs = ((directory / "said").read_text().splitlines() for directory in (two, one))
    assert [line.split("; ")[1] for line in ours] == [line.split("; ")[1] for line in theirs]
    assert ours[0].startswith("loss is nan at step 13; 1 of") and "back to the checkpoint of step 35" in ours[1]


@pytest.mark.parametrize("parallel", TEAMS_HURT)
def test_the_weights_of_the_best_evaluation_survive_a_break(hurt: Path, parallel: str) -> None:
    two, one = hurt / f"best-{parallel}", hurt / f"one-best-{TEAMS_HURT[parallel]}"
    assert state(two)["watched"]["best"]["step"] == 20 and "the model of step 20 is kept" in (two / "said").read_text()
    ids = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(0))
    ours, theirs = (load_model(directory)(ids) for directory in (two, one))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# More than two processes


@pytest.mark.soak
def test_three_processes_broken_off_end_with_the_same_bytes(tmp_path: Path) -> None:
    """Sums of three depend on their order, which must not depend on when the process began."""
    inputs(tmp_path)
    case = {"parallel": "ddp", "model": {"dropout": 0.1}, "config": {"steps": 50, "batch_tokens": 192}}
    cases = [{**case, "name": "whole"}, {**case, "name": "broken", "stop_at": BROKEN_AT}, {**case, "name": "broken"}]
    run_by_two(tmp_path, cases, devices=3)
    whole, broken = (tmp_path / name / "model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
