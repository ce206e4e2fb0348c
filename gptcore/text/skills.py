"""What a model is fine-tuned for: items made from documents, and the one function that builds prompts."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from gptcore.config import SPECIAL_TOKENS, Skill
from gptcore.text import docstring_items

if TYPE_CHECKING:
    from gptcore.text.documents import Document
    from gptcore.text.tokenizer import TextTokenizer

Thing = TypeVar("Thing")

_PARTS = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + r"|\{\w+\})")


@dataclass(frozen=True)
class Item:
    """One input-target pair of a skill."""

    id: str
    """Document id, kind and name: unique, and the same in every run."""
    group: str
    """The document's group: the unit of splitting."""
    kind: str
    """What sort of question; the skill's name where there is only one sort."""
    fields: dict[str, str]
    """What fills the template's placeholders."""
    target: str
    """The right output."""
    answers: tuple[str, ...] = ()
    """Every right output, where there are several."""

    @property
    def right(self) -> tuple[str, ...]:
        """What a prediction is compared with."""
        return self.answers or (self.target,)


def _summaries(skill: Skill, document: Document) -> Iterator[Item]:
    pair = docstring_items.summary_item(
        document.name, document.text, skill.min_input_chars or 1, skill.max_target_chars or len(document.text)
    )
    if pair:
        yield Item(document.id, document.group, skill.name, {"document": pair[0]}, pair[1])


def _parameters(skill: Skill, document: Document) -> Iterator[Item]:
    everything = len(document.text) * 2
    found = docstring_items.parameter_items(
        document.id, document.text, skill.max_context_chars or everything, skill.max_target_chars or everything
    )
    for kind, name, context, question, answer in found:
        identity = f"{document.id}#{kind}:{name}"
        yield Item(identity, document.group, kind, {"context": context, "question": question}, answer)


_EXTRACTORS: dict[str, Callable[[Skill, Document], Iterator[Item]]] = {
    "python_docs_summaries": _summaries,
    "python_docs_parameters": _parameters,
}


def items(skill: Skill, documents: Iterable[Document]) -> Iterator[Item]:
    """Every pair that the documents hold, in their order; only the skill's kinds where it names some."""
    assert skill.extractor is not None
    extract = _EXTRACTORS[skill.extractor]
    for document in documents:
        for item in extract(skill, document):
            if not skill.kinds or item.kind in skill.kinds:
                yield item


def even_sample(things: Iterable[Thing], count: int, key: str, identity: Callable[[Thing], str]) -> list[Thing]:
    """`count` things at most, each as likely as any other, the same ones whatever their order or number of readers.

    The smallest hashes of (key, identity) win, so only `count` things are held at a time, and a longer stream keeps
    the natural proportions of its sorts. They come in hash order: any prefix is an even sample too.
    """

    def digest(thing: Thing) -> bytes:
        return hashlib.blake2b(f"{key}\0{identity(thing)}".encode(), digest_size=16).digest()

    return heapq.nsmallest(count, things, key=digest)


def sample_items(found: Iterable[Item], count: int, key: str) -> list[Item]:
    """An even sample of items, kinds in their natural proportion; see `even_sample`."""
    return even_sample(found, count, key, lambda item: item.id)


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what it had to leave out."""

    tokens: list[int]
    given: int
    """Tokens of the field that `Skill.truncate` names."""
    lost: int
    """How many of them, from the end, found no room."""
    head: int
    """Tokens up to that field's end: those that questions about one text have in common."""


def encode_example(
    skill: Skill,
    fields: Mapping[str, str],
    target: str | None,
    tokenizer: TextTokenizer,
    max_input_tokens: int,
) -> tuple[list[int], list[int]]:
    """The ids of `encode_prompt` and those of the target: the same for training, benchmark and use.

    The target is never cut, and ends with the end-of-text token; without a target it is empty.
    """
    prompt = encode_prompt(skill, fields, tokenizer, max_input_tokens).tokens
    return prompt, [] if target is None else encode_target(target, tokenizer)


def encode_target(target: str, tokenizer: TextTokenizer) -> list[int]:
    """The ids of a right output, and the end-of-text token."""
    return [*tokenizer.encode(target), tokenizer.eot]


def encode_prompt(skill: Skill, fields: Mapping[str, str], tokenizer: TextTokenizer, max_input_tokens: int) -> Prompt:
    """The prompt of one example.

    Only the template's special tokens become special tokens; those spelled out in a field stay ordinary text. A prompt
    over `max_input_tokens` loses the end of the field that `skill.truncate` names.

    Raises ValueError for a field that is missing or unknown, and for a prompt too long even without that field.
    """
    parts = [part for part in _PARTS.split(skill.template) if part]
    names = {part[1:-1] for part in parts if part[0] == "{" and part[-1] == "}"}
    if names != set(fields):
        raise ValueError(f"skill {skill.name} takes the fields {sorted(names)}, not {sorted(fields)}")

    encoded: list[list[int]] = []
    shortened = -1
    for part in parts:
        if part in tokenizer.special:
            encoded.append([tokenizer.special[part]])
        elif part[1:-1] in names:
            shortened = len(encoded) if part[1:-1] == skill.truncate else shortened
            encoded.append(tokenizer.encode(fields[part[1:-1]]))
        else:
            encoded.append(tokenizer.encode(part))
    excess = max(0, sum(map(len, encoded)) - max_input_tokens)
    given = encoded[shortened]
    if excess:
        if excess > len(given):
            rest = sum(map(len, encoded)) - len(given)
            others = ", ".join(sorted(names - {skill.truncate})) or "the template"
            raise ValueError(
                f"skill {skill.name}: the prompt takes {rest} tokens without its {skill.truncate}, "
                f"the limit is {max_input_tokens}; shorten {others}, or raise max_input_tokens"
            )
        encoded[shortened] = given[: len(given) - excess]
    head = sum(map(len, encoded[: shortened + 1]))
    return Prompt([token for part in encoded for token in part], len(given), excess, head)
