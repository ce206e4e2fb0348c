"""The schema of a skill: one YAML that says what a model can be fine-tuned for, and on which items."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gptcore.config_part import Part, Positive, Share, Strings, as_tuple
from gptcore.config_sources import Source

ITEM_METRICS = ("exact_match", "f1", "rouge1", "rouge2", "rougeL", "edit_similarity", "parses")
"""Scores of one prediction, each in [0, 1]; a model's is their mean."""
CORPUS_METRICS = ("bleu", "chrf")
"""Scores of all predictions together, each in [0, 100]."""
LABEL_METRICS = ("accuracy", "macro_f1", "matthews")
"""Scores of labels chosen by their likelihood; the second and third are of all predictions together."""
METRICS = (*ITEM_METRICS, *CORPUS_METRICS, *LABEL_METRICS)

OF_DATA = frozenset(
    {
        "data", "fields", "target", "answers", "id", "group", "kind", "apart", "max_items", "validation_share",
        "test_share",
    }
)  # fmt: skip
"""Fields that decide which items a skill with `data` has, and nothing else: their effect is the items' own digest."""
OF_ITEMS = frozenset({"labels", "truncate", "kinds", "min_input_chars", "max_target_chars"})
"""Fields that decide it too, and how a model is asked or scored besides."""


def _texts(value: Any) -> Any:
    """A mapping whose keys may be numbers or truth values in YAML, as text."""
    return {str(key): text for key, text in value.items()} if isinstance(value, Mapping) else value


class SkillData(Part):
    """One place that a skill's items come from."""

    source: Source
    """Where its rows are: a source as in `corpus.sources`. jsonl, csv, tsv and parquet have named columns; a line of a
    txt file read `by_line` has `text`; a message of a .po file has `source`, `target`, `context`; `python_docs` gives
    a row for each documented function, with `source`, `signature`, `docstring`, `summary`, `body`, `name`, `module` and
    `package`."""
    split: Literal["train", "validation", "test"] | None = None
    """The split that all its rows belong to, such as the upstream one. None shares them out by group: a share goes to
    validation and to test, where no other place is named as that split."""
    target: str | None = None
    """What stands in place of the target column in each of its rows."""

    @model_validator(mode="after")
    def _has_rows(self) -> SkillData:
        if self.source.kind in ("web", "wikipedia"):
            raise ValueError(f"source kind {self.source.kind} has texts, no rows; take files, hub, url or python_docs")
        return self


def _places(value: Any) -> Any:
    return as_tuple([value] if isinstance(value, Mapping) else value)


class Decoding(Part):
    """How a skill's answer is chosen, where it is not made of the likeliest tokens."""

    samples: Annotated[int, Field(ge=2)] = 16
    """Answers drawn for each input; the one most like the others, by ROUGE-L, is given (minimum Bayes risk, Eikema and
    Aziz 2020)."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """What logits are divided by before a token is drawn."""
    lead_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """What an answer's likeness to the first sentence of the input (of the field that `truncate` names) counts beside
    its mean likeness to the other answers: holds a small model to its text."""
    least_agreement: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, exclude_if=lambda value: not value)
    """Where the answer's mean likeness to the other answers is below this, that first sentence is given in its place:
    answers that have little in common tell of a model that does not know. 0 always gives the model's answer."""


class Skill(Part):
    """One YAML of configs/skills, or of `skills/` beside a preset's file: what a model can be fine-tuned for."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """The skill's name, as in `finetune-<name>`, and its file's."""
    extractor: Literal["python_docs_summaries", "python_docs_parameters"] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """How items are made from the corpus's documents; or the skill has `data` of its own."""
    data: Annotated[tuple[SkillData, ...], BeforeValidator(_places)] = Field(
        default=(), exclude_if=lambda value: not value
    )
    """Where the items come from, other than the corpus."""
    fields: dict[str, str] = Field(default_factory=lambda: {"input": "input"}, exclude_if=lambda value: not value)
    """With `data`: for each field of the template its column. Dots go inside: `answers.text.0`."""
    target: str = Field(default="target", exclude_if=lambda value: value == "target")
    """With `data`: the column of the right output."""
    answers: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `data`: the column that lists every right output; a prediction's score is that of the nearest."""
    id: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `data`: the column that names a row; None takes file and row number."""
    group: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `data`: the column whose equal rows stay in one split, such as the article of several questions. None: each
    row is alone."""
    kind: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `data`: the column that sorts items; each sort has scores of its own."""
    labels: Annotated[dict[str, str], BeforeValidator(_texts)] = Field(
        default_factory=dict, exclude_if=lambda value: not value
    )
    """For classification: the target column's values, and what the model writes for each. The likeliest label is the
    answer; nothing is generated."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$", exclude_if=lambda value: value is None)
    """Of the targets, such as `de` or `zh`: how bleu splits them into words."""
    validation_share: Share = Field(default=0.02, exclude_if=lambda value: value == 0.02)
    """With `data`: share of groups in the validation split."""
    test_share: Share = Field(default=0.1, exclude_if=lambda value: value == 0.1)
    """With `data`: share of groups in the test split."""
    apart: Positive | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `data`: training and validation items that share so many words in a row with a test item's input are left
    out; in scripts without spaces a character is a word. None leaves out equal inputs only."""
    max_items: Positive | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `data`: an even sample of so many items at most is kept of each split."""
    template: str
    """The prompt, with {field} placeholders; the target follows it and the end-of-text token closes it."""
    truncate: str
    """The field that gives way when the prompt is too long."""
    metrics: Strings = Field(min_length=1)
    """Scores of the predictions: exact_match, f1, rouge1, rouge2, rougeL, edit_similarity, parses (each item's), bleu,
    chrf (all items together); with `labels` accuracy, macro_f1, matthews."""
    target_metric: str
    """The metric the publication gate looks at."""
    baseline: Literal["lead_sentence", "most_frequent_answer", "copy_input", "majority_label"]
    """The trivial answer every score stands beside. lead_sentence and copy_input: of the field that gives way."""
    kinds: Strings = ()
    """Item kinds in use; empty means all."""
    max_context_chars: Positive | None = None
    """With `extractor`: an item's context holds as many entries as fit, characters; an entry longer than that gives no
    item."""
    min_input_chars: Positive | None = None
    """Items with a shorter document (with `data`: a shorter field that gives way) are left out, characters."""
    max_target_chars: Positive | None = None
    """Items with a longer target are left out of training and benchmark alike, characters."""
    decoding: Decoding | None = Field(default=None, exclude_if=lambda value: value is None)
    """How an answer is chosen; None takes the likeliest tokens."""

    @model_validator(mode="before")
    @classmethod
    def _no_columns(cls, values: Any) -> Any:
        """A skill of the corpus has no columns, so that its config says nothing of them."""
        if isinstance(values, Mapping) and values.get("extractor") is not None:
            return {"fields": {}, **values}
        return values

    @model_validator(mode="after")
    def _possible(self) -> Skill:
        if problems := [*self._of_items(), *self._of_metrics()]:
            raise ValueError("; ".join(problems))
        return self

    def _of_items(self) -> list[str]:
        problems = []
        if (self.extractor is None) == (not self.data):
            problems.append("a skill has either an extractor or data, and not both")
        asked = template_fields(self.template)
        if self.truncate not in asked:
            problems.append(f"truncate {self.truncate!r} is no field of the template; there are: {', '.join(asked)}")
        if self.data:
            if set(self.fields) != set(asked):
                problems.append(f"fields {sorted(self.fields)} are not those of the template: {sorted(asked)}")
            if self.max_context_chars is not None:
                problems.append("max_context_chars is for an extractor; use finetune's max_input_tokens")
            if self.labels and (unknown := {place.target for place in self.data} - {None, *self.labels}):
                problems.append(f"target {sorted(map(str, unknown))} of data is not among labels {sorted(self.labels)}")
        elif given := sorted(
            OF_DATA & self.model_fields_set - {"data", "fields"} | ({"fields"} if self.fields else set())
        ):
            problems.append(f"{', '.join(given)}: only for a skill with data")
        return problems

    def _of_metrics(self) -> list[str]:
        problems = []
        if unknown := [name for name in self.metrics if name not in METRICS]:
            problems.append(f"unknown metric {', '.join(unknown)}; there are: {', '.join(METRICS)}")
        elif self.labels and (wrong := [name for name in self.metrics if name not in LABEL_METRICS]):
            problems.append(f"metrics {', '.join(wrong)} are not for labels; those are: {', '.join(LABEL_METRICS)}")
        elif not self.labels and (wrong := [name for name in self.metrics if name in LABEL_METRICS]):
            problems.append(f"metrics {', '.join(wrong)} need labels: the target's values and what is written for each")
        if self.target_metric not in self.metrics:
            problems.append(f"target_metric {self.target_metric!r} is not one of metrics {list(self.metrics)}")
        if len(set(self.labels.values())) < len(self.labels) or len(self.labels) == 1:
            problems.append(f"labels {list(self.labels.values())} must be two texts or more, each another one")
        if self.baseline == "majority_label" and not self.labels:
            problems.append("baseline majority_label needs labels")
        return problems


def template_fields(template: str) -> list[str]:
    """The placeholders of a template, each once, in order."""
    return list(dict.fromkeys(field for _, field, _, _ in string.Formatter().parse(template) if field))
