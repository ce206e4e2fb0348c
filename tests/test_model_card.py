"""The card of a published model: what the hub reads of it, what a person does with it, and that its facts are facts."""

from __future__ import annotations

import importlib.metadata
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished_stages import (
    FIELDS,
    data_card,
    train_tiny_tokenizer,
    write_manifest,
    write_manifests,
    write_model,
    write_scores,
)
from huggingface_hub import ModelCard
from test_skill_items import skill

from gptcore.adapters.hf import export_hf
from gptcore.adapters.model_card import head, model_card
from gptcore.adapters.model_card_facts import Facts, gather
from gptcore.config_skill import Decoding
from gptcore.durable import sha256_file, sha256_json, write_json
from gptcore.loaded import load
from gptcore.model.gpt import GPTConfig
from gptcore.presets import load_skill
from gptcore.store import MANIFEST
from gptcore.text.digests import DigestCache
from gptcore.text.distributions import declared_licence, installed, licence_of_import
from gptcore.text.licences import Origin, dataset_card, origins

METRICS = {
    "exact_match": 0.5,
    "exact_match_stderr": 0.01,
    "exact_match_baseline": 0.07,
    "exact_match_baseline_stderr": 0.001,
    "f1": None,
    "overlap_13gram": 0.25,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tokenizer = train_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    found = write_manifests(tmp_path_factory.mktemp("stages"), "qa")
    write_model(found["finetune-qa"], tokenizer, "qa", family="modern", n_kv_head=1)
    (answer,) = load(found["finetune-qa"]).answer([FIELDS])
    sample = {"id": "a", "fields": FIELDS, "target": "int", "prediction": answer}
    write_scores(found["benchmark-qa"], "qa", METRICS, sample)
    write_scores(found["benchmark-base"], "qa", {**METRICS, "exact_match": 0.1}, sample)
    longer = {**sample, "fields": {"context": "long " * 500, "question": "What?"}}
    with (found["benchmark-qa"] / "samples-qa.jsonl").open("a") as file:
        file.write(json.dumps(longer) + "\n")
    return found


@pytest.fixture(scope="module")
def exported(inputs: dict[str, Path]) -> Path:
    target = inputs["corpus"].parent / "hf"
    export_hf(inputs["finetune-qa"], target)
    return target


@pytest.fixture(scope="module")
def facts(inputs: dict[str, Path], exported: Path) -> Facts:
    return gather("tiny-qa", load_skill("qa"), "d" * 64, inputs, exported)


@pytest.fixture(scope="module")
def card(facts: Facts) -> str:
    return model_card(facts)


def test_the_hub_reads_the_head(card: str) -> None:
    read = ModelCard(card)  # raises where the results are none of the hub's schema
    data = read.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["language"]) == ("transformers", "text-generation", ["en"])
    assert data["tags"] == ["gptmill", "qa", "modern"]
    assert "license" not in data and "datasets" not in data, "of the poems no licence is known"
    (index,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    assert index["name"] == "tiny-qa"
    own, heldout = index["results"]
    assert own["task"] == {"type": "text-generation", "name": "qa"}
    assert own["dataset"] == {
        "name": "20 test items of qa", "type": "qa-test", "split": "test", "revision": "d" * 64,
    }  # fmt: skip
    assert own["metrics"] == [{"type": "exact_match", "value": 0.5, "name": "exact match"}]
    assert heldout["metrics"][0]["type"] == "bits_per_byte"
    assert read.text.startswith("\n# tiny-qa\n")


def test_the_code_runs_and_answers_as_the_benchmark_says(
    card: str, facts: Facts, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", card, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(exported)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["answer"].strip() == facts.sample["prediction"]
    assert f"it answered `{' '.join(facts.sample['prediction'].split())}`; right is `int`" in card


def test_every_number_leads_to_its_bytes(card: str, facts: Facts, exported: Path) -> None:
    assert f"`{sha256_file(exported / 'model.safetensors')}`" in card
    for stage, manifest in facts.manifests.items():
        row = f"| {stage} | `{manifest.key}` | `{manifest.output_digest}` | `abcdef012345` with changes |"
        assert row in card


def test_scores_stand_beside_error_baseline_and_base_model(card: str) -> None:
    assert "| qa/exact_match | 0.5000 | 0.0100 | 0.0700 | 0.1000 | 25.0% |" in card
    assert "| heldout/bits_per_byte | 1.5000 | 0.0200 |  | 1.5000 |  |" in card
    assert "qa/f1" not in card and "qa/overlap" not in card
    assert "exact match is 0.500 ± 0.010 on 20 held-out items, which is better than the 0.070" in card


def test_how_the_benchmark_came_to_its_answers(card: str, facts: Facts) -> None:
    assert "lm-eval; greedy decoding. Of bits" in card
    drawing = replace(facts, skill=facts.skill.model_copy(update={"decoding": Decoding(samples=7)}))
    assert "of 7 answers drawn the one most like the others is given. Of bits" in model_card(drawing)
    tasks = {name: {**result, "seeds": {"1": {}, "2": {}}} for name, result in facts.tasks.items()}
    assert "is given; what is drawn was drawn under 2 seeds, and scores are their mean." in model_card(
        replace(drawing, tasks=tasks)
    )


def test_data_and_training_are_told(card: str) -> None:
    assert "| train | 507 | 50,700 |" in card and "Left out: 5 duplicates." in card
    assert "Held out whole, for the benchmark alone: networkx 3.6.1." in card
    assert "20,000 tokens of 2.50 bytes" in card and "read 40 items" in card
    assert "| heads | 2, of keys and values 1 |" in card
    assert "| weights kept | of the last update | of update 30, the best |" in card
    assert "Muon, peak rate 0.02, for matrices inside the blocks; AdamW, peak rate 0.001, for the rest" in card
    assert "/secret/place" not in card


def test_limits_follow_from_the_run(card: str, facts: Facts) -> None:
    assert "30,000 parameters, pretrained on 60,000 tokens, 2 a parameter, under the 20" in card
    assert "the docstrings of numpy, python and poems.txt, 3 times over" in card
    assert "Languages of its text: en; not recorded for poems.txt." in card
    assert "hold 64 tokens, about 160 bytes" in card and "cut at 48 tokens" in card
    assert "25.0% of the test items share 13 words" in card
    metrics = {**METRICS, "exact_match": 0.08, "overlap_13gram": 0.0}
    worse = model_card(replace(facts, tasks={"qa": {"n": 20, "metrics": metrics}}))
    assert "which is not clearly better than the 0.070 of a trivial answer" in worse
    assert "share 13 words" not in worse


def test_a_model_that_went_on_from_another_says_so(facts: Facts) -> None:
    pretrain = facts.manifests["pretrain"]
    begun = replace(pretrain, identity={**pretrain.identity, "init": {"weights": {"some.safetensors": "5" * 64}}})
    known = tuple(replace(origin, licence="MIT") for origin in facts.origins)
    told = model_card(replace(facts, manifests={**facts.manifests, "pretrain": begun}, origins=known))
    for said in ("that went on from a pretrained model", "from pretrained weights", f"some.safetensors `{'5' * 64}`"):
        assert said in told
    assert "nothing but" not in told and "made for this text" not in told
    assert "\nlicense:" not in told and "\nlicense: mit" in model_card(replace(facts, origins=known))


# Licences


def test_licences_of_sources(card: str) -> None:
    version = importlib.metadata.version("numpy")
    assert f"| numpy | python_docs | `{version}` | 200 | 20,000 | BSD-3-Clause |" in card
    assert "| python | python_docs | `3.11.7` | 300 | 30,000 | PSF-2.0 |" in card
    assert "| poems.txt | files |  | 7 | 700 | unknown |" in card
    assert "Of 1 of 3 sources the licence is unknown here" in card
    assert "| networkx |" not in card, "nothing was trained on it"


def test_a_skills_own_data_stand_with_origin_and_licence(tmp_path: Path) -> None:
    inputs = write_manifests(tmp_path, "capitals")
    sources = [
        {"kind": "files", "paths": ["/secret/place/capitals.jsonl"], "licence": "CC0-1.0"},
        {"kind": "files", "paths": ["package:numpy/**/*.txt"]},
        {"kind": "hub", "dataset": "some/capitals"},
        {"kind": "python_docs", "packages": ["networkx"]},
        {"kind": "url", "url": "https://some.where/capitals.jsonl"},
    ]
    versions = [
        {"kind": "files", "files": [["capitals.jsonl", "1" * 64]]},
        {"kind": "files", "files": [["a.txt", "2" * 64], ["b.txt", "3" * 64]]},
        {"kind": "hub", "commit": "4" * 40},
        {"kind": "python_docs", "packages": {"networkx": {"version": "3.6.1", "licence": "BSD", "digest": ""}}},
        {"kind": "url", "sha256": "5" * 64},
    ]
    places = [{"split": split, "target": None} for split in (None, "train", "train", "test", "validation")]
    inputs["items-capitals"] = tmp_path / "items-capitals"
    asked = {"sources": sources, "places": places}
    write_manifest(inputs["items-capitals"], "items-capitals", asked, {}, sources=versions)
    counts = {"items": {"train": 1000, "validation": 20, "test": 100}, "left_out": {}}
    write_json(inputs["items-capitals"] / "counts.json", counts)
    model = inputs["finetune-capitals"]
    write_json(model / "config.json", asdict(GPTConfig("gpt2", 2, 2, 32, 64, 280)))
    write_json(model / "skill.json", {"max_input_tokens": 48, "max_target_tokens": 8})
    (model / "model.safetensors").write_bytes(b"")
    sample = {"id": "a", "fields": {"input": "Peru"}, "target": "Lima", "prediction": "Lima"}
    for stage in ("benchmark-capitals", "benchmark-base"):
        write_scores(inputs[stage], "capitals", METRICS, sample)
    facts = gather("tiny-capitals", skill(), "d" * 64, inputs, model)
    told = model_card(facts)
    numpy = licence_of_import("numpy")
    assert numpy is not None and licence_of_import("no_such_package") is None
    digest = sha256_json(versions[1]["files"])
    for row in (
        f"| capitals.jsonl | files | `{'1' * 64}` | shared out | CC0-1.0 |",
        f"| package:numpy/**/*.txt | files | `{digest}` | train | {numpy} |",
        f"| some/capitals | hub | `{'4' * 40}` | train | unknown |",
        "| networkx | python_docs | `3.6.1` | test | BSD |",
        f"| https://some.where/capitals.jsonl | url | `{'5' * 64}` | validation | unknown |",
        f"| items-capitals | `{facts.manifests['items-capitals'].key}` |",
    ):
        assert row in told
    assert "items of data of its own (train 1,000, validation 20, test 100)" in told
    assert "and in fine-tuning the items of capitals" in told and "/secret/place" not in told
    assert "Of 3 of 8 sources the licence is unknown here" in told
    assert head(facts).to_dict()["datasets"] == ["some/capitals"]
    known = [replace(o, licence="MIT") if o.split in (None, "train") else o for o in facts.own]
    corpus = tuple(replace(o, licence="MIT") for o in facts.origins)
    assert head(replace(facts, own=tuple(known), origins=corpus)).to_dict()["license"] == "mit", "tests teach nothing"


def test_a_corpus_source_states_its_licence(tmp_path: Path) -> None:
    read = data_card()["sources"][1]
    stated = {"kind": "files", "paths": ["/secret/place/poems.txt"], "licence": "CC0-1.0"}
    web = {"kind": "web", "pages": ["https://some.where/"], "sitemaps": [], "snapshot": "May", "licence": None}
    packed = {"kind": "files", "paths": ["package:numpy/a.txt", "/secret/place/poems.txt"], "licence": None}
    card = {"packages": {}, "sources": [read, {**read, "version": {"kind": "web"}}, read]}
    found = list(origins([stated, web, packed], card))
    assert [(o.name, o.version, o.licence) for o in found] == [
        ("poems.txt", "", "CC0-1.0"),
        ("https://some.where/", "May", None),
        ("package:numpy/a.txt, poems.txt", "", None),
    ]


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT\nLicense: something else", "MIT"),
        ("License: BSD 3-Clause\nClassifier: License :: OSI Approved :: BSD License", "BSD 3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
        (f"License: {'the whole text ' * 20}\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
        ("Classifier: Programming Language :: Python", None),
    ],
)
def test_a_package_says_its_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: str, licence: str | None
) -> None:
    info = tmp_path / "some_poems-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: some-poems\nVersion: 1.0\n{metadata}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with DigestCache(tmp_path / "cache") as cache:
        assert declared_licence(installed()["some-poems"], cache) == licence
        (info / "METADATA").unlink()
        assert declared_licence(installed()["some-poems"], cache) is None


def test_a_dataset_says_licence_and_language(tmp_path: Path, facts: Facts) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [cc-by-4.0]\nlanguage: de\n---\nPoems.\n")
    source = {"kind": "hub", "dataset": str(tmp_path)}
    read = {**data_card()["sources"][1], "version": {"kind": "hub"}}
    (origin,) = origins([source], {"packages": {}, "sources": [read]})
    assert (origin.licence, origin.languages) == ("cc-by-4.0", ("de",))
    assert dataset_card("no-such/dataset", "0" * 40) == {} == dataset_card(str(tmp_path / "absent"), None)
    from_hub = replace(origin, name="some/poems", version="0" * 40)
    data = head(replace(facts, origins=(from_hub,))).to_dict()
    assert (data["license"], data["datasets"], data["language"]) == ("cc-by-4.0", ["some/poems"], ["de"])


@pytest.mark.parametrize(
    ("licences", "found"),
    [
        (["MIT", "mit"], {"license": "mit"}),
        (["MIT", "Apache-2.0"], {"license": "other", "license_name": "licences-of-the-sources"}),
        (["PSF-2.0"], {"license": "other", "license_name": "licences-of-the-sources"}),
        (["MIT", None], {}),
    ],
)
def test_the_head_names_a_licence_where_all_are_known(
    facts: Facts, licences: list[str | None], found: dict[str, str]
) -> None:
    all_of_them = tuple(Origin("url", "a", "", licence) for licence in licences)
    data = head(replace(facts, origins=all_of_them)).to_dict()
    assert {name: data[name] for name in ("license", "license_name") if name in data} == found


def test_an_absent_manifest_is_named(inputs: dict[str, Path], exported: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=MANIFEST):
        gather("tiny-qa", load_skill("qa"), "d" * 64, {**inputs, "tokens": tmp_path}, exported)
