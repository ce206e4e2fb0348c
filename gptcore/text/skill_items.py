"""The items stage: a skill's own data as items, split so that no test item stands in the training text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from gptcore.config_skill import Skill, SkillData
from gptcore.durable import write_json, writing
from gptcore.text.documents import SPLITS, Problem, clean_text, read_documents
from gptcore.text.harvest import group_hash
from gptcore.text.run_index import RunIndex, index_runs
from gptcore.text.skill_rows import read_rows
from gptcore.text.skills import Item, items, sample_items
from gptcore.text.sources import Version, source_labels
from gptcore.text.words import letter_words
from gptcore.work import Outcome, Work

PRIORITY = ("test", "validation", "train")
"""Of equal items the one in the earliest of these splits stays."""
NAMED = 3
"""Left out rows of one kind that are named, not only counted."""
COUNTS = "counts.json"


def stage_of(skill: Skill) -> str | None:
    """The stage that leaves a skill's items; None where they are made from the corpus."""
    return f"items-{skill.name}" if skill.data else None


def items_of(skill: Skill, inputs: Mapping[str, Path], split: str) -> Iterator[Item]:
    """A split's items: those of the input `items-<skill>`, or for a skill with an extractor those of `corpus`."""
    own = stage_of(skill)
    if own is None:
        return items(skill, read_documents(inputs["corpus"], split))
    return read_items(inputs[own], split)


def read_items(directory: Path, split: str) -> Iterator[Item]:
    """Stream the items that an items stage left."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    with (directory / "items" / f"{split}.jsonl").open("rb") as file:
        for line in file:
            yield _item(line)


def held_texts(directory: Path) -> Iterator[str]:
    """The text of each test item, input and output: what training text is cleared of."""
    for item in read_items(directory, "test"):
        yield "\n".join([*item.fields.values(), *item.right])


def build_items(skill: Skill, versions: Sequence[Version], work: Work) -> Outcome:
    """Make `items/<split>.jsonl` and the counts from a skill's data.

    `versions`: what `resolve_rows` gave for the source of each of `skill.data`.

    1. Every place of the data is read once, its rows made items of a split; a place that is read is a unit that stays.
    2. Splits are written, test first: an item goes whose input, or whose group, stands in an earlier one.
    Raises ValueError where no row has the columns, and where a split that is needed has no item.
    """
    found = [_read(skill, number, version, work) for number, version in enumerate(versions)]
    left_out = Counter[str]()
    for path in found:
        left_out.update(json.loads(path.with_suffix(".json").read_bytes()))
    counts = _write_splits(skill, found, left_out, work)
    for split in ("train", "test"):
        if not counts[split]:
            raise ValueError(
                f"skill {skill.name}: its data leave no item for the {split} split ({_told(left_out)}); give a place "
                f"with `split: {split}`, or raise test_share {skill.test_share:g} or validation_share"
            )
    if left_out:
        work.say(f"left out {_told(left_out)}")
    write_json(work.directory / COUNTS, {"items": counts, "left_out": dict(sorted(left_out.items()))})
    metrics = {f"{skill.name}/{split}_items": float(counts[split]) for split in SPLITS}
    metrics[f"{skill.name}/left_out"] = float(left_out.total())
    return Outcome(("items/*.jsonl", COUNTS), metrics)


def _told(left_out: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in sorted(left_out.items())) or "none left out"
    )


def _read(skill: Skill, number: int, version: Version, work: Work) -> Path:
    """The rows of one place as lines `<split> <item>`, with the counts of those that gave none beside them."""
    path = work.scratch / f"place-{number:03d}.lines"
    done = path.with_suffix(".json")
    if done.exists():
        return path
    place, named = skill.data[number], {entry.split for entry in skill.data}
    label = source_labels([entry.source for entry in skill.data])[number]
    left_out, examples, columns, made = Counter[str](), dict[str, list[str]](), list[str](), 0
    with writing(path) as file:
        for row in read_rows(place.source, version, work.scratch, lambda message: None):
            problem = row if isinstance(row, Problem) else None
            if not isinstance(row, Problem):
                columns = columns or list(row[1])
                made_of = make_item(skill, place, f"{label}/{row[0]}", row[1])
                if isinstance(made_of, Item):
                    split = place.split or drawn_split(skill, made_of.group, named)
                    file.write(f"{split} ".encode() + _line(made_of))
                    made += 1
                    if made % 1000 == 0:
                        work.progress(number, len(skill.data), "places", items=f"{made:,}")
                    continue
                problem = Problem(made_of, row[0])
            assert problem
            left_out[problem.kind] += 1
            if left_out[problem.kind] <= NAMED:
                examples.setdefault(problem.kind, []).append(problem.where)
    if not made:
        why = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names)}" for kind, names in examples.items())
        asked = [*skill.fields.values(), *([] if place.target is not None else [skill.target])]
        raise ValueError(
            f"skill {skill.name}: no row of source {number + 1} gives an item ({why or 'it has none'}); "
            f"the columns asked for are {', '.join(asked)}, those there are {', '.join(columns[:12]) or 'none'}"
        )
    write_json(done, dict(left_out))
    work.progress(number + 1, len(skill.data), "places")
    return path


def drawn_split(skill: Skill, group: str, named: Collection[str | None]) -> str:
    """Where a group of a place without a split belongs; a split that another place is named as gets none."""
    test = 0.0 if "test" in named else skill.test_share
    validation = 0.0 if "validation" in named else skill.validation_share
    drawn = group_hash(group) / 2**64
    return "test" if drawn < test else "validation" if drawn < test + validation else "train"


def make_item(skill: Skill, place: SkillData, name: str, row: Mapping[str, Any]) -> Item | str:
    """A row as an item, or the kind of reason why it is none: no_column, empty, unknown_label, undecodable, ..."""
    try:
        fields = {field: _text(row, column) for field, column in skill.fields.items()}
        target = place.target if place.target is not None else _text(row, skill.target)
        listed = _cell(row, skill.answers) if skill.answers else []
        answers = tuple(dict.fromkeys(clean_text(str(answer)) for answer in listed))
        id = str(_cell(row, skill.id)) if skill.id else name
        group = str(_cell(row, skill.group)) if skill.group else id
        kind = str(_cell(row, skill.kind)) if skill.kind else skill.name
    except (KeyError, TypeError):
        return "no_column"
    except UnicodeEncodeError:
        return "undecodable"
    if skill.labels:
        if target not in skill.labels:
            return "unknown_label"
        target = skill.labels[target]
    if not target or not fields[skill.truncate]:
        return "empty"
    if len(fields[skill.truncate]) < (skill.min_input_chars or 0):
        return "input_too_short"
    if skill.max_target_chars is not None and len(target) > skill.max_target_chars:
        return "target_too_long"
    if skill.kinds and kind not in skill.kinds:
        return "other_kind"
    return Item(id, group, kind, fields, target, answers)


def _cell(row: Mapping[str, Any], path: str) -> Any:
    """What stands under a column, or inside it: `answers.text.0`. KeyError or TypeError where nothing does."""
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        if isinstance(value, list) and step.isdigit():
            if int(step) >= len(value):
                raise KeyError(path)
            value = value[int(step)]
        else:
            value = value[step]
    return value


def _text(row: Mapping[str, Any], path: str) -> str:
    value = _cell(row, path)
    if value is None or isinstance(value, dict | list):
        raise KeyError(path)
    return clean_text(str(value))


def _line(item: Item) -> bytes:
    values = {name: value for name, value in asdict(item).items() if name != "answers" or value}
    return json.dumps(values, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _item(line: bytes) -> Item:
    values = json.loads(line)
    return Item(**{**values, "answers": tuple(values.get("answers", ()))})


def _write_splits(skill: Skill, found: Sequence[Path], left_out: Counter[str], work: Work) -> dict[str, int]:
    apart, counts, most = _Apart(skill, left_out), dict[str, int](), skill.max_items
    for split in PRIORITY:
        every = apart.chosen(_of_split(found, split))
        with writing(work.directory / "items" / f"{split}.jsonl") as file:
            counts[split] = _write(file, sample_items(every, most, f"items {skill.name}") if most else every)
        apart.next_split(read_items(work.directory, split))
    return counts


class _Apart:
    """Which items stay: no two have equal inputs, and splits share neither inputs, near enough, nor groups."""

    def __init__(self, skill: Skill, left_out: Counter[str]) -> None:
        """`left_out` counts those that go."""
        self._skill, self._left_out = skill, left_out
        self._taken, self._ids = set[bytes](), set[str]()
        self._plain, self._groups = set[bytes](), set[str]()
        self._index: RunIndex | None = None

    def chosen(self, found: Iterable[Item]) -> Iterator[Item]:
        """The items of one split that stay."""
        for item in found:
            if why := self._problem(item):
                self._left_out[why] += 1
                continue
            if item.id in self._ids:
                raise ValueError(f"skill {self._skill.name}: two rows have the id {item.id!r}; name another column")
            self._ids.add(item.id)
            self._taken.add(_digest(_asked(item)))
            yield item

    def _problem(self, item: Item) -> str | None:
        asked = _asked(item)
        if _digest(asked) in self._taken:
            return "equal_input"
        if _plain(asked) in self._plain:
            return "input_of_another_split"
        if self._skill.group and item.group in self._groups:
            return "group_of_another_split"
        if self._index is not None and len(self._index.hits(asked)):
            return "like_a_test_item"
        return None

    def next_split(self, written: Iterable[Item]) -> None:
        """What a finished split holds is not for those behind it; the first is the test split."""
        texts = []
        for item in written:
            self._plain.add(_plain(_asked(item)))
            self._groups.add(item.group)
            texts.append(_asked(item))
        if self._index is None and self._skill.apart is not None:
            self._index = index_runs([(self._skill.name, texts)], self._skill.apart)


def _asked(item: Item) -> str:
    return "\n".join(item.fields.values())


def _plain(text: str) -> bytes:
    """The same for texts that differ in case, signs and blanks only."""
    return _digest(" ".join(letter_words(text)) or text)


def _of_split(found: Sequence[Path], split: str) -> Iterator[Item]:
    head = f"{split} ".encode()
    for path in found:
        with path.open("rb") as file:
            for line in file:
                if line.startswith(head):
                    yield _item(line[len(head) :])


def _write(file: IO[bytes], chosen: Iterator[Item] | Sequence[Item]) -> int:
    count = 0
    for item in chosen:
        file.write(_line(item))
        count += 1
    return count


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
