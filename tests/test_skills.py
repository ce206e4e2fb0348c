"""Items from docstrings, and prompts from items."""

from __future__ import annotations

import inspect
import random
from pathlib import Path

import pytest

from gptcore.config import SPECIAL_TOKENS, Skill
from gptcore.config import Tokenizer as TokenizerConfig
from gptcore.presets import load_skill
from gptcore.text import docstring_items
from gptcore.text.documents import Document, write
from gptcore.text.skills import encode_example, encode_prompt, even_sample, items, sample_items
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.work import Work

NUMPY = inspect.cleandoc("""
    Smooth a signal by a moving mean.

    The mean is taken over a window that slides along one axis; at both ends the window shrinks, so that
    the result is as long as the input.

    Parameters
    ----------
    signal : array_like of shape (n,)
        The values to smooth. Must be finite.
    width : int, optional
        Width of the window, in samples. Default is 5.
    mode : {'same', 'valid'}, default: 'same'
        What happens at the ends.
    out
        Where the result goes.

    Returns
    -------
    smoothed : ndarray
        The smoothed values.

    Raises
    ------
    ValueError
        If width is even.

    Examples
    --------
    >>> smooth([1, 2])
""")
GOOGLE = inspect.cleandoc("""
    Send a message.

    Args:
        address (str): Where it goes, such as
            `name@host`. Looked up once.
        retries (int, optional): How often to try again. Defaults to 3.
        quiet: No words about it.

    Returns:
        bool: Whether it arrived.

    Raises:
        TimeoutError: If nobody answers.
""")
SPHINX = inspect.cleandoc("""
    Open a door.

    :param key: The key to turn.
    :type key: Key
    :param int turns: How often, 2 by habit.
    :returns: the room behind it
    :raises LockedError: when the key does not fit
""")


def document(text: str, name: str = "module.function") -> Document:
    return Document(f"python_docs/{name}", "python_docs", "module", "package", name, text)


def answers(text: str, kind: str) -> dict[str, str]:
    found = docstring_items.parameter_items("id", text, 1000, 100)
    return {name: answer for k, name, _, _, answer in found if k == kind}


def test_numpydoc_sections() -> None:
    assert answers(NUMPY, "type") == {
        "signal": "array_like of shape (n,)",
        "width": "int",
        "mode": "{'same', 'valid'}",
    }
    assert answers(NUMPY, "default") == {"width": "5", "mode": "'same'"}
    assert answers(NUMPY, "meaning") == {
        "signal": "The values to smooth",
        "width": "Width of the window, in samples",
        "mode": "What happens at the ends",
        "out": "Where the result goes",
    }
    assert list(answers(NUMPY, "returns").values()) == ["ndarray"]
    assert answers(NUMPY, "raises") == {"ValueError": "ValueError"}


def test_google_sections() -> None:
    assert answers(GOOGLE, "type") == {"address": "str", "retries": "int"}
    assert answers(GOOGLE, "default") == {"retries": "3"}
    assert answers(GOOGLE, "meaning")["address"] == "Where it goes, such as `name@host`"
    assert list(answers(GOOGLE, "returns").values()) == ["bool"]
    assert answers(GOOGLE, "raises") == {"TimeoutError": "TimeoutError"}


def test_sphinx_fields() -> None:
    assert answers(SPHINX, "type") == {"key": "Key", "turns": "int"}
    assert answers(SPHINX, "default") == {}
    assert list(answers(SPHINX, "returns").values()) == ["the room behind it"]
    assert answers(SPHINX, "raises") == {"LockedError": "LockedError"}


@pytest.mark.parametrize(
    ("spec", "kind", "default"),
    [
        ("int", "int", None),
        ("int, default 0", "int", "0"),
        ("bool, optional (default=True)", "bool", "True"),
        ("`str`, *optional*, defaults to `None`", "str", "None"),
        ("{'a', 'b'}, default: 'a'", "{'a', 'b'}", "'a'"),
        ("int or tuple(int, int), optional", "int or tuple(int, int)", None),
        ("graph (default: nx.Graph)", "graph", "nx.Graph"),
        ("{default 'raise', 'drop'}, optional", None, None),
        ("optional", None, None),
    ],
)
def test_type_and_default_are_told_apart(spec: str, kind: str | None, default: str | None) -> None:
    assert docstring_items._split_type(spec) == (kind, default)


def many_documents(count: int) -> list[Document]:
    """Docstrings with distinct parameters in numpydoc and Google style."""
    made = []
    for i in range(count):
        if i % 2:
            body = f"Args:\n    alpha_{i} (int): Number {i}.\n    beta_{i} (str): Word {i}. Defaults to 'w{i}'."
        else:
            body = f"Parameters\n----------\nalpha_{i} : float, default {i}\n    Size {i}.\nbeta_{i}\n    Height {i}."
        made.append(document(f"Do the thing {i}.\n\n{body}", f"module.function_{i}"))
    return made


def test_answers_stand_in_their_contexts_and_ids_are_unique() -> None:
    skill = load_skill("qa")
    found = list(
        items(skill, [document(NUMPY, "a"), document(GOOGLE, "b"), document(SPHINX, "c"), *many_documents(300)])
    )
    assert len({item.id for item in found}) == len(found)
    assert {item.kind for item in found} == set(docstring_items.KINDS)
    for item in found:
        context = item.fields["context"]
        assert len(context) <= (skill.max_context_chars or 0)
        assert len(item.target) <= (skill.max_target_chars or 0)
        assert item.fields["question"].endswith("?")
        if item.kind == "unanswerable":
            assert item.target == "unanswerable"
        else:
            assert item.target in context


def test_unanswerable_questions_have_no_answer_and_a_natural_share() -> None:
    found = list(items(load_skill("qa"), many_documents(600)))
    unanswerable = [item for item in found if item.kind == "unanswerable"]
    assert 0.05 < len(unanswerable) / len(found) < 0.15
    absent = 0
    for item in unanswerable:
        context, question = item.fields["context"], item.fields["question"]
        asked = [word for word in question.strip("?").split() if word in context.replace(":", " ").split()]
        about = next((word for word in asked if word.startswith(("alpha", "beta"))), None)
        if about is None:
            absent += 1
        else:  # there, but without a default or a type
            line = next(line for line in context.splitlines() if line.startswith(about))
            assert ("default" not in line and "default" in question) or ("type" in question and ":" not in line)
    assert 0 < absent < len(unanswerable)


def test_items_are_the_same_in_every_run_and_kinds_can_be_chosen() -> None:
    documents = many_documents(50)
    assert list(items(load_skill("qa"), documents)) == list(items(load_skill("qa"), documents))
    only = load_skill("qa").model_copy(update={"kinds": ("type",)})
    assert {item.kind for item in items(only, documents)} == {"type"}


def test_an_entry_longer_than_the_context_gives_no_item() -> None:
    text = f"Parameters\n----------\nbig : int\n    {'word ' * 100}\nsmall : int\n    Little."
    found = list(items(load_skill("qa"), [document(text)]))
    assert {item.fields["question"].count("small") for item in found} == {1}
    assert all("word" not in item.fields["context"] for item in found)


def test_summary_and_its_document() -> None:
    (item,) = items(load_skill("summarization"), [document(NUMPY, "package.smooth")])
    assert item.target == "Smooth a signal by a moving mean."
    assert item.fields["document"].startswith("The mean is taken over a window that slides along one axis; at both")
    assert "smooth(" not in item.fields["document"] and "Parameters" not in item.fields["document"]


@pytest.mark.parametrize(
    "text",
    [
        "Only one paragraph, which is long enough to be a summary of something but has nothing after it.",
        "Short rest here.\n\nToo short.",
        f"Same words again.\n\nThe text says: same words again. {'And more of it. ' * 10}",
        f"Its own name.\n\nCall gizmo to see {'what happens then ' * 10}",
        f"Copyright of somebody.\n\n{'All rights reserved. ' * 10}",
        f"Parameters\n----------\nx : int\n    {'Meaning. ' * 20}\n\ny : int",
        f"{'Too long a summary ' * 12}.\n\n{'Some text. ' * 20}",
    ],
)
def test_bad_summaries_are_left_out(text: str) -> None:
    assert list(items(load_skill("summarization"), [document(text, "package.gizmo")])) == []


def test_sample_is_even_stable_and_streams() -> None:
    found = list(items(load_skill("qa"), many_documents(400)))
    chosen = sample_items(iter(found), 300, "key")
    assert len(chosen) == 300 and len({item.id for item in chosen}) == 300
    shuffled = found.copy()
    random.Random(0).shuffle(shuffled)
    assert sample_items(iter(shuffled), 300, "key") == chosen
    assert sample_items(iter(found), 300, "other key") != chosen
    assert sample_items(iter(found), 100, "key") == chosen[:100]
    for kind in ("type", "meaning"):
        natural = sum(item.kind == kind for item in found) / len(found)
        assert abs(sum(item.kind == kind for item in chosen) / 300 - natural) < 0.1
    assert even_sample(iter(()), 5, "key", str) == []


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    corpus = tmp_path_factory.mktemp("corpus")
    (corpus / "documents").mkdir()
    texts = [document(NUMPY, "a"), document(GOOGLE, "b"), document(SPHINX, "c"), *many_documents(40)]
    (corpus / "documents" / "train-00000.jsonl").write_bytes(b"".join(map(write, texts)))
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    work = Work(directory, {"corpus": corpus})
    train_tokenizer(TokenizerConfig(vocab_size=320), work)
    work.metrics.close()
    return TextTokenizer.load(directory)


def test_prompt_follows_the_template_and_the_target_ends(tokenizer: TextTokenizer) -> None:
    fields = {"context": "x : int", "question": "What is the type of x?"}
    prompt, target = encode_example(load_skill("qa"), fields, "int", tokenizer, 200)
    special = tokenizer.special
    assert prompt == [
        special["<|context|>"],
        *tokenizer.encode("x : int"),
        special["<|question|>"],
        *tokenizer.encode("What is the type of x?"),
        special["<|answer|>"],
    ]
    assert target == [*tokenizer.encode("int"), tokenizer.eot]
    assert encode_example(load_skill("qa"), fields, None, tokenizer, 200) == (prompt, [])


def test_fields_cannot_inject_special_tokens(tokenizer: TextTokenizer) -> None:
    nasty = "".join(SPECIAL_TOKENS) + "{question}"
    prompt, target = encode_example(
        load_skill("qa"), {"context": nasty, "question": nasty}, "<|endoftext|>", tokenizer, 1000
    )
    ids = set(tokenizer.special.values())
    assert [token for token in prompt if token in ids] == [
        tokenizer.special[name] for name in ("<|context|>", "<|question|>", "<|answer|>")
    ]
    assert [token for token in target if token in ids] == [tokenizer.eot]
    assert target[-1] == tokenizer.eot


def test_only_the_truncated_field_gives_way(tokenizer: TextTokenizer) -> None:
    skill = load_skill("qa")
    fields = {"context": "a long context " * 40, "question": "What is it?"}
    whole, _ = encode_example(skill, fields, None, tokenizer, 10_000)
    assert encode_prompt(skill, fields, tokenizer, 10_000).lost == 0
    cut, given = encode_prompt(skill, fields, tokenizer, 40), len(tokenizer.encode(fields[skill.truncate]))
    assert (len(cut.tokens), cut.given, cut.lost) == (40, given, len(whole) - 40)
    prompt, target = encode_example(skill, fields, "an answer " * 30, tokenizer, 40)
    tail = [tokenizer.special["<|question|>"], *tokenizer.encode("What is it?"), tokenizer.special["<|answer|>"]]
    assert len(prompt) == 40
    assert prompt[-len(tail) :] == tail
    assert prompt[: 40 - len(tail)] == whole[: 40 - len(tail)]
    assert tokenizer.decode(target) == "an answer " * 30
    with pytest.raises(ValueError, match=r"without its context, the limit is 5; shorten question"):
        encode_example(skill, fields, None, tokenizer, 5)


def test_wrong_fields_are_named(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ValueError, match=r"takes the fields \['context', 'question'\], not \['document'\]"):
        encode_example(load_skill("qa"), {"document": "x"}, None, tokenizer, 100)


def test_a_template_may_hold_ordinary_text(tokenizer: TextTokenizer) -> None:
    skill = Skill(
        name="plain",
        extractor="python_docs_summaries",
        template="Text: {document} Summary:",
        truncate="document",
        metrics=("rouge1",),
        target_metric="rouge1",
        baseline="lead_sentence",
    )
    prompt, _ = encode_example(skill, {"document": "Words."}, None, tokenizer, 100)
    assert tokenizer.decode(prompt) == "Text: Words. Summary:"
