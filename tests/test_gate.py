"""The gate with evidence: pairs, guarded figures, champions whose samples lie in the store, in MLflow, or nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from finished_benchmark import ITEMS, finished, samples, texts
from mlflow_fixtures import new_tracker

from gptcore.adapters.champion import guarded_figures, weighing
from gptcore.adapters.mlflow_client import ModelVersion
from gptcore.adapters.mlflow_models import GATE, ModelRegistry
from gptcore.adapters.mlflow_runs import StageFacts, StageResult, Tracker
from gptcore.evaluation.comparison import deltas
from gptcore.evaluation.gate import Decision, Evidence, Score, gate
from gptcore.evaluation.measured import recorded
from gptcore.evaluation.paired import PairedDifference
from gptcore.presets import ConfigError, load_preset
from gptcore.stages import stages
from gptcore.store import Store

METRIC = "qa/exact_match"
GUARD = ("heldout/bits_per_byte",)


def pairs(delta: float, stderr: float, p: float = 0.5) -> PairedDifference:
    return PairedDifference(0.3, 0.3 + delta, delta, stderr, (delta - 2 * stderr, delta + 2 * stderr), p, 500, 200)


def decided(evidence: Evidence, margin: float = 2.0) -> Decision:
    """0.34 ± 0.02 against 0.30 ± 0.02: 1.4 separate standard errors."""
    return gate(METRIC, Score(0.34, 0.02), Score(0.30, 0.02), "3", margin, evidence)


def test_pairs_show_a_target_that_separate_errors_hide() -> None:
    assert not decided(Evidence()).promote
    found = decided(Evidence(target=pairs(0.04, 0.01)))
    assert found.promote and "+0.0400, +4.0 standard errors over the same 500 items, more than 2" in found.reason
    assert not decided(Evidence(target=pairs(0.04, 0.01)), margin=4.5).promote
    assert not decided(Evidence(target=pairs(-0.04, 0.01))).promote


def guarded(delta: float, p: float) -> dict[str, Any]:
    name = GUARD[0]
    return deltas({name: 1.5}, {name: 1.5 + delta}, {name: pairs(delta, 0.01, p)})


@pytest.mark.parametrize(
    ("delta", "p", "promote", "words"),
    [
        (0.1, 0.0001, False, "guarded heldout/bits_per_byte 1.6000 against 1.5000: worse, p 0.0001 of 0.05"),
        (0.1, 0.2, True, "no difference shown, p 0.2000 of 0.05 over the same 500 items"),
        (-0.1, 0.0001, True, "better"),
    ],
)
def test_a_guarded_figure_that_is_worse_beyond_noise(delta: float, p: float, promote: bool, words: str) -> None:
    found = decided(Evidence(target=pairs(0.04, 0.01), guarded=guarded(delta, p)))
    assert found.promote is promote and words in found.reason
    assert found.reason.startswith("promoted" if promote else "not promoted")


def test_a_guard_does_not_promote() -> None:
    assert not decided(Evidence(target=pairs(0.01, 0.01), guarded=guarded(-0.1, 0.0001))).promote


def test_many_guarded_figures_are_judged_together() -> None:
    names = [f"task{number}/acc" for number in range(20)]
    found = {name: pairs(-0.02, 0.01, 0.04) for name in names}
    evidence = Evidence(
        target=pairs(0.04, 0.01), guarded=deltas(dict.fromkeys(names, 0.3), dict.fromkeys(names, 0.28), found)
    )
    passed = decided(evidence)
    assert passed.promote and "20 guarded figures are not shown to be worse" in passed.reason


def test_a_guarded_figure_whose_noise_is_unknown_counts_by_its_value() -> None:
    for value, promote in ((1.51, False), (1.49, True)):
        evidence = Evidence(target=pairs(0.04, 0.01), guarded=deltas({GUARD[0]: 1.5}, {GUARD[0]: value}))
        assert decided(evidence).promote is promote


def test_figures_that_are_not_there() -> None:
    missing = decided(Evidence(target=pairs(0.04, 0.01), unmeasured=("hellaswag/acc",)))
    assert not missing.promote and "guarded hellaswag/acc was not measured" in missing.reason
    never = decided(Evidence(target=pairs(0.04, 0.01), unknown=GUARD))
    assert never.promote and "the champion has no heldout/bits_per_byte, which guards nothing" in never.reason
    assert gate(METRIC, Score(0.3, 0.02), None, None, 2.0, Evidence(unmeasured=("x/acc",))).promote, "the first one"


def test_what_a_guard_names() -> None:
    metrics = {
        "hellaswag/acc": 0.3, "hellaswag/acc_stderr": 0.01, "hellaswag/acc_norm": 0.4, "qa/f1": 0.5,
        "qa/f1_baseline": 0.1, "qa/overlap_13gram": 0.2, "qa/f1_type": 0.6,
    }  # fmt: skip
    assert guarded_figures(metrics, ["hellaswag/*"]) == {
        "hellaswag/acc": 0.3, "hellaswag/acc_stderr": 0.01, "hellaswag/acc_norm": 0.4,
    }  # fmt: skip
    assert set(guarded_figures(metrics, ["*/f1", "qa/f1_type"])) == {"qa/f1", "qa/f1_type"}
    assert guarded_figures(metrics, ["qa/*line", "qa/overlap_13gram"]) == {}


# Against real versions


class Published:
    """Publications of one name into a fresh tracker, each with its benchmark in the store and in MLflow."""

    def __init__(self, home: Path) -> None:
        self.tracker: Tracker = new_tracker(home)
        self.store = Store(home / "store")
        (home / "model").mkdir()
        self.home, self.count = home, 0

    def once(self, better: float, bits: float, guard: tuple[str, ...] = GUARD, seed: int = 1) -> Decision:
        self.count += 1
        key = str(self.count).ljust(64, "0")
        directory, digest, metrics = finished(self.store, key, samples(better, seed), texts(bits, self.count))
        parent = self.tracker.open_parent("p", "n", {}, {})
        benchmark = self.tracker.open_stage(parent, StageFacts("benchmark-qa", key, {}, {}))
        files = [path.name for path in directory.iterdir() if path.name.startswith(("s", "M"))]
        self.tracker.log_artifacts(benchmark.run_id, directory, files)
        benchmark.finish("FINISHED", {})
        run = self.tracker.open_stage(parent, StageFacts("publish", key, {}, {"input.benchmark-qa": digest}))
        registry = ModelRegistry(self.tracker, run.run_id, key)
        model = registry.logged_model("p-qa", "qa", {})
        registry.complete(model, self.home / "model")
        tags = guarded_figures(recorded(directory), guard) | metrics
        version = registry.register("p-qa", model, {"gptmill.dataset": "d", **{k: repr(v) for k, v in tags.items()}})
        compare = weighing(self.tracker, directory, "qa", METRIC, guard, {"summarization"}, self.home / "scratch")

        def weigh(champion: ModelVersion) -> Evidence:
            self.evidence = compare(champion)
            return self.evidence

        decision = registry.move_aliases(version, METRIC, 2.0, weigh)
        assert registry.move_aliases(version, METRIC, 2.0, weigh).reason == decision.reason, (
            "a second try says the same"
        )
        told = self.tracker.client.get_model_version("p-qa", version.version)
        assert told.description == told.tags[GATE] == decision.reason
        self.tracker.summarize_parent(parent, {"benchmark-qa": StageResult(benchmark.run_id, digest, {})})
        return decision

    def champion(self) -> str:
        return str(self.tracker.client.get_registered_model("p-qa").aliases["champion"])


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return Published(tmp_path / "home")


def test_champion_moves_by_pairs_and_not_past_its_guard(published: Published) -> None:
    assert published.once(0.0, 2.0).promote
    found = published.once(0.06, 2.0)
    assert found.promote and f"over the same {ITEMS} items" in found.reason, found.reason
    assert "heldout/bits_per_byte" in found.reason and "no difference shown" in found.reason
    seen = published.evidence.beside
    assert {METRIC, *GUARD} <= set(seen)
    assert (seen[METRIC].verdict, seen[METRIC].items, seen[METRIC].paired) == ("better", ITEMS, True)
    blocked = published.once(0.30, 2.2)
    assert not blocked.promote and "guarded heldout/bits_per_byte" in blocked.reason and "worse" in blocked.reason
    assert published.champion() == "2"
    assert published.once(0.30, 2.2, guard=()).promote and published.champion() == "4"


def test_a_guard_of_another_skill_is_not_this_models(published: Published) -> None:
    assert published.once(0.0, 2.0).promote
    assert published.once(0.2, 2.0, guard=("summarization/rougeL",)).promote
    assert not published.once(0.4, 2.0, guard=("translation/bleu",)).promote


def test_a_champion_whose_samples_are_in_mlflow_alone_or_nowhere(published: Published) -> None:
    published.once(0.0, 2.0)
    shutil.rmtree(published.home / "store")
    assert "over the same" in published.once(0.001, 2.2).reason
    shutil.rmtree(published.home / "mlartifacts")
    shutil.rmtree(published.home / "store")
    found = published.once(0.06, 2.0)
    assert "over the same" not in found.reason and not found.promote, "two separate errors hide it"
    worse = published.once(0.4, 2.9)
    assert not worse.promote and "guarded heldout/bits_per_byte" in worse.reason, "by what the versions keep as tags"


# In a preset


def test_a_guard_that_nothing_can_have_is_refused() -> None:
    for name in ("qa/rouge1", "held/bits_per_byte", "hellaswag/acc", "qa"):
        with pytest.raises(ConfigError, match=r"is not measured; there are: heldout/bits_per_byte, .*qa/exact_match"):
            load_preset("quickstart", [f"publish.guard=[{name}]"])
    names = "qa/*, qa/exact_match_type, heldout/bits_per_byte, hellaswag/acc, mmlu_anatomy/acc, '*/f1'"
    preset = load_preset("quickstart", [f"publish.guard=[{names}]", "benchmark.tasks=[hellaswag, mmlu]"])
    assert len(preset.publish.guard) == 6


def test_the_guard_enters_the_key_of_publish_alone() -> None:
    plain, other = load_preset("quickstart"), load_preset("quickstart", ["publish.guard=[qa/f1]"])
    differing = {
        name for name, stage in stages(plain).items() if stage.identity(plain) != stages(other)[name].identity(other)
    }
    assert differing == {"publish", "report"}
