import json
import re
from pathlib import Path

import pytest
import torch
from tiny_training import history

from gptcore import durable
from gptcore.config import SPECIAL_TOKENS, Finetune, Runtime, Skill, Tokenizer
from gptcore.model.families import build
from gptcore.model.generate import generate
from gptcore.model.gpt import GPTConfig
from gptcore.model.weights import load_model, save_model
from gptcore.text.documents import Document, write
from gptcore.text.skills import encode_example
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.training.finetune import examples, finetune
from gptcore.work import Interrupted, Work

VOCABULARY = 256 + len(SPECIAL_TOKENS) + 40
SKILL = Skill(
    name="qa",
    extractor="python_docs_parameters",
    template="<|context|>{context}<|question|>{question}<|answer|>",
    truncate="context",
    metrics=("exact_match",),
    target_metric="exact_match",
    baseline="most_frequent_answer",
)


def docstring(number: int) -> str:
    """A numpydoc text whose parameter types go by rule."""
    name, kind = f"width{number}", ("int", "float", "str", "bool")[number % 4]
    return f"Draw the thing.\n\nParameters\n----------\n{name} : {kind}\n    The {kind} that it takes, here {number}.\n"


def write_corpus(root: Path, **counts: int) -> Path:
    """A finished corpus: so many documents a split."""
    (root / "documents").mkdir(parents=True)
    for split, count in counts.items():
        documents = (
            Document(f"{split}/{i}", "python_docs", f"{split}{i}", "p", f"p.f{i}", docstring(i)) for i in range(count)
        )
        (root / "documents" / f"{split}-00000.jsonl").write_bytes(b"".join(map(write, documents)))
    return root


def write_base(root):
    """A finished `pretrain` stage, of random weights, with a trained tokenizer; and its corpus."""
    corpus = write_corpus(root / "corpus", train=120, validation=20, test=5)
    work = Work(root / "pretrain", {"corpus": corpus}, Runtime(threads=1))
    train_tokenizer(Tokenizer(vocab_size=VOCABULARY), work)
    work.metrics.close()
    save_model(build(GPTConfig("gpt2", 2, 2, 32, 160, VOCABULARY)).initialise(1), root / "pretrain")
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


def config(**changes):
    defaults = {"steps": 40, "batch_tokens": 512, "learning_rate": 3e-3, "warmup_steps": 4, "eval_every": 20}
    return Finetune(**{**defaults, "max_input_tokens": 140, "max_target_tokens": 16, "eval_tokens": 2000, **changes})


@pytest.fixture
def workspace(base, tmp_path):
    works = []

    def make(name="run", corpus=base / "corpus", pretrained=base / "pretrain"):
        said = []
        runtime = Runtime(device="cpu", threads=1, checkpoint_every=9)
        work = Work(tmp_path / name, {"pretrain": pretrained, "corpus": corpus}, runtime, on_say=said.append)
        work.said = said
        works.append(work)
        return work

    yield make
    for work in works:
        work.metrics.close()


def test_fine_tuning_learns_and_leaves_a_model_directory(workspace, base):
    work = workspace()
    outcome = finetune(config(steps=60), SKILL, work)
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "skill.json")
    assert outcome.results == names
    assert all((work.directory / name).is_file() for name in names)
    assert (work.directory / "tokenizer.json").read_bytes() == (base / "pretrain/tokenizer.json").read_bytes()
    skill = json.loads((work.directory / "skill.json").read_text())
    assert (skill["name"], skill["max_input_tokens"], skill["max_target_tokens"]) == ("qa", 140, 16)
    losses = [value for _, key, value in history(work.directory) if key == "finetune-qa/val_loss"]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]
    assert outcome.metrics["finetune-qa/val_loss"] == losses[-1]
    assert outcome.metrics["finetune-qa/items"] > 100
    assert not any("held out" in line for line in work.said)

    tokenizer, model = TextTokenizer.load(work.directory), load_model(work.directory)
    fields = {"context": "width9 : float\n    The float that it takes.", "question": "What is the type of width9?"}
    prompt, _ = encode_example(SKILL, fields, None, tokenizer, 140)
    assert 0 < len(generate(model, [prompt], 16, {tokenizer.eot})[0]) <= 16


def test_packing_learns_the_same_in_rows_of_the_context(workspace):
    losses = {}
    for packing in (False, True):
        work = workspace(f"packing-{packing}")
        losses[packing] = finetune(config(steps=60, packing=packing), SKILL, work).metrics["finetune-qa/val_loss"]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)
    assert losses[True] != losses[False]
    (said,) = [line for line in work.said if "packed" in line]
    assert re.fullmatch(r"\d+ examples packed, none cut or left out: \d+\.\d% of the places are empty", said)


def test_lora_leaves_a_model_directory_like_any_other_and_its_adapter(workspace, base):
    from peft import PeftModel

    work = workspace()
    outcome = finetune(config(method="lora", learning_rate=3e-2, steps=60), SKILL, work)
    assert outcome.results[-2:] == ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
    assert all((work.directory / name).is_file() for name in outcome.results)
    losses = [value for _, key, value in history(work.directory) if key == "finetune-qa/val_loss"]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 5.1  # uniform over 304 ids: 5.7
    merged, adapted = load_model(work.directory), load_model(base / "pretrain")
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    assert {n for n, t in merged.state_dict().items() if not torch.equal(t, before[n])} == set(adapted.stacks)
    PeftModel.from_pretrained(adapted, str(work.directory / "adapter"))
    ids = torch.arange(100)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids), adapted.eval()(ids), atol=1e-5, rtol=0)


def test_questions_about_one_text_share_a_row(workspace):
    items, losses, lines = {}, {}, []
    for shared in (False, True):
        work = workspace(f"shared-{shared}")
        metrics = finetune(config(steps=60, share_context=shared), SKILL, work).metrics
        items[shared], losses[shared] = metrics["finetune-qa/items"], metrics["finetune-qa/val_loss"]
        lines += [line for line in work.said if "rows" in line]
    assert items[True] == items[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.2)
    assert losses[True] != losses[False]
    (said,) = lines
    found = re.fullmatch(r"(\d+) items in (\d+) rows of one text each", said)
    assert found and int(found[1]) == items[True] > int(found[2])


def test_as_many_tokens_hold_more_answers_where_a_text_is_shared(workspace, base):
    tokenizer = TextTokenizer.load(base / "pretrain")
    alone, shared = (
        examples(config(steps=5, warmup_steps=1, share_context=shared), SKILL, tokenizer, 160, workspace(str(shared)))
        for shared in (False, True)
    )
    assert sum(map(len, alone.train)) == pytest.approx(sum(map(len, shared.train)), rel=0.05)
    assert sum(len(example.turns) for example in shared.train) > len(alone.train)
    assert max(map(len, shared.train)) <= 161
    assert not any(example.then for example in shared.validation), "a benchmark asks one question"


@pytest.mark.parametrize(
    "changes",
    [{}, {"packing": True}, {"share_context": True}, {"method": "lora"}],
    ids=["padded", "packed", "shared", "lora"],
)
def test_an_interrupted_run_ends_with_the_same_bytes(workspace, changes):
    finetune(config(**changes), SKILL, workspace("whole"))
    work = workspace("stopped")

    def interrupt(done, *_, **__):
        if done >= 15:
            work._pending = 15

    work.on_progress = interrupt
    with pytest.raises(Interrupted):
        finetune(config(**changes), SKILL, work)
    again = workspace("stopped")
    finetune(config(**changes), SKILL, again)
    assert any(line.startswith("resuming at step") for line in again.said)
    whole = work.directory.parent / "whole"
    assert durable.sha256_file(work.directory / "model.safetensors") == durable.sha256_file(whole / "model.safetensors")
    assert history(work.directory) == history(whole)


def test_without_validation_items_some_training_items_are_held_out(workspace, base, tmp_path):
    tokenizer = TextTokenizer.load(base / "pretrain")
    work = workspace(corpus=write_corpus(tmp_path / "corpus", train=100))
    data = examples(config(max_items=50, max_target_tokens=40), SKILL, tokenizer, 160, work)
    assert (len(data.train), len(data.validation)) == (49, 1)
    assert data.validation[0] not in data.train
    assert "1 training items are held out" in work.said[0]


def test_no_more_items_are_encoded_than_the_run_can_see(workspace, base):
    tokenizer = TextTokenizer.load(base / "pretrain")
    data = examples(config(steps=5, warmup_steps=1), SKILL, tokenizer, 160, workspace())
    read = sum(map(len, data.train))
    assert 5 * 512 <= read <= 5 * 512 + 160


def test_answers_that_are_too_long_are_left_out_and_counted(workspace, base):
    tokenizer = TextTokenizer.load(base / "pretrain")
    work = workspace()
    data = examples(config(max_target_tokens=4), SKILL, tokenizer, 160, work)
    assert max(len(example.target) for example in data.train) <= 4
    assert all(example.target[-1] == tokenizer.eot for example in data.train)
    assert "left out: too long" in work.said[0]


def test_a_long_prompt_is_cut_and_its_answer_kept(workspace, base):
    tokenizer = TextTokenizer.load(base / "pretrain")
    data = examples(config(max_input_tokens=40), SKILL, tokenizer, 160, workspace())
    assert max(len(example.prompt) for example in data.train) == 40
    assert min(len(example.target) for example in data.train) >= 2


def test_a_corpus_without_items_is_refused(workspace, tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "documents").mkdir(parents=True)
    prose = Document("a", "files", "a", None, None, "Nothing but prose.")
    (corpus / "documents/train-00000.jsonl").write_bytes(write(prose))
    with pytest.raises(ValueError, match="skill qa finds no training items in the corpus"):
        finetune(config(), SKILL, workspace(corpus=corpus))


def test_lengths_over_the_models_context_are_refused(workspace):
    with pytest.raises(ValueError, match=r"max_input_tokens \+ max_target_tokens 216 exceeds .* context of 160"):
        finetune(config(max_input_tokens=200), SKILL, workspace())


def test_a_checkpoint_from_another_base_model_is_refused(workspace, base, tmp_path):
    finetune(config(steps=5), SKILL, workspace())
    save_model(build(GPTConfig("gpt2", 2, 2, 32, 160, VOCABULARY)).initialise(2), tmp_path / "other")
    durable.place(base / "pretrain/tokenizer.json", tmp_path / "other/tokenizer.json")
    with pytest.raises(ValueError, match="was made with other base model than this run's"):
        finetune(config(steps=5), SKILL, workspace(pretrained=tmp_path / "other"))
