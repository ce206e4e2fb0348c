"""Standard tasks are named, checked, found on disk and read there; nothing of it needs the network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from finished_stages import train_tiny_tokenizer, write_model
from hub_mirror import hub_mirror
from standard_data import write_data, write_rows
from web_server import Answer, web_server

from gptcore.adapters.lm_eval_tasks import load_standard
from gptcore.evaluation.task_catalogue import OWN_TASKS, Catalogue, TaskFile, check_tasks, problem_of, read_task
from gptcore.evaluation.task_data import (
    Need,
    cached_commit,
    local_versions,
    needs,
    pinned,
    read_folder,
    unpinned,
    versions_of,
)
from gptcore.plan import difference, resolve_tasks
from gptcore.presets import load_preset
from gptcore.stages import identity, stages
from gptcore.text.digests import DigestCache


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def own(folder: Path, **yamls: str) -> Catalogue:
    """A catalogue of these files, in which unknown names are not looked for among lm-eval's 14,000."""
    folder.mkdir()
    for name, text in yamls.items():
        (folder / f"{name}.yaml").write_text(text)
    catalogue = Catalogue(folder, [folder])
    catalogue.__dict__["_shipped"] = type(catalogue._own[0][1])()
    return catalogue


TASK = "task: {}\ndataset_path: some/data\noutput_type: multiple_choice\n"


def test_a_name_stands_for_a_task_a_group_or_a_tag(tmp_path: Path) -> None:
    catalogue = own(
        tmp_path / "tasks",
        one=TASK.format("one") + "tag: [even, some]\ndoc_to_text: !function code.text\n",
        two='include: one.yaml\n"task": "two"\n',
        three=TASK.format("three"),
        part="group: part\ntask: [one]\n",
        whole="group: whole\ndataset_name: handed\ntask:\n- part\n- {task: three, dataset_name: own}\n- group: inner\n"
        "  task: [two]\n- {task: inline, dataset_path: other/data, output_type: loglikelihood}\n",
    )
    assert [task.name for task in catalogue.tasks("one")] == ["one"]
    assert catalogue.tasks("two")[0].config["doc_to_text"] == "!function code.text", "included keys count"
    assert [task.name for task in catalogue.tasks("even")] == ["one", "two"], "so do included tags"
    whole = {task.name: task.config.get("dataset_name") for task in catalogue.tasks("whole")}
    assert whole == {"one": "handed", "three": "own", "two": "handed", "whole::inline": "handed"}
    with pytest.raises(ValueError, match="unknown benchmark task 'thre'; near it: three; `python -m lm_eval ls tasks`"):
        catalogue.tasks("thre")


def test_lm_evals_own_tasks_are_found_where_their_names_point() -> None:
    catalogue = Catalogue(Path("nowhere"))
    for name, path in {
        "hellaswag": "Rowan/hellaswag",
        "arc_easy": "allenai/ai2_arc",
        "lambada_openai": "EleutherAI/lambada_openai",
        "wikitext": "EleutherAI/wikitext_document_level",
        "blimp_adjunct_island": "nyu-mll/blimp",
    }.items():
        (task,) = catalogue.tasks(name)
        assert (task.name, task.config["dataset_path"]) == (name, path)
        assert problem_of(task) is None
    assert len(catalogue.tasks("blimp")) == 67
    assert "_shipped" not in catalogue.__dict__, "none of them takes the index of everything"


def test_tasks_that_cannot_be_measured_are_named_all_at_once(tmp_path: Path) -> None:
    drawn = "task: drawn\ndataset_path: a/b\noutput_type: generate_until\ngeneration_kwargs: {do_sample: true}\n"
    catalogue = own(
        tmp_path / "tasks",
        good=TASK.format("good"),
        drawn=drawn,
        warm=drawn.replace("drawn", "warm").replace("do_sample: true", "temperature: 0.5"),
        greedy=drawn.replace("drawn", "greedy").replace("do_sample: true", "do_sample: false, temperature: 1"),
        shown=TASK.format("shown") + "doc_to_image: image\n",
        ran=TASK.format("ran") + "unsafe_code: true\n",
        odd="task: odd\ndataset_path: a/b\noutput_type: ranking\n",
        bare="task: bare\noutput_type: multiple_choice\n",
        both="group: both\ntask: [good, greedy]\n",
    )
    assert [task.name for task in check_tasks(["both"], catalogue)] == ["good", "greedy"]
    with pytest.raises(ValueError) as refused:
        check_tasks(["drawn", "warm", "shown", "ran", "odd", "bare", "godo", "both", "good"], catalogue)
    told = str(refused.value)
    assert told.startswith("benchmark.tasks: ")
    for piece in (
        "'drawn': it samples",
        "'warm': it samples",
        "'shown': it shows pictures",
        "'ran': it runs generated code",
        "output_type 'ranking' is none of",
        "'bare': it names no dataset",
        "unknown benchmark task 'godo'; near it: good",
        "'good' is listed twice",
    ):
        assert piece in told
    assert problem_of(TaskFile("heldout", read_task(OWN_TASKS / "heldout.yaml"), OWN_TASKS)) is not None


def test_what_a_config_reads_of_a_folder(data: Path) -> None:
    arc = data / "allenai" / "ai2_arc"
    found = read_folder(arc, "ARC-Easy")
    assert [path.name for path in found.files] == ["test.jsonl", "train.jsonl", "validation.jsonl"]
    assert found.inside is None, "its README declares the config"
    with pytest.raises(FileNotFoundError, match=r"no config 'ARC-Hard': its README\.md declares ARC-Easy"):
        read_folder(arc, "ARC-Hard")
    bare = data / "nyu-mll" / "blimp"
    assert read_folder(bare, "adjunct_island").inside == "adjunct_island"
    with pytest.raises(FileNotFoundError, match=r"no config 'drop_argument': no README\.md declares it"):
        read_folder(bare, "drop_argument")
    assert len(read_folder(data / "Rowan" / "hellaswag", None).files) == 2
    (data / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no data files"):
        read_folder(data / "empty", None)


def test_missing_data_is_named_with_what_to_fetch(data: Path, tmp_path: Path) -> None:
    found = needs(check_tasks(["hellaswag", "toxigen", "blimp"], Catalogue(tmp_path)))
    assert len(found) == 2 + 67
    with DigestCache(tmp_path) as digests, pytest.raises(ValueError) as refused:
        local_versions(found, str(data), digests)
    told = str(refused.value)
    assert "hellaswag" not in told
    assert (
        f"toxigen: skg/toxigen-data (config annotated): there is no folder {data}/skg/toxigen-data; "
        f"fetch it with: hf download skg/toxigen-data --repo-type dataset --local-dir {data}/skg/toxigen-data" in told
    )
    assert "blimp_drop_argument: nyu-mll/blimp (config drop_argument)" in told
    assert "blimp_adjunct_island" not in told
    elsewhere = {"Rowan/hellaswag": str(data / "Rowan" / "hellaswag")}
    with DigestCache(tmp_path) as digests:
        versions = local_versions(found[:2], elsewhere, digests)
    assert versions["skg/toxigen-data (config annotated)"] is None, "not in the mapping: the hub's"
    names, shas = ("data/train.jsonl", "data/validation.jsonl"), _shas(data / "Rowan" / "hellaswag" / "data")
    assert versions["Rowan/hellaswag"] == {"files": [list(pair) for pair in zip(names, shas, strict=True)]}


def _shas(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


def test_without_the_hub_its_caches_tell_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    need, commit = Need("some/data", None, tasks=["some"]), "c" * 40
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "tables"))
    closed = "http://127.0.0.1:9"
    with DigestCache(tmp_path) as digests:
        with pytest.raises(
            ValueError, match=r"some: some/data: .*no cache holds it; fetch it with: hf download some/d"
        ):
            versions_of([need], closed, digests)
        (tmp_path / "tables" / "some___data" / "default" / "0.0.0" / commit).mkdir(parents=True)
        assert versions_of([need], closed, digests) == {"some/data": {"commit": commit}}
    held = tmp_path / "hub" / "datasets--some--data"
    (held / "snapshots" / ("d" * 40)).mkdir(parents=True)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("d" * 40)
    assert cached_commit("some/data") == "d" * 40, "the hub's own cache comes first"

    gone = Need("some/data", None, revision="e" * 40, tasks=["some"])
    with (
        DigestCache(tmp_path) as digests,
        pytest.raises(ValueError, match=f"--repo-type dataset --revision {'e' * 40} "),
    ):
        versions_of([gone], closed, digests)
    (kept,) = pinned([need], {"some/data": {"commit": commit}})
    with DigestCache(tmp_path) as digests:
        assert versions_of([kept], closed, digests) == {"some/data": {"commit": commit}}, "not the cache's newest"


def test_the_files_that_define_a_task_enter_the_keys(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tasks"
    own(
        folder,
        group="group: ours\ntask: [mine, hellaswag]\n",
        mine="include: shared/base.yml\ntask: mine\ndoc_to_text: !function code.text\n",
        other=TASK.format("other"),
    )
    (folder / "shared").mkdir()
    rows = [data / "Rowan" / "hellaswag" / "data" / f"{name}.jsonl" for name in ("train", "validation")]
    base = "dataset_path: json\noutput_type: multiple_choice\ndataset_kwargs: {{data_files: {}}}\n"
    (folder / "shared" / "base.yml").write_text(base.format(rows[0]))
    (folder / "code.py").write_text("def text(doc): return doc['ctx']\n")
    monkeypatch.setattr(Catalogue.__init__, "__defaults__", ([folder],))

    def version(tasks: str, recorded: dict[str, Any] | None = None) -> dict[str, Any]:
        loaded = load_preset("quickstart", [f"benchmark.tasks=[{tasks}]", f"benchmark.data_dir={data}"])
        (found,) = resolve_tasks(loaded, tmp_path, recorded=recorded)
        if recorded is None:
            assert resolve_tasks(loaded, tmp_path, anew=False) == [found], "a plan sees the same"
        versions: dict[str, Any] = found["task_data"]
        return versions

    before = version("ours")
    assert [name for name, _ in before["task files"]["files"]] == [
        "code.py", "group.yaml", "mine.yaml", "shared/base.yml",
    ]  # fmt: skip
    assert "task files" not in version("hellaswag"), "lm-eval's own are known by its version"
    assert "task files" not in version("ours", recorded={"Rowan/hellaswag": {}}), "as a record of before was made"
    for name in ("code.py", "group.yaml", "mine.yaml", "shared/base.yml"):
        was = (folder / name).read_text()
        (folder / name).write_text(f"{was}# another\n")
        changed = version("ours")
        assert {n for n in before if before[n] != changed[n]} == {"task files"}, name
        (folder / name).write_text(was)
    (folder / "other.yaml").write_text(f"{TASK.format('other')}# not listed\n")
    assert version("ours") == before
    parts: dict[str, Any] = {"config": {}, "inputs": {}, "libraries": {}, "version": 1}
    assert (
        difference({**parts, "task_data": before}, {**parts, "task_data": changed}) == "other files of benchmark tasks"
    )


def test_two_tasks_that_read_files_of_one_format_are_two(tmp_path: Path) -> None:
    task = "task: {}\ndataset_path: json\noutput_type: multiple_choice\ndataset_kwargs: {{data_files: {}}}\n"
    yamls = {name: task.format(name, tmp_path / f"{name}.json") for name in ("one", "two")}
    catalogue = own(tmp_path / "tasks", **yamls)
    for name in yamls:
        (tmp_path / f"{name}.json").write_text(name)
    with DigestCache(tmp_path) as digests:
        versions = local_versions(needs(check_tasks(list(yamls), catalogue)), None, digests)
    sha = {name: hashlib.sha256(name.encode()).hexdigest() for name in yamls}
    assert versions == {f"json of {name}": {"files": [[f"{name}.json", sha[name]]]} for name in yamls}


def test_a_recorded_commit_is_what_the_hub_is_asked_for(tmp_path: Path) -> None:
    def info(commit: str) -> Answer:
        body = json.dumps({"id": "Rowan/hellaswag", "sha": commit, "tags": []}).encode()
        return Answer(body, headers={"Content-Type": "application/json"})

    with web_server() as hub:
        asked = f"/api/datasets/Rowan/hellaswag/revision/{'a' * 40}"
        hub.answers = {"/api/datasets/Rowan/hellaswag": info("b" * 40), asked: info("a" * 40)}
        loaded = load_preset("quickstart", ["benchmark.tasks=[hellaswag]", f"benchmark.data_dir={hub.url}"])
        newest = [{"task_data": {"Rowan/hellaswag": {"commit": "b" * 40}}}]
        then = {"Rowan/hellaswag": {"commit": "a" * 40}}
        assert resolve_tasks(loaded, tmp_path) == newest
        assert resolve_tasks(loaded, tmp_path, recorded=then) == [{"task_data": then}]
        assert resolve_tasks(loaded, tmp_path, anew=False) == newest, "a plan goes by the newest still"


def test_what_no_version_names_is_told(tmp_path: Path) -> None:
    catalogue = own(
        tmp_path / "tasks",
        hub=TASK.format("hub"),
        coded="task: coded\ncustom_dataset: !function code.load\noutput_type: multiple_choice\n",
        classed="task: classed\nclass: !function code.Task\n",
        far="task: far\ndataset_path: json\noutput_type: multiple_choice\ndataset_kwargs:\n"
        "  data_files: {test: 'hf://datasets/some/data/a.json'}\n",
        near="task: near\ndataset_path: json\noutput_type: multiple_choice\ndataset_kwargs: {data_files: a.json}\n",
    )
    code, address = "what its own code fetches", "what lies at its address"
    tasks = check_tasks(["hub", "coded", "classed", "far", "near"], catalogue)
    assert unpinned(tasks) == {"coded": code, "classed": code, "far": address}


def test_a_mirror_tells_commits_and_what_it_lacks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "tables"))
    there, not_there = Need("Rowan/hellaswag", None, tasks=["hellaswag"]), Need("skg/toxigen-data", None)
    with hub_mirror(data) as mirror, DigestCache(tmp_path) as digests:
        found = versions_of([there], f"{mirror.address}/", digests)
        assert found == {"Rowan/hellaswag": {"commit": mirror.commit("Rowan/hellaswag")}}
        with pytest.raises(ValueError, match=f"toxigen-data not found at {mirror.address}") as refused:
            versions_of([there, not_there], mirror.address, digests)
        assert "Rowan/hellaswag" not in str(refused.value)
        with pytest.raises(ValueError, match=f"has no revision 'old' at {mirror.address}"):
            versions_of([Need("Rowan/hellaswag", None, revision="old")], mirror.address, digests)
    with (
        DigestCache(tmp_path) as digests,
        pytest.raises(ValueError, match=f"cannot reach {mirror.address}: .*no cache"),
    ):
        versions_of([there], mirror.address, digests)


def test_tasks_read_a_mirror(data: Path, tmp_path: Path) -> None:
    """lm-eval's own data loading, from another address: the scores of the same files in a folder."""
    write_model(tmp_path / "model", train_tiny_tokenizer(tmp_path), "qa")
    answers = []
    with hub_mirror(data) as mirror:
        for place in (mirror.address, str(data)):
            # HF_ENDPOINT: whatever asked the hub instead of the mirror would fail
            done = gptmill(
                tmp_path / "home",
                *("bench", "lm-eval", str(tmp_path / "model"), "--tasks", "hellaswag,arc_easy", "--num-fewshot", "2"),
                *("--data-dir", place, "--json"),
                env={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")},
            )
            assert done.returncode == 0, done.stderr[-2000:]
            answers.append(json.loads(done.stdout.splitlines()[-1]))
        commits = {name: mirror.commit(name.split()[0]) for name in answers[0]["task_data"]}
    assert answers[0]["tasks"] == answers[1]["tasks"] and answers[0]["tasks"]["arc_easy"]["n"] == 10
    assert answers[0]["task_data"] == {name: {"commit": commit} for name, commit in commits.items()}
    commit = commits["Rowan/hellaswag"]
    assert f"GET /datasets/Rowan/hellaswag/resolve/{commit}/data/train.jsonl" in " ".join(mirror.asked)


def preset(data: Path, *more: str) -> list[str]:
    return ["benchmark.tasks=[hellaswag, arc_easy]", f"benchmark.data_dir={data}", *more]


def test_the_data_enters_the_keys_of_what_reads_it_and_its_place_does_not(data: Path, tmp_path: Path) -> None:
    def keys(at: Path, *more: str) -> dict[str, dict[str, Any]]:
        loaded = load_preset("quickstart", preset(at, *more))
        sources = [{"commit": "x"}, *resolve_tasks(loaded, tmp_path / "home")]
        return {
            name: identity(stage, loaded, dict.fromkeys(stage.inputs, "0"), sources)
            for name, stage in stages(loaded).items()
            if name not in ("publish", "report")
        }

    before = keys(data)
    reading = [name for name, parts in before.items() if "task_data" in parts]
    assert reading == ["benchmark-base", "benchmark-summarization", "benchmark-qa"]
    moved = tmp_path / "moved"
    data.rename(moved)
    assert keys(moved) == before
    write_rows(moved / "Rowan" / "hellaswag" / "data" / "validation.jsonl", [{"other": 1}])
    changed = keys(moved)
    assert [name for name in before if before[name] != changed[name]] == reading
    parts = changed["benchmark-base"]
    assert difference(before["benchmark-base"], parts) == "other data of standard tasks"
    clear = keys(moved, "corpus.steps=[{kind: decontaminate}]")
    assert "task_data" in clear["corpus"]


def gptmill(home: Path, *arguments: str, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        env={**os.environ, "GPTMILL_HOME": str(home), "HF_HUB_OFFLINE": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_bad_list_is_refused_before_anything_starts(command: str, data: Path, tmp_path: Path) -> None:
    sets = [f"--set={value}" for value in ("benchmark.tasks=[hellaswag, toxigen]", f"benchmark.data_dir={data}")]
    done = gptmill(tmp_path / "home", command, "quickstart", *sets)
    assert done.returncode == 2, done.stderr
    assert "toxigen: skg/toxigen-data (config annotated): there is no folder" in done.stderr
    assert "hf download skg/toxigen-data --repo-type dataset --local-dir" in done.stderr
    assert not (tmp_path / "home" / "store").exists()


def test_a_plan_imports_no_lm_eval(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom flows.command_line import main\n"
        "code = main(sys.argv[1:])\n"
        "print([m for m in ('torch', 'lm_eval', 'datasets') if m in sys.modules], "
        "'gptcore.evaluation.task_catalogue' in sys.modules, code)"
    )
    for sets, looked in (([], False), ([f"--set={value}" for value in preset(data)], True)):
        done = subprocess.run(
            [sys.executable, "-c", code, "plan", "quickstart", *sets],
            env={**os.environ, "GPTMILL_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == f"[] {looked} 0"


def test_tasks_load_from_disk(data: Path) -> None:
    """Folders with a README, folders named like the config, and bare ones; a group of which one member is there."""
    for name, documents in {"hellaswag": 10, "arc_easy": 10, "lambada_openai": 10, "wikitext": 4}.items():
        task = load_standard(name, [OWN_TASKS], str(data))["tasks"][name]
        assert len(list(task.eval_docs)) == documents
    mapping = {"nyu-mll/blimp": str(data / "nyu-mll" / "blimp")}
    name = "blimp_adjunct_island"
    assert len(list(load_standard(name, [OWN_TASKS], mapping)["tasks"][name].eval_docs)) == 10
